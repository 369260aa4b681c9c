"""Catalogues: what a flux is a flux of, other injectors' columns, and rows that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from astropy.table import Table

from pogson.calib import FluxReference
from pogson.errors import (
    MissingDataError,
    PogsonTypeError,
    PogsonValueError,
    ReferenceMismatchError,
)
from pogson.images import Exposure
from pogson.inject import (
    InjectionCatalog,
    InjectionFlag,
    LightCurves,
    inject,
    is_injected,
    place_sources,
    sample_fluxes,
    uniform_magnitudes,
)
from pogson.inject.flags import INJECTION_FLAG_DOCS, NOT_DRAWN, describe_injection_flags

Make = Callable[..., Exposure]
TOTAL, R8 = FluxReference.total(), FluxReference.aperture(8)


def rows(**changes: Any) -> dict[str, Any]:
    values = {"id": ["a", "b"], "x": [30.0, 60.0], "y": [30.0, 60.0], "flux": [1e4, 2e4]}
    values.update(changes)
    return values


# -- references ------------------------------------------------------------------------------
def test_bare_numbers_are_refused_with_both_ways_to_say_it() -> None:
    with pytest.raises(ReferenceMismatchError) as error:
        InjectionCatalog.from_table(rows())
    assert "info.meta" in str(error.value)
    assert "reference=FluxReference.aperture(12)" in str(error.value)


def test_reference_in_the_column_or_in_the_call() -> None:
    table = Table(rows())
    table["flux"].info.meta = {"reference": R8.to_dict()}
    assert InjectionCatalog.from_table(table).reference() == R8
    assert InjectionCatalog.from_table(rows(), reference=TOTAL).reference() == TOTAL
    with pytest.raises(ReferenceMismatchError, match="total"):
        InjectionCatalog.from_table(table, reference=TOTAL)
    with pytest.raises(PogsonTypeError):
        InjectionCatalog.from_table(rows(), reference=12.0)  # type: ignore[arg-type]


def test_catalogues_with_other_references_do_not_join() -> None:
    a = InjectionCatalog.from_table(rows(), reference=TOTAL)
    b = InjectionCatalog.from_table(rows(id=["c", "d"]), reference=R8)
    with pytest.raises(ReferenceMismatchError, match="aperture 8 px"):
        InjectionCatalog.joined(a, b)
    same = InjectionCatalog.from_table(rows(id=["b", "d"]), reference=TOTAL)
    joined = InjectionCatalog.joined(a, same)
    assert len(joined) == 4
    assert [bool(f & InjectionFlag.DUPLICATE_ID) for f in joined.flags] == [0, 1, 1, 0]


def test_units_bands_and_missing_columns(make_exposure: Make) -> None:
    table = Table(rows())
    table["flux"].unit = "uJy"
    assert InjectionCatalog.from_table(table, reference=TOTAL).flux()[0] == pytest.approx(1e7)
    bands = Table({"x": [1.0], "y": [1.0], "mag_g": [20.0], "flux_r": [5.0]})
    catalog = InjectionCatalog.from_table(bands, reference=TOTAL)
    assert set(catalog.bands) == {"g", "r"}
    assert InjectionCatalog.from_table(bands, band="g", reference=TOTAL).bands == ("g",)
    with pytest.raises(MissingDataError, match="none for this exposure"):
        catalog.for_exposure(make_exposure((50, 50), bandpass="decam2014-z"))
    with pytest.raises(MissingDataError, match="positions"):
        InjectionCatalog.from_table({"flux": [1.0]}, reference=TOTAL)
    with pytest.raises(MissingDataError, match="flux or mag"):
        InjectionCatalog.from_table({"x": [1.0], "y": [1.0]}, reference=TOTAL)
    both = {"x": [1.0], "y": [1.0], "mag_g": [20.0], "flux_g": [5.0]}
    with pytest.raises(PogsonValueError, match="both"):
        InjectionCatalog.from_table(both, reference=TOTAL)


def test_ids_without_an_id_column_do_not_depend_on_the_order() -> None:
    table = Table(rows())
    table.remove_column("id")
    ids = InjectionCatalog.from_table(table, reference=TOTAL).ids
    back = InjectionCatalog.from_table(table[::-1], reference=TOTAL).ids
    assert list(ids) == list(back[::-1])


# -- other schemas ---------------------------------------------------------------------------
def test_lsst_schema() -> None:
    theirs = Table(
        {
            "injection_id": [7, 8, 9], "ra": [10.0, 10.1, 10.2], "dec": [0.0, 0.0, 0.0],
            "source_type": ["Star", "Sersic", "Trail"], "mag": [20.0, 21.0, 25.0],
            "n": [np.nan, 4.0, np.nan], "half_light_radius": [np.nan, 0.7, np.nan],
            "q": [np.nan, 0.5, np.nan], "beta": [np.nan, 30.0, np.nan],
        }
    )  # fmt: skip
    catalog = InjectionCatalog.from_table(theirs, schema="lsst", reference=R8)
    assert list(catalog.ids) == ["7", "8", "9"]
    assert list(catalog.table["source_type"]) == ["point", "sersic", "trail"]
    assert catalog.table["position_angle"][1] == 60.0
    assert catalog.flags[1] == 0
    assert catalog.flags[2] != 0  # their trails give a magnitude per pixel: not translated
    with pytest.raises(PogsonValueError, match="never guessed"):
        InjectionCatalog.from_table(theirs, schema="balrog", reference=R8)


def test_legacy_schema_is_in_radians() -> None:
    theirs = Table(
        {
            "raJ2000": np.radians([10.0, 11.0]), "decJ2000": np.radians([1.0, 2.0]),
            "imagVar": [20.0, 21.0], "sourceType": ["star", "galaxy"],
            "bulge_n": [4.0, 4.0], "bulge_semimajor": [1.0, 1.0],
            "bulge_axis_ratio": [0.25, 0.25], "bulge_pa": [0.0, 0.0], "disk_n": [1.0, 1.0],
            "disk_semimajor": [2.0, 2.0], "disk_axis_ratio": [0.25, 0.25], "disk_pa": [0.0, 5.0],
            "bulge_disk_flux_ratio": [1.0, 3.0],
        }
    )  # fmt: skip
    catalog = InjectionCatalog.from_table(theirs, schema="legacy-radians", reference=R8)
    assert np.allclose(catalog.table["ra"], [10.0, 11.0])
    assert catalog.bands == ("i",)
    assert catalog.table["bulge_half_light_radius"][1] == 0.5  # a sqrt(q)
    assert catalog.table["bulge_fraction"][1] == 0.75
    assert not catalog.flags.any()
    with pytest.raises(MissingDataError, match="positions"):
        InjectionCatalog.from_table(theirs, reference=R8)


# -- bad rows --------------------------------------------------------------------------------
def test_one_bad_row_never_loses_the_rest(make_exposure: Make) -> None:
    mask = np.zeros((120, 120), np.uint32)
    mask[20, 90] = 1 << 1  # BAD
    exposure = make_exposure((120, 120), mask=mask)
    good = {"x": 60.0, "y": 60.0, "mag": 20.0, "source_type": "point", "sersic_index": 1.0,
            "half_light_radius": 0.5, "rate_ra": 0.0, "rate_dec": 0.0}  # fmt: skip
    wrong: dict[str, tuple[dict[str, Any], InjectionFlag]] = {
        "nan-mag": ({"mag": np.nan}, InjectionFlag.BAD_FLUX),
        "negative-mag": ({"mag": -3.0}, InjectionFlag.BAD_FLUX),
        "nan-position": ({"x": np.nan}, InjectionFlag.BAD_POSITION),
        "far": ({"x": 5000.0}, InjectionFlag.NO_PSF),
        "unknown": ({"source_type": "quasar?"}, InjectionFlag.UNKNOWN_TYPE),
        "steep": ({"source_type": "sersic", "sersic_index": 9.0}, InjectionFlag.BAD_SHAPE),
        "no-size": ({"source_type": "sersic", "half_light_radius": 0}, InjectionFlag.BAD_SHAPE),
        "no-stamp": ({"source_type": "stamp"}, InjectionFlag.BAD_STAMP),
        "masked": ({"x": 90.0, "y": 20.0}, InjectionFlag.ON_MASKED),
        "edge": ({"x": 1.0}, InjectionFlag.CLIPPED),
        "good": ({}, InjectionFlag(0)),
    }
    table = Table([{"id": k, **good, **changes} for k, (changes, _) in wrong.items()])
    result = inject(exposure, table, reference=R8)
    for row, (name, (_, flag)) in zip(result.truth, wrong.items(), strict=True):
        words = describe_injection_flags(row["flags"])
        if flag:
            assert row["flags"] & flag, (name, words)
        else:
            assert row["flags"] == 0, words
        assert (row["inst_flux_total"] > 0) == ((row["flags"] & int(NOT_DRAWN)) == 0), name
    assert result.exposure.image.sum() > 0
    edge = result.truth[list(wrong).index("edge")]
    assert 0.4 < edge["deposited_fraction"] < 0.9
    assert edge["flux_realised"] < 0.9 * edge["flux_requested"]
    assert set(InjectionFlag) == set(INJECTION_FLAG_DOCS)


def test_stamp_without_a_flux_convention(make_exposure: Make) -> None:
    exposure = make_exposure((120, 120))
    table = Table(rows(source_type=["stamp", "stamp"]))
    table["stamp"] = [np.ones((5, 5)), np.ones((5, 5))]
    assert (inject(exposure, table, reference=R8).truth["flags"] == InjectionFlag.BAD_STAMP).all()
    table["stamp_reference"] = [R8.to_dict(), FluxReference.aperture(3).to_dict()]
    truth = inject(exposure, table, reference=R8).truth
    assert list(truth["flags"]) == [0, InjectionFlag.BAD_STAMP]
    table["stamp_reference"] = ["total", "whatever"]
    truth = inject(exposure, table, reference=TOTAL).truth
    assert list(truth["flags"]) == [0, InjectionFlag.BAD_STAMP]
    assert np.isclose(truth["flux_realised"][0], truth["flux_requested"][0])


def test_missing_data_around_a_source(make_exposure: Make) -> None:
    image = np.zeros((120, 120), np.float32)
    image[:, 62:] = np.nan
    exposure = make_exposure((120, 120), image=image)
    result = inject(exposure, rows(), reference=R8)
    assert np.isnan(result.exposure.image[:, 62:]).all()
    assert result.truth["flags"][1] == InjectionFlag.CLIPPED
    deposited = result.truth["deposited_fraction"] * result.truth["inst_flux_total"]
    assert np.isclose(np.nansum(result.exposure.image, dtype=float), deposited.sum(), rtol=1e-5)


def test_injected_already_is_refused_unless_asked(make_exposure: Make) -> None:
    exposure = make_exposure((100, 100))
    once = inject(exposure, rows(), reference=R8).exposure
    assert is_injected(once)
    assert not is_injected(exposure)
    assert once.metadata["INJECTED"] is True
    bits = once.mask_bits
    assert once.mask is not None
    core = (once.mask & bits.value("INJECTED_CORE")) != 0
    assert core.sum() == 18
    assert core[30, 30]
    assert ((once.mask & bits.value("INJECTED")) != 0)[core].all()
    for again in (once, once.with_(metadata={}), once.with_(mask=None)):
        with pytest.raises(PogsonValueError, match="again=True"):
            inject(again, rows(), reference=R8)
    twice = inject(once, rows(), reference=R8, again=True).exposure
    assert np.allclose(twice.image, 2 * once.image, rtol=1e-6)
    assert len(twice.metadata["injections"]) == 2
    assert len(twice.metadata["history"]) == 2


def test_exposures_that_cannot_be_injected(make_exposure: Make) -> None:
    with pytest.raises(MissingDataError, match="photo_calib"):
        inject(make_exposure((100, 100), photo_calib=None), rows(), reference=R8)
    with pytest.raises(MissingDataError, match="PSF"):
        inject(make_exposure((100, 100), psf=None), rows(), reference=R8)
    sky = {"id": ["a"], "ra": [150.0], "dec": [2.0], "flux": [1e4]}
    with pytest.raises(MissingDataError, match="sky map"):
        inject(make_exposure((100, 100), sky=None), sky, reference=R8)
    for option in ({"accuracy": 0.0}, {"accuracy": 2.0}, {"threads": 0}):
        with pytest.raises(PogsonValueError):
            inject(make_exposure((100, 100)), rows(), reference=R8, **option)


def test_negative_flux_is_drawn_and_flagged(make_exposure: Make) -> None:
    result = inject(make_exposure((100, 100)), rows(flux=[-1e4, 0.0]), reference=R8, poisson=True)
    assert list(result.truth["flags"]) == [InjectionFlag.NEGATIVE_FLUX, 0]
    assert result.exposure.image.sum() < 0
    assert np.isclose(result.truth["flux_realised"][0], -1e4)


# -- placement and light curves --------------------------------------------------------------
def test_placement_keeps_its_distances_and_its_past(make_exposure: Make) -> None:
    mask = np.zeros((300, 300), np.uint32)
    mask[100:140, :] = 1 << 1
    exposure = make_exposure((300, 300), mask=mask)
    real = Table({"x": [50.0, 250.0], "y": [50.0, 250.0]})
    options: dict[str, Any] = {"min_separation": 12, "margin": 15, "avoid": real,
                               "avoid_radius": 25, "seed": 5}  # fmt: skip
    few, many = (place_sources(exposure, n=n, **options) for n in (20, 60))
    assert list(few["x"]) == list(many["x"][:20])
    x, y = np.asarray(many["x"]), np.asarray(many["y"])
    distance = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(60)
    assert distance.min() >= 12
    assert (np.hypot(x - 50, y - 50) >= 25).all()
    assert not ((y > 99.5) & (y < 139.5)).any()
    assert x.min() >= 14.5
    other = place_sources(exposure.with_(exposure_id="v2"), n=20, **options)
    assert not np.isin(other["x"], few["x"]).any()
    for pattern in ("grid", "hexagonal"):
        lattice = place_sources(exposure, pattern=pattern, spacing=25, min_separation=20)
        x, y = np.asarray(lattice["x"]), np.asarray(lattice["y"])
        distance = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(x.size)
        assert distance.min() >= 20
        assert x.size > 80
    with pytest.raises(PogsonValueError):
        place_sources(exposure, pattern="spiral")
    with pytest.raises(PogsonValueError, match="at least 2"):
        place_sources(exposure, pattern="grid")


def test_populations_are_keyed_by_id(make_exposure: Make) -> None:
    sample = Table({"mag_g": [20.0, 21.0, 22.0], "mag_r": [19.0, 20.5, 22.0], "w": [1.0, 0, 3]})
    sample["mag_g"].info.meta = {"reference": TOTAL.to_dict()}
    places = place_sources(make_exposure((300, 300)), n=200, seed=1)
    out = sample_fluxes(places, sample, seed=2, weight="w")
    assert "w" not in out.colnames
    assert out["mag_g"].info.meta["reference"] == {"kind": "total"}
    assert set(out["mag_g"]) == {20.0, 22.0}
    assert 0.6 < np.mean(out["mag_g"] == 22.0) < 0.9
    back = sample_fluxes(places[::-1], sample, seed=2, weight="w")
    assert list(back["mag_g"][::-1]) == list(out["mag_g"])
    flat = uniform_magnitudes(places, 25, 20, reference=R8, band="r", seed=2)
    assert 20 <= flat["mag_r"].min() < 20.3
    assert InjectionCatalog.from_table(flat).reference("r") == R8


def test_one_source_in_visits_template_and_coadd(make_exposure: Make) -> None:
    """A transient: in the visits at its epochs, in the coadd with its mean, not in the template."""
    catalog = InjectionCatalog.from_table(rows(), reference=R8)
    points = {"id": ["a", "a", "a"], "mjd": [10.0, 20.0, 40.0], "flux": [0.0, 1e5, 0.0]}
    curves = LightCurves.from_table(Table(points))
    fluxes = {}
    for mjd in (5.0, 15.0, 20.0, 50.0):
        visit = make_exposure((100, 100), metadata={"mjd": mjd}, exposure_id=f"v{mjd}")
        truth = inject(visit, curves.catalog_for(catalog, visit)).truth
        fluxes[mjd] = list(truth["flux_realised"])
    assert np.allclose([fluxes[t][0] for t in (5.0, 15.0, 20.0, 50.0)], [0, 5e4, 1e5, 0])
    assert np.allclose([f[1] for f in fluxes.values()], 2e4)  # the star stays
    mean = curves.mean_fluxes([15.0, 20.0], weights=[1, 3])
    assert np.isclose(mean["a"], 0.25 * 5e4 + 0.75 * 1e5)
    only = LightCurves.from_table(Table(points), interpolation="epochs", tolerance=0.1)
    assert only.flux("a", 20.05) == 1e5
    assert only.flux("a", 15.0) == 0.0
    with pytest.raises(MissingDataError, match="mjd"):
        curves.catalog_for(catalog, make_exposure((100, 100)))
    with pytest.raises(PogsonValueError, match="two points"):
        LightCurves.from_table(Table({"id": ["a", "a"], "mjd": [1.0, 1.0], "flux": [1.0, 2.0]}))
