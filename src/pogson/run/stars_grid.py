"""Building and inspecting grids of stellar models for `pogson stars grid`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import ConfigError, MissingDataError, choices

if TYPE_CHECKING:
    from pogson.stars import StellarGrid

__all__ = ["build_grid", "describe_grid", "number_list"]

_KINDS = ("mist", "synthetic", "simulated")
_AXES = ("mini", "eep", "feh", "smf", "log_age")
_SOLAR_RADIUS_KPC = 6.957e8 / 3.0856775814913673e19
_MOST = 100_000


def number_list(text: str, name: str = "value") -> list[float]:
    """Return numbers from a text: ``1,2,3`` or ``low:high:step`` (both ends included).

    Raises
    ------
    ConfigError
        If it is neither.

    Examples
    --------
    >>> number_list("0:1:0.25"), number_list("3,5")
    ([0.0, 0.25, 0.5, 0.75, 1.0], [3.0, 5.0])
    """
    try:
        if ":" in text:
            low, high, step = (float(t) for t in text.split(":"))
            if not (step > 0 and high >= low and (high - low) / step < _MOST):
                raise ValueError
            n = int(np.floor((high - low) / step + 1e-9))
            return [round(low + k * step, 10) for k in range(n + 1)]
        return [float(t) for t in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"{name}: {text!r} is neither numbers like 0.5,1,2 nor low:high:step."
        ) from None


def describe_grid(path: str | Path, bands: Sequence[str] | None = None) -> list[str]:
    """Return what a grid file holds, as lines.

    Parameters
    ----------
    path : path-like
        The file.
    bands : sequence of str, optional
        Only these bands.

    Raises
    ------
    FileFormatError, MissingDataError
        If the file is not a grid, or a band is not there.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.stars import simulated_grid, write_grid
    >>> path = write_grid(simulated_grid(500), tempfile.mkdtemp() + "/grid.h5")
    >>> print(describe_grid(path)[0])
    442 models (288 up to the end of the main sequence, 154 beyond), 0 binaries, 0 MB
    """
    from pogson.stars import grid_contents, grid_report, read_grid

    contents = grid_contents(path)
    grid = read_grid(path, bands=list(bands or contents.bands), include_binaries=True)
    lines = grid_report(grid).lines()
    if grid.n_models < contents.n_models:
        lines.insert(1, f"{contents.n_models - grid.n_models} more rows are not finite: left out")
    if bands is None and contents.digest is not None:
        whole = contents.digest == grid.digest
        if not whole and grid.n_models == contents.n_models:
            lines.append(f"WARNING: the file was written with digest {contents.digest}; it changed")
    return lines


def build_grid(
    kind: str,
    path: str | Path,
    *,
    bands: Sequence[str] | None = None,
    law: str | None = None,
    av_max: float = 2.0,
    axes: dict[str, str] | None = None,
    temperatures: str | None = None,
    n_models: int = 4000,
    progress: Callable[[int, int], object] | None = None,
) -> StellarGrid:
    """Build a grid and write it.

    Parameters
    ----------
    kind : {'mist', 'synthetic', 'simulated'}
        MIST models of the installed packages; black-body templates through any filters of
        speclite; or made-up stars.
    path : path-like
        The HDF5 file to write.
    bands : sequence of str, optional
        Bands; for ``"synthetic"`` names of speclite such as ``sdss2010-g``, or ``NAME=sdss2010-g``.
    law : str, optional
        Extinction law.
    av_max : float, optional
        See `pogson.stars.build_mist_grid`.
    axes : mapping of str to str, optional
        Texts for `number_list`, by axis of `pogson.stars.MistLattice`.
    temperatures : str, optional
        Text for `number_list`: effective temperatures of ``"synthetic"``.
    n_models : int, optional
        Size of ``"simulated"``.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Returns
    -------
    StellarGrid

    Raises
    ------
    ConfigError
        If an option does not belong to the kind of grid.
    PogsonError
        As the builders.

    Examples
    --------
    >>> import tempfile
    >>> build_grid("simulated", tempfile.mkdtemp() + "/grid.h5", n_models=500).n_models
    442
    """
    from pogson.stars import write_grid

    if kind not in _KINDS:
        raise ConfigError(f"No grid of kind {kind!r}; allowed: {choices(_KINDS)}.")
    target = Path(path)
    if target.suffix not in (".h5", ".hdf5"):
        raise ConfigError(
            f"A grid is an HDF5 file: give a name ending in .h5, not {target.name!r}."
        )
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"There is no folder {str(target.absolute().parent)!r} to write into.")
    given = {k: v for k, v in (axes or {}).items() if v is not None}
    for name, value, home in (
        ("--" + "/--".join(given), given, "mist"), ("--temperatures", temperatures, "synthetic"),
        ("--law", law if kind == "simulated" else None, "mist or synthetic"),
    ):  # fmt: skip
        if value and kind not in home:
            raise ConfigError(f"{name.replace('_', '-')} is for grids of kind {home}, not {kind}.")
    if kind == "mist":
        grid = _mist(bands, law, av_max, given, progress)
    elif kind == "synthetic":
        grid = _synthetic(bands, law, temperatures, progress)
    else:
        from pogson.stars import simulated_grid

        grid = simulated_grid(n_models) if bands is None else simulated_grid(n_models, bands)
    write_grid(grid, target)
    return grid


def _mist(
    bands: Sequence[str] | None,
    law: str | None,
    av_max: float,
    axes: dict[str, str],
    progress: Callable[[int, int], object] | None,
) -> StellarGrid:
    from pogson.stars import MistLattice, build_mist_grid

    values: dict[str, Any] = {k: number_list(v, f"--{k}") for k, v in axes.items()}
    more: dict[str, Any] = {} if bands is None else {"bands": list(bands)}
    return build_mist_grid(
        lattice=MistLattice(**values), law=law or "CCM89", av_max=av_max, progress=progress, **more
    )


def _synthetic(
    bands: Sequence[str] | None,
    law: str | None,
    temperatures: str | None,
    progress: Callable[[int, int], object] | None,
) -> StellarGrid:
    from pogson.sed import Bandpass, stellar_template
    from pogson.stars import build_synthetic_grid

    if not bands:
        raise ConfigError(
            "A synthetic grid needs filters: --band NAME=FILTER, such as --band "
            "PS_g=sdss2010-g (names of speclite)."
        )
    passes = {}
    for text in bands:
        name, _, filter_name = text.partition("=")
        passes[name] = Bandpass.from_speclite(filter_name or name)
    kelvin = number_list(temperatures or "3500:10000:250", "--temperatures")
    # dwarfs: radii on a mean main sequence, R = (T / 5772 K)^1.4 solar radii
    radius = [(t / 5772.0) ** 1.4 * _SOLAR_RADIUS_KPC for t in kelvin]
    try:
        spectra = [stellar_template(t) for t in kelvin]
    except MissingDataError as error:
        raise ConfigError(f"--temperatures: {error}") from None
    return build_synthetic_grid(
        spectra, passes, {"teff": kelvin}, predictions={"logt": np.log10(kelvin)},
        scale=np.square(radius), law=law or "G23", progress=progress,
    )  # fmt: skip
