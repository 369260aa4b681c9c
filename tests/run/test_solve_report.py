"""The report of a global solution: what it shows of what was put in."""

from __future__ import annotations

import json

import numpy as np
import pytest
from solve_sources_made import SEED, make

from pogson.errors import FileFormatError
from pogson.report import solve_plots
from pogson.report.solve_page import solve_sections
from pogson.run.solve_diagnostics import read_diagnostics
from pogson.run.solve_reporting import solve_report
from pogson.run.solve_run import load_solve_config, run_solve
from pogson.survey import SurveyDiagnostics

CORNER = 150.05, 0.05  # the catalogue's g magnitudes are 0.1 off beyond


def solve(folder, *overrides):
    config = load_solve_config(folder / "solve.toml", ("report.enabled=false", *overrides))
    return run_solve(config, workers=1, kind="serial")


@pytest.fixture(scope="module")
def offset(tmp_path_factory):
    """A reference catalogue that is 0.1 mag off in one corner of one band."""

    def shift(table, reference):
        here = (reference["ra"] > CORNER[0]) & (reference["dec"] > CORNER[1])
        reference["mag_g"][here] += 0.1
        return table, reference

    print("seed", SEED)
    folder = tmp_path_factory.mktemp("offset")
    zero = make(folder, n_stars=900, visits=16, change=shift)
    return zero, solve(folder, "solve.held_out=0.15"), folder


def test_an_offset_of_the_catalogue_is_on_the_map_of_its_band_and_place(offset):
    _, result, _ = offset
    data = solve_report(result.folder)
    figure = solve_plots.plot_solve_references(data)
    maps = {ax.get_title(): ax.images[0] for ax in figure.axes if ax.images and ax.get_title()}
    found = {}
    for band, image in maps.items():
        west, east, south, north = image.get_extent()
        value = np.ma.filled(image.get_array().astype(float), np.nan)
        n = value.shape[0]
        x = west + (np.arange(n) + 0.5) * (east - west) / n
        y = south + (np.arange(n) + 0.5) * (north - south) / n
        edge = 60.0 * (CORNER[0] - 150.0), 60.0 * CORNER[1]
        half = 0.5 * (east - west) / n
        inside = (x[None, :] > edge[0] + half) & (y[:, None] > edge[1] + half)
        outside = (x[None, :] < edge[0] - half) | (y[:, None] < edge[1] - half)
        found[band] = np.nanmedian(value[inside]), np.nanmax(np.abs(value[outside]))
    print(found)
    assert found["g"][0] == pytest.approx(100.0, abs=15.0)
    assert found["g"][1] < 30.0
    assert abs(found["r"][0]) < 10.0
    assert any("g: the reference catalogue is off by" in line for line in result.headlines)
    assert not any("r: the reference catalogue" in line for line in result.headlines)


def test_the_offset_is_not_absorbed(offset):
    """The corner is a ninth of the field: rejected, it leaves the zero points alone."""
    from pogson.formats import read_catalog

    zero, result, _ = offset
    table = read_catalog(result.folder / "exposures.parquet")
    # photo_calib means hold the detectors' mean response, 0.002 mag
    left = table["zero_point"] - (np.array(list(zero.values())) - 0.002)
    for band in "gr":
        assert abs(np.mean(left[table["band"] == band])) < 0.003


def test_every_part_of_the_diagnostics_is_on_the_page(offset):
    _, result, _ = offset
    data = solve_report(result.folder, "made", result.headlines)
    assert data.diagnostics.bands == ("g", "r")
    sections = solve_sections(data)
    anchors = [s.anchor for s in sections]
    for name in ("exposures", "clouds", "pulls", "references", "pit", "held-out", "repeatability",
                 "focal-plane", "trends", "structure", "nightly", "flats", "loose", "table",
                 "suspects"):  # fmt: skip
        assert f"solve-{name}" in anchors
    assert len([s for s in sections if s.image]) == 13
    d = data.diagnostics
    for band in "gr":
        assert np.nanmax(np.abs(d.repeatability[band].ratio - 1.0)) < 0.25
        assert d.superpixels[band].chi2_per_cell < 1.4
        quantities = [b.quantity for b in d.trends[band]]
        assert quantities == ["airmass", "color", "mjd", "magnitude", "radius"]
        assert np.nanmax(d.structure[band].root) < 0.001
    assert len(d.held_out.exposure) == 4
    assert np.all(np.abs(d.held_out.chi2 / d.held_out.degrees_of_freedom - 1.0) < 0.3)
    assert d.held_out.p_value > 0.001
    assert 0.0003 < d.loose[0].sigma < 0.002  # the scale: 675 references of 10 mmag a band
    # the checkerboard of detectors that was put in: 0.004 mag
    flats = [data.flats.get("r", k).magnitudes(x=500.0, y=500.0) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(flats, [0.002, -0.002, -0.002, 0.002], atol=0.0012)


def test_files_come_back_and_broken_ones_are_named(offset, tmp_path):
    _, result, _ = offset
    found, _ = read_diagnostics(result.folder)
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.dumps(SurveyDiagnostics.from_dict(json.loads(text)).to_dict()) == text
    assert read_diagnostics(tmp_path) == (None, None)
    (tmp_path / "diagnostics.json").write_text('{"detectors": 3}')
    with pytest.raises(FileFormatError, match="not diagnostics"):
        read_diagnostics(tmp_path)


def test_a_solution_from_partitions_has_diagnostics_too(tmp_path):
    make(tmp_path, n_stars=200)
    result = solve(tmp_path, "solve.partitions=always", "solve.partition_rows=300")
    data = solve_report(result.folder)
    assert data.diagnostics.bands == ("g", "r")
    assert data.diagnostics.repeatability["g"].detections.sum() > 300
    whole = solve(tmp_path, "survey.output=whole")
    other = solve_report(whole.folder).diagnostics
    a, b = (d.repeatability["g"].scatter for d in (data.diagnostics, other))
    np.testing.assert_allclose(a, b, rtol=0.02)
