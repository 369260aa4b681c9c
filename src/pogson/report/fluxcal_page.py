"""The HTML page of a flux calibration: one self-contained file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pogson.report import fluxcal_plots
from pogson.report.fluxcal_data import FluxCalReportData
from pogson.report.html_parts import (
    Column,
    Section,
    Table,
    figure_section,
    number_cell,
    render_page,
    text_cell,
)

__all__ = ["render_fluxcal_html", "write_fluxcal_report"]

_NUMBERS = (
    ("S/N", "sn", 0), ("Teff [K]", "teff", 0), ("±", "teff_err", 0), ("log g", "logg", 2),
    ("[Fe/H]", "feh", 2), ("±", "feh_err", 2), ("RV [km/s]", "rv_kms", 1), ("±", "rv_kms_err", 1),
    ("E(B−V)", "e_bv", 3), ("±", "e_bv_err", 3), ("fibre transmission", "grey", 3),
    ("slope", "slope", 3), ("χ²", "chi2", 0), ("dof", "ndof", 0), ("misfit [%]", "misfit", 2),
)  # fmt: skip


def _star_tables(data: FluxCalReportData) -> list[Table]:
    columns = [Column("star", True), Column("fibre"), Column("used", True)]
    columns += [Column(n) for n, _, _ in _NUMBERS] + [Column("flags", True)]
    rows = []
    for star in data.stars:
        flags = ", ".join(star.values.get("flags", ()))
        rows.append([
            text_cell(star.name), number_cell(star.number("fibre"), 0),
            text_cell("yes" if star.used else "no", "t good" if star.used else "t bad"),
            *(number_cell(star.number(key), digits, 100.0 if key == "misfit" else 1.0)
              for _, key, digits in _NUMBERS),
            text_cell(flags or "none", "t wrap bad" if flags else "t"),
        ])  # fmt: skip
    bands = [Column("star", True)]
    bands += [Column(f"{b} [mmag]") for b in data.bands]
    left = []
    for star in data.stars:
        values = star.values.get("band_residuals") or {}
        left.append([
            text_cell(star.name),
            *(number_cell(float("nan") if values.get(b) is None else values[b], 1, 1000.0)
              for b in data.bands),
        ])  # fmt: skip
    return [Table(columns, rows), Table(bands, left)]


def _left_out(data: FluxCalReportData) -> Section:
    rejected = {s.name: str(s.values.get("rejected", "")) for s in data.stars if not s.used}
    section = Section("left-out", "What was left out, and why")
    for head, found in (
        ("rejected star", rejected),
        ("row without a star", data.unmatched),
        ("frame that failed", data.failures),
    ):
        if found:
            section.tables.append(
                Table(
                    [Column(head, True), Column("reason", True)],
                    [[text_cell(n), text_cell(why, "t wrap")] for n, why in found.items()],
                )
            )
    section.caption = (
        f"{len(rejected)} of {len(data.stars)} stars rejected, {len(data.unmatched)} rows of the "
        f"table without a usable star, {len(data.failures)} frames failed."
    )
    return section


def _tiles(data: FluxCalReportData) -> list[Mapping[str, str]]:
    used = sum(s.used for s in data.stars)
    tone = "good" if used == len(data.stars) else "bad"
    tiles: list[Mapping[str, str]] = [
        {"value": f"{used} of {len(data.stars)}", "label": "standard stars used", "tone": tone}
    ]
    labels = {
        "log_scale_error": "error of the flux scale",
        "shape_scatter": "scatter of the stars' shapes",
        "grey_scatter": "scatter of fibre losses",
    }
    for key, label in labels.items():
        value = data.numbers.get(key, float("nan"))
        text = f"{100 * value:.2f} %" if value == value else "–"
        tiles.append({"value": text, "label": label, "tone": ""})
    if data.suspicions:
        tiles.append({"value": "suspicious", "label": "system of the magnitudes", "tone": "bad"})
    return tiles


_STAR_CAPTION = (
    "Each star's spectrum through the common calibration, its own fibre loss and slope taken out, "
    "with its model: shifted, reddened, seen through the line spread, scaled to the photometry. "
    "Grey: telluric regions, which the fit of the star leaves out. Rejected stars come first."
)
_VECTOR_CAPTION = (
    "Counts over model of each star, in means of 25 pixels, outside telluric regions. Below, over "
    "the response: the level is the star's fibre loss. The losses of the stars used have a "
    "geometric mean of 1."
)
_RESIDUAL_CAPTION = (
    "What is left of each star's throughput when response, fibre loss and slope are taken out, "
    "with its rms; shapes that stars share would be wrong models, shapes of their own wrong stars."
)
_RESPONSE_CAPTION = (
    "The response above the atmosphere if an extinction curve was given, else with the atmosphere "
    "at the airmass of the standards; without telluric lines. Scale and models are errors that "
    "neighbouring wavelengths and all fibres share: they do not average down."
)
_TELLURIC_CAPTION = (
    "Transmission at the standards' airmass, as the spectrograph sees it; frames at another "
    "airmass get it to the power that saturated oxygen and water lines need."
)
_BAND_CAPTION = (
    "AB magnitudes of each star's model, and of its calibrated spectrum where this covers the "
    "band, less those of the catalogue, with the catalogue's errors. Grey: 0.01 mag. Stars are in "
    "the order of the table. A pattern that all stars share is a matter of zero points."
)


def render_fluxcal_html(data: FluxCalReportData, *, made: str = "") -> str:
    """Return the page as one HTML text.

    Parameters
    ----------
    data : FluxCalReportData
        What to show.
    made : str, optional
        When it was made; empty by default, so that the same data give the same text.

    Returns
    -------
    str
        HTML with style, script and pictures inside; it opens without a network.

    Examples
    --------
    >>> html = render_fluxcal_html(FluxCalReportData(title="My <frame>"))
    >>> "My &lt;frame&gt;" in html, "http" in html
    (True, False)
    """
    plots = fluxcal_plots
    sections = [
        Section("summary", "In words", words=data.headlines, facts=dict(data.facts)),
        Section("stars", "Standard stars", "Click a column's head to sort. Below: synthetic minus "
                "catalogue magnitudes of the models.", tables=_star_tables(data)),
        figure_section("response", "Response", lambda: plots.plot_response(data),
                       _RESPONSE_CAPTION, "No response."),
        figure_section("vectors", "Calibration vectors",
                       lambda: plots.plot_calibration_vectors(data), _VECTOR_CAPTION, "No star."),
        figure_section("residuals", "Residuals by star",
                       lambda: plots.plot_star_residuals(data), _RESIDUAL_CAPTION, "No star."),
        figure_section("telluric", "Telluric transmission", lambda: plots.plot_telluric(data),
                       _TELLURIC_CAPTION, "The spectra reach no telluric region."),
        figure_section("bands", "Magnitudes", lambda: plots.plot_band_residuals(data),
                       _BAND_CAPTION, "No band."),
        figure_section("templates", "Stars and models", lambda: plots.plot_star_fits(data),
                       _STAR_CAPTION, "No star could be matched."),
        _left_out(data),
    ]  # fmt: skip
    return render_page(data, sections, _tiles(data), config_text=data.config_text, made=made)


def write_fluxcal_report(data: FluxCalReportData, path: str | Path, *, made: str = "") -> Path:
    """Write the page to a file, by a temporary name and a rename.

    Parameters
    ----------
    data : FluxCalReportData
        What to show.
    path : str or pathlib.Path
        The HTML file.
    made : str, optional
        See `render_fluxcal_html`.

    Returns
    -------
    pathlib.Path
        The file.

    Examples
    --------
    >>> import tempfile
    >>> write_fluxcal_report(FluxCalReportData("x"), tempfile.mkdtemp() + "/fluxcal.html").name
    'fluxcal.html'
    """
    from pogson.atomic import atomic_write_text

    return atomic_write_text(path, render_fluxcal_html(data, made=made))
