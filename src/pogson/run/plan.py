"""From the configuration to the list of exposures: which files, which detectors."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path

from pogson.errors import ConfigError, MissingDataError, PogsonError, choices
from pogson.run.config import RunConfig

__all__ = ["ExposureTask", "plan_exposures"]

_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class ExposureTask:
    """One detector of one exposure: its key in the run and the files that belong to it.

    Parameters
    ----------
    key : str
        Unique name, safe as a file name.
    path : str
        Image file.
    detector : str or int or None
        Image of a file with several; None where there is only one.
    psf, weight, mask : str or None
        Files named by the patterns of the configuration; ``psf`` may be ``"auto"``.
    files : tuple of str
        Every file whose change makes the results stale.
    problem : str
        Why it cannot be measured, if that is known already; it fails with this reason.

    Examples
    --------
    >>> ExposureTask("a", "a.fits", None, None, None, None, ("a.fits",)).key
    'a'
    """

    key: str
    path: str
    detector: str | int | None
    psf: str | None
    weight: str | None
    mask: str | None
    files: tuple[str, ...]
    problem: str = ""


def plan_exposures(config: RunConfig) -> list[ExposureTask]:
    """Return the exposures of a run in a fixed order.

    Parameters
    ----------
    config : RunConfig
        The configuration.

    Returns
    -------
    list of ExposureTask
        Sorted by path, then in the order of the detectors in the file.

    Raises
    ------
    ConfigError
        If a pattern matches nothing, a file is not there, a detector is in none of the files, or
        a pattern for PSF, weight or mask matches not exactly one file for any exposure.
    """
    from pogson.formats import available_instruments, load_instrument

    name = config.inputs.instrument
    if name is not None and not _is_preset_file(config, name):
        allowed = available_instruments()
        if name not in allowed:
            raise ConfigError(
                f"[inputs] instrument = {name!r} is not a preset; allowed: {choices(allowed)}, or "
                "the path of a .toml file with your own."
            )
    elif name is not None:
        load_instrument(config.path(name))
    tasks: list[ExposureTask] = []
    taken: set[str] = set()
    for path in _exposure_files(config):
        found = _detectors(config, path)
        tasks += [_task(config, path, detector, label, taken) for detector, label in found]
    wanted = config.inputs.detectors
    if tasks and all(t.problem for t in tasks):
        raise ConfigError(tasks[0].problem)
    if not tasks:
        raise ConfigError(
            f"[inputs] detectors = {wanted!r}: none of the {len(_exposure_files(config))} exposure "
            f"files has one of them; the first has {_held_detectors(config)}."
        )
    return tasks


def instrument_argument(config: RunConfig) -> str | Path | None:
    """Return the preset as `pogson.formats.read_exposure` takes it.

    Examples
    --------
    >>> config = RunConfig(inputs={"exposures": "a"}, zero_point={"source": "header"})
    >>> instrument_argument(config) is None
    True
    """
    name = config.inputs.instrument
    if name is not None and _is_preset_file(config, name):
        return config.path(name)
    return name


def _is_preset_file(config: RunConfig, name: str) -> bool:
    return name.endswith(".toml") and config.path(name).exists()


def _expand(config: RunConfig, pattern: str) -> list[Path]:
    full = str(config.path(pattern))
    if not _MAGIC.search(pattern):
        return [Path(full)] if Path(full).is_file() else []
    return [Path(p) for p in sorted(glob.glob(full, recursive=True)) if Path(p).is_file()]


def _exposure_files(config: RunConfig) -> list[Path]:
    found: dict[Path, None] = {}
    for pattern in config.inputs.exposures:
        paths = _expand(config, pattern)
        if not paths:
            what = "matches no file" if _MAGIC.search(pattern) else "is not a file"
            raise ConfigError(
                f"[inputs] exposures: {pattern!r} {what} (looked in {config.folder}); give files "
                "or patterns such as 'night1/*.fits'."
            )
        found.update(dict.fromkeys(paths))
    return sorted(found)


def _detectors(config: RunConfig, path: Path) -> list[tuple[str | int | None, str | None]]:
    """Return the detectors of a file, None for its only one, each with its name for patterns.

    A file that cannot be read (name None) fails as its own task, with its reason.
    """
    from pogson.formats.exposures import sniff_instrument
    from pogson.formats.fits_access import is_image, open_fits
    from pogson.formats.instruments import load_instrument

    wanted = config.inputs.detectors
    try:
        preset = load_instrument(instrument_argument(config) or sniff_instrument(path))
        if preset.name == "native" or preset.image_extension:
            return [(None, "")]
        with open_fits(path) as hdus:
            images = [(i, str(h.name).strip()) for i, h in enumerate(hdus) if is_image(h)]
    except PogsonError:
        return [(None, None)]
    if not images:
        return [(None, None)]
    if len(images) <= 1:
        names = {name for _, name in images} - {"", "PRIMARY"}
        wrong = wanted is not None and names and not names & {str(w) for w in wanted}
        return [] if wrong else [(None, next(iter(names), ""))]
    found: list[str | int] = [name or number for number, name in images]
    chosen = found if wanted is None else [d for d in wanted if str(d) in {str(f) for f in found}]
    return [(d, str(d)) for d in chosen]


def _held_detectors(config: RunConfig) -> str:
    """Return in words the detectors of the first exposure file, for a message."""
    inputs = config.inputs.model_copy(update={"detectors": None})
    first = _exposure_files(config)[0]
    found = _detectors(config.model_copy(update={"inputs": inputs}), first)
    names = [label or str(detector) for detector, label in found if label or detector is not None]
    return choices(names) if names else "none with a name"


def pattern_file(
    config: RunConfig,
    key: str,
    pattern: str | None,
    path: Path,
    detector: str,
    section: str = "inputs",
) -> str | None:
    """Return the one file that a pattern names for an exposure.

    Parameters
    ----------
    config : RunConfig
        The configuration.
    key, section : str
        Where the pattern stands, for messages.
    pattern : str or None
        The pattern; None and "auto" are returned as they are.
    path : pathlib.Path
        The exposure file.
    detector : str
        Its detector.

    Raises
    ------
    ConfigError
        If the pattern has an unknown placeholder.
    MissingDataError
        If not exactly one file matches.
    """
    if pattern is None or pattern == "auto":
        return pattern
    values = {
        "stem": path.name.removesuffix(".gz").removesuffix(".fz").rsplit(".", 1)[0],
        "root": path.name.split(".", 1)[0],
        "detector": detector,
        "folder": str(path.parent),
    }
    try:
        filled = pattern.format(**values)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"[{section}] {key} = {pattern!r}: cannot fill in {error}; allowed: "
            "{stem}, {root}, {detector}, {folder}."
        ) from None
    found = _expand(config, filled)
    if len(found) != 1:
        some = "no file" if not found else f"{len(found)} files, such as {found[0]}"
        raise MissingDataError(
            f"[{section}] {key} = {pattern!r} gives {filled!r} for {path.name}, which matches "
            f"{some}; it must match exactly one file."
        )
    return str(found[0])


def _task(
    config: RunConfig, path: Path, detector: str | int | None, label: str | None, taken: set[str]
) -> ExposureTask:
    from pogson.formats.exposures import locate_files, sniff_instrument
    from pogson.formats.instruments import load_instrument

    stem = re.sub(r"\.(fits|fit|fts)(\.(gz|fz))?$", "", path.name)
    key = re.sub(r"[^A-Za-z0-9._+-]+", "_", stem if detector is None else f"{stem}-{detector}")
    number = 2
    unique = key
    while unique in taken:  # files of one name in several folders
        unique, number = f"{key}-{number}", number + 1
    taken.add(unique)
    inputs = config.inputs
    psf = weight = mask = None
    problem = ""
    if label is not None:
        try:
            psf = pattern_file(config, "psf", inputs.psf, path, label)
            weight = pattern_file(config, "weight", inputs.weight, path, label)
            mask = pattern_file(config, "mask", inputs.mask, path, label)
        except MissingDataError as error:
            problem = str(error)
    files = [str(path)]
    try:
        preset = load_instrument(instrument_argument(config) or sniff_instrument(path))
        beside = locate_files(path, preset)
        files += [str(p) for p in (beside.image, beside.mask, beside.weight) if p is not None]
        if psf == "auto":
            from pogson.formats.psf_files import find_psf_file

            psf = str(find_psf_file(beside.image, label or ""))
    except PogsonError:
        pass  # reading fails again in the task itself, where the reason is recorded
    files += [f for f in (psf, weight, mask) if f is not None and f != "auto"]
    return ExposureTask(
        unique, str(path), detector, psf, weight, mask, tuple(dict.fromkeys(files)), problem
    )
