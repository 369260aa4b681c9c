"""Write a simulated survey as the files that a user has, with the truth beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import CalibrationError
from pogson.simulate.model import SurveyModel
from pogson.simulate.render import DetectorImage, render_detector
from pogson.simulate.stars import StarCatalog, draw_stars, reference_catalog, system_ties
from pogson.simulate.visits import Visit, draw_visit
from pogson.units import NJY_AB_MAGNITUDE

if TYPE_CHECKING:
    from astropy.io.fits import Header

__all__ = ["SimulatedSurvey", "field_half_width", "simulate_survey", "truth_table"]


@dataclass(frozen=True)
class SimulatedSurvey:
    """Paths of a simulated survey.

    Parameters
    ----------
    folder : pathlib.Path
        Everything is below it.
    config : pathlib.Path
        ``survey.toml``, ready for ``pogson run``.
    reference_catalog : pathlib.Path
        Reference stars (Parquet): ra, dec, mag_<band>, mag_<band>_err.
    truth_catalog : pathlib.Path
        True total fluxes (Parquet); see `truth_table`.
    truth_exposures : pathlib.Path
        True zero points and conditions of the exposures (JSON).
    images : tuple of pathlib.Path
        Image files, one an exposure with an extension for each detector; masks and weights are
        beside them.
    psfs : tuple of pathlib.Path
        PSF files, one a detector and exposure.

    Examples
    --------
    >>> SimulatedSurvey(Path("d"), Path("d/survey.toml"), *[Path("d")] * 3, (), ()).folder
    PosixPath('d')
    """

    folder: Path
    config: Path
    reference_catalog: Path
    truth_catalog: Path
    truth_exposures: Path
    images: tuple[Path, ...]
    psfs: tuple[Path, ...]


def field_half_width(model: SurveyModel) -> float:
    """Half the side in arcsec of the square of sky that holds every pixel of every visit.

    Examples
    --------
    >>> from pogson.simulate import demo_model
    >>> 300 < field_half_width(demo_model()) < 500
    True
    """
    camera = model.camera
    # the corner under any rotation would be too generous: take the longer half side, stretched
    side = max(
        camera.columns * camera.nx + (camera.columns - 1) * camera.gap,
        camera.rows * camera.ny + (camera.rows - 1) * camera.gap,
    )
    stretch = 1.0 + camera.area_growth + abs(camera.area_tilt)
    return float(0.5 * side * camera.pixel_scale * stretch * 1.01 + model.dither + 20.0)


def simulate_survey(
    model: SurveyModel,
    out_dir: str | Path,
    *,
    rng_seed: int,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 1,
) -> SimulatedSurvey:
    """Simulate a survey and write its files.

    Parameters
    ----------
    model : SurveyModel
        What to simulate.
    out_dir : path-like
        Folder, made if needed; files of the same names are replaced.
    rng_seed : int
        Seed of every random stream. Equal seeds give equal files, whatever ``workers`` is.
    progress : callable, optional
        Called as ``progress(done, total)`` after each exposure.
    workers : int, optional
        Processes.

    Returns
    -------
    SimulatedSurvey
        The paths.

    Raises
    ------
    CalibrationError
        If an exposure could not be made, with the reason.

    Notes
    -----
    Images are flat-fielded on the sky: surface brightness in adu, fluence = image x A / A0 with A0
    the square of `CameraModel.pixel_scale`. There is no zero point in the headers.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.simulate import demo_model
    >>> model = demo_model(size=96).with_(n_visits=1, psf_files="json")
    >>> survey = simulate_survey(model, tempfile.mkdtemp(), rng_seed=1)
    >>> [p.name for p in survey.images], len(survey.psfs)
    (['sim_001001_g_image.fits'], 4)
    """
    from pogson.formats import write_catalog
    from pogson.parallel import get_executor, map_tasks

    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    stars = draw_stars(model, field_half_width(model), rng_seed=rng_seed)
    reference = reference_catalog(model, stars, rng_seed=rng_seed)
    ties = system_ties(model, stars)
    visits = [draw_visit(model, i, rng_seed=rng_seed) for i in range(model.n_visits)]
    tasks = [(model, visit, stars, rng_seed, str(folder)) for visit in visits]
    done = 0

    def report(_: Any) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(tasks))

    with get_executor(workers) as executor:
        results = map_tasks(_write_visit, tasks, executor=executor, progress=report)
    written: list[tuple[Path, list[Path]]] = []
    for result in results:
        if result.error is not None:
            raise CalibrationError(
                f"Exposure {visits[result.index].exposure_id} could not be simulated: "
                f"{result.error.kind}: {result.error.message}"
            )
        written.append(result.value)
    truth = write_catalog(folder / "truth.parquet", truth_table(model, stars, ties))
    catalog = write_catalog(folder / "reference.parquet", reference)
    exposures = _write_truth_json(folder / "truth.json", model, visits, ties, rng_seed)
    config = _write_config(folder / "survey.toml", model)
    return SimulatedSurvey(
        folder,
        config,
        catalog,
        truth,
        exposures,
        tuple(image for image, _ in written),
        tuple(psf for _, psfs in written for psf in psfs),
    )


def truth_table(model: SurveyModel, stars: StarCatalog, ties: dict[str, dict[str, float]]) -> Any:
    """Return the truth as a table.

    Columns ``id, ra, dec, teff, metallicity`` and for each band, all total fluxes in nJy above the
    atmosphere:

    - ``flux_<band>``: in the instrument's own bandpass, on the scale of the reference catalogue:
      tied to the standard system at the colour `SurveyModel.color_pivot`. This is what a zero-point
      fit with a linear colour term about that colour delivers.
    - ``flux_<band>_ab``: in the instrument's own bandpass, on the AB scale.
    - ``flux_<band>_standard``: in the bandpass of the reference catalogue.

    Parameters
    ----------
    model : SurveyModel
        The survey.
    stars : StarCatalog
        The stars.
    ties : dict
        From `system_ties`.

    Examples
    --------
    >>> from pogson.simulate import demo_model, draw_stars, system_ties
    >>> model = demo_model(size=96)
    >>> stars = draw_stars(model, field_half_width(model), rng_seed=1)
    >>> truth_table(model, stars, system_ties(model, stars))["flux_g"].unit
    Unit("nJy")
    """
    import astropy.units as u
    from astropy.table import Table

    out = Table({"id": stars.id, "ra": stars.ra * u.deg, "dec": stars.dec * u.deg})
    for band in (b.name for b in model.bands):
        natural, pivot = stars.flux(band), model.color_pivot
        columns = {
            f"flux_{band}": (
                natural * 10.0 ** (0.4 * ties[band]["tie"]),
                f"own {band} bandpass, tied to the reference catalogue at colour {pivot:g}",
            ),
            f"flux_{band}_ab": (natural, f"own {band} bandpass, AB scale"),
            f"flux_{band}_standard": (
                stars.flux(band, "standard"),
                f"{band} bandpass of the reference catalogue, AB scale",
            ),
        }
        for name, (values, text) in columns.items():
            out[name] = values * u.nJy
            out[name].description = f"true total flux density: {text}"
            out[name].info.meta = {"reference": {"kind": "total"}}
    out["teff"] = stars.teff * u.K
    out["metallicity"] = stars.metallicity
    return out


def _write_visit(
    task: tuple[SurveyModel, Visit, StarCatalog, int, str],
) -> tuple[Path, list[Path]]:
    """Simulate and write one exposure: image, mask and weight files, and PSFs."""
    from astropy.io import fits

    from pogson.atomic import atomic_path

    model, visit, stars, rng_seed, out_dir = task
    stem = f"sim_{visit.exposure_id:06d}_{visit.band.name}"
    primary = _primary_header(visit)
    planes: dict[str, list[Any]] = {
        part: [fits.PrimaryHDU(header=primary)] for part in ("image", "mask", "weight")
    }
    psfs = []
    for index in range(model.camera.n_detectors):
        made = render_detector(model, visit, index, stars, rng_seed=rng_seed)
        header = _detector_header(model, visit, index, made)
        name = model.camera.detector_name(index)
        planes["image"].append(fits.ImageHDU(made.image, header, name=name))
        small = fits.Header()
        small["CCDNUM"] = index + 1
        planes["mask"].append(fits.ImageHDU(made.mask, small, name=name))
        planes["weight"].append(fits.ImageHDU(made.weight, small, name=name))
        psfs.append(_write_psf(Path(out_dir) / "psf", f"{stem}_image.{name}", model, made, visit))
    images = Path(out_dir) / "images"
    # the image comes last: where it is, its mask, weight and PSFs are complete
    for part in ("weight", "mask", "image"):
        with atomic_path(images / f"{stem}_{part}.fits") as temporary:
            fits.HDUList(planes[part]).writeto(temporary, overwrite=True)
    return images / f"{stem}_image.fits", psfs


def _primary_header(visit: Visit) -> Header:
    """Return the cards common to the detectors of an exposure."""
    from astropy.io import fits
    from astropy.time import Time

    cards: dict[str, tuple[Any, str]] = {
        "INSTRUME": ("pogson-sim", "simulated camera"),
        "TELESCOP": ("simulated", ""),
        "OBJECT": ("simulated field", ""),
        "EXPNUM": (visit.exposure_id, "exposure number"),
        "FILTER": (visit.band.name, "band"),
        "EXPTIME": (visit.exposure_time, "[s] exposure time"),
        "AIRMASS": (round(visit.airmass, 5), ""),
        "DATE-OBS": (Time(visit.mjd, format="mjd", scale="utc").isot, "start, UTC"),
        "MJD-OBS": (visit.mjd, "start, UTC"),
        "FLATFILE": (f"skyflat_{visit.band.name}", "flat field made on the sky"),
    }
    header = fits.Header()
    for key, card in cards.items():
        header[key] = card
    return header


def _detector_header(model: SurveyModel, visit: Visit, index: int, made: DetectorImage) -> Header:
    """Return the cards of one detector's image."""
    camera, header = model.camera, made.header.copy()
    x, y = camera.box.center
    cards: dict[str, tuple[Any, str]] = {
        "BUNIT": ("adu", "counts of the whole exposure"),
        "CCDNUM": (index + 1, "detector number"),
        "DETECTOR": (camera.detector_name(index), "detector name"),
        "GAIN": (camera.gain, "[electron/adu]"),
        "RDNOISE": (camera.read_noise, "[electron]"),
        "SATURATE": (
            round(camera.full_well / (camera.gain * float(made.flat.max())), 1),
            "[adu] lowest saturated value",
        ),
        "FWHM": (round(float(made.psf.fwhm(x=x, y=y)), 3), "[pixel] seeing at the centre"),
        "AVSKY": (round(made.sky_adu, 2), "[adu] mean sky"),
        "FLATFILE": (f"skyflat_{visit.band.name}", "flat field made on the sky"),
    }
    for key, card in cards.items():
        header[key] = card
    return header


def _write_psf(
    folder: Path, stem: str, model: SurveyModel, made: DetectorImage, visit: Visit
) -> Path:
    """Write the PSF of one detector."""
    from pogson.atomic import atomic_write_text

    folder.mkdir(parents=True, exist_ok=True)
    if model.psf_files == "json":
        path = folder / f"{stem}.json"
        atomic_write_text(path, json.dumps(made.psf.to_dict()))
        return path
    from pogson.formats.psfex import write_psfex

    path = folder / f"{stem}.psf"
    write_psfex(
        made.psf,
        path,
        box=model.camera.box,
        half_size=30,
        detector=stem.rsplit(".", 1)[1],
        exposure=str(visit.exposure_id),
    )
    return path


def _write_truth_json(
    path: Path,
    model: SurveyModel,
    visits: list[Visit],
    ties: dict[str, dict[str, float]],
    rng_seed: int,
) -> Path:
    """Write the true zero points and conditions.

    ``calibration`` is nJy (own bandpass, tied as ``flux_<band>`` of the truth table) per adu of
    total fluence; ``zero_point`` the AB magnitude of one adu in the exposure,
    ``zero_point_per_second`` of one adu per second.
    """
    from pogson.atomic import atomic_write_text

    camera = model.camera
    rows = []
    for visit in visits:
        calibration = visit.calibration(camera) * 10.0 ** (0.4 * ties[visit.band.name]["tie"])
        zero_point = NJY_AB_MAGNITUDE - 2.5 * np.log10(calibration)
        rows.append(
            {
                "exposure": visit.exposure_id,
                "image": f"images/sim_{visit.exposure_id:06d}_{visit.band.name}_image.fits",
                "calibration": calibration,
                "calibration_ab": visit.calibration(camera),
                "zero_point": zero_point,
                "zero_point_per_second": zero_point - 2.5 * np.log10(visit.exposure_time),
                **visit.to_dict(),
            }
        )
    content = {
        "schema": "pogson-simulated-survey",
        "version": 1,
        "rng_seed": rng_seed,
        "reference_pixel_area": camera.reference_pixel_area,
        "measure": "surface_brightness",
        "color": [model.bands[0].name, model.bands[-1].name],
        "color_pivot": model.color_pivot,
        "color_terms": ties,
        "exposures": rows,
        "model": model.to_dict(),
    }
    atomic_write_text(path, json.dumps(content, indent=1))
    return path


def _write_config(path: Path, model: SurveyModel) -> Path:
    """Write the configuration of ``pogson run`` for these files."""
    from pogson.atomic import atomic_write_text

    bands = [b.name for b in model.bands]
    suffix = "psf" if model.psf_files == "psfex" else "json"
    same = ", ".join(f'{b} = "{b}"' for b in bands)
    flux = ", ".join(f'{b} = "flux_{b}"' for b in bands)
    color_term = "fit" if len(bands) > 1 else "none"
    color = f'color = ["{bands[0]}", "{bands[-1]}"]\n' if len(bands) > 1 else ""
    atomic_write_text(
        path,
        f"""# A simulated survey with known truth: run it with `pogson run survey.toml`.

[survey]
name = "simulated survey"
output = "results"

[inputs]
exposures = "images/*_image.fits"
instrument = "pogson-sim"
psf = "psf/{{stem}}.{{detector}}.{suffix}"

[reference]
catalog = "reference.parquet"
bands = {{ {same} }}
{color}
[measure]
# the simulated telescope is distorted: the same pixel value is more flux where pixels are large
reference_pixel_area = {model.camera.reference_pixel_area:.8g}

[zero_point]
color_term = "{color_term}"
color_pivot = {model.color_pivot:g}

[truth]
catalog = "truth.parquet"
bands = {{ {flux} }}
""",
    )
    return path
