"""Template libraries: files, interpolation measured by leaving models out, shared preparation."""

from __future__ import annotations

import gzip
import os
import time

import numpy as np
import pytest

from pogson.errors import (
    BoundsError,
    CalibrationError,
    FileFormatError,
    MissingDataError,
    PogsonValueError,
)
from pogson.sed import Bandpass, load_filter_curves, synthetic_flux
from pogson.spectro import (
    LineSpread,
    StellarTemplate,
    TemplateLibrary,
    load_mask_regions,
    prepare_template,
)

KURUCZ = "templates/kurucz_stds_v5.fit"
DESI = "templates/rrtemplate-STAR-F-v0.1.fits"
PIXELS = np.arange(3800.0, 9200.0, 1.35)


@pytest.fixture(scope="module")
def kurucz(shared_data):
    return TemplateLibrary(shared_data(KURUCZ))


def test_sdss_grid(kurucz):
    assert len(kurucz) == 89
    assert kurucz.nodes.axes[0].tolist() == list(range(5000, 7001, 250))
    # H-beta and H-alpha lie at their vacuum wavelengths
    flux = kurucz.get_template(6500, 4.0, -0.5).flux
    for center in (4862.68, 6564.61):
        near = np.abs(kurucz.wavelength - center) < 25
        line = np.maximum(1 - flux[near] / flux[near].max(), 0) ** 2
        assert np.average(kurucz.wavelength[near], weights=line) == pytest.approx(center, abs=1.5)
    # its own resolution is that of SDSS: 60 to 75 km/s
    kms = kurucz.native_sigma / kurucz.wavelength * 299792.458
    assert kms.min() > 60
    assert kms.max() < 80


def test_desi_templates_are_sums_of_vectors(shared_data):
    library = TemplateLibrary(shared_data(DESI))
    assert (len(library), library.wavelength.size) == (1705, 80001)
    seen = library.prepare(PIXELS, LineSpread.from_fwhm(3.0))
    one = prepare_template(library.load_template(77), PIXELS, 3.0)
    assert seen.flux[77] == pytest.approx(one.flux, rel=1e-9)
    with pytest.raises(CalibrationError, match="no known Teff"):
        library.interpolate(6000, 4.0, 0.0)


def leave_out_errors(library, axis):
    """Interpolation error (rms over pixels, in the shape) with every second inner node removed.

    The spacing doubles, so these are upper bounds of the error inside the full grid.
    """
    seen = library.prepare(PIXELS, LineSpread.from_resolution(1500.0))
    good = np.ones(PIXELS.size, bool)
    for low, high in load_mask_regions():
        good &= (low > PIXELS) | (high < PIXELS)
    values = {"teff": library.teff, "feh": library.feh}[axis]
    nodes = np.unique(values)
    errors = []
    for out in nodes[1:-1]:
        keep = values != out
        sparse = TemplateLibrary.from_arrays(
            PIXELS,
            seen.flux[keep],
            teff=library.teff[keep],
            logg=library.logg[keep],
            feh=library.feh[keep],
        )
        for i in np.flatnonzero(~keep):
            got = sparse.interpolate(library.teff[i], library.logg[i], library.feh[i]).flux
            ratio = (got / seen.flux[i])[good]
            errors.append(float(np.std(ratio / ratio.mean())))
    return np.array(errors)


@pytest.mark.parametrize(
    ("axis", "median", "largest"), [("teff", 0.004, 0.02), ("feh", 0.008, 0.03)]
)
def test_interpolation_error_by_leaving_nodes_out(kurucz, axis, median, largest):
    errors = leave_out_errors(kurucz, axis)
    print(f"{axis}: median {np.median(errors):.5f} max {errors.max():.5f} n={errors.size}")
    assert np.median(errors) < median
    assert errors.max() < largest


def test_interpolation_hits_nodes_and_bridges_the_hole(kurucz):
    assert np.array_equal(
        kurucz.interpolate(6250, 4.5, -1.0).flux, kurucz.get_template(6250, 4.5, -1.0).flux
    )
    # (5000, 4.5, -0.5) is missing in the grid
    missing = kurucz.interpolate(5000.0, 4.5, -0.5)
    assert np.all(missing.flux > 0)
    assert not kurucz.query((5000, 5000), (4.5, 4.5), (-0.5, -0.5))
    with pytest.raises(BoundsError, match="outside the grid's 5000 to 7000"):
        kurucz.interpolate(8000, 4.5, -1.0)


def test_interpolation_is_exact_for_cubics(rng):
    lam = np.linspace(4000.0, 5000.0, 101)
    t, g, z = (
        a.ravel() for a in np.meshgrid([5.0, 5.5, 6.0, 6.5, 7.0], [4.0, 4.5], [-1.0, -0.5, 0.0])
    )
    c = rng.normal(size=(4, 101))

    def model(t, g, z):
        return 100 + c[0] * (t - 6) ** 3 + c[1] * g * (t - 6) + c[2] * z**2 * g + c[3] * t * z

    library = TemplateLibrary.from_arrays(
        lam, [model(*p) for p in zip(t, g, z, strict=True)], teff=t * 1e3, logg=g, feh=z
    )
    got = library.interpolate(6130.0, 4.2, -0.7)
    assert got.flux == pytest.approx(model(6.13, 4.2, -0.7), rel=1e-12)


def test_preparing_commutes_with_interpolating(kurucz):
    lsf = LineSpread.from_resolution(1400.0)
    seen = kurucz.prepare(PIXELS, lsf, rv_kms=77.0)
    direct = prepare_template(kurucz.interpolate(6100, 4.3, -0.8), PIXELS, lsf, rv_kms=77.0)
    assert seen.interpolate(6100, 4.3, -0.8) == pytest.approx(direct.flux, rel=1e-10)
    assert direct.meta["rv_kms"] == 77.0


def test_equal_line_spreads_share_the_work(kurucz):
    a = kurucz.prepare(PIXELS, LineSpread.from_fwhm(4.4))
    assert kurucz.prepare(PIXELS.copy(), LineSpread.from_fwhm(4.4)) is a
    assert kurucz.prepare(PIXELS, LineSpread.from_fwhm(4.5)) is not a
    assert not a.flux.flags.writeable


def test_five_hundred_models_are_ready_in_half_a_second(kurucz):
    lam, flux = kurucz.wavelength, np.tile(kurucz.flux, (6, 1))[:500]
    library = TemplateLibrary.from_arrays(lam, flux, native=kurucz.native)
    library.prepare(PIXELS[:100], LineSpread.from_resolution(1800.0))  # compiles
    best = np.inf
    for k in range(5):
        start = time.perf_counter()
        library.prepare(PIXELS, LineSpread.from_resolution(1800.0 + k))
        best = min(best, time.perf_counter() - start)
    print(f"500 models x {PIXELS.size} pixels: {best:.3f} s")
    assert best < 0.5


def test_band_fluxes_are_those_of_synthetic_photometry(kurucz):
    curves = list(load_filter_curves(["ps1_g", "ps1_z", "sdss_r", "gaia_g"]).values())
    table = kurucz.band_fluxes(curves, e_bv=0.07)
    for i in (0, 40, 88):
        spectrum = kurucz.load_template(i).to_spectrum().redden(0.07)
        for j, curve in enumerate(curves):
            assert table[i, j] == pytest.approx(synthetic_flux(spectrum, curve.bandpass), rel=1e-12)
    with pytest.raises(CalibrationError, match="covers"):
        kurucz.band_fluxes([Bandpass.from_speclite("twomass-J")])


# ---- files ---------------------------------------------------------------------------------


def write_bosz(folder, temperatures=(5000, 5250), resolution="r10000", rows=200):
    lam = np.linspace(2900.0, 11100.0, rows)
    np.savetxt(folder / f"bosz2024_wave_{resolution}.txt", lam)
    (folder / resolution).mkdir()
    for t in temperatures:
        name = f"bosz2024_mp_t{t}_g+4.5_m-0.50_a+0.25_c+0.00_v2_{resolution}_resam.txt.gz"
        with gzip.open(folder / resolution / name, "wt") as file:
            np.savetxt(file, np.stack([t * lam, t * lam + 1.0], axis=1))
    return lam


def test_bosz_folder_by_its_file_names(tmp_path):
    lam = write_bosz(tmp_path)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    library = TemplateLibrary(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before  # nothing written there
    assert library.teff.tolist() == [5000, 5250]
    assert (library.logg[0], library.feh[0], library.alpha_m[0]) == (4.5, -0.5, 0.25)
    inside = (lam >= 3000) & (lam <= 11000)
    template = library.get_template(5240, 4.5, -0.5)
    assert template.flux == pytest.approx(4 * np.pi * 5250 * lam[inside], rel=1e-12)
    assert template.continuum == pytest.approx(4 * np.pi * (5250 * lam[inside] + 1), rel=1e-12)
    assert library.native.resolution(5000.0) == pytest.approx(10000.0)
    seen = prepare_template(template, np.arange(5000.0, 5100.0), 4.0)
    assert np.all(np.isfinite(seen.meta["continuum"]))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_a_read_only_folder_is_enough(tmp_path):
    write_bosz(tmp_path)
    tmp_path.chmod(0o555)
    try:
        assert len(TemplateLibrary(tmp_path)) == 2
    finally:
        tmp_path.chmod(0o755)


def test_bosz_folders_that_will_not_do(tmp_path):
    with pytest.raises(MissingDataError, match="holds no BOSZ spectra"):
        TemplateLibrary(tmp_path)
    with pytest.raises(MissingDataError, match="There is no template library"):
        TemplateLibrary(tmp_path / "absent")
    write_bosz(tmp_path)
    with pytest.raises(MissingDataError, match="'r5000'"):
        TemplateLibrary(tmp_path, resolution="r5000")
    damaged = next((tmp_path / "r10000").glob("*t5000*"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(FileFormatError, match="columns"):
        TemplateLibrary(tmp_path)
    (tmp_path / "bosz2024_wave_r10000.txt").unlink()
    with pytest.raises(MissingDataError, match="one file for all"):
        TemplateLibrary(tmp_path)


@pytest.mark.parametrize("kind", ["h5", "fits"])
@pytest.mark.parametrize("medium", ["vacuum", "air", None])
def test_user_grids(tmp_path, kind, medium):
    from pogson.sed import air_to_vacuum

    lam, flux = np.linspace(4000.0, 5000.0, 50), np.ones((3, 50))
    label = {"teff": [5e3, 6e3, 7e3], "logg": [4.0, 4.0, 4.0], "feh": [0.0, 0.0, 0.0]}
    path = tmp_path / f"grid.{kind}"
    if kind == "h5":
        import h5py

        with h5py.File(path, "w") as file:
            for name, values in {"wavelength": lam, "flux": flux, **label}.items():
                file[name] = values
            if medium:
                file.attrs["medium"] = medium
    else:
        from astropy.io import fits
        from astropy.table import Table

        wave = fits.ImageHDU(lam, name="WAVELENGTH")
        if medium:
            wave.header["AIRORVAC"] = medium[:3]
        table = fits.BinTableHDU(Table({k.upper(): v for k, v in label.items()}), name="PARAMETERS")
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(flux, name="FLUX"), wave, table]).writeto(
            path
        )
    if medium is None:
        with pytest.raises(PogsonValueError, match="vacuum or in air"):
            TemplateLibrary(path)
        assert len(TemplateLibrary(path, medium="vacuum")) == 3
        return
    library = TemplateLibrary(path)
    assert library.wavelength == pytest.approx(lam if medium == "vacuum" else air_to_vacuum(lam))
    assert library.interpolate(5500, 4.0, 0.0).flux == pytest.approx(1.0)


def test_files_of_no_known_layout(tmp_path):
    path = tmp_path / "x.fits"
    path.write_bytes(b"nonsense")
    with pytest.raises(FileFormatError):
        TemplateLibrary(path)
    with pytest.raises(FileFormatError):
        TemplateLibrary(path.rename(tmp_path / "x.h5"))


def test_template_with_nan_or_wrong_shape_is_refused():
    lam = np.linspace(4000.0, 5000.0, 5)
    with pytest.raises(PogsonValueError, match="not finite"):
        TemplateLibrary.from_arrays(lam, [[1, 1, np.nan, 1, 1]])
    with pytest.raises(PogsonValueError, match="5 wavelengths"):
        TemplateLibrary.from_arrays(lam, np.ones((2, 4)))
    with pytest.raises(PogsonValueError, match="not finite"):
        StellarTemplate(lam, [1, 1, np.inf, 1, 1])
