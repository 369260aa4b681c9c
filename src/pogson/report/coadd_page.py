"""The sections of the report on coadds."""

from __future__ import annotations

from functools import partial

from pogson.report import coadd_plots as plots
from pogson.report.coadd_data import CoaddReport
from pogson.report.html_parts import (
    Column,
    Section,
    Table,
    figure_section,
    number_cell,
    text_cell,
)

__all__ = ["coadd_sections"]

_MOST_PRODUCTS = 400
_NUMBERS = (
    ("tiles", "tiles", 0),
    ("detector images", "inputs", 0),
    ("inputs a pixel", "mean_inputs", 1),
    ("variance of large sums / that of independent pixels", "noise_total", 3),
    ("sources compared", "n_compared", 0),
    ("coadd − visits, median [mmag]", "median_mmag", 3),
    ("± [mmag]", "median_mmag_err", 3),
    ("empty apertures: scatter / error", "empty_tracked", 3),
    ("diagonal only", "empty_diagonal", 3),
)


def coadd_sections(data: CoaddReport) -> list[Section]:
    """Return the sections on coadds.

    Parameters
    ----------
    data : CoaddReport
        What to show.

    Examples
    --------
    >>> [s.anchor for s in coadd_sections(CoaddReport())]
    ['coadd', 'coadd-counts', 'coadd-fluxes', 'coadd-states']
    """
    colored = data.picture is not None and len(data.picture.images) > 1
    bands = list(data.picture.images) if data.picture is not None else []
    words = (
        f"Red: {bands[-1]}, blue: {bands[0]}"
        + (f", green: {bands[len(bands) // 2]}" if len(bands) > 2 else ", green: their mean")
        + "; inverse hyperbolic sine stretch. Dark grey: not all bands have data."
        if colored
        else "Inverse hyperbolic sine stretch."
    )
    out = [figure_section("coadd", "Coadd", partial(plots.plot_picture, data.picture), words,
                          "There is no finished tile.")]  # fmt: skip
    out[0].tables += _numbers(data)
    out[0].facts = dict(data.facts)
    out.append(figure_section(
        "coadd-counts", "Inputs of the coadd", partial(plots.plot_counts, data.picture),
        "Number of images in each pixel after masks and clipping.", "There is no finished tile.",
    ))  # fmt: skip
    out += _backgrounds(data)
    if data.levels:
        out.append(figure_section(
            "coadd-levels", "Backgrounds matched between visits",
            partial(plots.plot_levels, data.levels),
            "What was taken from each visit so that all agree on the sky between the sources: mean "
            "and range over the sky that it shares with others. What all visits have in common "
            "cannot be told from the sky and stays.",
            "No two visits overlap.",
        ))  # fmt: skip
    out.append(figure_section(
        "coadd-fluxes", "Aperture fluxes on the coadd and on its visits",
        partial(plots.plot_fluxes, data),
        "The flux of each source on the coadd over the mean of its fluxes on the images that were "
        "added, with the same weights; both taken to the total by their PSFs where there are any. "
        "Both hold the same photons: the difference is that of the pixels.",
        "No source is bright, alone and whole on all of its images.",
    ))  # fmt: skip
    if any(b.truth.get("pull", ()) is not None and len(b.truth.get("pull", ()))
           for b in data.bands.values()):  # fmt: skip
        out += _truth(data)
    out.append(_states(data))
    return out


def _numbers(data: CoaddReport) -> list[Table]:
    if not data.bands:
        return []
    nan = float("nan")
    known = [c for c in _NUMBERS if any(b.numbers.get(c[1]) is not None
                                        for b in data.bands.values())]  # fmt: skip
    rows = []
    for band, found in data.bands.items():
        values = [found.numbers.get(key) for _, key, _ in known]
        rows.append([text_cell(band)] + [
            number_cell(nan if v is None else float(v), digits)
            for v, (_, _, digits) in zip(values, known, strict=True)
        ])  # fmt: skip
    return [Table([Column("band", True)] + [Column(c[0]) for c in known], rows)]


def _backgrounds(data: CoaddReport) -> list[Section]:
    """Return one section a band: the first visit of it."""
    out = []
    for band in dict.fromkeys(m.band for m in data.maps):
        some = tuple(m for m in data.maps if m.band == band)
        out.append(figure_section(
            f"coadd-background-{band}", f"Background before and after, {band}",
            partial(plots.plot_backgrounds, some),
            "Medians in cells of the detectors of one visit, each in its own pixels; sources are "
            "not masked in them.",
            "No image.",
        ))  # fmt: skip
    return out


def _truth(data: CoaddReport) -> list[Section]:
    return [
        figure_section(
            "coadd-pulls", "Errors on the coadd", partial(plots.plot_pulls, data),
            "Fluxes at the places of true stars (5 to 100 sigma, with less light of others in the "
            "aperture than a tenth of its error) minus the true ones, over their errors. Resampled "
            "pixels share noise: the diagonal alone claims too small an error.",
            "Too few true stars.",
        ),
        figure_section(
            "coadd-completeness", "Stars above a fixed signal over noise",
            partial(plots.plot_completeness, data),
            "Points: share of true stars whose flux is so many of its errors above zero, with 68 % "
            "binomial (Wilson) intervals; lines: what the errors predict.",
            "Too few true stars.",
        ),
    ]  # fmt: skip


def _states(data: CoaddReport) -> Section:
    names = ("product", "name", "band", "unit", "measure", "flat for", "background",
             "flux reference")  # fmt: skip
    rows = [
        [text_cell(p.what), text_cell(p.name), text_cell(p.band), text_cell(p.unit),
         text_cell(p.measure), text_cell(p.flat_for), text_cell(p.background),
         text_cell(p.reference)]
        for p in data.products[:_MOST_PRODUCTS]
    ]  # fmt: skip
    more = len(data.products) - len(rows)
    section = Section("coadd-states", "State of every image")
    section.tables.append(Table([Column(n, True) for n in names], rows))
    section.caption = (
        "Photometry and coadds take fluence flattened for one fiducial spectrum; backgrounds are "
        "fitted in surface brightness." + (f" {more} more are not shown." if more > 0 else "")
    )
    return section
