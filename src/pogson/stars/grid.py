"""Grids of stellar models: magnitudes at 1 kpc with linear extinction coefficients."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from pogson.errors import (
    BoundsError,
    MissingDataError,
    PogsonTypeError,
    PogsonValueError,
    choices,
)

__all__ = ["LN_FLUX", "StellarGrid", "missing_name", "named_columns"]

LN_FLUX = -0.4 * np.log(10.0)
"""Natural logarithm of the flux ratio of one magnitude, negative."""


def missing_name(name: object, available: Iterable[str], what: str, where: str) -> MissingDataError:
    """Return the error for a name that is not there: nearest name first, then all there are.

    Examples
    --------
    >>> print(missing_name("PS_G", ["PS_g", "PS_r"], "filter", "The grid"))
    The grid has no filter 'PS_G' (did you mean 'PS_g'?); it has: 'PS_g' or 'PS_r'.
    """
    names = list(available)
    folded = {n.casefold(): n for n in names}
    near = difflib.get_close_matches(str(name).casefold(), list(folded), n=1, cutoff=0.5)
    hint = f" (did you mean {folded[near[0]]!r}?)" if near else ""
    return MissingDataError(f"{where} has no {what} {name!r}{hint}; it has: {choices(names)}.")


def named_columns(columns: Mapping[str, Any]) -> np.ndarray:
    """Return a structured float64 array made of named columns of equal length.

    Examples
    --------
    >>> named_columns({"mini": [1.0, 1.1], "feh": [0.0, -0.5]})["feh"]
    array([ 0. , -0.5])
    """
    arrays = {k: np.asarray(v, np.float64) for k, v in columns.items()}
    n = {a.shape for a in arrays.values()}
    if len(n) != 1 or len(next(iter(n))) != 1:
        shapes = {k: a.shape for k, a in arrays.items()}
        raise PogsonValueError(f"Columns must be lists of equal length; they have shapes {shapes}.")
    out = np.empty(next(iter(n)), [(k, np.float64) for k in arrays])
    for name, array in arrays.items():
        out[name] = array
    return out


def _frozen(array: np.ndarray) -> np.ndarray:
    """Return an array marked read-only (a view where it was not ours to mark)."""
    view = array.view()
    view.flags.writeable = False
    return view


def _table(values: Any, n: int, what: str) -> np.ndarray:
    """Return a structured float64 array of n rows."""
    array = named_columns(values) if isinstance(values, Mapping) else np.asarray(values)
    if array.dtype.names is None or array.shape != (n,):
        raise PogsonValueError(
            f"{what} must be a structured array or a mapping of names to columns with {n} rows, "
            f"one a model; got dtype {array.dtype} and shape {array.shape}."
        )
    wanted = np.dtype([(name, np.float64) for name in array.dtype.names])
    return _frozen(array if array.dtype == wanted else array.astype(wanted))


@dataclass(frozen=True, eq=False)
class StellarGrid:
    r"""Stellar models with their photometry as a function of extinction; immutable.

    Parameters
    ----------
    coefficients : array_like of float32, shape (n_models, n_bands, 3)
        Per model and band the magnitude at 1 kpc without extinction, the extinction per
        :math:`A_V` extrapolated to :math:`R_V = 0`, and its slope with :math:`R_V`:
        :math:`m = c_0 + A_V (c_1 + R_V c_2)`. All finite.
    bands : sequence of str
        Name of each band, all different.
    labels : structured array or mapping of columns, n_models rows
        What the models were computed at (the lattice): ``mini`` (solar masses), ``eep``, ``feh``,
        ``afe``, ``smf`` ...
    predictions : structured array or mapping of columns, n_models rows, optional
        What follows from the labels: ``loga`` (log10 years), ``logl``, ``logt``, ``logg``, ``Mr``,
        ``agewt`` ...
    row : array_like of int64, shape (n_models,), optional
        Row of each model in the file or grid it was taken from, so that a selection can be traced
        back. Default 0, 1, 2 ...
    provenance : mapping, optional
        Where the numbers come from; JSON-like values. ``provenance["systems"]`` maps bands to
        ``"AB"`` or ``"Vega"``.
    fit_error : array_like of float32, shape (n_models, n_bands), optional
        Largest error of the extinction formula over the lattice it was fitted on, in magnitudes.

    Raises
    ------
    PogsonValueError
        If shapes do not fit, a coefficient is not finite, or a band is named twice.

    Notes
    -----
    Fluxes are maggies (magnitude 0 is flux 1) in each band's own system. At distance :math:`d` they
    scale with :math:`(1\,\mathrm{kpc}/d)^2`. The layout is that of the grids of brutus (Speagle et
    al. 2025, arXiv:2503.02227).

    ``agewt`` is the Jacobian from the lattice's coordinates to (initial mass, age, metallicity):
    the absolute value of d age / d EEP in years on a lattice in mass and EEP.

    Examples
    --------
    >>> grid = StellarGrid(
    ...     [[[14.7, 0.9, 0.05], [14.2, 0.8, 0.02]]], ["PS_g", "PS_r"], {"mini": [1.0]}
    ... )
    >>> grid
    StellarGrid(1 models, 2 bands: PS_g PS_r, labels: mini)
    >>> grid.magnitudes(0, av=1.0, rv=3.1)
    array([15.755, 15.062])
    """

    coefficients: np.ndarray
    bands: tuple[str, ...]
    labels: np.ndarray
    predictions: np.ndarray = field(default_factory=lambda: np.empty(0))
    row: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    provenance: Mapping[str, Any] = field(default_factory=dict)
    fit_error: np.ndarray | None = None

    def __post_init__(self) -> None:
        coefficients = np.ascontiguousarray(self.coefficients, np.float32)
        bands = (self.bands,) if isinstance(self.bands, str) else tuple(map(str, self.bands))
        if coefficients.ndim != 3 or coefficients.shape[1:] != (len(bands), 3):
            raise PogsonValueError(
                f"The coefficients of a grid of {len(bands)} bands must have shape (n_models, "
                f"{len(bands)}, 3); got {coefficients.shape}."
            )
        if len(set(bands)) != len(bands):
            twice = sorted({b for b in bands if bands.count(b) > 1})
            raise PogsonValueError(f"Bands are named twice: {twice}. Each name must be its own.")
        n = len(coefficients)
        bad = ~np.isfinite(coefficients).all(axis=(1, 2))
        if bad.any():
            raise PogsonValueError(
                f"{int(bad.sum())} of {n} models have coefficients that are not finite, the first "
                f"in row {int(np.flatnonzero(bad)[0])}; drop them (`read_grid` does)."
            )
        self._put("coefficients", _frozen(coefficients))
        self._put("bands", bands)
        self._put("labels", _table(self.labels, n, "labels"))
        empty = not isinstance(self.predictions, Mapping) and np.asarray(self.predictions).size == 0
        nothing = np.empty(n, np.dtype([]))
        self._put("predictions", nothing if empty else _table(self.predictions, n, "predictions"))
        rows = np.asarray(self.row, np.int64)
        rows = np.arange(n) if rows.size == 0 else rows
        if rows.shape != (n,):
            raise PogsonValueError(f"row must have shape ({n},), one a model; got {rows.shape}.")
        self._put("row", _frozen(rows))
        self._put("provenance", MappingProxyType(dict(self.provenance)))
        if self.fit_error is not None:
            errors = np.ascontiguousarray(self.fit_error, np.float32)
            if errors.shape != coefficients.shape[:2]:
                raise PogsonValueError(
                    f"fit_error must have shape {coefficients.shape[:2]}; got {errors.shape}."
                )
            self._put("fit_error", _frozen(errors))

    def _put(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def n_models(self) -> int:
        """Number of models."""
        return len(self.coefficients)

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return len(self.bands)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of labels and predictions, in that order."""
        return tuple(self.labels.dtype.names or ()) + tuple(self.predictions.dtype.names or ())

    @property
    def systems(self) -> dict[str, str]:
        """Photometric system of each band, ``"AB"``, ``"Vega"`` or ``"unknown"``."""
        given = self.provenance.get("systems") or {}
        return {b: str(given.get(b, "unknown")) for b in self.bands}

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) of bands, coefficients and labels: what identifies the grid."""
        h = hashlib.sha256()
        names = "\x1f".join(self.labels.dtype.names or ())
        h.update(("\x1e".join(["pogson grid 1", "\x1f".join(self.bands), names])).encode())
        h.update(np.ascontiguousarray(self.coefficients, "<f4").tobytes())
        for name in self.labels.dtype.names or ():
            h.update(np.ascontiguousarray(self.labels[name], "<f8").tobytes())
        return h.hexdigest()

    def label(self, name: str) -> np.ndarray:
        """Return a column by name, from the labels or the predictions.

        Raises
        ------
        MissingDataError
            If neither has it; the message lists what there is.
        """
        for table in (self.labels, self.predictions):
            if name in (table.dtype.names or ()):
                return np.asarray(table[name])
        raise missing_name(name, self.label_names, "label", "The grid")

    def band_index(self, bands: Iterable[str]) -> np.ndarray:
        """Return the columns of some bands.

        Raises
        ------
        MissingDataError
            If one is not in the grid; the message lists those that are.
        """
        places = {b: i for i, b in enumerate(self.bands)}
        out = []
        for band in bands:
            if band not in places:
                raise missing_name(band, self.bands, "filter", "The grid")
            out.append(places[band])
        return np.array(out, np.intp)

    def select(self, mask: Any) -> StellarGrid:
        """Return the grid of some models, `row` going on to point into the original.

        Parameters
        ----------
        mask : array_like
            Boolean, one a model; or integer indices into this grid.

        Raises
        ------
        PogsonValueError
            If a boolean mask has the wrong length, or nothing is selected.
        BoundsError
            If an index is outside the grid (negative ones are not taken from the end).
        """
        chosen = np.asarray(mask)
        if chosen.dtype == bool:
            if chosen.shape != (self.n_models,):
                raise PogsonValueError(
                    f"A boolean selection must have shape ({self.n_models},), one a model; got "
                    f"{chosen.shape}."
                )
            chosen = np.flatnonzero(chosen)
        index = self._checked(np.atleast_1d(chosen))
        if index.size == 0:
            raise PogsonValueError(
                f"The selection keeps none of the {self.n_models} models; loosen it."
            )
        return StellarGrid(
            self.coefficients[index],
            self.bands,
            self.labels[index],
            self.predictions[index],
            self.row[index],
            self.provenance,
            None if self.fit_error is None else self.fit_error[index],
        )

    def with_bands(self, bands: Iterable[str]) -> StellarGrid:
        """Return the grid with some of its bands, in the order asked."""
        names = (bands,) if isinstance(bands, str) else tuple(bands)
        columns = self.band_index(names)
        return StellarGrid(
            self.coefficients[:, columns],
            names,
            self.labels,
            self.predictions,
            self.row,
            self.provenance,
            None if self.fit_error is None else self.fit_error[:, columns],
        )

    def _checked(self, index: Any) -> np.ndarray:
        """Return valid model indices."""
        array = np.asarray(index)
        if array.size and array.dtype.kind not in "iu":
            raise PogsonTypeError(f"Model indices must be integers; got dtype {array.dtype}.")
        array = array.astype(np.intp)
        bad = (array < 0) | (array >= self.n_models)
        if bad.any():
            raise BoundsError(
                f"{int(bad.sum())} model indices are outside 0 .. {self.n_models - 1}, the first "
                f"is {int(array[bad].ravel()[0])}. Stars without a fit have index -99 in some "
                f"files; drop them first."
            )
        return array

    def magnitudes(
        self, index: Any = None, av: Any = 0.0, rv: Any = 3.3, *, distance_kpc: Any = 1.0
    ) -> np.ndarray:
        """Magnitudes of models behind dust.

        Parameters
        ----------
        index : array_like of int, optional
            Models, any shape; default all.
        av, rv : array_like, optional
            Extinction A_V in magnitudes and R_V, broadcast against ``index``.
        distance_kpc : array_like, optional
            Distance, broadcast against ``index``.

        Returns
        -------
        magnitudes : numpy.ndarray of float64, shape (..., n_bands)
            In each band's own system.
        """
        models = np.arange(self.n_models) if index is None else self._checked(index)
        c = self.coefficients[models].astype(np.float64)
        a, r, d = (np.asarray(v, np.float64)[..., None] for v in (av, rv, distance_kpc))
        return np.asarray(c[..., 0] + a * (c[..., 1] + r * c[..., 2]) + 5.0 * np.log10(d))

    def fluxes(
        self, index: Any = None, av: Any = 0.0, rv: Any = 3.3, *, distance_kpc: Any = 1.0
    ) -> np.ndarray:
        """Fluxes in maggies of models behind dust; arguments as `magnitudes`."""
        return np.exp(LN_FLUX * self.magnitudes(index, av, rv, distance_kpc=distance_kpc))

    @cached_property
    def log_volume(self) -> np.ndarray:
        """Logarithm of the volume each model stands for in (mass, age, metallicity), read-only.

        The product of ``agewt`` (if the grid has it) and the spacing of the lattice in each label
        that varies (`numpy.gradient` of its values; models at the ends stand for whole cells, half
        of which lie outside). Add a mass function and a prior of age and
        metallicity to it, and sums over models approximate integrals. -inf where ``agewt`` is 0.
        """
        out = np.zeros(self.n_models)
        if "agewt" in self.label_names:
            with np.errstate(divide="ignore"):
                out += np.log(np.abs(self.label("agewt")))
        for name in self.labels.dtype.names or ():
            values, place = np.unique(self.labels[name], return_inverse=True)
            if values.size > 1:
                out += np.log(np.gradient(values))[place]
        return _frozen(out)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StellarGrid):
            return NotImplemented
        return (
            self.digest == other.digest
            and self.predictions.dtype == other.predictions.dtype
            and all(
                np.array_equal(self.predictions[n], other.predictions[n], equal_nan=True)
                for n in self.predictions.dtype.names or ()
            )
        )

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        shown = " ".join(self.bands[:10]) + (" ..." if self.n_bands > 10 else "")
        return (
            f"StellarGrid({self.n_models} models, {self.n_bands} bands: {shown}, labels: "
            f"{' '.join(self.label_names)})"
        )
