"""A physical atmosphere in the configuration of ``pogson solve``: truth from sums over spectra."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import Table
from scipy.stats import chi2 as law

from pogson.errors import ConfigError, MissingDataError
from pogson.formats import read_catalog, write_catalog
from pogson.run.solve_config import TERM_KINDS, SolveConfig, build_terms
from pogson.run.solve_products import read_solution
from pogson.run.solve_run import load_solve_config, run_solve
from pogson.sed import Bandpass, stellar_template, synthetic_color
from pogson.survey import (
    AtmosphereModel,
    AtmosphereState,
    Detectors,
    Exposures,
    Observations,
    Stars,
    SurveyTables,
)

SEED = 20261124
BANDS = "gz"
NIGHTS = {"aerosol": [0.02, 0.04, 0.08], "water": [2.0, 5.0, 9.0]}
STANDARD = {"pressure": 780.0, "ozone": 260.0, "aerosol": 0.03, "water": 3.0}
NOISE, GREY = 0.005, 0.002
ZERO = {"g": 26.0, "z": 25.5}

CONFIG = """[survey]
output = "out"

[sources]
files = "sources.parquet"
detector_size = [1000, 1000]

[reference]
catalog = "reference.parquet"
color = ["g", "z"]

[solve]
floor = 0.0
reference_floor = 0.0

[[solve.terms]]
kind = "detector_zero_point"
by = ["filter"]
gauge = false

[[solve.terms]]
kind = "grey_cloud"
photometric_sigma = 0.002

[[solve.terms]]
kind = "atmosphere"
order = "{order}"
fit = ["log_aerosol", "log_water"]
bandpasses = {{ g = "decamDR1noatm-g", z = "decamDR1noatm-z" }}
color_bandpasses = ["g.ecsv", "z.ecsv"]
standard = {{ pressure = 780.0, ozone = 260.0, aerosol = 0.03, water = 3.0 }}
temperatures = [3600.0, 9000.0]
"""


def magnitudes(spectra, band, airmass, state):
    """Return magnitudes, AB in the standard atmosphere: sums every Angstrom."""
    air, lam = AtmosphereModel(), np.arange(*band.wavelength_range, 1.0)
    photons = band.evaluate(lam) * lam
    flux = np.array([s.evaluate(lam) for s in spectra])
    flat = np.sum(photons / lam**2 * air.transmission(lam, 1.2, AtmosphereState(**STANDARD)))
    return -2.5 * np.log10((flux @ (photons * air.transmission(lam, airmass, state))) / flat)


def make(folder, *, order="first", n_stars=300, per_night=8):
    """Write sources, catalogue and configuration."""
    rng = np.random.default_rng(SEED)
    kinds = [stellar_template(t, metallicity=-0.5) for t in np.geomspace(3800, 8500, 40)]
    which, level = rng.integers(0, len(kinds), n_stars), rng.uniform(16, 18.5, n_stars)
    bands = {b: Bandpass.from_speclite(f"decamDR1noatm-{b}") for b in BANDS}
    standard = AtmosphereState(**STANDARD)
    star_mag = {b: magnitudes(kinds, bands[b], 1.2, standard) for b in BANDS}
    level = level - star_mag["g"][which]
    ra, dec = 10 + rng.uniform(0, 0.2, n_stars), rng.uniform(0, 0.2, n_stars)
    parts = []
    for night in range(3):
        state = AtmosphereState(
            pressure=780.0, aerosol=NIGHTS["aerosol"][night], water=NIGHTS["water"][night]
        )
        for i in range(per_night * len(BANDS)):
            b, airmass = BANDS[i % 2], 1.0 + 1.0 * (i // 2) / (per_night - 1)
            shift = magnitudes(kinds, bands[b], airmass, state)[which]
            mag = level + shift - ZERO[b] + GREY * rng.normal()
            detector = rng.integers(1, 3, n_stars)
            flux = 10 ** (-0.4 * (mag + NOISE * rng.normal(size=n_stars)))
            parts.append({
                "exposure": np.full(n_stars, 100 * night + i), "detector": detector,
                "band": np.full(n_stars, b), "ra": ra, "dec": dec,
                "x": rng.uniform(0, 999, n_stars), "y": rng.uniform(0, 999, n_stars),
                "flux": flux, "flux_err": flux * NOISE / 1.0857,
                "mjd": np.full(n_stars, 60000.7 + night + 0.01 * i),
                "airmass": np.full(n_stars, airmass),
            })  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    table = Table({k: np.concatenate([p[k] for p in parts]) for k in parts[0]})
    write_catalog(folder / "sources.parquet", table)
    reference = Table({"id": np.arange(n_stars), "ra": ra, "dec": dec})
    for b in BANDS:
        reference[f"mag_{b}"] = level + star_mag[b][which] + 0.005 * rng.normal(size=n_stars)
        reference[f"mag_{b}_err"] = np.full(n_stars, 0.005)
        inside = AtmosphereModel().bandpass(bands[b], 1.2, standard)
        Table({"wavelength": inside.wavelength, "response": inside.throughput}).write(
            folder / f"{b}.ecsv", overwrite=True
        )
    write_catalog(folder / "reference.parquet", reference)
    (folder / "solve.toml").write_text(CONFIG.format(order=order))


def solve(folder, *overrides, output=None):
    quick = ("report.enabled=false", *overrides)
    config = load_solve_config(folder / "solve.toml", quick, output=output)
    return run_solve(config, workers=1)


@pytest.mark.parametrize("order", ["first", "full"])
def test_the_atmosphere_put_in_is_found_within_its_errors(tmp_path, order):
    print("seed", SEED)
    make(tmp_path, order=order)
    found = read_solution(solve(tmp_path).folder)
    names = [f"atmosphere[night{n};log_{p}]" for p in ("aerosol", "water") for n in range(3)]
    rows = [found.names.index(n) for n in names]
    truth = np.log([*NIGHTS["aerosol"], *NIGHTS["water"]])
    difference = found.values[rows] - truth
    covariance = found.covariance[np.ix_(rows, rows)]
    chi2 = difference @ np.linalg.solve(covariance, difference)
    print("pulls", difference / np.sqrt(np.diag(covariance)), "chi2", chi2)
    print("tau", np.exp(found.values[rows[:3]]), "water", np.exp(found.values[rows[3:]]))
    assert 1e-4 < law.sf(chi2, len(rows)) < 1 - 1e-4
    assert np.all(found.errors[rows[3:]] < 0.15)  # water to 15 percent, every night
    assert np.all(found.errors[rows[:3]] * np.exp(truth[:3]) < 0.01)
    dof = found.facts["degrees_of_freedom"]
    assert abs(found.facts["chi2"] / dof - 1) < 5 * np.sqrt(2 / dof)
    # zero points hold outside the variable part of the air
    for k, b in enumerate(BANDS):
        for d in (1, 2):
            i = found.names.index(f"detector_zero_point[{b};{d}]")
            assert abs(found.values[i] - ZERO[b]) < 4.5 * found.errors[i], (k, d)


def test_partitions_find_the_same_atmosphere(tmp_path):
    make(tmp_path, n_stars=60)
    a = read_solution(solve(tmp_path).folder)
    cut = ("solve.partitions=always", "solve.partition_rows=900")
    b = read_solution(solve(tmp_path, *cut, output=tmp_path / "cut").folder)
    assert b.facts["partitions"] > 1
    np.testing.assert_allclose(b.values, a.values, rtol=0, atol=1e-8)
    np.testing.assert_allclose(b.errors, a.errors, rtol=1e-6)


def test_colors_of_the_solution_itself(tmp_path):
    make(tmp_path, n_stars=80)
    text = (tmp_path / "solve.toml").read_text()
    text = text.replace('color_bandpasses = ["g.ecsv", "z.ecsv"]', 'solved_colors = ["g", "z"]')
    (tmp_path / "solve.toml").write_text(text)
    found = solve(tmp_path)
    stars = read_catalog(found.folder / "stars.parquet")
    # a star's colour is the difference of its solved magnitudes
    g, z = (stars[stars["band"] == b] for b in BANDS)
    g.sort("object")
    z.sort("object")
    np.testing.assert_allclose(g["color"], g["mag"] - z["mag"], atol=0.003)
    with pytest.raises(ConfigError, match="needs all stars in memory"):
        solve(tmp_path, "solve.partitions=always", "solve.partition_rows=500")


def test_bounds_and_blind_parameters_are_said(tmp_path):
    make(tmp_path, n_stars=60)
    text = (tmp_path / "solve.toml").read_text()
    (tmp_path / "solve.toml").write_text(
        text + "bounds = { log_water = [0.0, 1.7] }\n"
        "priors = { log_water = [1.0, 1.0], ozone = [260.0, 30.0] }\n"
    )
    found = solve(tmp_path)
    assert any("night2;log_water" in w and "limit" in w for w in found.headlines)


# -- several colours of each star -----------------------------------------------------------------
COLORS = (("g", "r"), ("i", "z"))
SEVERAL = {"color_bandpasses": [["decamDR1noatm-g", "decamDR1noatm-r"],
                                ["decamDR1noatm-i", "decamDR1noatm-z"]],
           "colors": [list(p) for p in COLORS], "reddening": [0.0, 0.2, 0.4],
           "temperatures": [3800.0, 8500.0]}  # fmt: skip


def bare_colors(spectra):
    """Return the colours of spectra in the passbands without air, shape (spectra, colours)."""
    bands = {b: Bandpass.from_speclite(f"decamDR1noatm-{b}") for b in "griz"}
    return np.array([[synthetic_color(s, bands[a], bands[b]) for a, b in COLORS] for s in spectra])


@pytest.mark.parametrize(("order", "limit"), [("first", 1.5e-3), ("full", 8e-4)])
def test_several_colours_tell_reddened_stars_from_cool_ones(tmp_path, order, limit):
    plain = [stellar_template(t, metallicity=-0.5) for t in np.geomspace(4000, 8000, 12)]
    spectra = [*plain, *(s.redden(0.4) for s in plain)]
    exposures = Exposures([1, 2], airmass=[1.2, 2.0], filter_names=("g",))
    tables = SurveyTables(exposures, Detectors([1]))
    band = Bandpass.from_speclite("decamDR1noatm-g")
    standard = AtmosphereState(**STANDARD)
    exact = np.subtract(*(magnitudes(spectra, band, x, standard) for x in (2.0, 1.2)))
    n = len(spectra)
    term = {"kind": "atmosphere", "bandpasses": {"g": "decamDR1noatm-g"}, "order": order,
            "standard": STANDARD, "metallicity": -0.5}  # fmt: skip
    both, color = bare_colors(spectra), None
    worst = {}
    for name in ("several", "one"):
        if name == "several":
            change = SEVERAL
            stars = (np.zeros(n, int), both)
        else:
            change = {"color_bandpasses": SEVERAL["color_bandpasses"][0],
                      "temperatures": [3600.0, 11000.0]}  # fmt: skip
            stars, color = None, both[:, 0]
        (made,) = build_terms(SolveConfig(terms=({**term, **change},)), tmp_path, tables, stars)
        obs = Observations.from_columns(
            tables, Stars(np.arange(n), filter=0, color=color), star=np.repeat(np.arange(n), 2),
            exposure=np.tile([0, 1], n), detector=0, x=0, y=0, mag=0.0, mag_err=0.01,
        )  # fmt: skip
        found = np.diff(made.evaluate(obs, made.start(tables)).reshape(n, 2), axis=1)[:, 0]
        worst[name] = float(np.ptp(found - exact))
    print({k: f"{1e3 * v:.2f} mmag" for k, v in worst.items()})
    assert worst["several"] < limit
    assert worst["one"] > 2.5 * worst["several"]


def test_the_command_takes_several_colours_from_the_catalogue(tmp_path):
    make(tmp_path, n_stars=80)
    reference = read_catalog(tmp_path / "reference.parquet")
    rng = np.random.default_rng(SEED)
    g_z = reference["mag_g"] - reference["mag_z"]
    kinds = [stellar_template(t, metallicity=-0.5) for t in np.geomspace(3800, 8500, 40)]
    known = np.array([magnitudes(kinds, Bandpass.from_speclite(f"decamDR1noatm-{b}"), 1.2,
                                 AtmosphereState(**STANDARD)) for b in "griz"])  # fmt: skip
    order = np.argsort(known[0] - known[3])
    for k, b in ((1, "r"), (2, "i")):
        color = np.interp(g_z, (known[0] - known[3])[order], (known[0] - known[k])[order])
        reference[f"mag_{b}"] = reference["mag_g"] - color + 0.002 * rng.normal(size=80)
        reference[f"mag_{b}_err"] = 0.005
    reference["mag_i"][:7] = np.nan
    write_catalog(tmp_path / "reference.parquet", reference)
    text = (tmp_path / "solve.toml").read_text()
    text = text.replace('color = ["g", "z"]\n', "").replace(
        'color_bandpasses = ["g.ecsv", "z.ecsv"]',
        f"color_bandpasses = {SEVERAL['color_bandpasses']}\ncolors = {SEVERAL['colors']}\n"
        "reddening = [0.0, 0.1]",
    )
    (tmp_path / "solve.toml").write_text(text)
    result = solve(tmp_path)
    assert any("14 stars lack a colour" in w for w in result.headlines)  # seven in two bands
    found = read_solution(result.folder)
    rows = [found.names.index(f"atmosphere[night{n};log_water]") for n in range(3)]
    pull = (found.values[rows] - np.log(NIGHTS["water"])) / found.errors[rows]
    print("pulls", pull)
    assert np.all(np.abs(pull) < 4.0)
    stars = read_catalog(result.folder / "stars.parquet")
    assert np.isfinite(stars["color"]).sum() >= 2 * 73
    with pytest.raises(ConfigError, match="need all stars in memory"):
        solve(tmp_path, "solve.partitions=always", "solve.partition_rows=500")
    reference.remove_column("mag_i")
    reference.remove_column("mag_i_err")
    write_catalog(tmp_path / "reference.parquet", reference)
    with pytest.raises(MissingDataError, match="'i'"):
        solve(tmp_path)


TABLES = SurveyTables(Exposures([1, 2], filter=[0, 1], filter_names=("g", "z")), Detectors([1, 2]))
GOOD = {"kind": "atmosphere", "bandpasses": {"g": "decamDR1noatm-g", "z": "decamDR1noatm-z"},
        "color_bandpasses": ["sdss2010-g", "sdss2010-i"]}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), [
    ({"bandpass": {}}, "bandpass: Extra inputs.*allowed: name, bandpasses"),
    ({"bandpasses": {"g": "decamDR1noatm-g"}}, "none for band 'z'"),
    ({"bandpasses": {"g": "nothing-g", "z": "nothing-z"}}, "nothing-g"),
    ({"bandpasses": {"g": {"1": "decamDR1noatm-g"}, "z": "decamDR1noatm-z"}}, "detector '2'"),
    ({"color_bandpasses": None}, "give color_bandpasses"),
    ({"color_bandpasses": ["sdss2010-g"]}, "color_bandpasses.*at least 2"),
    ({"color_bandpasses": [["sdss2010-g", "sdss2010-r"]] * 2}, "say which bands of the reference"),
    ({"colors": [["g", "r"], ["r", "i"]]}, "colors has 2 pairs"),
    ({**SEVERAL, "colors": [["g", "r"]]}, "colors has 1 pairs"),
    (SEVERAL, "need all stars in memory"),
    ({"reddening": [0.0, 0.2]}, "one colour cannot tell"),
    ({"reddening": -0.1}, "0 or more"),
    ({"solved_colors": ["g", "z"]}, "not both"),
    ({"color_bandpasses": None, "solved_colors": ["g", "i"]}, "names 'i'"),
    ({"fit": ["dust"]}, "parameter 'dust'"),
    ({"standard": {"rain": 1.0}}, "standard has 'rain'"),
    ({"standard": {"pressure": 700.0}, "altitude": 2000.0}, "not both"),
    ({"standard": {"water": -1.0}}, "must be finite and not negative"),
    ({"altitude": 30000.0}, "30000"),
    ({"absorbers": {"water": "none.ecsv"}}, "not a table of transmissions"),
    ({"order": "second"}, "order: Input should be 'first' or 'full'"),
    ({"bounds": {"ozone": [300.0, 400.0]}}, "must enclose"),
])  # fmt: skip
def test_wrong_settings_name_the_key(tmp_path, change, said):
    config = SolveConfig(terms=({**GOOD, **change},))
    with pytest.raises(ConfigError, match=said) as caught:
        build_terms(config, tmp_path, TABLES)
    assert "[solve] terms, number 1 (atmosphere)" in str(caught.value) or "solved_colors" in said


def test_own_tables_per_detector_filters_and_a_site(tmp_path):
    lam = np.linspace(6500.0, 11000.0, 400)
    Table({"wavelength": lam / 10, "5.0": np.full(400, 0.9), "10.0": np.full(400, 0.81)},
          units={"wavelength": "nm"}).write(tmp_path / "water.ecsv")  # fmt: skip
    z = Bandpass.from_speclite("decamDR1noatm-z")
    np.savetxt(tmp_path / "z2.dat", np.c_[z.wavelength + 20.0, z.throughput])
    change = {
        "bandpasses": {"g": "decamDR1noatm-g", "z": {"1": "decamDR1noatm-z", "2": "z2.dat"}},
        "absorbers": {"water": "water.ecsv"}, "altitude": 2200.0,
    }  # fmt: skip
    (term,) = build_terms(SolveConfig(terms=({**GOOD, **change},)), tmp_path, TABLES)
    assert term.standard.pressure == pytest.approx(775.0, abs=2.0)
    assert term.bandpasses[1][1].pivot_wavelength > term.bandpasses[1][0].pivot_wavelength + 15
    np.testing.assert_allclose(term.model.water.depth([9000.0], 5.0), -np.log(0.9))
    flux = term.integrals(TABLES.exposures)[0]
    assert flux.shape[:2] == (2, 2)


def test_two_atmospheres_are_refused():
    with pytest.raises(ValueError, match="one at most"):
        SolveConfig(terms=(GOOD, {**GOOD, "name": "other"}))


KINDS = [
    {"kind": "exposure_zero_point", "per": "exposure_detector"},
    {"kind": "detector_zero_point", "by": ["filter", "epoch"]},
    {"kind": "exposure_polynomial", "order": 3, "frame": "focal_plane"},
    {"kind": "star_flat", "by": ["filter", "epoch"], "order": 2},
    {"kind": "radial_flat"},
    {"kind": "template_flat", "name": "rings", "files": {"1": "ring.json"}},
    {"kind": "jacobian", "areas": {"1": "ring.json", "2": "ring.json"}},
    {"kind": "airmass_extinction", "slope": True},
    {"kind": "color_slope", "per_detector": True},
    {"kind": "color_flat", "by": ["filter"], "pivot": 0.5},
    {"kind": "seeing", "pivot": 0.9},
    {"kind": "mirror_decay"},
    {"kind": "background_offset"},
    {"kind": "grey_cloud", "per": "exposure_detector"},
    GOOD,
]


def test_every_kind_can_be_chosen_in_the_configuration(tmp_path):
    from pogson.fields import Box, ChebyshevField, write_field

    write_field(ChebyshevField(Box(0, 0, 100, 100), [[1.0]]), tmp_path / "ring.json")
    assert sorted(k["kind"] for k in KINDS) == sorted(TERM_KINDS)
    terms = build_terms(SolveConfig(terms=tuple(KINDS)), tmp_path, TABLES)
    assert [type(t).__name__ for t in terms] == [TERM_KINDS[k["kind"]] for k in KINDS]
    assert all(t.describe(TABLES) for t in terms)
