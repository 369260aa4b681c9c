"""The audit: matching, completeness, bias, pulls, and a verdict that says what it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.calib import FluxReference
from pogson.errors import ConfigError, MaskedDataError, PogsonValueError, ReferenceMismatchError
from pogson.images import Exposure
from pogson.inject import (
    AuditLimits,
    AuditSettings,
    DetectionSettings,
    audit_sources,
    inject,
    match_injections,
    place_sources,
    recover,
    recovery_from_catalog,
    uniform_magnitudes,
)
from pogson.inject.audit_statistics import (
    CompletenessFit,
    binned_bias,
    binomial_interval,
    completeness_curve,
    confusion_matrix,
    fit_completeness,
    pull_statistics,
)

Make = Callable[..., Exposure]
R5 = FluxReference.aperture(5)


# -- statistics ------------------------------------------------------------------------------
@settings(max_examples=50)
@given(n=st.integers(1, 500), data=st.data())
def test_wilson_interval_holds_the_fraction(n: int, data: Any) -> None:
    k = data.draw(st.integers(0, n))
    low, high = binomial_interval(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert high > low
    other = binomial_interval(n - k, n)
    assert np.isclose(low, 1 - other[1])


def test_wilson_interval_covers_as_it_says() -> None:
    rng = np.random.default_rng(3)
    for p in (0.03, 0.5, 0.9):
        k = rng.binomial(60, p, 20_000)
        low, high = binomial_interval(k, 60)
        assert 0.60 < np.mean((low <= p) & (p <= high)) < 0.76


def test_completeness_depths_and_their_errors() -> None:
    """Depths of many made-up surveys scatter as their errors say."""
    rng = np.random.default_rng(21)
    pulls = {50: [], 90: []}  # type: dict[int, list[float]]
    amplitude, midpoint, width = 0.97, 24.0, 0.25
    truth = {f: midpoint + width * np.log(amplitude / (f / 100) - 1) for f in (50, 90)}
    for _ in range(60):
        m = rng.uniform(21, 26, 800)
        found = rng.random(800) < amplitude / (1 + np.exp((m - midpoint) / width))
        fit = fit_completeness(m, found)
        assert fit is not None
        for f, values in pulls.items():
            depth, error = fit.depth(f / 100)
            values.append((depth - truth[f]) / error)
    for f, values in pulls.items():
        print(f"depth {f}: mean {np.mean(values):+.2f}, rms {np.std(values):.2f}")
        assert abs(np.mean(values)) < 0.5
        assert 0.75 < np.std(values) < 1.3
    curve = completeness_curve(m, found, np.arange(21, 26.5, 0.5))
    assert (curve["fraction_low"] <= curve["fraction"]).all()
    assert curve["n"].sum() == 800
    assert fit_completeness(m, np.ones(800, bool)) is None
    low = CompletenessFit(0.9, 24.0, 0.2, np.zeros((3, 3)), 100, (20.0, 26.0))
    assert np.isnan(low.depth(0.95)[0])  # above its plateau: there is no such depth
    assert low.depth(0.45)[0] == pytest.approx(24.0)
    with pytest.raises(PogsonValueError):
        fit.depth(1.5)


def test_bias_pulls_and_classes() -> None:
    rng = np.random.default_rng(4)
    m = rng.uniform(20, 25, 5000)
    d = 0.01 * (m - 22) + rng.normal(0, 0.02, m.size)
    d[::50] = 5.0  # outliers must not move a median
    bins = binned_bias(m, d, np.arange(20, 25.5, 1.0))
    pull = (bins["median"] - 0.01 * (bins["center"] - 22)) / bins["median_err"]
    assert (np.abs(pull) < 4).all()
    assert (np.abs(bins["scatter"] - 0.02) < 0.004).all()
    stats = pull_statistics(np.append(rng.normal(0, 1, 5000), [np.nan, 40.0]))
    assert stats["n_not_finite"] == 1
    assert stats["n_outliers"] == 1
    assert abs(stats["clipped_rms"] - 1) < 0.05
    assert stats["rms"] > 1.1
    assert pull_statistics(rng.normal(0.3, 1.4, 2000))["ks_probability"] < 1e-6
    assert np.isnan(pull_statistics([])["mean"])
    matrix = confusion_matrix([1, 1, 0, 0, 0], [1, 0, 1, 0, 0])
    assert matrix["star_completeness"] == 0.5
    assert matrix["galaxies_called_stars"] == 1


# -- matching --------------------------------------------------------------------------------
def test_matching_is_one_to_one_and_knows_bright_neighbours() -> None:
    truth = Table({"x": [10.0, 11.0, 50.0, np.nan], "y": [10.0] * 4,
                   "inst_flux_total": [5.0, 6.0, 50.0, 1.0]})  # fmt: skip
    found = Table({"x": [10.1, 50.2, 90.0], "y": [10.0, 10.0, 10.0]})
    real = Table({"x": [50.9], "y": [10.0], "f": [7.0]})
    match = match_injections(truth, found, 2.0, real=real, real_flux="f")
    assert list(match.index) == [0, -1, 1, -1]
    assert not match.ambiguous.any()  # the real one is fainter
    assert match.n_spurious == 1
    real["f"] = 70.0
    assert match_injections(truth, found, 2.0, real=real, real_flux="f").ambiguous[2]
    assert match_injections(truth, found, 2.0, real=real).ambiguous[2]
    sky = Table({"ra": [359.9999, 10.0], "dec": [0.0, 0.0]})
    seen = Table({"ra": [0.00005, 10.1], "dec": [0.0, 0.0]})
    on_sky = match_injections(sky, seen, 1.0, frame="sky")
    assert list(on_sky.index) == [0, -1]
    assert np.isclose(on_sky.separation[0], 0.54)
    with pytest.raises(PogsonValueError):
        match_injections(sky, seen, 0.0, frame="sky")


# -- the whole loop --------------------------------------------------------------------------
@pytest.fixture(scope="module")
def campaign(make_exposure: Make) -> list[Table]:
    """Twelve noisy images with real stars, and stars injected among them."""
    tables = []
    for k in range(12):
        rng = np.random.default_rng(100 + k)
        side, sky = 300, 400.0
        empty = make_exposure((side, side), exposure_id=f"v{k}")
        stars = uniform_magnitudes(
            place_sources(empty, n=25, margin=5, seed=k, name=f"real{k}"), 23, 17, reference=R5
        )
        real = inject(empty, stars).exposure.image
        counts = rng.poisson((real + sky) * 1.6) / 1.6 - sky
        exposure = make_exposure(
            (side, side), image=counts, variance=(np.maximum(real, 0) + sky) / 1.6,
            exposure_id=f"v{k}",
        )  # fmt: skip
        places = place_sources(exposure, n=60, margin=12, min_separation=22, seed=k)
        rows = uniform_magnitudes(places, 25, 18, reference=R5, seed=k)
        result = inject(exposure, rows, poisson=True, largest_radius=15)
        tables.append(recover(exposure, result, settings=DetectionSettings(threshold=2.5)))
    return tables


def test_audit_of_a_known_survey(campaign: list[Table]) -> None:
    limits = AuditLimits.from_dict(
        {"max_bias_mmag": 3, "max_pull_mean": 0.2, "min_pull_rms": 0.9, "max_pull_rms": 1.1,
         "min_bright_completeness": 0.9, "min_purity": 0.95, "min_depth_50": 20.0}
    )  # fmt: skip
    result = audit_sources(campaign, limits=limits, settings=AuditSettings(isolation=18))
    print("\n".join(result.lines()))
    v = result.values
    assert result.passed, result.checks
    assert result.exit_code == 0
    assert v["counts"]["rows"] == 720
    assert v["counts"]["ambiguous"] > 0
    assert v["neighbours"]["mean_excess_nJy"] > 10 * abs(v["background"]["median_nJy"])
    crowd = v["bias"]["by_crowding"]
    assert crowd["median"][0] < -100  # neighbours make sources too bright
    assert v["completeness"]["depth_90"] < v["completeness"]["depth_50"]
    total = sum(v["completeness"]["bins"]["n"])
    assert total == v["counts"]["used"]


def test_verdict_fails_where_the_calibration_is_wrong(campaign: list[Table]) -> None:
    wrong = []
    for table in campaign:
        bad = table.copy()
        for name in ("flux_out", "flux_out_err"):
            bad[name] = np.asarray(bad[name]) * 1.02  # 21.5 mmag
        bad["flux_out"].info.meta = dict(table["flux_out"].info.meta)
        wrong.append(bad)
    limits = AuditLimits(max_bias_mmag=5)
    settings_ = AuditSettings(isolation=18)
    result = audit_sources(wrong, limits=limits, settings=settings_)
    assert not result.passed
    assert result.exit_code == 1
    assert result.checks[0]["name"] == "max_bias_mmag"
    assert 18 < result.checks[0]["value"] < 26
    assert audit_sources(campaign, limits=limits, settings=settings_).passed
    # errors that are 30 % too small
    for bad in wrong:
        bad["flux_out"] = np.asarray(bad["flux_out"]) / 1.02
        bad["flux_out_err"] = np.asarray(bad["flux_out_err"]) / 1.02 / 1.3
    broken = audit_sources(wrong, limits=AuditLimits(max_pull_rms=1.1), settings=settings_)
    assert broken.exit_code == 1
    # what cannot be measured has not passed
    unknown = audit_sources(campaign, limits=AuditLimits(max_star_contamination=0.1))
    assert not unknown.passed
    assert "could not" in unknown.checks[0]["reason"]


def test_recover_measures_the_right_thing(make_exposure: Make) -> None:
    exposure = make_exposure((200, 200), variance=np.full((200, 200), 25.0))
    rows = uniform_magnitudes(
        place_sources(exposure, n=9, margin=30, min_separation=45, seed=3), 20, 18,
        reference=FluxReference.total(),
    )  # fmt: skip
    result = inject(exposure, rows, largest_radius=40)
    with pytest.raises(ReferenceMismatchError, match="measure="):
        recover(exposure, result)
    table = recover(exposure, result, measure=R5)
    assert table["detected"].all()
    assert np.allclose(table["flux_out"], table["flux_in"], rtol=3e-4)
    assert (table["flux_in"] < 0.95 * np.asarray(result.truth["flux_requested"])).all()
    with pytest.raises(PogsonValueError, match="same"):
        recover(make_exposure((100, 100)), result, measure=R5)


def test_audit_refuses_what_cannot_be_compared(campaign: list[Table]) -> None:
    other = campaign[1].copy()
    other["flux_in"].info.meta = {"reference": FluxReference.aperture(12).to_dict()}
    with pytest.raises(ReferenceMismatchError, match="12 px"):
        audit_sources([campaign[0], other])
    nothing = campaign[0].copy()
    nothing["drawn"] = False
    with pytest.raises(MaskedDataError, match="nothing to audit"):
        audit_sources(nothing)
    with pytest.raises(MaskedDataError):
        audit_sources([])
    with pytest.raises(ConfigError, match="max_bias_mmag"):
        AuditLimits.from_dict({"max_bias": 1})
    with pytest.raises(ConfigError, match="number"):
        AuditLimits.from_dict({"max_bias_mmag": "1"})


def test_catalogue_of_another_pipeline() -> None:
    n = 50
    rng = np.random.default_rng(6)
    flux = 10 ** rng.uniform(2, 4, n)
    truth = Table({"id": np.arange(n), "ra": 10 + 0.01 * np.arange(n), "dec": np.zeros(n)})
    truth["flux_requested"] = flux
    truth["source_type"] = np.where(np.arange(n) % 2, "point", "sersic")
    catalog = Table({"ra": truth["ra"][:40], "dec": truth["dec"][:40]})
    catalog["f"], catalog["f_err"] = flux[:40] + rng.normal(0, 5, 40), 5.0
    catalog["star"] = np.arange(40) % 2 == 1
    for table, name in ((truth, "flux_requested"), (catalog, "f")):
        table[name].info.meta = {"reference": {"kind": "psf"}}
    recovered = recovery_from_catalog(
        truth, catalog, flux="f", match_radius=0.5, called_star="star"
    )
    result = audit_sources(recovered)
    assert result.values["counts"]["detected"] == 40
    assert result.values["classes"]["star_completeness"] == 1.0
    assert result.values["purity"]["purity"] == 1.0
    assert abs(result.values["pulls"]["mean"]) < 0.6
