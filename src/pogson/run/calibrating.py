"""Third stage: calibrated catalogue and calibrated image of one exposure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pogson.run.config import RunConfig
from pogson.run.plan import ExposureTask

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.calib import PhotoCalib

__all__ = ["CalibrateJob", "calibrate_exposure"]


@dataclass(frozen=True)
class CalibrateJob:
    """What `calibrate_exposure` needs, as plain values that travel between processes.

    Parameters
    ----------
    config : RunConfig
        The configuration.
    task : ExposureTask
        The exposure.
    reference_area : float or None
        Reference pixel area of the survey, arcsec2.
    table, record, zero_point : str
        Files that the stages before wrote.
    catalog : str
        Catalogue to write.
    image : str or None
        Image to write; None: none.
    """

    config: RunConfig
    task: ExposureTask
    reference_area: float | None
    table: str
    record: str
    zero_point: str
    catalog: str
    image: str | None


def calibrate_exposure(job: CalibrateJob) -> dict[str, Any]:
    """Write the calibrated catalogue, and the calibrated image if asked for.

    Parameters
    ----------
    job : CalibrateJob
        What to read and write.

    Returns
    -------
    dict
        ``n_rows``.
    """
    from pogson.calib import FluxReference, PhotoCalib
    from pogson.calib.catalog import calibrate_catalog
    from pogson.formats import read_catalog, write_catalog

    record = json.loads(Path(job.record).read_text(encoding="utf-8"))
    found = json.loads(Path(job.zero_point).read_text(encoding="utf-8"))
    calib = PhotoCalib.from_dict(found["photo_calib"])
    table = calibrate_catalog(calib, read_catalog(job.table), columns=[record["flux_column"]])
    if "flux_psf" in table.colnames and calib.reference.kind == "total":
        # A PSF flux is a total flux in the PSF model's own normalisation.
        psf = FluxReference.from_dict(table["flux_psf"].info.meta["reference"])
        if psf.normalization == calib.reference.normalization:
            table = calibrate_catalog(calib.with_(reference=psf), table, columns=["flux_psf"])
    if calib.reference.kind == "total":
        table = _with_apertures(table, calib)
    table.meta.update(
        exposure_id=record["exposure_id"],
        detector=record["detector"],
        band=record["band"],
        mjd=record["values"].get("mjd"),
        airmass=record["values"].get("airmass"),
        main_flux=record["flux_column"].replace("flux_", "njy_", 1),
        flux_from=record["flux_from"],
        photo_calib=calib.to_dict(),
    )
    write_catalog(job.catalog, table)
    if job.image is not None:
        _write_image(job, record, calib)
    return {"n_rows": len(table)}


def _with_apertures(table: Table, calib: PhotoCalib) -> Table:
    """Return the table with nJy for the apertures too, each under its own reference.

    A calibration of total fluxes is the scale of light: it turns the light inside any aperture into
    the nJy inside that aperture, which is less than the total. A calibration fitted to the fluxes
    of one aperture holds that aperture's losses and says nothing about another.
    """
    from pogson.calib import FluxReference
    from pogson.calib.catalog import calibrate_catalog

    for name in list(table.colnames):
        meta = table[name].info.meta or {}
        if not name.startswith("flux_aperture_") or "reference" not in meta:
            continue
        aperture = FluxReference.from_dict(meta["reference"])
        table = calibrate_catalog(calib.with_(reference=aperture), table, columns=[name])
        stem = name.removeprefix("flux_")
        table.remove_columns([f"mag_{stem}", f"mag_{stem}_err"])
        for key in (f"njy_{stem}", f"njy_{stem}_err"):
            table[key].description += ": the light inside it, not a total flux"
    return table


def _write_image(job: CalibrateJob, record: dict[str, Any], calib: Any) -> None:
    from pogson.formats import write_exposure
    from pogson.images.background import Background
    from pogson.run.measuring import open_exposure

    assert job.image is not None
    exposure = open_exposure(job.config, job.task, job.reference_area)
    if record["background"] is not None and exposure.background is None:
        exposure = exposure.with_background(Background.from_dict(record["background"]))
    if (
        job.config.output.background_subtracted
        and exposure.background is not None
        and not exposure.background_subtracted
    ):
        exposure = exposure.subtract_background()
    write_exposure(job.image, exposure.with_(photo_calib=calib).calibrated())
