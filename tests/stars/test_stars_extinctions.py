"""Extinctions of single stars from the catalogue, as priors; and fits of the calibration, kept."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from pogson.errors import PogsonTypeError, PogsonValueError
from pogson.parallel import get_executor
from pogson.run.stars_config import load_stars_config
from pogson.run.stars_fit import describe_stars_plan, run_stars
from pogson.run.stars_simulated import write_stars_job
from pogson.stars import (
    CalibrationConfig,
    DustMapPrior,
    ExtinctionPrior,
    FitConfig,
    FlatDistance,
    RvPrior,
    StarExtinctionPrior,
    StarPhotometry,
    StarPriors,
    StellarGrid,
    calibrate_bands,
    draw_stars,
    fit_catalog,
    fit_stars,
    grid_sampler,
    read_posteriors,
    simulated_grid,
    write_grid,
)

LOW, HIGH = 0.0, 3.0
PRIORS = StarPriors(
    models=(), distance=FlatDistance(-1.0), rv=RvPrior(3.1, 0.0),
    extinction=StarExtinctionPrior(ExtinctionPrior(low=LOW, high=HIGH)),
)  # fmt: skip
CONFIG = FitConfig(n_draws=20_000, n_proposals=60_000)
NAN = np.nan


def one_model() -> tuple[StellarGrid, np.ndarray]:
    """A grid of one model, and its coefficients at R_V 3.1: magnitude and slope by band."""
    c = np.array([[[5.0, 0.9, 0.08], [4.4, 0.6, 0.07], [4.0, 0.35, 0.05], [3.4, 0.1, 0.02]]])
    grid = StellarGrid(c, list("grzK"), {"mini": [1.0]})
    return grid, np.stack([c[0, :, 0], c[0, :, 1] + 3.1 * c[0, :, 2]])


def by_hand(
    c: np.ndarray, flux: np.ndarray, err: np.ndarray, plx: tuple[float, float], mean: Any, sd: Any
) -> np.ndarray:
    """Mean and sd of (mu, A_V) by sums over a grid: Gaussians of flux, parallax and A_V."""
    mu, av = np.linspace(-2.0, 2.0, 801)[:, None], np.linspace(LOW, HIGH, 3001)
    model = 10 ** (-0.4 * (c[0] + mu[..., None] + av[:, None] * c[1]))
    log = -0.5 * (((flux - model) / err) ** 2).sum(axis=-1)
    log = log - 0.5 * ((plx[0] - 10 ** (-0.2 * mu)) / plx[1]) ** 2
    if np.isfinite(mean):
        log = log - 0.5 * ((av - mean) / sd) ** 2
    p = np.exp(log - log.max())
    p /= p.sum()
    out = []
    for x in (np.broadcast_to(mu, p.shape), np.broadcast_to(av, p.shape)):
        m = (p * x).sum()
        out += [m, np.sqrt((p * (x - m) ** 2).sum())]
    return np.array(out)


def test_posteriors_are_those_summed_by_hand() -> None:
    """The data say A_V = 0.6 to 0.1 or so; the catalogue says more, less, otherwise or nothing."""
    grid, c = one_model()
    said = np.array([[0.3, 0.05], [0.9, 0.1], [0.6, 2.0], [-0.1, 0.1], [NAN, NAN], [0.5, NAN]])
    n, seed = len(said), 4
    print("seed", seed)
    flux = np.repeat(grid.fluxes([0], av=0.6, rv=3.1), n, axis=0)
    err = 0.08 * flux
    flux = flux + err * np.random.default_rng(seed).normal(size=flux.shape)
    plx = (1.05, 0.1)
    stars = StarPhotometry.from_fluxes(
        flux, err, bands=grid.bands, parallax=[plx[0]] * n, parallax_err=[plx[1]] * n
    ).with_extinctions(*said.T)
    fit = fit_stars(grid, stars, seed=1, priors=PRIORS, config=CONFIG)
    for k, (mean, sd) in enumerate(said):
        known = np.isfinite(sd)
        want = by_hand(c, flux[k], err[k], plx, mean if known else NAN, sd)
        mu, av = 5 * np.log10(fit.distance_kpc[k].astype(float)), fit.av[k].astype(float)
        got = np.array([mu.mean(), mu.std(), av.mean(), av.std()])
        print(k, said[k], got, want)
        noise = 5 / np.sqrt(min(fit.ess[k], CONFIG.n_draws))
        assert np.all(np.abs(got - want)[[0, 2]] < noise * want[[1, 3]])
        assert np.all(np.abs(got / want - 1)[[1, 3]] < noise)
    assert fit.provenance["priors"]["extinction"]["kind"] == "StarExtinctionPrior"


def test_evidence_is_that_of_the_same_gaussian_for_all() -> None:
    grid = simulated_grid(300)
    flux = grid.fluxes([40, 90], av=0.4, distance_kpc=0.8)
    stars = StarPhotometry.from_fluxes(flux, 0.05 * flux, bands=grid.bands)
    config = FitConfig(n_draws=50)

    def fit(extinction: Any, photometry: StarPhotometry) -> Any:
        priors = StarPriors(distance=FlatDistance(-1.0), extinction=extinction)
        return fit_stars(grid, photometry, seed=1, priors=priors, config=config)

    gauss = ExtinctionPrior(0.3, 0.1, high=HIGH)
    one = fit(gauss, stars)
    own = stars.with_extinctions([0.3, 0.3], [0.1, 0.1])
    for other in (ExtinctionPrior(high=HIGH), DustMapPrior(lambda d, *_: (d, d), "m", high=HIGH)):
        placed = StarPhotometry.from_fluxes(
            flux, 0.05 * flux, bands=grid.bands, l=[1.0, 2.0], b=[3.0, 4.0]
        ).with_extinctions([0.3, 0.3], [0.1, 0.1])
        two = fit(StarExtinctionPrior(other), placed)
        np.testing.assert_array_equal(one.log_evidence, two.log_evidence)
        np.testing.assert_array_equal(one.av, two.av)
    half = fit(StarExtinctionPrior(gauss), own.with_extinctions([0.3, NAN], [0.1, 0.1]))
    np.testing.assert_array_equal(one.av, half.av)


def test_extinctions_are_checked_and_never_ignored(tmp_path: Any) -> None:
    grid, _ = one_model()
    flux = np.repeat(grid.fluxes([0]), 3, axis=0)
    stars = StarPhotometry.from_fluxes(flux, 0.1 * flux, bands=grid.bands)
    with pytest.raises(PogsonValueError, match="row 1"):
        stars.with_extinctions([0.1] * 3, [0.1, 0.0, 0.1])
    with pytest.raises(PogsonValueError, match=r"shape \(3,\)"):
        stars.with_extinctions([0.1] * 2, [0.1] * 2)
    own = stars.with_extinctions([0.1, -999.0, 0.2], np.ma.masked_values([0.1, 0.1, -1.0], -1.0))
    assert own.av_mean[0] == 0.1
    assert np.isnan(own.av_sd[1:]).all()
    assert own != stars
    assert own.select([0]) == own.select([True, False, False])
    assert pickle.loads(pickle.dumps(own)) == own
    # given and not used, or used and not given
    flat = StarPriors(models=(), distance=FlatDistance())
    with pytest.raises(PogsonValueError, match=r"1 stars.*StarExtinctionPrior"):
        fit_stars(grid, own, seed=1, priors=flat)
    for run in (
        lambda: fit_stars(grid, stars, seed=1, priors=PRIORS),
        lambda: fit_catalog(grid, stars, tmp_path / "a.parquet", seed=1, priors=PRIORS),
        lambda: grid_sampler(grid, priors=PRIORS)(stars, 1),
    ):
        with pytest.raises(PogsonValueError, match="none of 3 has one"):
            run()
    config = FitConfig(n_draws=5, n_proposals=100)
    whole = fit_stars(grid, own, seed=1, priors=PRIORS, config=config)
    path = fit_catalog(
        grid, own, tmp_path / "b.parquet", seed=1, priors=PRIORS, config=config, chunk_size=1
    )
    assert read_posteriors(path) == whole


def job(tmp_path: Any, *lines: str) -> Any:

    file = write_stars_job(tmp_path, n_stars=20, n_models=500, rng_seed=9)
    quick = ["fit.draws=50", "fit.proposals=300", "fit.min_ess=1", "report.stars=0"]
    return load_stars_config(file, [*quick, *lines])


def test_columns_of_a_catalogue(tmp_path: Any) -> None:
    """E(B-V) with an error, twenty stars of which three have none: 3.1 A_V a unit."""
    from astropy.table import Table

    config = job(
        tmp_path, 'catalog.extinction=["EBV", "e_EBV"]', "catalog.extinction_scale=3.1",
        "catalog.extinction_floor=0.003",
    )  # fmt: skip
    table = Table.read(tmp_path / "stars.ecsv")
    table["EBV"] = np.where(np.arange(20) < 3, [-999.0], np.linspace(0.05, 0.2, 20))
    table["e_EBV"] = 0.001
    table.write(tmp_path / "stars.ecsv", format="ascii.ecsv", overwrite=True)
    assert any("3 stars have no extinction in 'EBV'" in s for s in describe_stars_plan(config))
    result = run_stars(config, workers=1)
    fit = read_posteriors(result.table)
    got = np.median(fit.av, axis=1)
    assert np.abs(got - 3.1 * np.asarray(table["EBV"]))[3:].max() < 4 * np.hypot(0.0031, 0.003)
    assert "of each star" in (tmp_path / "stars-output/stars.html").read_text()
    quick = ["report.enabled=false", "fit.draws=50", "fit.proposals=300", "fit.min_ess=1"]
    plain = load_stars_config(tmp_path / "stars.toml", quick, output=tmp_path / "plain")
    flat = read_posteriors(run_stars(plain, workers=1).table).av
    np.testing.assert_array_equal(fit.av[:3], flat[:3])
    assert not np.array_equal(fit.av[3:], flat[3:])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["catalog.extinction=EBV"], "extinction_floor"),
        (["catalog.extinction=EBV", "catalog.extinction_floor=0.1"], "no column 'EBV'"),
        (['catalog.extinction=["b", "l", "l"]'], "extinction"),
        (["catalog.extinction=parallax", "catalog.extinction_scale=0"], "extinction_scale"),
        (["report.cluster=true", "priors.distance=galactic"], "cluster"),
        (["report.cluster=true", "catalog.extinction=b", "catalog.extinction_floor=1"], "cluster"),
    ],
)
def test_what_is_refused_before_anything_is_fitted(tmp_path: Any, lines: Any, said: str) -> None:
    from pogson.errors import PogsonError

    with pytest.raises(PogsonError, match=said):
        describe_stars_plan(job(tmp_path, *lines))


def test_a_calibration_uses_the_extinctions_of_its_stars(tmp_path: Any) -> None:
    """The functions of zero posterior mean have it with every star's own prior."""
    grid = simulated_grid(300)
    flux = grid.fluxes([40, 90, 140], av=0.4, distance_kpc=0.8)
    stars = StarPhotometry.from_fluxes(
        flux, 0.03 * flux, bands=grid.bands, parallax=[1.25] * 3, parallax_err=[0.03] * 3
    ).with_extinctions([0.2, 0.4, NAN], [0.05, 0.1, NAN])
    priors = StarPriors(
        distance=FlatDistance(-1.0), extinction=StarExtinctionPrior(ExtinctionPrior(high=HIGH))
    )
    config = FitConfig(n_draws=4000, n_proposals=8000)
    controls = grid_sampler(grid, priors=priors, config=config)(stars, 1).controls
    assert controls is not None
    error = controls.std(axis=1) / np.sqrt(2000)  # draws repeat
    assert np.all(np.abs(controls.mean(axis=1)) < 5 * error)


def test_the_sampler_in_tasks_and_from_files_kept(tmp_path: Any, monkeypatch: Any) -> None:
    grid = simulated_grid(300)
    file = write_grid(grid, tmp_path / "grid.h5")
    flux = grid.fluxes(np.arange(20), av=0.4, distance_kpc=0.8)
    stars = StarPhotometry.from_fluxes(flux, 0.03 * flux, bands=grid.bands)
    options: dict[str, Any] = {
        "priors": StarPriors(distance=FlatDistance()),
        "config": FitConfig(n_draws=20, n_proposals=200, min_ess=1.0),
    }
    one = grid_sampler(grid, **options)(stars, 5)
    with get_executor(2, kind="threads") as executor:
        for source in (grid, file):
            two = grid_sampler(source, executor=executor, chunk_size=7, **options)(stars, 5)
            np.testing.assert_array_equal(one.flux, two.flux)
            np.testing.assert_array_equal(one.controls, two.controls)
    kept = grid_sampler(file, keep=tmp_path / "kept", **options)
    np.testing.assert_array_equal(kept(stars, 5).flux, one.flux)
    from pogson.stars.fit import StarFitter

    def refused(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("fitted again")

    monkeypatch.setattr(StarFitter, "fit", refused)
    again = grid_sampler(file, keep=tmp_path / "kept", **options)
    np.testing.assert_array_equal(again(stars, 5).flux, one.flux)
    for other, seed in ((stars, 6), (stars.scaled([1.01] * 8), 5), (stars.select([1, 0]), 5)):
        with pytest.raises(RuntimeError, match="fitted again"):
            again(other, seed)
    # a file that has changed: the fitter that this process keeps is not taken for the new one
    monkeypatch.undo()
    with get_executor(1) as serial:
        grid_sampler(file, executor=serial, **options)(stars, 5)
        write_grid(simulated_grid(400), file)
        new = grid_sampler(simulated_grid(400), **options)(stars, 5)
        got = grid_sampler(file, executor=serial, **options)(stars, 5)
    np.testing.assert_array_equal(got.flux, new.flux)
    with (
        get_executor(2, kind="processes") as executor,
        pytest.raises(PogsonTypeError, match="path"),
    ):
        grid_sampler(grid, executor=executor)
    with pytest.raises(PogsonValueError, match="chunk_size"):
        grid_sampler(grid, chunk_size=0)


def test_models_bad_in_bands_not_used_are_no_loss(tmp_path: Any) -> None:
    """The fit reads the bands it fits: NaN in another one neither drops models nor shifts rows."""
    import h5py

    bands = '["PS_g", "PS_r", "PS_i", "PS_z", "2MASS_J"]'
    config = job(tmp_path, f"grid.bands={bands}")
    want = read_posteriors(run_stars(config, workers=1).table)
    with h5py.File(tmp_path / "grid.h5", "r+") as file:
        values = file["mag_coeffs"][:]
        values["2MASS_Ks"][::3] = np.nan
        file["mag_coeffs"][...] = values
    job_again = run_stars(config, workers=1)
    got = read_posteriors(job_again.table)
    assert job_again.n_computed == 1
    np.testing.assert_array_equal(got.model_index, want.model_index)
    got.check_grid(config.read_grid(got.bands))


def test_large_text_files_are_read_whole_with_a_warning(tmp_path: Any, monkeypatch: Any) -> None:
    from pogson.errors import PogsonWarning
    from pogson.formats import star_catalogs

    file = tmp_path / "stars.csv"
    file.write_text("PS_g,PS_g_Err\n" + "15.0,0.1\n" * 20)
    star_catalogs.read_star_catalog(file, ["PS_g"])
    monkeypatch.setattr(star_catalogs, "LARGE_FILE", 100)
    with pytest.warns(PogsonWarning, match="read whole"):
        star_catalogs.read_star_catalog(file, ["PS_g"])


def test_offsets_found_with_the_extinctions_of_the_stars() -> None:
    """Each star's A_V is known to 0.045 mag: a closed loop under the very priors of the fit."""
    seed, n = 1, 300
    print("seed", seed)
    rng = np.random.default_rng(seed)
    grid = simulated_grid()
    config = FitConfig(distance_limits=(0.2, 3.0), n_draws=150, n_proposals=1200, min_ess=100)
    put_in = np.array([1.02, 0.98, 1, 1.03, 0.99, 1.04, 0.97, 0.98])
    world = StarPriors(extinction=ExtinctionPrior(0.3, 0.1, high=2.0))
    stars, truth = draw_stars(
        grid, n, rng, priors=world, config=config, error=0.03, parallax_error=(0.02, 0.05),
        offsets=put_in,
    )  # fmt: skip
    seen, one, two = truth["av"] + 0.05 * rng.normal(size=n), 0.05**-2, 0.1**-2
    stars = stars.with_extinctions(
        (one * seen + two * 0.3) / (one + two), np.full(n, (one + two) ** -0.5)
    )
    priors = StarPriors(extinction=StarExtinctionPrior(ExtinctionPrior(high=2.0)))
    made = calibrate_bands(
        stars, grid_sampler(grid, priors=priors, config=config), gauge="PS_r", seed=1,
        config=CalibrationConfig(averages=2, outliers=False),
    )  # fmt: skip
    others = np.arange(8) != 1
    miss = (np.log(made.offsets) - np.log(put_in / put_in[1]))[others]
    chi2 = miss @ np.linalg.solve(made.covariance[np.ix_(others, others)], miss)
    print("chi2", chi2, "of 7; errors", made.errors)
    assert made.converged
    assert 0.6 < chi2 < 24.3  # 0.1 % and 99.9 % of seven degrees of freedom
    assert made.errors[others].mean() < 0.0055  # 0.7 % where only the N(0.3, 0.1) is known
