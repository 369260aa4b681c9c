"""Frames of simulated stars on real pieces, and real CALSPEC stars as the unknown."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from pogson.spectro import MatchConfig, _match_fit


@pytest.fixture(scope="module")
def bench(shared_data: Callable[[str], Path]) -> ModuleType:
    shared_data("templates/kurucz_stds_v5.fit")
    shared_data("sdss-fluxcal/spFluxcalib-b1.fits")
    shared_data("calspec/p330e_stiswfcnic_006.fits.gz")
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_spectro.py"
    spec = importlib.util.spec_from_file_location("bench_spectro", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_frame_of_real_pieces(bench: ModuleType) -> None:
    result = bench.campaign(1, seed=91)
    assert result["rejected"] == 0
    assert result["shape"][0] < 0.012
    assert abs(result["scale"][0]) < 0.01


def test_a_real_star_as_the_unknown(bench: ModuleType) -> None:
    star, match = bench.calspec_match("p330e")
    ratio = star.counts / match.model
    ok = np.isfinite(ratio) & (star.wavelength > 3900) & (star.wavelength < 9000)
    assert np.std(ratio[ok]) < 0.02
    assert abs(match.teff - 5840) < 150  # Bohlin et al. 2017, AJ 153, 234
    assert abs(match.rv_kms + 53.0) < 15


@pytest.mark.parametrize("name", ["bd_17d4708", "bd21d0607", "18sco"])
def test_a_star_at_the_edge_of_the_grid_is_fitted_to_the_end(bench: ModuleType, name: str) -> None:
    # log g wants to be above the grid's largest: the other parameters must not stop with it
    star, match = bench.calspec_match(name)
    assert match.logg == 4.5
    assert abs(match.teff - bench.LITERATURE[name][0]) < 250
    lam, flux, _ = bench.calspec(name)
    models = bench.kurucz_photometry()
    bands = models.observed(bench.magnitudes(name, lam, flux, 0.005), 0.01)
    problem = _match_fit._Problem(star, models, MatchConfig())
    local = _match_fit._Local(problem, match.rv_kms)
    values = [getattr(match, n) for n in ("teff", "logg", "feh", "rv_kms", "e_bv", "log_scale")]
    best = np.array([*values, match.line_offset])
    root, _, _ = _match_fit._weights_with_floor(problem, match.fit)
    costs = []
    for teff, feh in ((0.0, 0.0), (-120.0, 0.1), (120.0, 0.2), (90.0, -0.1)):
        start = best + np.array([teff, 0, feh, 0, 0, 0, 0])
        _, _, residual, _ = _match_fit._refine(local, start, root, *bands, (0.005, 0.01))
        costs.append(float(residual @ residual))
    assert max(costs) - min(costs) < 1.0


@pytest.mark.parametrize("kind", ["x100", "galaxy", "white"])
def test_a_wrong_star_among_three(bench: ModuleType, kind: str) -> None:
    assert bench.wrong_star(kind, 3, 20)


@pytest.mark.slow
def test_campaign(bench: ModuleType) -> None:
    print("seeds 700 to 711")
    result = bench.campaign(12, seed=700)
    assert np.mean(result["shape"]) < 0.007
    assert np.sqrt(np.mean(result["scale"] ** 2)) < 0.01
    assert 0.8 < result["pull"] < 1.2


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_stars_have_honest_errors(bench: ModuleType, n: int) -> None:
    print("seeds 500 to 505")
    result = bench.campaign(6, seed=500, n=n, sn=(20, 80))
    assert 0.7 < result["pull"] < 1.4  # six frames, few modes each


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("kind", ["x100", "galaxy", "cool", "white"])
def test_wrong_stars(bench: ModuleType, kind: str, n: int) -> None:
    assert all(bench.wrong_star(kind, n, 100 + 7 * k) for k in range(3))


@pytest.mark.slow
def test_left_out_magnitudes(bench: ModuleType) -> None:
    rms, pull = bench.leave_one_out(3)
    assert rms < 0.03
    assert 0.7 < pull < 1.3
