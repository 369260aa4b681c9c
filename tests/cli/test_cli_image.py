"""`pogson image` on the command line: states, backgrounds, warps, coadds, and bad input."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from pogson.calib import FluxReference, PhotoCalib
from pogson.cli import main
from pogson.fields import Box, ChebyshevField
from pogson.formats import read_exposure, write_chromatic_flat, write_exposure
from pogson.formats.coadd_files import read_coadd
from pogson.images import ChromaticFlat, Exposure, coadd
from pogson.psf import MoffatPSF
from pogson.sky import FitsSkyMap

CALIB = PhotoCalib.constant(1.0, unit="", reference=FluxReference.total())


def image(*arguments):
    return CliRunner().invoke(main, ["image", *map(str, arguments)])


def visit(k, size=110, **changes):
    sky = FitsSkyMap.tan(30.0, -20.0, x=54 + 3 * k, y=52 - 2 * k, scale_arcsec=0.25,
                         rotation_deg=15.0 * k)  # fmt: skip
    psf = MoffatPSF(4.0, 3.0)
    values = np.random.default_rng(k).normal(0.0, 2.0, (size, size))
    x, y = sky.pixel(30.0, -20.0)
    stamp = psf.draw(x=float(x), y=float(y), half_size=30)
    box = Box(0, 0, size, size)
    values[stamp.box.slices(box)] += 2e4 * stamp.image
    given = {"unit": "nJy", "measure": "fluence", "photo_calib": CALIB, "flattening_sed": "G2V",
             "exposure_id": f"v{k}", "bandpass": "decam2014-r"}  # fmt: skip
    made = Exposure(values, variance=np.full(box.shape, 4.0), sky=sky, psf=psf,
                    **{**given, **changes})  # fmt: skip
    return made.with_area_ratio(0.0625)


def written(folder, *exposures):
    return [write_exposure(folder / f"in{k}.fits", e) for k, e in enumerate(exposures)]


@pytest.fixture
def flat_file(tmp_path):
    box = Box(0, 0, 110, 110)
    flat = ChromaticFlat.from_fields(
        [3000.0, 12000.0], [ChebyshevField(box, [[1.0, s]]) for s in (0.05, -0.05)]
    )
    return write_chromatic_flat(tmp_path / "flat.fits", flat)


def test_measures_there_and_back(tmp_path):
    curved = visit(1).with_(area_ratio=ChebyshevField(Box(0, 0, 110, 110), [[1.0, 0.05]]))
    path = written(tmp_path, curved)[0]
    result = image("to-surface-brightness", path, "-o", tmp_path / "sb.fits")
    assert result.exit_code == 0, result.output
    assert "surface brightness in nJy, flat for 'G2V'" in result.output
    there = read_exposure(tmp_path / "sb.fits")
    assert there.measure.value == "surface_brightness"
    assert np.abs(there.image / curved.image - 1).max() > 0.04
    assert image("to-fluence", tmp_path / "sb.fits", "-o", tmp_path / "f.fits").exit_code == 0
    back = read_exposure(tmp_path / "f.fits")
    assert np.all(np.abs(back.image - curved.image) <= 2 * np.spacing(np.abs(curved.image)))
    same = image("to-fluence", path, "-o", path)
    assert same.exit_code == 2
    assert "is the input" in same.output


def test_reflatten_asks_and_then_does(tmp_path, flat_file):
    path = written(tmp_path, visit(0, flattening_sed=None))[0]
    asked = image("reflatten", path, "--sed", "moonlight", "-o", tmp_path / "m.fits")
    assert asked.exit_code == 2
    assert "--flattened-for" in asked.output
    assert "not assumed" in asked.output
    assert not (tmp_path / "m.fits").exists()
    told = ("--flat", flat_file, "--flattened-for", "5800 K")
    done = image("reflatten", path, "--sed", "moonlight", "-o", tmp_path / "m.fits", *told)
    assert done.exit_code == 0, done.output
    assert "flat for 'moonlight'" in done.output
    moon = read_exposure(tmp_path / "m.fits")
    ratio = moon.image / visit(0).image
    assert ratio[50, 0] != pytest.approx(ratio[50, 109], rel=1e-3)
    back = image("reflatten", tmp_path / "m.fits", "--sed", "fiducial", "-o", tmp_path / "b.fits")
    assert back.exit_code == 0, back.output
    first = visit(0).image
    assert np.all(np.abs(read_exposure(tmp_path / "b.fits").image - first)
                  <= 2 * np.spacing(np.abs(first)))  # fmt: skip
    for words, said in (("green", "is no spectrum"), ("99 K", "2000")):
        wrong = image("reflatten", path, "--sed", words, *told, "-o", tmp_path / "w.fits")
        assert wrong.exit_code == 2, wrong.output
        assert said in wrong.output or "K" in wrong.output


def test_bad_flats_and_spectra(tmp_path):
    from astropy.io import fits
    from astropy.table import Table

    path = written(tmp_path, visit(0, flattening_sed=None))[0]

    def told(flat, sed="5800 K"):
        return image("reflatten", path, "--sed", "moonlight", "--flat", flat, "--flattened-for",
                     sed, "-o", tmp_path / "x.fits")  # fmt: skip

    def cube(name, values, wavelength):
        table = fits.BinTableHDU(Table({"WAVELENGTH": wavelength}))
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(values), table]
        fits.HDUList(hdus).writeto(tmp_path / name)
        return tmp_path / name

    good = np.ones((3, 110, 110), np.float32)
    holes = good.copy()
    holes[1, 5, 5] = np.nan
    dead = good.copy()
    dead[1, 5, 5] = 0.0
    waves = [3000.0, 6000.0, 12000.0]
    assert told(cube("good.fits", good, waves)).exit_code == 0
    for k, (values, wavelength, words) in enumerate((
        (holes, waves, "nan"), (dead, waves, "zero"), (good, [3000.0, 12000.0, 6000.0], "increas"),
        (good, [3000.0, 4000.0, 5000.0], "cover"),
    )):  # fmt: skip
        result = told(cube(f"bad{k}.fits", values, wavelength))
        assert result.exit_code == 2, result.output
        assert words in result.output.lower()
    short = tmp_path / "short.ecsv"
    Table({"wavelength": [5000.0, 5500.0], "flux": [1.0, 1.0]}).write(short)
    result = told(tmp_path / "good.fits", short)
    assert result.exit_code == 2
    assert "cover" in result.output
    assert not list(tmp_path.glob("*part-*"))


def test_background_is_subtracted_and_restored_exactly(tmp_path):
    rng = np.random.default_rng(3)
    both = []
    for k in range(2):
        sky = FitsSkyMap.tan(30.0, -20.0, x=120 - 140 * k, y=60, scale_arcsec=0.25)
        values = rng.normal(500.0 + 0.1 * (np.arange(128) + 140 * k), 3.0, (128, 128))
        both.append(
            Exposure(
                values,
                variance=np.full((128, 128), 9.0),
                sky=sky,
                unit="nJy",
                measure="fluence",
                detector=f"c{k}",
            ).with_area_ratio(0.0625)
        )
    paths = written(tmp_path, *both)
    done = image("background", *paths, "-o", tmp_path / "sub", "--order", 1, "--mesh", 16)
    assert done.exit_code == 0, done.output
    assert "2 detectors, order 1" in done.output
    for k in range(2):
        clean = read_exposure(tmp_path / "sub" / f"in{k}.fits")
        assert clean.background_subtracted
        assert abs(float(np.mean(clean.image))) < 0.2
    files = [tmp_path / "sub" / f"in{k}.fits" for k in range(2)]
    assert image("background", *files, "--restore", "-o", tmp_path / "back").exit_code == 0
    for k in range(2):
        again = read_exposure(tmp_path / "back" / f"in{k}.fits").image
        np.testing.assert_allclose(again, both[k].image, rtol=2e-7)
    own = image("background", *paths, "-o", tmp_path / "own", "--per-detector", "--mesh", 32)
    assert own.exit_code == 0, own.output
    clash = image("background", *paths, "-o", tmp_path, "--order", 1, "--mesh", 16)
    assert clash.exit_code == 2
    assert "is an input" in clash.output


def test_warp_keeps_the_correlation_and_is_not_warped_again(tmp_path):
    path = written(tmp_path, visit(1))[0]
    done = image("warp", path, "-o", tmp_path / "w.fits", "--center", 30.0, -20.0,
                 "--size", 0.4, 0.4, "--scale", 0.25)  # fmt: skip
    assert done.exit_code == 0, done.output
    made = read_coadd(tmp_path / "w.fits")
    assert made.exposure.box.shape == (96, 96)
    assert made.noise.reach > 0
    assert read_exposure(tmp_path / "w.fits").sky == made.exposure.sky
    again = image("warp", tmp_path / "w.fits", "--like", path, "-o", tmp_path / "x.fits")
    assert again.exit_code == 2
    assert "share noise" in again.output
    assert image("coadd", tmp_path / "w.fits", path, "-o", tmp_path / "c").exit_code == 2
    far = image("warp", path, "-o", tmp_path / "x.fits", "--center", 80.0, 10.0, "--size", 1, 1)
    assert far.exit_code == 2
    assert "overlap" in far.output
    surface = written(tmp_path / "s", visit(0).to("surface_brightness"))[0]
    refused = image("warp", surface, "--like", path, "-o", tmp_path / "x.fits")
    assert refused.exit_code == 2
    assert "fluence" in refused.output
    assert not (tmp_path / "x.fits").exists()


def test_coadd_in_tiles_resumes_and_equals_the_library(tmp_path):
    visits = [visit(k) for k in range(3)]
    paths = written(tmp_path, *visits)
    arguments = ("coadd", *paths, "-o", tmp_path / "c", "--tile-size", 80, "--overlap", 12,
                 "-q", "-j", 1)  # fmt: skip
    first = image(*arguments)
    assert first.exit_code == 0, first.output
    said = json.loads((tmp_path / "c" / "coadd.json").read_text())
    tiles = said["bands"][""]["tiles"]
    assert len(tiles) == 4
    from pogson.images import CoaddGrid

    grid = CoaddGrid.from_dict(said["grid"])
    weights = [0.25 * 0.0625 / float(v.sky.pixel_area(x=50, y=50)) for v in visits]
    whole = coadd(visits, grid.sky, grid.box, weights=weights)
    for name in ("0-0", "1-1"):
        part = read_coadd(tmp_path / "c" / f"{name}.fits")
        mine = whole.cutout(part.exposure.box)
        np.testing.assert_allclose(part.exposure.image, mine.exposure.image, atol=5e-2, rtol=1e-3)
        np.testing.assert_array_equal(part.count, mine.count)
        assert part.exposure.photo_calib.reference.kind == "total"
        assert part.exposure.flattening_sed == "G2V"
        assert [one.exposure_id for one in part.inputs] == ["v0", "v1", "v2"]
    (tmp_path / "c" / "1-0.fits").unlink()
    second = image(*arguments)
    assert second.exit_code == 0, second.output
    assert "4 tiles, 1 computed now" in second.output
    assert (tmp_path / "c" / "1-0.fits").exists()


def test_coadd_with_matched_backgrounds(tmp_path):
    levels = (3.0, -3.0, 0.0)
    visits = [visit(k).with_(image=visit(k).image + level) for k, level in enumerate(levels)]
    paths = written(tmp_path, *visits)
    arguments = ("coadd", *paths, "-o", tmp_path / "c", "-q", "-j", 1, "--match-backgrounds",
                 "--match-degree", 0, "--match-bin", 24)  # fmt: skip
    first = image(*arguments)
    assert first.exit_code == 0, first.output
    assert "Backgrounds of 3 visits matched" in first.output
    said = json.loads((tmp_path / "c" / "matched" / "matching.json").read_text())
    found = [v["mean"] * 0.0625 for v in said["visits"]]
    noise = 2.0 * 1.25 / np.sqrt(24.0**2)  # of a bin; there are more than ten
    np.testing.assert_allclose(np.subtract(found, np.mean(found)), levels, atol=2 * noise)
    assert image(*arguments).output.count(" 0 computed now") == 1
    # one visit has nothing to match
    two = image("coadd", paths[0], "-o", tmp_path / "one", "-q", "-j", 1, "--match-backgrounds")
    assert two.exit_code == 0, two.output
    assert "Backgrounds of" not in two.output


def test_mixed_images_are_refused_with_the_list(tmp_path):
    good = visit(0)
    other = CALIB.with_(reference=FluxReference.aperture(3.0, frame="sky"))
    paths = written(
        tmp_path, good, visit(1).to("surface_brightness"), visit(2, unit="adu", photo_calib=None),
        visit(3, photo_calib=other), visit(4, bandpass="decam2014-g"),
        visit(5, flattening_sed=None),
    )  # fmt: skip
    result = image("coadd", *paths, "-o", tmp_path / "c")
    assert result.exit_code == 2
    for words in ("v1", "surface brightness", "v2", "'adu'", "v3", "reference", "v4",
                  "decam2014-g", "v5", "not known for which spectrum"):  # fmt: skip
        assert words in result.output, words
    assert not (tmp_path / "c").exists()
    asked = image("coadd", paths[0], paths[5], "-o", tmp_path / "c", "-q", "-j", 1,
                  "--flattening-sed", "G2V")  # fmt: skip
    assert asked.exit_code == 0, asked.output
    far = image("coadd", paths[0], "-o", tmp_path / "d", "--center", 80.0, 10.0, "--size", 1, 1)
    assert far.exit_code == 2
    assert "no image has data" in far.output
    from astropy.io import fits

    fits.PrimaryHDU(np.ones((9, 9), np.float32)).writeto(tmp_path / "plain.fits")
    plain = image("coadd", tmp_path / "plain.fits", paths[0], "-o", tmp_path / "e")
    assert plain.exit_code == 2
    assert "not an exposure written by pogson" in plain.output


def test_a_full_disk_keeps_finished_tiles(tmp_path, monkeypatch):
    from pogson.formats import coadd_files

    paths = written(tmp_path, visit(0), visit(1))
    arguments = ("coadd", *paths, "-o", tmp_path / "c", "--tile-size", 80, "--overlap", 12,
                 "-q", "-j", 1)  # fmt: skip
    write, count = coadd_files.write_coadd, []

    def full(path, made):
        count.append(path)
        if len(count) > 2:
            raise OSError(28, "No space left on device")
        return write(path, made)

    monkeypatch.setattr(coadd_files, "write_coadd", full)
    stopped = image(*arguments)
    assert stopped.exit_code == 1
    assert "No space left" in stopped.output
    assert "kept" in stopped.output
    kept = sorted((tmp_path / "c").glob("*.fits"))
    assert len(kept) == 2
    times = [p.stat().st_mtime_ns for p in kept]
    monkeypatch.undo()
    resumed = image(*arguments)
    assert resumed.exit_code == 0, resumed.output
    assert "4 tiles, 2 computed now" in resumed.output
    assert [p.stat().st_mtime_ns for p in kept] == times
    shutil.rmtree(tmp_path / "c")
    monkeypatch.setattr(coadd_files, "write_coadd", lambda *_: full(None, None))
    nothing = image(*arguments)
    assert nothing.exit_code == 2
    assert "No space left" in nothing.output
