"""A frame of extracted fibre spectra, in counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError, choices
from pogson.sed import air_to_vacuum
from pogson.spectro._checks import check_wavelengths, freeze
from pogson.spectro.containers import PixelMask, Spectrum1D, _Comparable
from pogson.spectro.line_spread import LineSpread

__all__ = ["FibreSpectra"]

_UNITS = ("count", "count/s", "count/Angstrom", "count/s/Angstrom")


@dataclass(frozen=True, eq=False, repr=False)
class FibreSpectra(_Comparable):
    """Extracted spectra of one exposure, one row a fibre.

    Parameters
    ----------
    wavelength : array_like, shape (n_pixel,) or (n_fibre, n_pixel)
        Angstrom, strictly increasing; one grid for all fibres or one for each. Air wavelengths are
        converted to vacuum when ``medium`` says so.
    counts : array_like, shape (n_fibre, n_pixel) or (n_pixel,)
        Sky-subtracted, flat-fielded counts. Zero and negative counts are kept; a count that is
        not finite becomes NaN with inverse variance 0 and `PixelMask.NOT_FINITE`.
    ivar : array_like, same shape as counts
        Inverse variance of the counts, not negative; 0 where nothing is known.
    mask : array_like of int, same shape, optional
        Bits of `PixelMask`; 0 is good.
    lsf_sigma : array_like, shape of wavelength or counts, optional
        Gaussian sigma of the line-spread function in Angstrom at each pixel.
    exposure_time : float, optional
        Seconds; NaN where unknown.
    airmass : float, optional
        Effective airmass; NaN where unknown.
    fibre_ids : sequence of int, optional
        One for each row; 0, 1, 2 ... unless given.
    names : sequence of str, optional
        Name of the target of each row; empty unless given.
    unit : {"count", "count/s", "count/Angstrom", "count/s/Angstrom"}, optional
        What a count is; "count" means per pixel and whole exposure.
    medium : {"vacuum", "air"}, optional
        What ``wavelength`` was measured in. After construction it is always "vacuum".
    meta : mapping, optional
        Anything else; copied.

    Raises
    ------
    PogsonValueError
        If shapes differ, wavelengths do not increase, an inverse variance is negative, or a word
        is unknown.

    Examples
    --------
    >>> frame = FibreSpectra([5000.0, 5001.0, 5002.0], [[10.0, np.nan, -1.0]], [[1.0, 1.0, 0.0]])
    >>> frame
    FibreSpectra(1 fibres x 3 pixels, 5000-5002 Angstrom, 1 good pixels, count)
    >>> frame.mask
    array([[0, 1, 2]], dtype=uint32)
    """

    wavelength: np.ndarray
    counts: np.ndarray
    ivar: np.ndarray
    mask: Any = None
    lsf_sigma: Any = None
    exposure_time: float = float("nan")
    airmass: float = float("nan")
    fibre_ids: Any = None
    names: Any = ()
    unit: str = "count"
    medium: Literal["vacuum", "air"] = "vacuum"
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.medium not in ("vacuum", "air"):
            raise PogsonValueError(
                f"Unknown wavelength medium {self.medium!r}; allowed: 'vacuum' or 'air'."
            )
        if self.unit not in _UNITS:
            raise PogsonValueError(f"Unknown count unit {self.unit!r}; allowed: {choices(_UNITS)}.")
        lam = check_wavelengths(self.wavelength, "the fibre spectra")
        if self.medium == "air":
            lam = np.asarray(air_to_vacuum(lam))
        counts = np.atleast_2d(np.array(self.counts, np.float64))
        ivar = np.atleast_2d(np.array(self.ivar, np.float64))
        self._check_shapes(lam, counts, ivar)
        mask = np.zeros(counts.shape, np.uint32)
        if self.mask is not None:
            mask = np.atleast_2d(np.array(self.mask)).astype(np.uint32)
            if mask.shape != counts.shape:
                raise PogsonValueError(
                    f"The mask has shape {mask.shape} but the counts {counts.shape}."
                )
        if np.any(ivar < 0):
            raise PogsonValueError(
                f"{int((ivar < 0).sum())} inverse variances are negative, the smallest "
                f"{np.nanmin(ivar):g}; give 0 where the noise is unknown. Were variances given?"
            )
        lost = ~np.isfinite(counts)
        mask |= np.where(lost, PixelMask.NOT_FINITE, 0).astype(np.uint32)
        counts[lost] = np.nan
        no_ivar = ~(np.isfinite(ivar) & (ivar > 0))
        mask |= np.where(no_ivar & ~lost & (mask == 0), PixelMask.NO_IVAR, 0).astype(np.uint32)
        ivar[no_ivar | lost | (mask != 0)] = 0.0
        for name, value in (
            ("wavelength", lam),
            ("counts", counts),
            ("ivar", ivar),
            ("mask", mask),
        ):
            object.__setattr__(self, name, freeze(value))
        object.__setattr__(self, "medium", "vacuum")
        object.__setattr__(self, "meta", dict(self.meta or {}))
        self._set_labels()
        self._set_lsf()

    @staticmethod
    def _check_shapes(lam: np.ndarray, counts: np.ndarray, ivar: np.ndarray) -> None:
        if counts.ndim != 2 or ivar.shape != counts.shape:
            raise PogsonValueError(
                f"Counts have shape {counts.shape} and inverse variances {ivar.shape}; both must "
                f"be (n_fibre, n_pixel)."
            )
        if lam.shape not in (counts.shape, counts.shape[1:]):
            raise PogsonValueError(
                f"Wavelengths have shape {lam.shape} but the counts {counts.shape}; give "
                f"({counts.shape[1]},) or {counts.shape}. Fibres are rows; transpose if needed."
            )

    def _set_labels(self) -> None:
        n = self.counts.shape[0]
        ids = np.arange(n) if self.fibre_ids is None else np.array(self.fibre_ids)
        names = tuple(str(x) for x in self.names) or ("",) * n
        if ids.shape != (n,) or len(names) != n:
            raise PogsonValueError(
                f"There are {n} fibres but {ids.size} fibre ids and {len(names)} names."
            )
        if np.unique(ids).size != n:
            raise PogsonValueError("The fibre ids are not all different; each names one row.")
        object.__setattr__(self, "fibre_ids", freeze(ids))
        object.__setattr__(self, "names", names)
        for name in ("exposure_time", "airmass"):
            value = float(getattr(self, name))
            if value <= 0 or (name == "airmass" and value < 1.0 - 1e-3):
                low = "positive" if name == "exposure_time" else "at least 1"
                raise PogsonValueError(
                    f"The {name.replace('_', ' ')} is {value:g}; it must be {low} (or NaN where "
                    f"unknown)."
                )
            object.__setattr__(self, name, value)

    def _set_lsf(self) -> None:
        if self.lsf_sigma is None:
            return
        sigma = np.array(self.lsf_sigma, np.float64)
        if sigma.shape == (1, *self.wavelength.shape) and self.wavelength.ndim == 1:
            sigma = sigma[0]
        if sigma.shape not in (self.wavelength.shape, self.counts.shape):
            raise PogsonValueError(
                f"The LSF has shape {sigma.shape}; give {self.wavelength.shape} or "
                f"{self.counts.shape}."
            )
        if not np.all(np.isfinite(sigma) & (sigma >= 0)):
            raise PogsonValueError(
                f"{int((~(sigma >= 0)).sum())} LSF sigmas are negative or not finite; interpolate "
                f"over them."
            )
        object.__setattr__(self, "lsf_sigma", freeze(sigma))

    @property
    def n_fibres(self) -> int:
        """Number of fibres."""
        return int(self.counts.shape[0])

    @property
    def n_pixels(self) -> int:
        """Number of pixels of a fibre."""
        return int(self.counts.shape[1])

    @property
    def good(self) -> np.ndarray:
        """True where a pixel is usable, shape (n_fibre, n_pixel)."""
        return self.ivar > 0

    def row(self, fibre: int | str) -> int:
        """Return the row of a fibre, by its id (int) or the name of its target (str).

        Raises
        ------
        MissingDataError
            If there is none, or more than one of that name.
        """
        if isinstance(fibre, str):
            found = [i for i, name in enumerate(self.names) if name == fibre]
        else:
            found = list(np.flatnonzero(self.fibre_ids == fibre))
        if len(found) != 1:
            some = ", ".join(
                repr(x)
                for x in (self.names if isinstance(fibre, str) else self.fibre_ids.tolist())[:8]
            )
            raise MissingDataError(f"{len(found)} fibres are called {fibre!r}; there is {some} ...")
        return int(found[0])

    def fibre_wavelength(self, row: int) -> np.ndarray:
        """Wavelengths of one row, shape (n_pixel,)."""
        return self.wavelength if self.wavelength.ndim == 1 else self.wavelength[row]

    def line_spread(self, row: int) -> LineSpread | None:
        """Return the line-spread function of one row, or None where none was given."""
        if self.lsf_sigma is None:
            return None
        sigma = self.lsf_sigma if self.lsf_sigma.ndim == 1 else self.lsf_sigma[row]
        return LineSpread.from_sigma(sigma, wavelength=self.fibre_wavelength(row))

    def spectrum(self, row: int) -> Spectrum1D:
        """Return one row as a `Spectrum1D` with variance 1/ivar."""
        ivar = self.ivar[row]
        good = ivar > 0
        variance = np.where(good, 1.0 / np.where(good, ivar, 1.0), 0.0)
        meta = {"fiber_id": int(self.fibre_ids[row]), "fiber_name": self.names[row]}
        meta |= {"exptime": self.exposure_time, "airmass": self.airmass, "bunit": self.unit}
        return Spectrum1D(self.fibre_wavelength(row), self.counts[row], variance, good, meta)

    def select(self, rows: Sequence[int] | np.ndarray) -> FibreSpectra:
        """Return a frame of some rows only."""
        index = np.atleast_1d(np.asarray(rows, int))
        lsf = self.lsf_sigma
        return replace(
            self,
            wavelength=self.wavelength if self.wavelength.ndim == 1 else self.wavelength[index],
            counts=self.counts[index],
            ivar=self.ivar[index],
            mask=self.mask[index],
            lsf_sigma=lsf if lsf is None or lsf.ndim == 1 else lsf[index],
            fibre_ids=self.fibre_ids[index],
            names=tuple(self.names[i] for i in index),
        )

    def __repr__(self) -> str:
        return (
            f"FibreSpectra({self.n_fibres} fibres x {self.n_pixels} pixels, "
            f"{self.wavelength.min():g}-{self.wavelength.max():g} Angstrom, "
            f"{int(self.good.sum())} good pixels, {self.unit})"
        )
