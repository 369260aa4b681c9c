"""The page of a fit of stars: every figure drawn, nothing empty, hard cases kept out of trouble."""

from __future__ import annotations

import numpy as np

from pogson.report import stars_plots, stars_single_plots
from pogson.report.stars_data import (
    ClusterRecord,
    OffsetsRecord,
    StarRecord,
    StarsReportData,
)
from pogson.report.stars_page import render_stars_html

BANDS = ("PS_g", "PS_r", "2MASS_J")


def record(**more):
    one = np.ones(3)
    values = {
        "bands": BANDS, "offsets": np.array([1.02, 1.0, 0.97]),
        "errors": np.array([0.004, 0.0, 0.006]), "correlation": np.eye(3), "gauge": "PS_r",
        "scatter": 0.02 * one, "scatter_error": 0.002 * one, "n_used": 90 * one,
        "n_outliers": one, "history": np.random.default_rng(1).normal(0, 0.02, (6, 3)),
        "trends": {"PS_r": (0.001 * one, 0.001 * one)},
    }  # fmt: skip
    return OffsetsRecord(**{**values, **more})


def data(n=80):
    rng = np.random.default_rng(2)
    draws = rng.lognormal(0, 0.2, (n, 40)), rng.uniform(0, 1, (n, 40))
    mags = rng.uniform(14, 18, (n, 3))
    summary = {"id": np.arange(n), "ess": np.full(n, 300.0), "flags": np.zeros(n, int)}
    summary |= {"best_chi2": rng.chisquare(3, n), "n_data": np.full(n, 4), "rv": np.full(n, 3.1)}
    for name, values in (("distance_kpc", draws[0]), ("av", draws[1])):
        low, middle, high = np.quantile(values, [0.16, 0.5, 0.84], axis=1)
        summary |= {name: middle, f"{name}_16": low, f"{name}_84": high}
    axes = {"distance [kpc]": draws[0][0], "$A_V$": draws[1][0]}
    model = mags[0] + rng.normal(0, 0.02, (40, 3))
    star = StarRecord("star <7>", axes, BANDS, mags[0], np.full(3, 0.02), model)
    return StarsReportData(
        title="Stars", headlines=("80 of 80 stars fitted.",), bands=BANDS, summary=summary,
        flags=(("POOR_FIT", 3, "bad"),), longitude=rng.uniform(10, 12, n),
        latitude=rng.uniform(-1, 1, n), magnitudes=mags, residuals=rng.normal(0, 0.02, (n, 3)),
        residual_rows=np.arange(n), draws=draws, stars=(star,), missing={"PS_g": {"NaN": 2}},
        offsets=record(), cluster=ClusterRecord(
            0.0, 0.5, 1e-4 * np.eye(2), 1.0, 0.01, 0.05, 0.05, 0.9, n),
    )  # fmt: skip


def test_every_section_has_its_picture():
    html = render_stars_html(data())
    anchors = ("offsets", "correlation", "history", "distance-reddening", "by-magnitude",
               "by-colour", "residual-maps", "sky", "sed-0", "corner-0")  # fmt: skip
    for anchor in anchors:
        section = html.split(f'<section id="{anchor}"', 1)[1].split("</section>", 1)[0]
        assert "data:image/png;base64" in section, anchor
    assert "star &lt;7&gt;" in html
    assert "<7>" not in html
    assert render_stars_html(data()) == html


def test_nothing_to_show_is_words():
    html = render_stars_html(StarsReportData(title="empty"))
    assert "data:image" not in html
    assert "Too few stars" in html


def test_the_reference_band_has_no_pull():
    figure = stars_plots.plot_offsets(record(truth=np.array([1.02, 1.0, 0.964])))
    assert "rms 0.71" in figure.axes[1].get_title(loc="left")  # pulls 0 and 1
    heights = [bar.get_height() for bar in figure.axes[1].containers[0]]
    np.testing.assert_allclose(np.nan_to_num(heights), [0.0, 0.0, 1.0], atol=1e-9)


def test_bands_of_one_colour_are_told_apart():
    bands = ("PS_g", "PS_z", "2MASS_Ks", "PS_y", "2MASS_H")
    assert len({stars_plots.distinct_color(b, bands) for b in bands}) == 5


def test_residuals_keep_their_sign_and_unit():
    residual = np.full((60, 1), 0.015)
    figure = stars_plots.plot_residuals(np.linspace(0, 1, 60), residual, ["PS_g"], "colour")
    line = [ln for ln in figure.axes[0].lines if len(ln.get_xdata()) == 7]
    medians = line[0].get_ydata() if line else figure.axes[0].containers[0][0].get_ydata()
    np.testing.assert_allclose(medians, 15.0)


def test_hard_stars():
    nan = np.full(3, np.nan)
    lost = StarRecord("x", {"d": np.full(50, 1.0)}, BANDS, nan, nan, np.zeros((50, 3)))
    assert stars_single_plots.plot_corner(lost) is None  # a parameter that does not vary
    assert stars_single_plots.plot_sed(lost) is None
    odd = StarRecord("x", {}, ("mine", "yours"), np.array([15.0, np.nan]), np.array([0.1, np.nan]),
                     np.full((5, 2), 15.0))  # fmt: skip
    labels = stars_single_plots.plot_sed(odd).axes[1].get_xticklabels()
    assert [t.get_text() for t in labels] == ["mine", "yours"]


def test_sky_across_zero_longitude():
    lon = np.array([359.5, 359.9, 0.1, 0.4])
    figure = stars_plots.plot_sky(lon, np.zeros(4), [("x", np.arange(4.0), False)])
    low, high = sorted(figure.axes[0].get_xlim())
    assert high - low < 2
