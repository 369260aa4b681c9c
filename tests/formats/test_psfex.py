"""PSFEx files: the format, real files, round trips, damage."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from pogson.errors import FileFormatError, MissingDataError, PogsonError, PogsonValueError
from pogson.fields import Box, ChebyshevField
from pogson.formats.psfex import read_psfex, write_psfex
from pogson.psf import MoffatPSF, PixelGridPSF, PsfNormalization

BOX = Box(0, 0, 600, 500)
FWHM = ChebyshevField(BOX, [[4.0, 0.3], [0.2, 0.05]])
PSF = MoffatPSF(FWHM, 3.0, 0.03, -0.02)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("psfex") / "a.psf"
    return path, write_psfex(PSF, path, degree=3, detector="N4", exposure="e1")


def merged_table(path, rows):
    """Write a table like the Legacy Surveys': one row per detector, lower-case columns."""
    values = {"polnaxis": 2, "polngrp": 1, "poldeg1": 1, "psfnaxis": 3, "psfaxis1": 9}
    values |= {"psfaxis2": 9, "psfaxis3": 3}
    columns = [fits.Column(n, "K", array=[v] * len(rows)) for n, v in values.items()]
    for name, value in (("psf_samp", 0.5), ("polzero1", 101.0), ("polzero2", 201.0),
                        ("polscal1", 100.0), ("polscal2", 200.0), ("psf_fwhm", 3.3)):  # fmt: skip
        columns.append(fits.Column(name, "D", array=[value] * len(rows)))
    columns.append(fits.Column("polname1", "7A", array=["X_IMAGE"] * len(rows)))
    columns.append(fits.Column("polname2", "7A", array=["Y_IMAGE"] * len(rows)))
    columns.append(fits.Column("ccdname", "3A", array=[r[0] for r in rows]))
    columns.append(fits.Column("expnum", "K", array=[r[1] for r in rows]))
    masks = np.array([r[2] for r in rows], np.float32)
    columns.append(fits.Column("psf_mask", "243E", dim="(9,9,3)", array=masks))
    fits.BinTableHDU.from_columns(columns).writeto(path)


def test_written_file_reads_back(written):
    path, made = written
    back = read_psfex(path, detector="N4", exposure="e1")
    assert back.normalization == PsfNormalization("total")
    assert back.metadata["detector"] == "N4"
    x, y = np.array([10.2, 300.4, 580.9]), np.array([490.1, 250.6, 20.3])
    want = made.psf.draw_many(x=x, y=y, half_size=15)[0]
    got = back.draw_many(x=x, y=y, half_size=15)[0]
    # samples are stored in float32
    assert np.abs(got - want).max() < 1e-6 * want.max()
    true = PSF.draw_many(x=x, y=y, half_size=15)[0]
    assert np.abs(got - true).max() < 1.2 * made.max_error * true.max()
    # what the photometry feels: enclosed energy
    ratio = back.enclosed_energy([4, 6, 9, 12], x=x, y=y) / PSF.enclosed_energy(
        [4, 6, 9, 12], x=x, y=y
    )
    assert np.abs(1085.7 * np.log(ratio)).max() < 0.25


def test_standard_cards_are_there(written):
    header = fits.getheader(written[0], "PSF_DATA")
    for card in ("POLNAXIS", "POLGRP1", "POLNAME1", "POLZERO1", "POLSCAL1", "POLNGRP", "POLDEG1",
                 "PSF_FWHM", "PSF_SAMP", "PSFNAXIS", "PSFAXIS1", "PSFAXIS2", "PSFAXIS3",
                 "LOADED", "ACCEPTED", "CHI2"):  # fmt: skip
        assert card in header
    assert header["PSF_SAMP"] == 0.5
    assert header["POLZERO1"] == pytest.approx(0.5 * (0.5 + 598.5) + 1.0)


def test_galsim_draws_the_same(written):
    pytest.importorskip("galsim")
    import galsim
    import galsim.des

    theirs = galsim.des.DES_PSFEx(str(written[0]))
    # GalSim uses Lanczos 3 and sets the flux to 1
    ours = read_psfex(written[0], interpolation="lanczos3", normalization=PsfNormalization("box"))
    for x, y in ((100.4, 200.8), (550.0, 30.0)):
        image = galsim.ImageD(31, 31, scale=1)
        offset = (x - np.floor(x + 0.5), y - np.floor(y + 0.5))
        theirs.getPSF(galsim.PositionD(x + 1, y + 1)).drawImage(
            image, method="no_pixel", offset=offset
        )
        stamp = ours.draw(x=x, y=y, half_size=15).image
        # galsim's conserve_dc is exact to first order only
        assert np.abs(image.array - stamp).max() < 2e-5 * stamp.max()


def test_grid_psf_is_written_as_it_is(tmp_path, written):
    one = read_psfex(written[0])
    report = write_psfex(one, tmp_path / "b.psf")
    assert report.max_error == 0
    two = read_psfex(tmp_path / "b.psf", box=BOX)
    np.testing.assert_array_equal(one.coefficients, two.coefficients)
    np.testing.assert_allclose(
        one.draw(x=20.0, y=30.0).image, two.draw(x=20.0, y=30.0).image, atol=1e-12
    )
    assert two.box == BOX


def test_merged_table_picks_the_detector(tmp_path):
    path = tmp_path / "merged.fits"
    rng = np.random.default_rng(2)
    masks = [np.stack([np.outer(*[np.hanning(9)] * 2) + 0.1 * k, *rng.normal(0, 1e-3, (2, 9, 9))])
             for k in range(2)]  # fmt: skip
    merged_table(path, [("N4", 7, masks[0]), ("S1", 7, masks[1])])
    psf = read_psfex(path, detector="S1", exposure=7)
    assert psf.metadata["detector"] == "S1"
    np.testing.assert_allclose(psf.coefficients, masks[1].astype(np.float32))
    # POLZERO counts from 1; terms are 1, x, y
    want = masks[1][0] + 0.5 * masks[1][1] - 0.25 * masks[1][2]
    got = psf.samples(x=[150.0], y=[150.0])[0]
    np.testing.assert_allclose(got, want / want.sum(), rtol=1e-5, atol=1e-7)
    with pytest.raises(MissingDataError, match="detector 'N4' or 'S1', not of 'N5'"):
        read_psfex(path, detector="N5")
    with pytest.raises(MissingDataError, match="exposure '7', not of '8'"):
        read_psfex(path, detector="N4", exposure=8)
    with pytest.raises(MissingDataError, match=r"2 PSFs to choose from.*'N4' or 'S1'"):
        read_psfex(path)


def test_psf_of_another_detector_is_refused(written):
    with pytest.raises(MissingDataError, match="detector 'N4', not of 'S7'"):
        read_psfex(written[0], detector="S7")
    with pytest.raises(MissingDataError, match="exposure 'e1', not of 'e2'"):
        read_psfex(written[0], exposure="e2")


def edit(path, target, **cards):
    with fits.open(path) as hdus:
        for key, value in cards.items():
            if value is None:
                del hdus[1].header[key]
            else:
                hdus[1].header[key] = value
        hdus.writeto(target, overwrite=True)
    return target


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"POLNAME1": "MAG_AUTO"}, "varies with 'MAG_AUTO' or 'Y_IMAGE'"),
        ({"POLDEG1": 2}, "degree 2, which has 6 terms"),
        ({"POLNAXIS": 3}, "POLNAXIS=3"),
        ({"PSF_SAMP": -1.0}, "sampling=-1.0"),
        ({"PSF_SAMP": None}, "no card PSF_SAMP"),
        ({"PSFAXIS1": 80}, "PSF_MASK has"),
        ({"POLSCAL1": 0.0}, "x_scale=0.0"),
    ],
)
def test_impossible_files_are_refused(written, tmp_path, cards, message):
    with pytest.raises(FileFormatError, match=message):
        read_psfex(edit(written[0], tmp_path / "bad.psf", **cards))


def test_not_psfex_at_all(tmp_path, written):
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "image.fits")
    with pytest.raises(FileFormatError, match="no table in it has a column PSF_MASK"):
        read_psfex(tmp_path / "image.fits")
    with pytest.raises(MissingDataError, match="no PSF_DATA extension 4"):
        read_psfex(written[0], extension=4)
    with pytest.raises(PogsonValueError, match="which pixels"):
        write_psfex(MoffatPSF(3.0, 3.0), tmp_path / "x.psf")
    grid = PixelGridPSF(np.ones((3, 3)), normalization=PsfNormalization("aperture", 2.0))
    with pytest.raises(PogsonValueError, match="cannot say"):
        write_psfex(grid, tmp_path / "x.psf")
    assert not (tmp_path / "x.psf").exists()


@settings(max_examples=40)
@given(data=st.data())
def test_damaged_files_raise_only_our_errors(written, tmp_path_factory, data):
    content = bytearray(written[0].read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            # most hits in the headers, where structure lives
            at = data.draw(st.integers(0, min(len(content), 12000) - 1))
            content[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("fuzz") / "f.psf"
    path.write_bytes(bytes(content))
    try:
        psf = read_psfex(path)
        psf.draw(x=100.0, y=100.0, half_size=5)
    except PogsonError:
        pass


@pytest.mark.parametrize(
    ("pattern", "detectors"),
    [("testcase3/calib/psfex-single", 8), ("testcase4/calib/psfex", 1)],
)
def test_real_legacy_survey_tables(shared_data, pattern, detectors):
    paths = sorted(shared_data(f"decam-cutouts/{pattern}").rglob("*.fits"))
    assert len(paths) == detectors
    for path in paths:
        psf = read_psfex(path)
        stamp = psf.draw(x=20.0, y=20.0).image
        assert stamp.sum() == pytest.approx(1.0, abs=1e-9)
        assert 2.3 < psf.fwhm(x=20.0, y=20.0) < 6.0
        assert psf.metadata["detector"][0] in "NS"
        # the growth to 24 pixels is monotonic within the noise of the samples
        growth = psf.enclosed_energy([2, 4, 8, 12, 24], x=20.3, y=20.8)
        assert (np.diff(growth) > -2e-3).all()
        with pytest.raises(MissingDataError, match="not of 'S31'"):
            read_psfex(path, detector="S31")
