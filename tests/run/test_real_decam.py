"""The main job on real DECam exposures: the Legacy Surveys' test cases 3 and 4."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pogson.formats import read_catalog, read_exposure
from pogson.images import Exposure
from pogson.run import RunResult, load_config, run_survey

Find = Callable[[str], Path]


def run(folder: Path, text: str) -> RunResult:
    (folder / "survey.toml").write_text(text)
    return run_survey(load_config(folder / "survey.toml"), workers=1)


def test_testcase4_zero_point_from_three_gaia_stars(shared_data: Find, tmp_path: Path) -> None:
    data = shared_data("decam-cutouts/testcase4")
    result = run(
        tmp_path,
        f"""
[inputs]
exposures = "{data}/images/**/*_ooi_*.fits"
psf = "auto"
[reference]
catalog = "{data}/gaia/chunk-*.fits"
format = "gaia-chunk"
transformation = "gaia_dr2-decam_{{band}}"
[measure]
background_mesh = 64
""",
    )
    assert result.failures == ()
    values = result.summary["exposures"][0]["values"]
    assert values["n_used"] == 3
    row = read_catalog(data / "survey-ccds-1.fits.gz")[0]
    published = float(row["ccdzpt"]) + 2.5 * np.log10(float(row["exptime"]))
    # three stars through a colour transformation: the error must know how little they tell
    assert 0.01 < values["zero_point_err"] < 0.15
    pull = (values["zero_point"] - published) / values["zero_point_err"]
    print(
        f"zero point {values['zero_point']:.4f} +- {values['zero_point_err']:.4f}, published "
        f"{published:.4f} (per second {float(row['ccdzpt']):.4f}), pull {pull:.2f}"
    )
    assert abs(pull) < 3
    reference = result.summary["exposures"][0]["catalog_reference"]
    assert "gaia_to_decam" in reference  # the citation travels with the result


def psf_matched_flux(
    exposure: Exposure, ra: float, dec: float, sigma: float
) -> tuple[float, float]:
    """Flux of any source under a Gaussian weight placed on the sky *before* seeing, and its error.

    The weight on the pixels is the one that, correlated with the exposure's PSF, gives the
    Gaussian, so that exposures of every seeing measure the same thing (Kuijken 2008, A&A 482,
    1053); the pixel-integrated PSF is divided out in Fourier space.
    """
    assert exposure.sky is not None
    assert exposure.psf is not None
    assert exposure.variance is not None
    x, y = (float(v) for v in exposure.sky.pixel(ra, dec))
    n, half = 101, 50
    center = (round(x), round(y))
    stamp = exposure.psf.draw(x=float(center[0]), y=float(center[1]), half_size=half).image
    s = sigma / float(exposure.sky.pixel_scale(x=x, y=y))
    k = 2 * np.pi * np.fft.fftfreq(n)
    ky, kx = np.meshgrid(k, k, indexing="ij")
    target = 2 * np.pi * s**2 * np.exp(-0.5 * s**2 * (kx**2 + ky**2))
    transfer = np.conj(np.fft.fft2(np.fft.ifftshift(stamp.astype(float))))
    shift = np.exp(-1j * (kx * (x - center[0]) + ky * (y - center[1])))
    spectrum = np.where(target > 1e-7 * target.max(), target / transfer, 0.0) * shift
    weight = np.fft.fftshift(np.fft.ifft2(spectrum).real)
    box = exposure.box
    yy, xx = np.mgrid[box.y_min : box.y_max + 1, box.x_min : box.x_max + 1]
    column, row = xx - center[0] + half, yy - center[1] + half
    good = (column >= 0) & (column < n) & (row >= 0) & (row < n)
    good &= np.isfinite(exposure.image) & np.isfinite(exposure.variance)
    w = weight[row[good], column[good]]
    flux = float(np.sum(w * exposure.image[good]))
    return flux, float(np.sqrt(np.sum(w**2 * exposure.variance[good])))


def test_testcase3_forced_fluxes_agree_between_exposures(shared_data: Find, tmp_path: Path) -> None:
    data = shared_data("decam-cutouts/testcase3")
    result = run(
        tmp_path,
        f"""
[inputs]
exposures = "{data}/images/**/*_ooi_*.fits"
psf = "auto"
[measure]
mode = "forced"
background_mesh = 64
[zero_point]
source = "table"
table = "{data}/survey-ccds-1.fits.gz"
""",
    )
    assert result.failures == ()
    assert result.n_done == 8
    positions = read_catalog(result.folder / "positions.ecsv")
    assert len(positions) == 1  # a galaxy fills these cut-outs; there is no star
    ra, dec = float(positions["ra"][0]), float(positions["dec"][0])
    bands: dict[str, list[tuple[float, float, str]]] = {}
    for entry in result.summary["exposures"]:
        assert entry["values"]["n_sources"] == 1
        exposure = read_exposure(result.folder / "images" / f"{entry['key']}.fits")
        assert str(exposure.unit) == "nJy"
        flux, err = psf_matched_flux(exposure, ra, dec, sigma=0.9)
        error = np.hypot(err, 0.4 * np.log(10) * entry["values"]["zero_point_err"] * flux)
        bands.setdefault(entry["band"], []).append((flux, float(error), entry["key"]))
    assert {b: len(v) for b, v in bands.items()} == {"g": 3, "r": 2, "z": 3}
    chi2, dof = 0.0, 0
    for band, rows in sorted(bands.items()):
        flux, err = np.array([r[:2] for r in rows]).T
        mean = np.sum(flux / err**2) / np.sum(err**-2)
        for (value, error, key), pull in zip(rows, (flux - mean) / err, strict=True):
            print(f"{band} {key}: {value:9.0f} +- {error:5.0f} nJy, pull {pull:+.2f}")
            assert abs(pull) < 3
        chi2 += float(np.sum((flux - mean) ** 2 / err**2))
        dof += len(rows) - 1
    print(f"chi2 {chi2:.1f} for {dof} degrees of freedom")
    assert chi2 < 15.1  # 1 % of the chi-square distribution with 5 degrees of freedom
    reference = result.summary["exposures"][0]["reference_label"]
    assert reference.startswith("total")


def test_testcase3_table_zero_points_are_per_second(shared_data: Find) -> None:
    """``sig1`` (nanomaggies) and ``skyrms`` (counts per second) of each row show the convention."""
    for case in ("testcase3", "testcase4"):
        table = read_catalog(shared_data(f"decam-cutouts/{case}/survey-ccds-1.fits.gz"))
        ratio = np.asarray(table["skyrms"], float) / np.asarray(table["sig1"], float)
        implied = 22.5 + 2.5 * np.log10(ratio)
        difference = implied - np.asarray(table["ccdzpt"], float)
        assert np.all(np.abs(difference) < 0.05)  # 2.5 log10(exposure time) would be 4.6 to 5.2
