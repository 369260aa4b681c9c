"""Stage before the coadds: images of a visit with one background, in the state for adding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import MissingDataError
from pogson.run.coadd_config import CoaddConfig

if TYPE_CHECKING:
    from pogson.images import Exposure
    from pogson.sed import Spectrum

__all__ = ["VisitJob", "focal_plane_fit", "prepare_visit"]

_MAP = 24


@dataclass(frozen=True)
class VisitJob:
    """What `prepare_visit` needs.

    Parameters
    ----------
    config : CoaddConfig
        Section ``[coadd]``.
    folder : pathlib.Path
        Where relative paths of the configuration start.
    images : tuple of str
        Calibrated images of the detectors of one visit.
    keys : tuple of str
        Their names.
    outputs : tuple of str
        Images to write.
    record : str
        What was done, to write.
    """

    config: CoaddConfig
    folder: Path
    images: tuple[str, ...]
    keys: tuple[str, ...]
    outputs: tuple[str, ...]
    record: str


def focal_plane_fit(
    exposures: Sequence[Exposure],
    names: Sequence[str],
    *,
    order: int,
    pedestals: bool,
    mesh: int,
    sky_sed: Spectrum | None,
) -> tuple[list[Exposure], str]:
    """Attach one background over all detectors; return them, and the fit in words.

    Parameters
    ----------
    exposures : sequence of Exposure
        Detectors of one visit; those without a detector's name get the one in ``names``.
    names : sequence of str
        Names of the images.
    order, pedestals, mesh, sky_sed
        As `pogson.images.fit_focal_plane_background`.
    """
    from pogson.images import fit_focal_plane_background

    own = [e.detector for e in exposures]
    unnamed = "" in own or len(set(own)) < len(own)
    named = [e.with_(detector=n) if unnamed else e for e, n in zip(exposures, names, strict=True)]
    fit = fit_focal_plane_background(
        named, order=order, pedestals=pedestals, mesh=mesh, sky_sed=sky_sed
    )
    attached = [
        e.with_(detector=o) if unnamed else e for e, o in zip(fit.attach(named), own, strict=True)
    ]
    reduced = fit.chi2 / fit.dof if fit.dof > 0 else float("nan")
    words = (
        f"{len(named)} detector{'s' * (len(named) != 1)}, order {order}: "
        f"chi2 {reduced:.2f} per degree of freedom; "
        f"pedestals within {max(map(abs, fit.pedestals.values())):.4g} {named[0].unit}"
    )
    return attached, words


def prepare_visit(job: VisitJob) -> dict[str, Any]:
    """Write the images of a visit as coadds need them: fluence, fiducial flat, no background.

    Parameters
    ----------
    job : VisitJob
        What to read and write.

    Returns
    -------
    dict
        ``n_images``.

    Raises
    ------
    MissingDataError
        If it is not known for which spectrum an image is flat.
    """
    from pogson.atomic import atomic_write_text
    from pogson.formats import write_exposure
    from pogson.formats.spectrum_words import spectrum_from_words

    config = job.config
    whole = [_flat_known(_opened(p, config, job.folder), config) for p in job.images]
    sed = None
    if config.sky_sed is not None:
        sed = spectrum_from_words(config.sky_sed, folder=job.folder)
    before = [e.restore_background() for e in whole]
    words = "as the images have it"
    if config.background == "focal-plane":
        done, words = focal_plane_fit(
            before, job.keys, order=config.background_order, pedestals=config.pedestals,
            mesh=_mesh(config, before), sky_sed=sed,
        )  # fmt: skip
    elif config.background == "detector":
        done = [_own_background(e, config, sed) for e in before]
        words = "a mesh for each detector"
    else:
        done = whole
    if config.background != "none":
        done = [e.subtract_background() for e in done]
    rows, weighted = [], config.weights == "inverse_variance"
    for key, path, old, new in zip(job.keys, job.outputs, before, done, strict=True):
        ready = new.to_state(
            measure="fluence", sed="fiducial" if new.flattening is not None else None
        )
        write_exposure(path, ready)
        said = {**_said(ready), "weight": _weight(ready) if weighted else 1.0}
        rows.append({"key": key, "file": path, **said, "maps": _maps(old, new)})
    text = json.dumps({"background": words, "images": rows}, allow_nan=False)
    atomic_write_text(job.record, text)
    return {"n_images": len(rows)}


def _weight(exposure: Exposure) -> float:
    """Return one over the variance of its pixels, while they are in memory."""
    from pogson.images import CoaddGrid, CoaddSource, with_weights

    source = CoaddSource.of(exposure)
    return float(with_weights([source], CoaddGrid(source.sky, source.box))[0].weight or 0.0)


def _opened(path: str, config: CoaddConfig, folder: Path) -> Exposure:
    from pogson.run.coadd_states import open_image

    return open_image(path, flat=None if config.flat is None else folder / config.flat)


def _flat_known(exposure: Exposure, config: CoaddConfig) -> Exposure:
    """Return the exposure, with the name of the spectrum that it is flat for."""
    if exposure.flattening_sed is not None:
        return exposure
    if config.flattening_sed is None:
        raise MissingDataError(
            "It is not known for which spectrum the images are flat, and coadds do not mix: say it "
            "by [coadd] flattening_sed = 'name of the spectrum'."
        )
    return exposure.with_(flattening_sed=config.flattening_sed)


def _mesh(config: CoaddConfig, exposures: Sequence[Exposure]) -> int:
    least = min(min(e.box.shape) for e in exposures)
    return max(4, min(config.background_mesh, least // 4))


def _own_background(exposure: Exposure, config: CoaddConfig, sed: Any) -> Exposure:
    from pogson.images import estimate_background

    mesh = max(4, min(config.background_mesh, *exposure.box.shape))
    sky = estimate_background(exposure, mesh=mesh, mask_sources=True, sky_sed=sed)
    return exposure.with_background(sky)


def _said(exposure: Exposure) -> dict[str, Any]:
    calib = exposure.photo_calib
    return {
        "exposure_id": exposure.exposure_id, "detector": exposure.detector,
        "measure": exposure.measure.value, "unit": exposure.unit.to_string(),
        "flattening_sed": exposure.flattening_sed,
        "flattening_known": exposure.flattening is not None,
        "background_subtracted": exposure.background_subtracted,
        "reference": None if calib is None else calib.reference.label,
    }  # fmt: skip


def _maps(before: Exposure, after: Exposure) -> dict[str, Any]:
    """Return medians over a coarse mesh of the image before and after, and the model."""
    from pogson.units import Measure

    surface = Measure.SURFACE_BRIGHTNESS
    known = before.area_ratio is not None
    old = before.to(surface) if known else before
    new = after.to(surface) if known else after
    bad = old.bad()
    out: dict[str, Any] = {"before": _medians(old.image, bad), "after": _medians(new.image, bad)}
    box = before.box
    out |= {"extent": [*box.x_bounds, *box.y_bounds], "surface_brightness": known}
    return out


def _medians(image: np.ndarray, bad: np.ndarray) -> list[list[float | None]]:
    """Return the median of each of at most 24 x 24 blocks; None where nothing is good."""
    ny, nx = image.shape
    rows = np.array_split(np.arange(ny), min(_MAP, ny))
    columns = np.array_split(np.arange(nx), min(_MAP, nx))
    step = max(1, min(ny, nx) // 480)  # some hundred pixels a block are enough
    values = np.where(bad, np.nan, image)
    out: list[list[float | None]] = []
    for r in rows:
        line: list[float | None] = []
        for c in columns:
            part = values[r[0] : r[-1] + 1 : step, c[0] : c[-1] + 1 : step]
            part = part[np.isfinite(part)]
            line.append(float(f"{np.median(part):.6g}") if part.size else None)
        out.append(line)
    return out
