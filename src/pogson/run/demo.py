"""The demo: a simulated survey, the main job on its files, truth beside the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pogson.errors import ConfigError

if TYPE_CHECKING:
    from pogson.run.pipeline import RunResult
    from pogson.run.stages import Listener

__all__ = ["run_demo"]

_STAMP = "simulation.json"
_AUDIT_PER_MEGAPIXEL = 200
_AUDIT = (
    "audit.enabled=true",
    # the simulation knows every star, also those too faint for one exposure
    "audit.neighbors=truth.parquet",
)
_LIMITS = (
    "audit.limits.max_bias_mmag=3",
    "audit.limits.max_pull_mean=0.1",
    "audit.limits.min_pull_rms=0.93",
    "audit.limits.max_pull_rms=1.07",
    "audit.limits.min_bright_completeness=0.97",
    "audit.limits.min_purity=0.98",
    "audit.limits.significance=3",
)
# one zero point an exposure, tied by the stars that exposures share; detectors and bands as cameras
# have them
_SOLVE = (
    'solve.terms=[{kind="exposure_zero_point"}, {kind="detector_zero_point"}, '
    '{kind="color_slope", per_detector=false, gauge=false, pivot=0.5}]',
)
# the middle of the field, where most visits overlap, is added; the flats of the simulated camera
# are made on the sky
_COADD = (
    'coadd.flattening_sed="night sky"',
    "coadd.background_mesh=128",
    "coadd.overlap=40",
)
_COADD_ARCMIN = 5.0  # for detectors of 1024 pixels
_SIZE_FOR_LIMITS = 768  # smaller images hold too few sources to be judged


def run_demo(
    folder: str | Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    size: int = 1024,
    seed: int = 20260101,
    listener: Listener | None = None,
    audit: bool = True,
) -> RunResult:
    """Simulate the demo survey into a folder, calibrate it, and audit the calibration.

    One global solution gives all zero points (`pogson.survey`); the middle of the field is added
    in each band.

    A simulation of the same model and seed that is there already is used again.

    Parameters
    ----------
    folder : path-like
        Simulated files go to ``folder/survey``, results to ``folder/results``.
    workers : int, optional
        Number of processes; default all cores.
    scheduler : str, optional
        Address of a Dask scheduler for the calibration.
    size : int, optional
        Pixels of a detector's side.
    seed : int, optional
        Seed of every random stream.
    listener : object, optional
        Progress display; see `pogson.run.run_survey`.
    audit : bool, optional
        Inject sources and recover them; with limits from a size of 768 pixels on.

    Returns
    -------
    RunResult

    Raises
    ------
    ConfigError
        If the folder holds files of something else.
    """
    from pogson.parallel import usable_cores
    from pogson.run.config import load_config
    from pogson.run.pipeline import run_survey

    root = Path(folder)
    if root.is_dir() and any(root.iterdir()) and not (root / "survey").is_dir():
        raise ConfigError(
            f"{root} holds other files; give 'pogson demo' an empty or new folder with --output."
        )
    config_file = _simulated(root / "survey", size, seed, workers or usable_cores(), listener)
    config = load_config(
        config_file,
        (*_SOLVE, *_coadd(size), *(_audit(size) if audit else ())),
        output=root / "results",
    )
    return run_survey(config, workers=workers, scheduler=scheduler, listener=listener)


def _coadd(size: int) -> tuple[str, ...]:
    """Return what the demo adds to the configuration for its coadds: one tile a band."""
    from pogson.simulate import demo_model

    model = demo_model(size)
    side = _COADD_ARCMIN * size / 1024
    tile = max(40, round(60.0 * side / model.camera.pixel_scale) + 1)
    return (
        *_COADD, f"coadd.center=[{model.ra}, {model.dec}]", f"coadd.size=[{side}, {side}]",
        f"coadd.scale={model.camera.pixel_scale}", f"coadd.tile_size={tile}",
    )  # fmt: skip


def _audit(size: int) -> tuple[str, ...]:
    """Return what the demo adds to the configuration of the simulated survey."""
    number = max(1, round(_AUDIT_PER_MEGAPIXEL * (size / 1024) ** 2))
    limits = _LIMITS if size >= _SIZE_FOR_LIMITS else ()
    return (*_AUDIT, f"audit.number={number}", *limits)


def _simulated(folder: Path, size: int, seed: int, workers: int, listener: Listener | None) -> Path:
    """Simulate, unless the same survey is there whole."""
    import json

    from pogson._version import __version__
    from pogson.atomic import atomic_write_text
    from pogson.simulate import demo_model, simulate_survey

    model = demo_model(size)
    stamp = json.dumps([__version__, seed, model.to_dict()], sort_keys=True, default=str)
    path = folder / _STAMP
    config = folder / "survey.toml"
    if path.exists() and config.exists() and path.read_text(encoding="utf-8") == stamp:
        return config
    path.unlink(missing_ok=True)

    def progress(done: int, total: int) -> None:
        if listener is not None:
            listener.advance(f"exposure {done} of {total}", None)

    if listener is not None:
        listener.begin("simulate", model.n_visits)
    made: Any = simulate_survey(model, folder, rng_seed=seed, progress=progress, workers=workers)
    atomic_write_text(path, stamp)
    return Path(made.config)
