"""The sections on coadds from made-up numbers: pictures, absent parts, few sources, escaping."""

from __future__ import annotations

import numpy as np

from pogson.report import ReportData, render_html
from pogson.report import coadd_plots as plots
from pogson.report.coadd_data import (
    BackgroundMaps,
    CoaddBand,
    CoaddPicture,
    CoaddReport,
    LevelsOfVisits,
    Product,
)
from pogson.report.coadd_page import coadd_sections


def picture(bands="gri", seed=3):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:60, :80]
    images = {}
    for k, band in enumerate(bands):
        image = rng.normal(0.0, 1.0, x.shape)
        for cx, color in ((20, 1.0), (40, 0.2), (60, 5.0)):
            image += 400.0 * color ** (k - 1) * np.exp(-((x - cx) ** 2 + (y - 30) ** 2) / 8.0)
        image[:5] = np.nan
        images[band] = image
    counts = {b: np.full(x.shape, 3.0) for b in bands}
    return CoaddPicture(images, counts, (-0.5, 79.5, -0.5, 59.5), 0.25)


def band(n=200, seed=4):
    rng = np.random.default_rng(seed)
    flux = 10 ** rng.uniform(2.0, 5.0, n)
    error = np.full(n, 10.0)
    rows = {"flux": flux, "flux_err": error, "flux_err_diagonal": error / 1.2,
            "visit_flux": flux + rng.normal(0, 0.3, n)}  # fmt: skip
    pull = rng.normal(0, 1, n)
    snr = flux / 10.0
    truth = {"magnitude": 31.4 - 2.5 * np.log10(flux), "true_snr": snr, "pull": pull,
             "pull_diagonal": 1.2 * pull, "reached": (snr + pull > 20).astype(float),
             "expected": (snr > 20).astype(float)}  # fmt: skip
    numbers = {"tiles": 4, "inputs": 12, "mean_inputs": 2.7, "n_compared": n, "median_mmag": 0.01,
               "empty_tracked": 1.0, "empty_diagonal": 1.2, "pulls": {"rms": 1.0, "n": n},
               "pulls_diagonal": {"rms": 1.2, "n": n}, "completeness": {"depth": 25.7}}  # fmt: skip
    return CoaddBand(numbers, rows, truth)


def test_redder_bands_are_redder_in_the_picture():
    image = plots.color_image(picture()).astype(float)
    white, blue, red = (image[30, x] for x in (20, 40, 60))
    assert np.ptp(white) < 0.35 * white.max()
    assert blue[2] > blue[0] + 40
    assert red[0] > red[2] + 40
    assert (image[2, 10] == image[2, 10, 0]).all()  # no data: grey
    two = plots.color_image(picture("gi"))
    assert two.shape == (60, 80, 3)


def test_every_section_has_its_figure():
    maps = tuple(
        BackgroundMaps(f"v1 D{k}", "g", np.full((4, 4), 50.0 + k), np.zeros((4, 4)) + 0.1,
                       (-0.5, 99.5, -0.5, 99.5), "nJy", True)
        for k in range(3)
    )  # fmt: skip
    product = Product("tile", "<g-0-0>", "g", "nJy", "fluence", "G2V", "subtracted", "total")
    levels = LevelsOfVisits("g", ("v1", "v2", "v3"), np.array([1.0, -1.0, 0.0]),
                            np.array([0.5, -1.5, 0.0]), np.array([1.2, -0.1, 0.0]),
                            "nJy / arcsec2", 7.0, 1.1, ("v3",))  # fmt: skip
    data = CoaddReport((product,), maps, picture(), {"g": band(), "r": band(5)}, {"grid": "x"},
                       20.0, (levels,))  # fmt: skip
    sections = coadd_sections(data)
    without = [s.anchor for s in sections if not s.image]
    assert without == ["coadd-states"]
    html = render_html(ReportData(title="x", coadd=data))
    assert "&lt;g-0-0&gt;" in html
    assert "http" not in html
    assert "Red: i, blue: g, green: r" in html


def test_absent_parts_are_said_in_words():
    sections = {s.anchor: s for s in coadd_sections(CoaddReport(bands={"g": CoaddBand()}))}
    assert not any(s.image for s in sections.values())
    assert sections["coadd"].caption == "There is no finished tile."
    assert "coadd-pulls" not in sections
    grey = coadd_sections(CoaddReport(picture=picture("r")))[0]
    assert grey.image
    assert "Red" not in grey.caption
    empty = CoaddPicture({"g": np.full((5, 5), np.nan), "r": np.full((5, 5), np.nan)}, {},
                         (0, 5, 0, 5), 1.0)  # fmt: skip
    assert plots.plot_picture(empty) is not None
    # not a single star at the depth
    bright = band()
    bright.truth["magnitude"][:] = 15.0
    assert plots.plot_completeness(CoaddReport(bands={"g": bright})) is None
