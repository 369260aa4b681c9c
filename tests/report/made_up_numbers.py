"""Made-up numbers for a report: two bands, four detectors, eight visits."""

from __future__ import annotations

import numpy as np
import pytest

from pogson.report import (
    ExposureRecord,
    GrowthCurve,
    PixelMap,
    Rejection,
    Repeatability,
    ReportData,
    StarResiduals,
    TruthComparison,
)


def made_up_report(seed: int = 11, visits: int = 8, stars: int = 60) -> ReportData:
    rng = np.random.default_rng(seed)
    records, growth = [], []
    cols: dict[str, list[np.ndarray]] = {
        k: [] for k in ("exposure", "band", "mag", "color", "x", "y", "res", "pull", "used")
    }
    for visit in range(visits):
        band = "gr"[visit % 2]
        for detector in range(4):
            index = len(records)
            ra = 359.9 + 0.1 * (detector % 2) + 0.02 * rng.normal()
            dec = 10 + 0.1 * (detector // 2) + 0.02 * rng.normal()
            corners = tuple(
                ((ra + dx) % 360, dec + dy) for dx, dy in ((0, 0), (0.1, 0), (0.1, 0.1), (0, 0.1))
            )
            failed = index == 5
            values = {} if failed else {
                "zero_point": 27.5 + 0.3 * (band == "r") + 0.01 * rng.normal(),
                "zero_point_err": 0.002, "intrinsic_scatter": 0.004, "n_sources": 300,
                "n_matched": stars, "n_used": stars - 3, "airmass": 1 + 0.1 * visit,
                "mjd": 60000.0 + visit, "exposure_time": 60.0, "fwhm": 0.8, "pull_rms": 1.0,
                "truth_median": 0.0006 * rng.normal(), "truth_median_err": 0.0005,
            }  # fmt: skip
            records.append(
                ExposureRecord(
                    f"v{visit:02d}-D{detector}", f"visit{visit:02d}", f"D{detector}", band,
                    "failed" if failed else "done",
                    "v01.fits is truncated; fetch it again." if failed else "", values, corners,
                )
            )  # fmt: skip
            if failed:
                continue
            mag = rng.uniform(15, 20, stars)
            err = 0.003 * 10 ** (0.3 * (mag - 17))
            pull = rng.normal(size=stars)
            for key, value in (
                ("exposure", np.full(stars, index)), ("band", np.full(stars, band)), ("mag", mag),
                ("color", rng.uniform(0, 2, stars)), ("x", rng.uniform(0, 1000, stars)),
                ("y", rng.uniform(0, 1000, stars)), ("res", pull * err), ("pull", pull),
                ("used", rng.random(stars) > 0.05),
            ):  # fmt: skip
                cols[key].append(value)
            radius = np.array([1, 1.5, 2, 3, 4, 5.0])
            model = 1 - np.exp(-((radius / 0.9) ** 2) / 1.2)
            growth.append(
                GrowthCurve(f"v{visit}-D{detector}", band, radius,
                            model + 0.002 * rng.normal(size=6), np.full(6, 0.01), model)
            )  # fmt: skip
    flat = {k: np.concatenate(v) for k, v in cols.items()}
    n = 300
    mag = rng.uniform(15, 21, n)
    expected = np.hypot(0.003, 0.002 * 10 ** (0.35 * (mag - 17)))
    _, xx = np.mgrid[:20, :20] / 20
    return ReportData(
        title="Made-up survey",
        exposures=tuple(records),
        stars=StarResiduals(*(flat[k] for k in cols)),
        growth=tuple(growth),
        areas=tuple(PixelMap(f"D{i}", 1 + 0.05 * (xx - 0.5) * (i - 1.5), (-0.5, 999.5, -0.5, 999.5))
                    for i in range(4)),
        backgrounds=tuple(PixelMap(f"v{i}-D0", 1 + 0.02 * np.cos(3 * xx + i),
                                   (-0.5, 999.5, -0.5, 999.5)) for i in range(6)),
        rejections=(Rejection("zero point", "outlier", 41, "more than 4 sigma from the fit"),
                    Rejection("measure", "edge", 120, "the aperture runs off the image")),
        repeatability=Repeatability(rng.choice(["g", "r"], n), mag,
                                    expected * np.sqrt(rng.chisquare(3, n) / 3), expected,
                                    np.full(n, 4)),
        truth=TruthComparison(flat["exposure"], flat["band"], flat["mag"], flat["res"],
                              flat["pull"]),
        headlines=("31 of 32 exposures were calibrated; 1 failed.",
                   "The median zero-point error is 2.0 mmag."),
        facts={"fluxes": "nJy (AB), total", "bands": "g, r"},
        config_text="[survey]\nname = 'made-up'\n",
    )  # fmt: skip


@pytest.fixture(scope="session")
def made_up() -> ReportData:
    return made_up_report()
