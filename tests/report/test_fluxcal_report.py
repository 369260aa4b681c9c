"""The page of a flux calibration: complete, self-contained, honest about what is absent."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest

from pogson.report import fluxcal_plots as plots
from pogson.report.fluxcal_data import FluxCalReportData, StandardRecord
from pogson.report.fluxcal_page import render_fluxcal_html, write_fluxcal_report

LAM = np.linspace(4000.0, 9000.0, 800)
REGIONS = ((6860.0, 6960.0), (7590.0, 7700.0))


def star(name, used=True, level=1.0, rng=None):
    rng = rng or np.random.default_rng(1)
    model = 1e-15 * (LAM / 5000.0) ** -2
    noise = 0.03 * model
    flux = model * level + rng.normal(0, 1, LAM.size) * noise
    values = {
        "fibre": 3, "used": used, "rejected": "" if used else "a <galaxy>", "flags": [],
        "teff": 6100.0, "teff_err": 60.0, "logg": 4.2, "feh": -0.5, "rv_kms": -20.0, "e_bv": 0.03,
        "grey": 0.9, "sn": 33.0, "band_residuals": {"ps1_g": 0.004, "ps1_r": -0.002},
        "band_errors": {"ps1_g": 0.01, "ps1_r": 0.01}, "spectrum_residuals": {"ps1_r": 0.001},
    }  # fmt: skip
    arrays = {
        "wavelength": LAM, "flux": flux, "variance": noise**2, "model": model,
        "counts": flux * 1e17, "fit": model * 1e17, "expected": model * 1e17,
        "ratio": flux / model,
    }  # fmt: skip
    return StandardRecord(name, used, values, arrays)


def data(*stars):
    stars = stars or (star("HD 1"), star("HD 2", level=0.8), star("HD <3>", False, 0.01))
    inside = np.concatenate([np.arange(a, b, 2.5) for a, b in REGIONS])
    response = {
        "wavelength": LAM, "response": 5e14 * np.exp(-(((LAM - 6500) / 3000) ** 2)),
        "noise": np.full(LAM.size, 0.002), "template": np.full(LAM.size, 0.004),
        "telluric_wavelength": inside, "telluric": np.full(inside.size, 0.7),
        "telluric_error": np.full(inside.size, 0.02), "bins": np.log(np.linspace(4100, 8900, 12)),
        "scatter": np.array([np.full(12, 0.004 if s.used else np.nan) for s in stars]),
    }  # fmt: skip
    return FluxCalReportData(
        "A frame", tuple(stars), response, ("ps1_g", "ps1_r"), ("2 of 3 stars used.",),
        {"Airmass": "1.2"}, numbers={"log_scale_error": 0.004, "grey_scatter": 0.1,
                                     "shape_scatter": float("nan")},
        telluric_regions=REGIONS, unmatched={"x": "no fibre"}, config_text="{}",
    )  # fmt: skip


FIGURES = ["plot_star_fits", "plot_calibration_vectors", "plot_star_residuals", "plot_response",
           "plot_telluric", "plot_band_residuals"]  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_figures(name):
    """Each draws, labels its axes with units and keeps its curves inside."""
    figure = getattr(plots, name)(data())
    labels = [a.get_ylabel() + a.get_xlabel() for a in figure.axes if a.get_visible()]
    assert any(labels)
    if name != "plot_band_residuals":
        words = " ".join(labels) + (figure.get_supxlabel() or "")
        assert "wavelength" in words
    figure.savefig(io.BytesIO(), format="png")


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_to_draw(name):
    assert getattr(plots, name)(FluxCalReportData("x")) is None


def test_one_star_that_was_rejected():
    only = data(star("HD 1", False, 0.01))
    for name in FIGURES:
        getattr(plots, name)(only).savefig(io.BytesIO(), format="png")


def test_stars_with_gaps():
    s = star("HD 1")
    arrays = {k: np.array(v) for k, v in s.arrays.items()}
    arrays["flux"][300:900] = np.nan
    arrays["ratio"][300:900] = np.nan
    arrays["variance"][300:900] = np.inf
    for name in FIGURES:
        getattr(plots, name)(data(replace(s, arrays=arrays))).savefig(io.BytesIO(), format="png")


def test_a_rejected_star_has_its_own_shape_in_its_lane():
    bent = star("HD 3", False)
    arrays = dict(bent.arrays) | {"ratio": 0.01 * (1 + 0.02 * (LAM - 6500.0) / 2500.0)}
    figure = plots.plot_star_residuals(data(star("HD 1"), replace(bent, arrays=arrays)))
    curve = next(line.get_ydata() for line in figure.axes[0].lines if line.get_color() == "#b3261e")
    # 2 % up at either end, no trace of the factor of 100
    assert np.ptp(curve) == pytest.approx(4.0, abs=0.6)
    assert curve[0] < curve[-1]


def test_a_telluric_band_that_no_star_tells():
    known = data()
    value = np.where(known.response["telluric_wavelength"] > 7000, np.nan, 0.7)
    for telluric in (value, np.full(value.size, np.nan)):
        figure = plots.plot_telluric(
            replace(known, response={**known.response, "telluric": telluric})
        )
        words = [t.get_text() for a in figure.axes for t in a.texts]
        assert words.count("no star tells it") == (1 if telluric is value else 2)
        figure.savefig(io.BytesIO(), format="png")


def test_the_response_band_is_the_total_error():
    figure = plots.plot_response(data())
    total = next(line for line in figure.axes[1].lines if line.get_label() == "total")
    np.testing.assert_allclose(total.get_ydata(), 100 * np.sqrt(0.002**2 + 0.004**2 + 0.004**2))


def test_page(tmp_path):
    path = write_fluxcal_report(data(), tmp_path / "fluxcal.html")
    html = path.read_text(encoding="utf-8")
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    assert len(pictures) == 6
    assert all(base64.b64decode(p)[:4] == b"\x89PNG" for p in pictures)
    assert "HD &lt;3&gt;" in html
    assert "a &lt;galaxy&gt;" in html
    assert "http:" not in html
    assert "https:" not in html
    assert html == render_fluxcal_html(data())


def test_page_without_stars():
    html = render_fluxcal_html(FluxCalReportData("x", suspicions=("ps1_g looks like Vega",)))
    assert "No star could be matched." in html
    assert "suspicious" in html
