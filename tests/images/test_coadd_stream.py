"""Tiles: the same pixels as one coadd whatever the tiling; resumed; kept when a disk is full."""

import errno
import functools

import numpy as np
import pytest

from pogson.calib import FluxReference, PhotoCalib
from pogson.errors import (
    BoundsError,
    CalibrationError,
    MissingDataError,
    PogsonTypeError,
    PogsonValueError,
)
from pogson.fields import Box
from pogson.images import (
    CoaddGrid,
    CoaddOptions,
    CoaddSource,
    Exposure,
    SkyTracts,
    coadd,
    coadd_tile,
    coadd_tiles,
    with_weights,
)
from pogson.parallel import get_executor
from pogson.psf import MoffatPSF
from pogson.sky import FitsSkyMap

CALIB = PhotoCalib.constant(1.0, unit="", reference=FluxReference.total())


@functools.cache
def visits():
    rng = np.random.default_rng(5)
    out = []
    for v in range(3):
        sky = FitsSkyMap.tan(
            30.0, -20.0, x=100 + 7 * v, y=95 - 9 * v, scale_arcsec=0.25, rotation_deg=20.0 * v
        )
        image = rng.normal(0.0, 3.0 + v, (200, 220))
        image[60 + 10 * v, 90] += 5000.0
        out.append(
            Exposure(
                image, variance=np.full(image.shape, (3.0 + v) ** 2), unit="nJy", sky=sky,
                measure="fluence", psf=MoffatPSF(3.0 + 0.2 * v, 3.0), photo_calib=CALIB,
                flattening_sed="G2V", exposure_id=f"v{v}",
            )
        )  # fmt: skip
    return out


def grid(tile=90, overlap=12):
    return CoaddGrid.covering([(v.sky, v.box) for v in visits()], tile_size=tile, overlap=overlap)


OPTIONS = CoaddOptions(clip=None)


def sources():
    return [CoaddSource.of(v) for v in visits()]


def test_tiles_are_parts_of_one_coadd():
    g, kept = grid(), {}
    weighted = with_weights(sources(), g)
    results = coadd_tiles(weighted, g, save=lambda t, c: kept.update({t.name: c}), options=OPTIONS)
    assert {r.status for r in results} <= {"made", "empty"}
    whole = coadd(visits(), g.sky, g.box, weights=[s.weight for s in weighted], clip=None)
    seen = 0
    for tile in g:
        if tile.name not in kept:
            continue
        part = kept[tile.name].exposure
        assert part.box == tile.outer
        mine = whole.exposure.image[tile.outer.slices(g.box)]
        assert np.array_equal(np.isnan(part.image), np.isnan(mine))
        np.testing.assert_allclose(part.image, mine, rtol=1e-4, atol=2e-3, equal_nan=True)
        np.testing.assert_array_equal(kept[tile.name].count, whole.count[tile.outer.slices(g.box)])
        seen += np.isfinite(mine).sum()
    assert seen > whole.count.astype(bool).sum()
    x, y = g.sky.pixel(30.0, -20.0)
    tile = g.tile_at(x=x, y=y)
    assert kept[tile.name].psf.draw(x=x, y=y).image.sum() == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(
        kept[tile.name].psf.draw(x=x, y=y, half_size=9).image,
        whole.psf.draw(x=x, y=y, half_size=9).image,
        rtol=1e-9,
    )


def test_only_what_a_tile_needs_is_loaded():
    g, asked = grid(tile=40, overlap=0), []

    def load(box, exposure):
        asked.append(box)
        return exposure.cutout(box)

    counted = [
        CoaddSource(v.exposure_id, v.sky, v.box, functools.partial(load, exposure=v), weight=1.0)
        for v in visits()
    ]
    x, y = g.sky.pixel(30.0, -20.0)
    coadd_tile(counted, g, g.tile_at(x=x, y=y), OPTIONS)
    assert len(asked) == 3
    assert max(b.area for b in asked) < 0.45 * visits()[0].box.area
    asked.clear()
    corner = coadd_tile(counted, g, g.tile(0, 0), OPTIONS)
    assert corner is None or corner.count.any()


def test_a_full_disk_keeps_finished_tiles_and_the_next_run_resumes():
    g, kept = grid(), {}

    def save(tile, made):
        if len(kept) >= 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        kept[tile.name] = made

    with pytest.raises(CalibrationError, match=r"No space left.*kept; run again"):
        coadd_tiles(sources(), g, save=save, options=OPTIONS)
    assert len(kept) == 3
    first = dict(kept)
    seen = []
    results = coadd_tiles(
        sources(), g, save=lambda t, c: kept.update({t.name: c}), done=lambda t: t.name in kept,
        options=OPTIONS, progress=lambda r: seen.append(r.status),
    )  # fmt: skip
    assert [r.status for r in results].count("kept") == 3
    assert all(kept[name] is first[name] for name in first)
    assert sorted(seen) == sorted(r.status for r in results)
    failing = coadd_tiles(sources(), g, save=_full, options=OPTIONS, on_failure="return")
    assert {r.status for r in failing} <= {"failed", "empty"}
    assert "OSError" in next(r for r in failing if r.status == "failed").message


def _full(tile, made):
    raise OSError(errno.ENOSPC, "No space left on device")


def _save_array(tile, made, folder):
    np.save(folder / f"{tile.name}.npy", made.exposure.image)


def test_processes_make_the_same_tiles(tmp_path):
    g = grid(tile=200)
    for name, workers in (("one", 1), ("two", 2)):
        folder = tmp_path / name
        folder.mkdir()
        with get_executor(workers) as executor:
            coadd_tiles(
                sources(), g, save=functools.partial(_save_array, folder=folder), options=OPTIONS,
                executor=executor,
            )  # fmt: skip
    files = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "two").iterdir())
    for name in files:
        np.testing.assert_array_equal(
            np.load(tmp_path / "one" / name), np.load(tmp_path / "two" / name)
        )


def test_refusals():
    g = grid()
    with pytest.raises(MissingDataError, match="v0, v1, v2 have no weight"):
        coadd_tile(sources(), g, g.tile(0, 0))
    with pytest.raises(PogsonValueError, match="nothing to add"):
        coadd_tiles([], g, save=_full)
    with pytest.raises(PogsonValueError, match="on_failure"):
        coadd_tiles(sources(), g, save=_full, on_failure="ignore")
    bare = [CoaddSource.of(v.with_(variance=None)) for v in visits()]
    with pytest.raises(MissingDataError, match="need a variance"):
        with_weights(bare, g)
    with pytest.raises(PogsonValueError, match="must be positive"):
        CoaddSource("a", g.sky, g.box, len, weight=-1.0)


def test_grid_tiles_cover_every_pixel_once():
    g = CoaddGrid(
        FitsSkyMap.tan(10.0, 5.0, x=0, y=0, scale_arcsec=1.0), Box(-7, 3, 250, 131), 60, 9
    )
    hits = np.zeros(g.box.shape, int)
    for tile in g:
        hits[tile.inner.slices(g.box)] += 1
        assert tile.outer.contains_box(tile.inner)
        assert g.box.contains_box(tile.outer)
    assert (hits == 1).all()
    assert len(g) == 5 * 3
    assert CoaddGrid.from_dict(g.to_dict()) == g
    with pytest.raises(BoundsError, match="no tile 5,0"):
        g.tile(5, 0)
    with pytest.raises(BoundsError, match="outside the grid"):
        g.tile_at(x=-9.0, y=5.0)
    for wrong in ({"tile_size": 3}, {"overlap": -1}):
        with pytest.raises(PogsonValueError):
            CoaddGrid(g.sky, g.box, **wrong)
    with pytest.raises(PogsonTypeError, match="SkyMap"):
        CoaddGrid("sky", g.box)
    with pytest.raises(PogsonValueError, match="no images"):
        CoaddGrid.covering([])
    far = [(FitsSkyMap.tan(r, 0.0, x=0, y=0, scale_arcsec=1.0), Box(0, 0, 9, 9)) for r in (0, 180)]
    with pytest.raises(PogsonValueError, match="too far apart"):
        CoaddGrid.covering(far)


def test_tracts_cover_the_sky(rng):
    tracts = SkyTracts(n_rings=60, scale_arcsec=1.0)
    dec = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 60)))
    for ra, d in [*zip(rng.uniform(0, 360, 60), dec, strict=True), (0.0, 90.0), (0.0, -90.0)]:
        number = tracts.find(ra, d)
        assert 0 <= number < len(tracts)
        g = tracts.tract(number)
        x, y = g.sky.pixel(ra, d)
        assert g.box.contains(x=x, y=y), (ra, d)
    assert len(tracts) == tracts.find(359.999, 90.0) + 1
    with pytest.raises(BoundsError, match="no tract"):
        tracts.tract(len(tracts))
    with pytest.raises(PogsonValueError, match="not a position"):
        tracts.find(np.nan, 0.0)
    with pytest.raises(PogsonValueError, match="n_rings"):
        SkyTracts(n_rings=2)
