"""The DECam part of the tutorial: its own code blocks, run where the data are."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "calibrate_survey.rst"


@pytest.fixture(scope="module")
def run(shared_data, tmp_path_factory):
    """Execute all code blocks in a folder with the data beside it."""
    data = shared_data("decam-starflat/y6a1.guts.astro").parent
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "decam-starflat").symlink_to(data, target_is_directory=True)
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", text, re.M)
    assert len(blocks) == 4
    said, names = io.StringIO(), {}
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        for block in blocks:
            exec(compile(textwrap.dedent(block), str(PAGE), "exec"), names)
    print(said.getvalue())
    return names, said.getvalue(), folder


def test_star_flats_come_back(run):
    lines = re.findall(r"(\w): star flat ([\d.]+) .* left of it ([\d.]+) .*where ([\d.]+)", run[1])
    assert [band for band, *_ in lines] == ["g", "i"]
    for _, flat, left, expected in lines:
        assert float(flat) > 2.0
        assert float(left) < min(1.4 * float(expected), 2.0)


def test_zero_points_are_those_put_in(run):
    from pogson.run import read_solution

    names, _, folder = run
    survey = names["survey"]
    saved = read_solution(folder / "solved")
    ids = survey.tables.exposures.identifier
    found = np.array([saved[f"exposure_zero_point[{n}]"] for n in ids])
    left = found - survey.zero_points_in_gauge()
    print(f"zero points {1e3 * np.sqrt(np.mean(left**2)):.2f} mmag rms")
    assert np.sqrt(np.mean(left**2)) < 0.002
    assert saved.facts["validation"]["p_value"] > 0.01


def test_the_report_shows_flats_and_exposures_held_out(run):
    page = (run[2] / "solved" / "report.html").read_text()
    for title in ("Star flats", "Held-out exposures", "Clouds", "What is known worst"):
        assert f">{title}<" in page
