"""The MIST grid against the Sun, published extinction, theory and the cluster M67."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pogson.errors import FileFormatError, MaskedDataError, MissingDataError, PogsonValueError
from pogson.stars import MistLattice, StellarGrid, build_mist_grid, mist_bands
from pogson.stars._mist_tables import CORRECTIONS, ISOCHRONES, read_isochrones
from pogson.stars.build_mist import across_metallicity, invert_isochrones, slope_along

BANDS = ("PS_g", "PS_r", "PS_i", "PS_z", "PS_y", "2MASS_J", "2MASS_H", "2MASS_Ks")


def data_file(what: tuple[str, str, str]) -> Path:
    spec = importlib.util.find_spec(what[1])
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(
            f"the data package {what[0]} is not installed (pip install --no-deps {what[0]})"
        )
    return Path(spec.submodule_search_locations[0]) / what[2]


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    """Skip everything where the data are not installed."""
    data_file(ISOCHRONES)
    data_file(CORRECTIONS)


@pytest.fixture(scope="module")
def isochrone() -> StellarGrid:
    """4 Gyr, solar, every EEP, with bands whose extinction is published."""
    lattice = MistLattice(log_age=[9.6], eep=range(202, 606), feh=[0.0])
    return build_mist_grid([*BANDS, "Bessell_B", "Bessell_V", "Gaia_G_EDR3"], lattice=lattice)


@pytest.fixture(scope="module")
def tracks() -> StellarGrid:
    lattice = MistLattice(mini=np.arange(0.7, 2.2, 0.01), eep=range(202, 606, 2), feh=[0.0])
    return build_mist_grid(["PS_r"], lattice=lattice)


def test_the_sun(isochrone: StellarGrid) -> None:
    """Absolute magnitudes of the Sun (Willmer 2018, ApJS 236, 47): PS1 in AB, 2MASS in Vega."""
    order = np.argsort(isochrone.label("mini"))
    mass = isochrone.label("mini")[order]

    def at_one(values: np.ndarray) -> float:
        return float(np.interp(1.0, mass, values[order]))

    # the model is 4 Gyr old and has the luminosity of the Sun to a few per cent
    brighter = 2.5 * at_one(isochrone.label("logl"))
    assert abs(brighter) < 0.1
    absolute = isochrone.magnitudes() - 10.0
    published = [5.03, 4.64, 4.52, 4.51, 4.50, 3.67, 3.32, 3.27]
    for j, (band, m) in enumerate(zip(BANDS, published, strict=True)):
        assert at_one(absolute[:, j]) + brighter == pytest.approx(m, abs=0.06), band
    assert at_one(absolute[:, 9]) + brighter == pytest.approx(4.81, abs=0.06)
    assert at_one(isochrone.label("Mr")) == pytest.approx(at_one(absolute[:, 1]), abs=1e-5)
    assert at_one(isochrone.label("logg")) == pytest.approx(4.44, abs=0.03)
    assert at_one(10 ** isochrone.label("logt")) == pytest.approx(5772.0, rel=0.015)
    assert isochrone.systems["PS_g"] == "AB"
    assert isochrone.systems["2MASS_J"] == "Vega"


def test_extinction_is_that_of_the_law(isochrone: StellarGrid) -> None:
    """Cardelli, Clayton & Mathis (1989) table 3, and E(B-V) = A_V / R_V by definition."""
    sun = int(np.argmin(np.abs(isochrone.label("mini") - 1.0)))

    def k(rv: float) -> dict[str, float]:
        difference = isochrone.magnitudes(sun, 0.5, rv) - isochrone.magnitudes(sun, 0.0, rv)
        return dict(zip(isochrone.bands, difference / 0.5, strict=True))

    at = k(3.1)
    for band, published in {"Bessell_V": 1.0, "2MASS_J": 0.282, "2MASS_H": 0.19}.items():
        assert at[band] == pytest.approx(published, abs=0.01), band
    assert at["2MASS_Ks"] == pytest.approx(0.114, abs=0.006)
    # Wang & Chen (2019, ApJ 877, 116), table 3, another sample and law: within 7 per cent
    for band, published in {"PS_g": 1.155, "PS_r": 0.843, "PS_i": 0.628}.items():
        assert at[band] == pytest.approx(published, rel=0.07), band
    # the bands of a G star lie to the red of those of the hot stars that define E(B-V)
    reddening = at["Bessell_B"] - at["Bessell_V"]
    assert reddening == pytest.approx(1 / 3.1, abs=0.02)
    for rv in (2.9, 3.1, 3.3, 3.6):  # further off, 1 / R_V is not straight
        at = k(rv)
        ratio = (at["Bessell_B"] - at["Bessell_V"]) / reddening
        assert ratio == pytest.approx(3.1 / rv, rel=0.02), rv
        assert at["Bessell_V"] == pytest.approx(1.0, abs=0.015), rv


def test_coefficients_reproduce_the_table_within_their_error(isochrone: StellarGrid) -> None:
    """Bolometric corrections of the nodes nearest to a model, interpolated here by hand."""
    assert isochrone.fit_error is not None
    with h5py.File(data_file(CORRECTIONS)) as file:
        data = file["UBVRIplus/data"][:]
        names = [b.decode() for b in file["UBVRIplus/band_names"][:]]
        solar = data[int(np.flatnonzero(file["UBVRIplus/feh_values"][:] == 0)[0])]
    column = 5 + names.index("Gaia_G_EDR3")
    i = int(
        np.argmin(
            np.abs(10 ** isochrone.label("logt") - 5500.0) + (isochrone.label("eep") > 400) * 1e9
        )
    )
    logg, logt = isochrone.label("logg")[i], isochrone.label("logt")[i]
    corrections = {}
    for av in (0.0, 0.4, 1.0, 2.0):
        low, high = (
            np.interp(
                logt,
                np.log10([5500.0, 5750.0] if 10**logt > 5500 else [5250.0, 5500.0]),
                [
                    solar[(solar[:, 0] == t) & (solar[:, 1] == g) & np.isclose(solar[:, 3], av)][
                        0, column
                    ]
                    for t in ((5500.0, 5750.0) if 10**logt > 5500 else (5250.0, 5500.0))
                ],
            )
            for g in (4.5, 5.0)
        )
        corrections[av] = low + (high - low) * (logg - 4.5) / 0.5
    assert 4.5 <= logg <= 5.0
    j = isochrone.bands.index("Gaia_G_EDR3")
    absolute = 4.74 - 2.5 * isochrone.label("logl")[i] - corrections[0.0]
    assert isochrone.magnitudes(i)[j] - 10.0 == pytest.approx(absolute, abs=0.003)
    errors = []
    for av in (0.4, 1.0, 2.0):
        formula = isochrone.magnitudes(i, av, 3.1)[j] - isochrone.magnitudes(i)[j]
        errors.append(abs(formula - (corrections[0.0] - corrections[av])))
    # G is wide: A grows less than in proportion, and the error recorded covers it
    assert 0.01 < max(errors) <= isochrone.fit_error[i, j] + 1e-3


def test_tracks_and_isochrones_weigh_the_same(tracks: StellarGrid) -> None:
    """Numbers of stars of a population, summed on either lattice with its Jacobian."""
    lattice = MistLattice(log_age=np.arange(9.0, 10.11, 0.02), eep=range(202, 606, 2), feh=[0.0])
    isochrones = build_mist_grid(["PS_r"], lattice=lattice)
    assert isochrones.labels.dtype.names == ("loga", "eep", "feh", "afe", "smf")
    for low, high in ((350, 454), (454, 500), (500, 605)):
        numbers = []
        for grid in (tracks, isochrones):
            age, eep = 10 ** grid.label("loga"), grid.label("eep")
            chosen = (age > 2e9) & (age < 8e9) & (eep >= low) & (eep < high)
            weight = np.exp(grid.log_volume[chosen]) * grid.label("mini")[chosen] ** -2.35
            numbers.append(weight.sum())
        assert numbers[0] == pytest.approx(numbers[1], rel=0.03), (low, high)


def test_tracks_age_and_live_as_stars_do(tracks: StellarGrid) -> None:
    assert np.all(tracks.label("agewt") > 0)
    for mass, life in ((1.0, 10.3e9), (2.0, 1.05e9)):
        track = tracks.select(np.abs(tracks.label("mini") - mass) < 1e-6)
        age, eep = 10 ** track.label("loga"), track.label("eep")
        assert np.all(np.diff(age) > 0)
        end = age[eep == 454][0]
        assert end == pytest.approx(life, rel=0.12)  # main-sequence lives; MIST I, fig. 5
        # the sum of agewt times spacing is the time that passed
        passed = np.sum(track.label("agewt")[eep < 454] * 2)
        assert passed == pytest.approx(end - age[0], rel=0.01)


def test_tracks_pass_through_the_isochrones() -> None:
    stars = read_isochrones(data_file(ISOCHRONES), (300, 420))
    f, a = int(np.argmin(np.abs(stars.feh + 0.5))), int(np.argmin(np.abs(stars.log_age - 9.5)))
    masses = 10 ** stars.values[f, a, ::20, 0]
    found = invert_isochrones(stars, masses, stars.eep, [-0.5])[f]
    for i in range(masses.size):
        assert found[i, 20 * i] == pytest.approx(
            np.array([stars.log_age[a], *stars.values[f, a, 20 * i, 1:]]), abs=1e-6
        )


def test_interpolation_in_metallicity() -> None:
    axis = np.array([-1.0, -0.5, 0.0, 0.25, 0.5])
    values = (1 + 2 * axis - axis**2 + 0.5 * axis**3)[:, None]
    for feh in (-0.4, 0.1, 0.2):
        true = 1 + 2 * feh - feh**2 + 0.5 * feh**3
        assert across_metallicity(axis, values, feh) == pytest.approx(true)
    assert across_metallicity(axis, values, 0.0) == pytest.approx(values[2])
    gap = values.copy()
    gap[0] = np.nan
    assert across_metallicity(axis, gap, -0.25) == pytest.approx(0.5 * (values[1] + values[2]))
    assert across_metallicity(axis, values, 0.375) == pytest.approx(0.5 * (values[3] + values[4]))
    assert np.isnan(across_metallicity(axis, gap, -0.75)).all()


def test_slope_beside_gaps() -> None:
    v = np.array([[0.0, 1.0, 4.0, np.nan, 7.0, 9.0, np.nan, 5.0]])
    expected = [[1.0, 2.0, 3.0, np.nan, 2.0, 2.0, np.nan, np.nan]]
    assert slope_along(v, 1) == pytest.approx(np.array(expected), nan_ok=True)


def test_m67(isochrone: StellarGrid, shared_data: Callable[[str], Path]) -> None:
    """Dwarfs of M67 lie on the solar isochrone of 4 Gyr at 850 pc behind A_V = 0.11.

    Distance, age and reddening are those of Gaia DR2 and of the literature before it (Cantat-Gaudin
    et al. 2018; Taylor 2007); they are not fitted here. Models of cooler dwarfs are known to be too
    blue, hence the range of r.
    """
    from astropy.table import Table

    table = Table.read(shared_data("m67/NGC_2682.fits"))

    def column(name: str) -> np.ndarray:
        values = np.ma.filled(table[name].astype(float), np.nan)
        values[~((values > 5) & (values < 30))] = np.nan  # 0, -9999
        return values

    member = np.asarray(table["HDBscan_MemProb"]) > 0.8
    dwarfs = isochrone.select(isochrone.label("eep") < 430)
    models = dwarfs.magnitudes(av=0.11, rv=3.1, distance_kpc=0.85)
    order = np.argsort(models[:, 1])
    r = column("PS_r")
    for blue, red, tolerance in (
        ("PS_g", "PS_i", 0.06),
        ("PS_r", "PS_z", 0.03),
        ("PS_r", "2MASS_J", 0.04),
    ):
        color = column(blue) - column(red)
        at = [isochrone.bands.index(b) for b in (blue, red)]
        chosen = member & (r > 14.2) & (r < 15.5) & np.isfinite(color)
        assert chosen.sum() > 50
        expected = np.interp(
            r[chosen], models[order, 1], (models[:, at[0]] - models[:, at[1]])[order]
        )
        assert abs(np.median(color[chosen] - expected)) < tolerance, (blue, red)


def test_companions() -> None:
    lattice = MistLattice(
        mini=[0.3, 1.0, 1.2], eep=range(250, 530, 16), feh=[0.0], smf=[0.0, 0.2, 0.5, 1.0]
    )
    seen: list[tuple[int, int]] = []
    grid = build_mist_grid(
        ["PS_r", "2MASS_Ks"], lattice=lattice, progress=lambda a, b: seen.append((a, b))
    )
    assert seen == [(1, 1)]
    names = ("mini", "eep", "smf")
    place = {tuple(grid.label(n)[i] for n in names): i for i in range(grid.n_models)}
    assert grid.label("eep")[grid.label("smf") == 0.5].max() <= 480
    assert grid.label("eep")[grid.label("smf") == 1.0].max() == 522
    c = grid.coefficients.astype(float)
    one, half, twin = (c[place[1.0, 346.0, s]] for s in (0.0, 0.5, 1.0))
    assert twin[:, 0] == pytest.approx(one[:, 0] - 2.5 * np.log10(2), abs=2e-6)
    assert twin[:, 1:] == pytest.approx(one[:, 1:], abs=1e-6)
    # the companion of half the mass, from the isochrone of its age
    age = grid.label("loga")[place[1.0, 346.0, 0.0]]
    near = MistLattice(log_age=[float(age)], eep=range(202, 420), feh=[0.0])
    dwarfs = build_mist_grid(["PS_r", "2MASS_Ks"], lattice=near)
    other = [np.interp(0.5, dwarfs.label("mini"), dwarfs.coefficients[:, j, 0]) for j in (0, 1)]
    expected = -2.5 * np.log10(10 ** (-0.4 * one[:, 0]) + 10 ** (-0.4 * np.array(other)))
    assert half[:, 0] == pytest.approx(expected, abs=5e-4)
    assert one[1, 0] - half[1, 0] > one[0, 0] - half[0, 0] > 0.01  # redder
    # a brown dwarf adds no light
    assert c[place[0.3, 250.0, 0.2], :, 0] == pytest.approx(c[place[0.3, 250.0, 0.0], :, 0])


def test_the_law_changes_only_the_slope_with_rv() -> None:
    lattice = MistLattice(mini=[1.0], eep=[350], feh=[0.0])
    grids = {law: build_mist_grid(["PS_i"], lattice=lattice, law=law) for law in ("CCM89", "G23")}
    at = {
        law: [float(g.magnitudes(0, 1.0, rv)[0] - g.magnitudes(0)[0]) for rv in (2.5, 3.1, 4.0)]
        for law, g in grids.items()
    }
    assert at["CCM89"][1] == pytest.approx(at["G23"][1], abs=0.01)
    assert abs(at["CCM89"][0] - at["G23"][0]) > 0.005
    assert grids["G23"].provenance["extinction_law"].endswith("G23")
    assert grids["G23"].digest != grids["CCM89"].digest


def test_provenance_names_files_and_their_digests(isochrone: StellarGrid) -> None:
    origin = isochrone.provenance
    assert "lachesis-grids" in origin["isochrones"]
    assert "astrolachesis" in origin["corrections"]
    assert len(origin["isochrones_sha256"]) == len(origin["corrections_sha256"]) == 64
    assert origin["coordinates"] == "age"


def test_every_band_can_be_built() -> None:
    bands = mist_bands()
    assert {"SDSS_u", "Gaia_G_EDR3", "WISE_W4", "GALEX_NUV", "TESS"} <= set(bands)
    lattice = MistLattice(mini=[0.9, 1.5], eep=[300], feh=[-0.1])
    grid = build_mist_grid(bands, lattice=lattice)
    k = grid.coefficients[..., 1] + 3.1 * grid.coefficients[..., 2]
    assert np.all(k > 0)
    assert np.all(k[:, bands.index("WISE_W1")] < 0.07)
    assert np.all(k[:, bands.index("SDSS_u")] > 1.4)


def test_clear_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = MistLattice(mini=[1.0], eep=[300], feh=[0.0])
    with pytest.raises(MissingDataError, match=r"no filter 'PS_G' \(did you mean 'PS_g'\?\)"):
        build_mist_grid(["PS_G"], lattice=small)
    with pytest.raises(PogsonValueError, match="law 'SF11'"):
        build_mist_grid(["PS_g"], lattice=small, law="SF11")
    with pytest.raises(PogsonValueError, match=r"feh -5 to 0 asked for.*-4 to 0\.5"):
        build_mist_grid(lattice=MistLattice(mini=[1.0], eep=[300], feh=[-5.0, 0.0]))
    with pytest.raises(PogsonValueError, match="log_age 9 to 11"):
        build_mist_grid(lattice=MistLattice(log_age=[9.0, 11.0], eep=[300], feh=[0.0]))
    with pytest.raises(PogsonValueError, match=r"EEPs .* to 2001"):
        build_mist_grid(lattice=MistLattice(mini=[1.0], eep=[300, 2000], feh=[0.0]))
    with pytest.raises(MaskedDataError, match="None of the 1 points"):
        build_mist_grid(["PS_g"], lattice=MistLattice(mini=[0.3], eep=[600], feh=[0.0]))
    with pytest.raises(PogsonValueError, match=r"av_max=0\.05 leaves 1"):
        build_mist_grid(["PS_g"], lattice=small, av_max=0.05)
    for wrong in (
        {"mini": [1.0, 0.9]},
        {"eep": [300.5]},
        {"smf": [1.5]},
        {"mini": [0.0, 1.0]},
        {"feh": [np.nan]},
    ):
        with pytest.raises(PogsonValueError):
            MistLattice(**wrong)  # type: ignore[arg-type]
    with pytest.raises(MissingDataError, match="no file"):
        build_mist_grid(lattice=small, isochrones=tmp_path / "absent.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file.attrs["storage"] = "dense"
    with pytest.raises(FileFormatError, match="'dense'; only 'sparse_v1'"):
        build_mist_grid(lattice=small, isochrones=tmp_path / "other.h5")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingDataError, match="pip install --no-deps astrolachesis lachesis-grids"
    ):
        build_mist_grid(lattice=small)
