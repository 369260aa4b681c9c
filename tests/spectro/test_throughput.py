"""The joint response: unbiased at low S/N, honest errors, wrong stars named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pogson.errors import CalibrationError, PogsonValueError
from pogson.spectro import (
    RejectionPriors,
    ResponseConfig,
    StandardData,
    find_wrong_stars,
    solve_response,
)

LAM = 10 ** np.arange(np.log10(4000.0), np.log10(8000.0), 2e-4)


def response(lam: np.ndarray) -> np.ndarray:
    return 2.0 * np.exp(-(((lam - 6000.0) / 2500.0) ** 2))


def star(
    name: str,
    rng: np.random.Generator,
    sn: float,
    *,
    grey: float = 1.0,
    poisson: bool = True,
    airmass: float = 1.0,
) -> StandardData:
    model = 1e3 * (LAM / 5500.0) ** rng.uniform(-1.5, -0.5)
    signal = response(LAM) * model * grey
    level = np.median(signal)
    variance = (level / sn) ** 2 * (0.5 + 0.5 * signal / level)
    counts = signal + rng.normal(size=LAM.size) * np.sqrt(variance)
    seen = counts if poisson else signal
    listed = (level / sn) ** 2 * (0.5 + 0.5 * np.maximum(seen, 0) / level)
    return StandardData(name, LAM, counts, 1 / listed, model, airmass)


def test_unbiased_at_signal_to_noise_5(rng: np.random.Generator) -> None:
    ratios = []
    naive = []
    for _ in range(8):
        stars = [star(f"s{i}", rng, 5.0) for i in range(6)]
        ratios.append(np.mean(solve_response(stars).response(LAM) / response(LAM)))
        f = np.array([s.model / np.where(s.counts > 0, s.counts, np.nan) for s in stars])
        w = np.array([s.ivar * s.counts**2 / g**2 for s, g in zip(stars, f, strict=True)])
        naive.append(
            np.mean(
                np.nansum(f * w, axis=0)
                / np.nansum(np.where(np.isfinite(f), w, 0), axis=0)
                * response(LAM)
            )
        )
    # 8 x 6 x 1505 pixels of S/N 5: 0.08 %
    assert abs(np.mean(ratios) - 1) < 0.003
    assert np.mean(naive) < 0.95  # what averaging model/counts does to the same data


def test_noise_variance_is_the_scatter(rng: np.random.Generator) -> None:
    lam = np.linspace(4200.0, 7800.0, 25)
    config = ResponseConfig(knots=(20,), template_scatter=1e-6)
    got, said = [], []
    for _ in range(40):
        solution = solve_response([star("a", rng, 20.0)], config)
        got.append(np.log(solution.response(lam) / response(lam)))
        said.append(solution.noise_variance(lam))
    # the one star's grey level is the solution's own: only the noise of the pixels is left
    pull = np.array(got) / np.sqrt(np.array(said))
    assert 0.85 < np.sqrt(np.mean(pull**2)) < 1.15


def test_covariance_is_made_of_its_components(rng: np.random.Generator) -> None:
    solution = solve_response([star(f"s{i}", rng, 30.0) for i in range(4)])
    lam = np.linspace(4100.0, 7900.0, 12)
    full = solution.log_covariance(lam)
    parts = sum(solution.log_covariance(lam, [c]) for c in ("noise", "scale", "template"))
    np.testing.assert_allclose(full, parts, rtol=1e-12)
    np.testing.assert_allclose(np.diag(full), solution.log_variance(lam), rtol=1e-9)
    assert np.linalg.eigvalsh(full).min() > -1e-12
    with pytest.raises(PogsonValueError, match="'noise', 'scale' or 'template'"):
        solution.log_variance(lam, ["luck"])


@pytest.mark.parametrize("n", [3, 4, 9, 10])
def test_a_star_wrong_by_100_is_named(n: int, rng: np.random.Generator) -> None:
    stars = [
        star(f"s{i}", rng, 40.0, grey=rng.uniform(0.6, 1.0) * (100.0 if i == 1 else 1.0))
        for i in range(n)
    ]
    solution = solve_response(stars)
    assert list(solution.rejected) == ["s1"]
    assert "contradict" in solution.rejected["s1"]
    assert np.isnan(solution.log_grey[1])


@given(st.integers(3, 10), st.integers(0, 2**31), st.floats(0.15, 1.0))
def test_a_wrong_shape_is_named(n: int, seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    x = np.linspace(8.3, 9.0, 24)
    y = rng.normal(0, 0.15, (n, 1)) + rng.normal(0, 0.01, (n, 24))
    bad = int(rng.integers(n))
    y[bad] += size * np.sin(9 * (x - 8.3) + rng.uniform(0, 6))
    assert [i for i, _ in find_wrong_stars(x, y, np.full(y.shape, 1e-5))] == [bad]


def test_good_stars_are_kept(rng: np.random.Generator) -> None:
    x = np.linspace(8.3, 9.0, 24)
    priors = RejectionPriors()
    lost = 0
    for _ in range(200):
        n = int(rng.integers(3, 11))
        wave = np.sin(7 * (x - 8.3) + rng.uniform(0, 6, (n, 1)))
        y = rng.normal(0, 0.15, (n, 1)) + 0.015 * rng.normal(size=(n, 1)) * wave
        lost += len(
            find_wrong_stars(x, y + rng.normal(0, 0.005, y.shape), np.full(y.shape, 1e-5), priors)
        )
    assert lost <= 4


def test_two_stars_that_disagree_are_both_kept(rng: np.random.Generator) -> None:
    stars = [star("a", rng, 40.0), star("b", rng, 40.0, grey=100.0)]
    solution = solve_response(stars)
    assert solution.rejected == {}
    # one of them is wrong by 100: the scale, their geometric mean, by 10 = e^2.3
    assert solution.contradiction > solution.config.rejection.odds
    assert solution.log_scale_error > 2.0
    good = solve_response([star("a", rng, 40.0), star("b", rng, 40.0, grey=1.2)])
    assert good.contradiction < good.config.rejection.odds
    assert good.log_scale_error < 0.02
    three = solve_response([star(n, rng, 40.0) for n in "abc"])
    assert np.isnan(three.contradiction)


def test_one_star_has_honest_errors(rng: np.random.Generator) -> None:
    one = solve_response([star("a", rng, 50.0)])
    four = solve_response([star(f"s{i}", rng, 50.0) for i in range(4)])
    assert np.all(one.template_error(LAM) > 0.01)
    # 0.8 % of each star averages down, 0.65 % of all does not
    assert np.median(four.template_error(LAM)) < 0.8 * np.median(one.template_error(LAM))
    assert np.isnan(one.grey_scatter)


def test_grey_losses_do_not_make_steps(rng: np.random.Generator) -> None:
    # one star's pixels end in the middle; its loss differs by 40 %
    stars = [star(f"s{i}", rng, 60.0, grey=g) for i, g in enumerate((0.6, 1.0, 0.9))]
    half = np.where(LAM < 6000.0, stars[0].ivar, 0.0)
    stars[0] = StandardData("s0", LAM, stars[0].counts, half, stars[0].model)
    ratio = solve_response(stars).response(LAM) / response(LAM)
    assert abs(np.log(np.mean(ratio[LAM > 6000]) / np.mean(ratio[LAM < 6000]))) < 0.006
    assert abs(np.mean(ratio) / (0.6 * 1.0 * 0.9) ** (1 / 3) - 1) < 0.01


def test_cosmic_rays_and_negative_counts(rng: np.random.Generator) -> None:
    stars = [star(f"s{i}", rng, 20.0) for i in range(3)]
    spoiled = []
    for s in stars:
        counts = s.counts.copy()
        counts[rng.integers(0, LAM.size, 20)] += 1e5
        counts[:5] = -counts[:5]
        spoiled.append(StandardData(s.name, LAM, counts, s.ivar, s.model))
    ratio = solve_response(spoiled).response(LAM) / solve_response(stars).response(LAM)
    assert np.abs(ratio[20:-20] - 1).max() < 0.01


def test_telluric_scales_with_airmass(rng: np.random.Generator) -> None:
    region = (7000.0, 7200.0)
    inside = (region[0] < LAM) & (region[1] > LAM)
    depth = np.where(inside, 0.5 + 0.4 * np.sin(LAM), 0.0)
    stars = []
    for i, x in enumerate((1.0, 1.4, 1.9)):
        s = star(f"s{i}", rng, 100.0, airmass=x)
        dim = np.exp(-depth * x**0.65)
        stars.append(StandardData(s.name, LAM, s.counts * dim, s.ivar, s.model, x))
    solution = solve_response(stars, ResponseConfig(telluric_regions=[region]))
    for x in (1.0, 1.9):
        gap = solution.transmission(LAM[inside], x) - np.exp(-depth[inside] * x**0.65)
        assert np.sqrt(np.mean(gap**2)) < 0.01
    assert np.all(solution.transmission(LAM[~inside]) == 1.0)


def test_bad_input(rng: np.random.Generator) -> None:
    with pytest.raises(CalibrationError, match="No standard star"):
        solve_response([])
    with pytest.raises(PogsonValueError, match="given twice"):
        solve_response([star("a", rng, 20.0), star("a", rng, 20.0)])
    dark = StandardData(
        "dark", LAM, np.full(LAM.size, np.nan), np.ones(LAM.size), np.ones(LAM.size)
    )
    with pytest.raises(CalibrationError, match="fewer than 50"):
        solve_response([dark])
    solution = solve_response([dark, star("a", rng, 20.0)])
    assert list(solution.rejected) == ["dark"]
