"""Grids of stellar models in HDF5, in the layout of brutus, with provenance."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.atomic import atomic_path
from pogson.errors import FileFormatError, MaskedDataError, PogsonValueError, PogsonWarning
from pogson.stars.grid import StellarGrid, missing_name

__all__ = ["GridContents", "grid_contents", "read_grid", "write_grid"]

LAST_MAIN_SEQUENCE_EEP = 454.0
"""Equivalent evolutionary point of the end of core hydrogen burning (Dotter 2016, table 2)."""

_COEFFICIENTS, _LABELS, _PREDICTIONS, _ERRORS = (
    "mag_coeffs", "labels", "parameters", "fit_error"
)  # fmt: skip


@dataclass(frozen=True)
class GridContents:
    """What a grid file holds, without its numbers.

    Parameters
    ----------
    n_models : int
        Number of rows.
    bands, labels, predictions : tuple of str
        Names of filters, of the lattice's labels and of predictions.
    digest : str or None
        Digest of the grid when pogson wrote the file.
    provenance : mapping
        What the file says of its origin.

    Examples
    --------
    >>> GridContents(10, ("PS_g",), ("mini",), (), None, {}).bands
    ('PS_g',)
    """

    n_models: int
    bands: tuple[str, ...]
    labels: tuple[str, ...]
    predictions: tuple[str, ...]
    digest: str | None
    provenance: Mapping[str, Any]


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a grid file for reading and check that it is one."""
    import h5py

    name = os.fspath(path)
    if not os.path.isfile(name):
        why = "is a folder; name a file in it" if os.path.isdir(name) else "does not exist"
        raise FileFormatError(f"{name} {why}.")
    try:
        file = h5py.File(path, "r")
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())
        raise FileFormatError(
            f"Cannot open {name} as HDF5, which files of models are: {said}."
        ) from error
    with file:
        data = file.get(_COEFFICIENTS)
        names = None if data is None else getattr(data.dtype, "names", None)
        if not names or data.ndim != 1:
            raise FileFormatError(
                f"{os.fspath(path)} is not a grid of stellar models: it needs a dataset "
                f"'{_COEFFICIENTS}' with one field a filter; it has {sorted(file)}."
            )
        wrong = [n for n in names if data.dtype[n].shape != (3,)]
        if wrong:
            raise FileFormatError(
                f"Filters {wrong[:5]} of {os.fspath(path)} do not hold 3 coefficients a model but "
                f"{data.dtype[wrong[0]].shape}."
            )
        for other in (_LABELS, _PREDICTIONS, _ERRORS):
            if other in file and (
                file[other].shape != data.shape or file[other].dtype.names is None
            ):
                raise FileFormatError(
                    f"'{other}' of {os.fspath(path)} must be a table of {data.shape[0]} rows, one "
                    f"a model; it has shape {file[other].shape} and dtype {file[other].dtype}."
                )
        try:
            yield file
        except OSError as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(f"Cannot read {os.fspath(path)}: {error}") from error


def _fields(file: Any, dataset: str) -> tuple[str, ...]:
    return tuple(file[dataset].dtype.names) if dataset in file else ()


def _provenance(file: Any) -> dict[str, Any]:
    """Return what a file says of itself."""
    out: dict[str, Any] = {}
    text = file.attrs.get("pogson_provenance")
    if text is not None:
        try:
            out.update(json.loads(text))
        except (ValueError, TypeError) as error:
            raise FileFormatError(
                f"The provenance of {file.filename} is not JSON: {error}."
            ) from error
    for name in ("reference_distance_pc", "brutus_version", "creation_date"):
        if name in file.attrs:
            value = file.attrs[name]
            out.setdefault(name, value.item() if isinstance(value, np.generic) else str(value))
    return out


def grid_contents(path: str | os.PathLike[str]) -> GridContents:
    """Return what a grid file holds, without reading its numbers.

    Raises
    ------
    FileFormatError
        If the file is not a grid.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from pogson.stars import simulated_grid
    >>> path = write_grid(simulated_grid(200), pathlib.Path(tempfile.mkdtemp()) / "grid.h5")
    >>> grid_contents(path).bands[:3]
    ('PS_g', 'PS_r', 'PS_i')
    """
    with _opened(path) as file:
        digest = file.attrs.get("pogson_digest")
        return GridContents(
            int(file[_COEFFICIENTS].shape[0]),
            _fields(file, _COEFFICIENTS),
            _fields(file, _LABELS),
            _fields(file, _PREDICTIONS),
            None if digest is None else str(digest),
            _provenance(file),
        )


def _read_columns(file: Any, dataset: str, names: Iterable[str]) -> np.ndarray:
    """Return some fields of a table, as one structured array; nothing else is kept in memory."""
    wanted = list(names)
    if not wanted or dataset not in file:
        return np.empty(file[_COEFFICIENTS].shape[0], np.dtype([]))
    return np.asarray(file[dataset].fields(wanted)[:])


def _coefficient_array(file: Any, bands: tuple[str, ...], dataset: str = _COEFFICIENTS) -> Any:
    """Return fields of one type as a plain float32 array, the fields along axis 1."""
    table = _read_columns(file, dataset, bands)
    return np.stack([np.asarray(table[b], np.float32) for b in bands], axis=1)


def _drop_empty(table: np.ndarray) -> np.ndarray:
    """Return a table without the columns that are NaN in every row."""
    names = [n for n in table.dtype.names or () if not np.isnan(table[n]).all()]
    out = np.empty(table.shape, [(n, np.float64) for n in names])
    for name in names:
        out[name] = table[name]
    return out


def _phase_cut(
    columns: Mapping[str, np.ndarray], ms: bool, postms: bool, binaries: bool, n: int
) -> np.ndarray:
    """Return which rows the options for phase and binaries keep."""
    if not ms and not postms:
        raise PogsonValueError(
            "include_ms and include_postms are both False: no model is left. Set one to True."
        )
    kept = np.ones(n, bool)
    eep, smf = columns.get("eep"), columns.get("smf")
    if eep is not None and ms != postms:
        with np.errstate(invalid="ignore"):
            kept &= eep <= LAST_MAIN_SEQUENCE_EEP if ms else eep > LAST_MAIN_SEQUENCE_EEP
    if smf is not None and not binaries:
        kept &= smf == 0.0
    return kept


def read_grid(
    path: str | os.PathLike[str],
    *,
    bands: Iterable[str] | None = None,
    labels: Iterable[str] | None = None,
    include_ms: bool = True,
    include_postms: bool = True,
    include_binaries: bool = False,
) -> StellarGrid:
    """Read a grid of stellar models from an HDF5 file in the layout of brutus.

    Parameters
    ----------
    path : path-like
        The file.
    bands : iterable of str, optional
        Filters to read, in this order; default all, in the file's order. Only these are kept in
        memory.
    labels : iterable of str, optional
        Labels and predictions to keep; default all that have a number.
    include_ms, include_postms : bool, optional
        Whether to keep models up to the end of the main sequence (EEP <= 454), and those beyond.
    include_binaries : bool, optional
        Whether to keep models with a companion (``smf`` above 0).

    Returns
    -------
    StellarGrid
        `StellarGrid.row` is the row in the file, whatever the options.

    Raises
    ------
    MissingDataError
        If a filter or label asked for is not in the file; the message lists those that are.
    FileFormatError
        If the file is not a grid, or not the grid its digest says.
    MaskedDataError
        If no model is left.

    Warns
    -----
    PogsonWarning
        If models are left out because a coefficient in a band asked for is not finite; the number
        is in ``provenance["rows_not_finite"]`` too.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from pogson.stars import simulated_grid
    >>> path = write_grid(simulated_grid(200), pathlib.Path(tempfile.mkdtemp()) / "grid.h5")
    >>> read_grid(path, bands=["2MASS_J", "PS_g"], labels=["mini", "eep"])
    StellarGrid(184 models, 2 bands: 2MASS_J PS_g, labels: mini eep)
    """
    with _opened(path) as file:
        available = _fields(file, _COEFFICIENTS)
        asked = available if bands is None else _names(bands)
        for band in asked:
            if band not in available:
                raise missing_name(band, available, "filter", f"{os.fspath(path)}")
        inputs, outputs = _fields(file, _LABELS), _fields(file, _PREDICTIONS)
        wanted = (*inputs, *outputs) if labels is None else _names(labels)
        for name in wanted:
            if name not in (*inputs, *outputs):
                raise missing_name(name, [*inputs, *outputs], "label", f"{os.fspath(path)}")
        coefficients = _coefficient_array(file, asked)
        cuts = [n for n in ("eep", "smf") if n in (*inputs, *outputs)]
        table = _read_columns(file, _LABELS, [n for n in inputs if n in {*wanted, *cuts}])
        # a name in both tables is a prediction of the fit of tracks to it: the input counts
        outs = [n for n in outputs if n in {*wanted, *cuts} and n not in inputs]
        predicted = _read_columns(file, _PREDICTIONS, outs)
        errors = _coefficient_array(file, asked, _ERRORS) if _ERRORS in file else None
        provenance, digest = _provenance(file), file.attrs.get("pogson_digest")
    columns = {n: t[n] for t in (table, predicted) for n in t.dtype.names or ()}
    n = len(coefficients)
    kept = _phase_cut(columns, include_ms, include_postms, include_binaries, n)
    finite = np.isfinite(coefficients).all(axis=(1, 2))
    lost = int(np.sum(kept & ~finite))
    if lost:
        provenance["rows_not_finite"] = lost
        warnings.warn(
            f"{lost} of {n} models of {os.fspath(path)} have coefficients that are not finite in "
            f"the filters read; they are left out.",
            PogsonWarning,
            stacklevel=2,
        )
    kept &= finite
    if not kept.any():
        raise MaskedDataError(
            f"None of the {n} models of {os.fspath(path)} is left: include_ms={include_ms}, "
            f"include_postms={include_postms}, include_binaries={include_binaries}, {lost} not "
            f"finite."
        )
    provenance["file"] = os.path.basename(os.fspath(path))
    grid = _assemble(coefficients, asked, (table, predicted), errors, kept, wanted, provenance)
    whole = kept.all() and asked == available and set(inputs) <= set(wanted)
    if digest is not None and whole and grid.labels.dtype.names == inputs:
        _check_digest(grid, str(digest), path)
    return grid


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(map(str, names))


def _check_digest(grid: StellarGrid, digest: str, path: Any) -> None:
    if grid.digest != digest:
        raise FileFormatError(
            f"{os.fspath(path)} says its grid has digest {digest[:16]}... but its numbers have "
            f"{grid.digest[:16]}...: the file was changed or damaged. Make or fetch it again."
        )


def _assemble(
    coefficients: np.ndarray,
    bands: tuple[str, ...],
    tables: tuple[np.ndarray, np.ndarray],
    errors: np.ndarray | None,
    kept: np.ndarray,
    wanted: tuple[str, ...],
    provenance: dict[str, Any],
) -> StellarGrid:
    """Return the grid of the rows kept."""
    everything = bool(kept.all())
    chosen = [t if everything else t[kept] for t in tables]
    named = [t[[n for n in t.dtype.names or () if n in wanted]] for t in chosen]
    return StellarGrid(
        coefficients if everything else coefficients[kept],
        bands,
        _drop_empty(named[0]),
        _drop_empty(named[1]),
        np.flatnonzero(kept),
        provenance,
        None if errors is None else errors[kept],
    )


def write_grid(
    grid: StellarGrid, path: str | os.PathLike[str], *, compression: int | None = 4
) -> str:
    """Write a grid in the HDF5 layout of brutus, with provenance; the file appears whole or not.

    Parameters
    ----------
    grid : StellarGrid
        The grid.
    path : path-like
        File to write; an older one is replaced.
    compression : int or None, optional
        Level of gzip, 1 to 9; None for a larger file that reads faster.

    Returns
    -------
    str
        The path.

    Raises
    ------
    FileFormatError
        If the file cannot be written (no space, no permission).

    Notes
    -----
    ``mag_coeffs`` (one field of three float32 a filter), ``labels`` and ``parameters`` (float64)
    are what brutus reads. Beside them: ``fit_error``, and the attributes ``pogson_digest``,
    ``pogson_provenance`` (JSON), ``reference_distance_pc``, ``n_models_valid`` and ``filters``.
    The same grid gives the same bytes.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from pogson.stars import simulated_grid
    >>> grid = simulated_grid(200)
    >>> path = write_grid(grid, pathlib.Path(tempfile.mkdtemp()) / "grid.h5")
    >>> read_grid(path) == grid
    True
    """
    import h5py

    if not isinstance(grid, StellarGrid):
        raise PogsonValueError(f"write_grid takes a StellarGrid, not {type(grid).__name__}.")
    table = np.empty(grid.n_models, [(b, "<f4", (3,)) for b in grid.bands])
    for j, band in enumerate(grid.bands):
        table[band] = grid.coefficients[:, j]
    tables = {_COEFFICIENTS: table, _LABELS: grid.labels, _PREDICTIONS: grid.predictions}
    if grid.fit_error is not None:
        errors = np.empty(grid.n_models, [(b, "<f4") for b in grid.bands])
        for j, band in enumerate(grid.bands):
            errors[band] = grid.fit_error[:, j]
        tables[_ERRORS] = errors
    packing: dict[str, Any] = {}
    if compression is not None:
        packing = {"compression": "gzip", "compression_opts": compression, "shuffle": True}
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for name, values in tables.items():
            if values.dtype.names:
                file.create_dataset(name, data=values, **packing)
        file.attrs["pogson_digest"] = grid.digest
        file.attrs["pogson_provenance"] = json.dumps(
            {k: v for k, v in grid.provenance.items() if k != "file"}, sort_keys=True
        )
        file.attrs["reference_distance_pc"] = 1000.0
        file.attrs["n_models_valid"] = grid.n_models
        file.attrs["filters"] = [b.encode("ascii") for b in grid.bands]
    return os.fspath(path)
