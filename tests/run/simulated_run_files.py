"""A small simulated survey on disk, shared by the tests of the run and of the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pogson.simulate import demo_model, simulate_survey


@pytest.fixture(scope="session")
def small_survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of three exposures of one 320-pixel detector, with truth."""
    model = demo_model(320)
    stars = replace(model.stars, density=60.0, minimum_separation=6.0)
    camera = replace(model.camera, columns=1, rows=1)
    model = model.with_(n_visits=3, psf_files="json", stars=stars, camera=camera)
    folder = tmp_path_factory.mktemp("survey")
    simulate_survey(model, folder, rng_seed=5)
    return folder
