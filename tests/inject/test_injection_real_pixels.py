"""Injection into real pixels: a DECam and an HSC cut-out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pogson.calib import FluxReference, PhotoCalib
from pogson.formats import read_exposure, write_exposure
from pogson.images import Exposure, detect, estimate_background, estimate_gain
from pogson.inject import (
    AuditLimits,
    AuditSettings,
    DetectionSettings,
    audit_sources,
    inject,
    place_sources,
    recover,
    uniform_magnitudes,
)
from pogson.psf import MoffatPSF

Find = Callable[[str], Path]
R3, R4 = FluxReference.aperture(3.0), FluxReference.aperture(4.0)


def decam(find: Find) -> Exposure:
    path = next(find("decam-cutouts/testcase4/images").glob("**/*_ooi_*.fits"))
    calib = PhotoCalib.from_zero_point(29.915, unit="adu", reference=FluxReference.total())
    return read_exposure(path, psf="auto").with_(photo_calib=calib)


def hsc(find: Find) -> Exposure:
    exposure = read_exposure(find("hsc/HSC-0908120-056-small.fits"))
    calib = PhotoCalib.from_zero_point(
        30.0, unit="adu", reference=FluxReference.total(), measure="fluence"
    )
    # the file has neither; its variance plane has the gain in it
    gain, _ = estimate_gain(exposure)
    return exposure.with_(
        photo_calib=calib, psf=MoffatPSF(fwhm=4.0, beta=3.0),
        metadata={**exposure.metadata, "gain": gain},
    )  # fmt: skip


# The HSC cut-out is deep: in R=4 px its undetected real sources give pulls of rms 1.27 (robust
# width 1.12), which is confusion, not injection; R=3 px holds less of it.
@pytest.mark.parametrize(
    ("load", "reference", "bright", "faint"), [(decam, R4, 18.5, 24.0), (hsc, R3, 19.0, 25.0)]
)
def test_audit_on_real_pixels(
    shared_data: Find, load: Any, reference: FluxReference, bright: float, faint: float
) -> None:
    exposure = load(shared_data)
    if exposure.area_ratio is None:
        exposure = exposure.with_area_ratio()
    exposure = exposure.with_background(estimate_background(exposure, mesh=64, mask_sources=True))
    real = detect(exposure, 1.3)
    recovered = []
    for k in range(30):
        name = f"run{k}"
        # every second run among the real sources, the others away from them
        apart = {"avoid": real, "avoid_radius": 18.0} if k % 2 else {}
        places = place_sources(
            exposure, n=18, min_separation=24, margin=10, seed=k, name=name, **apart
        )
        rows = uniform_magnitudes(places, faint, bright, reference=reference, seed=k)
        result = inject(exposure, rows, poisson=True, seed=k, image_id=name, largest_radius=8)
        recovered.append(
            recover(exposure, result, real=real, settings=DetectionSettings(threshold=2.0))
        )
    settings = AuditSettings(min_snr=20.0, isolation=15.0)
    limits = AuditLimits(
        min_pull_rms=0.9, max_pull_rms=1.15, max_bias_mmag=20, min_bright_completeness=0.9
    )
    result = audit_sources(recovered, limits=limits, settings=settings)
    print("\n".join(result.lines()))
    v = result.values
    print("background", v["background"])
    print("neighbours", v["neighbours"])
    print("pulls without what was there before", v["pulls_without_before"])
    print("completeness", [round(f, 2) for f in v["completeness"]["bins"]["fraction"]])
    assert result.passed, result.checks
    assert 0.9 <= v["pulls"]["rms"] <= 1.15
    assert v["pulls"]["n"] > 60
    depth, error = v["completeness"]["depth_50"], v["completeness"]["depth_50_err"]
    assert bright < depth < faint
    assert error < 0.15
    assert v["completeness"]["depth_90"] < depth
    # reported separately
    assert v["background"]["n"] > 100
    assert abs(v["background"]["median_in_errors"]) < 0.5
    assert v["neighbours"]["n"] > 10
    # the photon noise put in is less than the error that has the sky in it too
    assert 0.1 < v["pulls_without_before"]["rms"] < 1.0
    json.dumps(result.to_dict(), allow_nan=False)


def test_injected_exposure_survives_its_file(shared_data: Find, tmp_path: Path) -> None:
    from astropy.io import fits

    exposure = decam(shared_data)
    places = place_sources(exposure, n=5, margin=20, seed=1)
    rows = uniform_magnitudes(places, 20, 19, reference=R4)
    result = inject(exposure, rows, poisson=True)
    path = tmp_path / "injected.fits"
    write_exposure(path, result.exposure)
    back = read_exposure(path)
    assert back == result.exposure
    assert back.metadata["injections"][0]["n_drawn"] == 5
    header = fits.getheader(path)
    assert header["INJECTED"] is True
    assert any("sources injected" in str(line).replace("\n", " ") for line in header["HISTORY"])


def test_truth_table_survives_parquet(shared_data: Find, tmp_path: Path) -> None:
    from pogson.formats import read_catalog, write_catalog

    exposure = decam(shared_data)
    rows = uniform_magnitudes(place_sources(exposure, n=5, seed=1), 20, 19, reference=R4)
    truth = inject(exposure, rows).truth
    write_catalog(tmp_path / "truth.parquet", truth)
    back = read_catalog(tmp_path / "truth.parquet")
    assert back.colnames == truth.colnames
    assert back["flux_requested"].info.meta["reference"] == R4.to_dict()
    assert np.array_equal(back["flux_realised"], truth["flux_realised"])
