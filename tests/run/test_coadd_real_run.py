"""Real DECam cutouts through ``pogson run`` with ``[coadd]``: three bands, a colour picture."""

from __future__ import annotations

import json

import numpy as np

from pogson.formats import read_catalog
from pogson.formats.coadd_files import read_coadd
from pogson.run import load_config, run_survey


def test_testcase3_is_added_and_keeps_the_fluxes_of_its_visits(shared_data, tmp_path):
    data = shared_data("decam-cutouts/testcase3")
    (tmp_path / "survey.toml").write_text(
        f"""
[inputs]
exposures = "{data}/images/**/*_ooi_*.fits"
psf = "auto"
[zero_point]
source = "table"
table = "{data}/survey-ccds-1.fits.gz"
[measure]
background_mesh = 64
calibration_aperture = 2.0
[coadd]
background_mesh = 64
flattening_sed = "dome lamp"
compare_snr = 10
"""
    )
    result = run_survey(load_config(tmp_path / "survey.toml"), workers=1)
    assert result.failures == ()
    made = json.loads((result.folder / "coadd" / "coadd.json").read_text())
    assert len(made["bands"]) >= 2
    n = 0
    for band, entry in made["bands"].items():
        (tile,) = [t for t in entry["tiles"] if t["status"] == "made"]
        coadd = read_coadd(result.folder / "coadd" / tile["file"])
        assert coadd.exposure.unit.to_string() == "nJy"
        assert len(entry["inputs"]) >= 2
        table = read_catalog(result.folder / "stages" / "coadd_check" / f"{band}-0-0.parquet")
        flux, visits = np.asarray(table["flux"]), np.asarray(table["visit_flux"])
        good = np.isfinite(visits)
        pull = (flux - visits)[good] / np.asarray(table["flux_err"])[good]
        print(f"{band}: {good.sum()} sources, (coadd - visits) / error: {np.round(pull, 3)}")
        # the same photons on other pixels
        assert (np.abs(pull) < 0.5).all()
        n += int(good.sum())
    assert n >= 3
    html = result.report.read_text()
    section = html.split('<section id="coadd">')[1].split("</section>")[0]
    assert "Red:" in section
    assert "data:image/png" in section
