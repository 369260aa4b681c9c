"""Figures of a survey solution: each is drawn from real diagnostics, and None where empty."""

from __future__ import annotations

import io

import numpy as np

from pogson.fields import Box
from pogson.report import survey_plots as plots
from pogson.survey import (
    AirmassExtinction,
    Detectors,
    Exposures,
    Observations,
    SolveSettings,
    Stars,
    SurveyTables,
)
from pogson.survey import diagnostics as d
from pogson.survey.star_flats import solve_star_flats


def test_every_figure_is_drawn():
    rng = np.random.default_rng(5)
    box, n, stars = Box(0, 0, 200, 400), 6, 800
    tables = SurveyTables(
        Exposures(np.arange(n) + 1, airmass=rng.uniform(1, 1.6, n), night=np.arange(n) % 2,
                  photometric=np.arange(n) > 0, filter_names=("r",)),
        Detectors(np.array([1, 2]), (box, box)),
    )  # fmt: skip
    star, e = np.repeat(np.arange(stars), n), np.tile(np.arange(n), stars)
    mag = rng.uniform(15, 18, stars)
    obs = Observations.from_columns(
        tables,
        Stars(np.arange(stars), color=rng.uniform(0, 2, stars), reference_mag=mag,
              reference_err=np.full(stars, 0.01), ra=rng.uniform(10, 11, stars),
              dec=rng.uniform(0, 1, stars)),
        star=star, exposure=e, detector=rng.integers(0, 2, star.size), mag_err=0.005,
        x=rng.uniform(0, 199, star.size), y=rng.uniform(0, 399, star.size),
        mag=mag[star] - 25.0 + 0.005 * rng.normal(size=star.size),
    )  # fmt: skip
    solution, flats = solve_star_flats(
        obs, order=1, terms=[AirmassExtinction(prior_sigma=0.1)],
        settings=SolveSettings(held_out=0.1),
    )  # fmt: skip
    o = d.detector_offsets(solution)
    structure = d.structure_function(o.ra, o.dec, o.offset, o.error, [0.0, 0.1, 1.0])
    _, held = d.hold_out_exposures(obs, solution.model.terms, [3])
    trends = [d.residuals_versus(solution, q, bins=5) for q in ("airmass", "color", "mjd")]
    figures = [
        plots.plot_repeatability_by_magnitude({"r": d.repeatability(solution)}),
        plots.plot_superpixels({"r": d.superpixel_map(solution, shape=(4, 2))}, tables.detectors),
        plots.plot_residual_trends({"r": trends}),
        plots.plot_star_flats(flats, tables.detectors),
        plots.plot_structure_functions({"r": structure}),
        plots.plot_held_out(solution.validate(1)),
        plots.plot_held_out_exposures(held),
        plots.plot_nightly(d.nightly_values(solution)),
        plots.plot_reference_map({"r": d.reference_residual_map(solution, cells=4)}),
        plots.plot_survey_zero_points(solution),
        plots.plot_clouds(solution),
        plots.plot_loose_combinations(d.loosest_combinations(solution, 2)),
    ]
    for figure in figures:
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=40)
        assert len(file.getvalue()) > 3000
    assert plots.plot_survey_zero_points(solution, "another") is None
    assert plots.plot_clouds(solution, "star_flat") is None
