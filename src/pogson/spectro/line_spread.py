"""Line-spread functions: Gaussians whose width follows the wavelength."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import astropy.units as u
import numpy as np

from pogson.errors import PogsonValueError, choices
from pogson.spectro._checks import check_wavelengths, freeze
from pogson.units import strip_unit

__all__ = ["FWHM_PER_SIGMA", "LineSpread"]

FWHM_PER_SIGMA = float(np.sqrt(8.0 * np.log(2.0)))
"""Full width at half maximum of a Gaussian of unit sigma."""

_WHAT = ("sigma", "fwhm", "resolution")


@dataclass(frozen=True, eq=False)
class LineSpread:
    r"""A Gaussian line-spread function of any width at any wavelength; immutable.

    The width at wavelength :math:`\lambda` is that of the image of a monochromatic line of that
    wavelength, before pixels integrate it.

    Parameters
    ----------
    values : array_like
        A polynomial's coefficients :math:`c_0, c_1, ...` in wavelength (Angstrom), or one value
        for each of ``wavelength``.
    wavelength : array_like, shape (n,), optional
        Where ``values`` are sampled (vacuum Angstrom); linear between, constant beyond. Without
        it, ``values`` is a polynomial.
    what : {"sigma", "fwhm", "resolution"}, optional
        What the values are: sigma or full width at half maximum in Angstrom, or
        :math:`R = \lambda / FWHM`.

    Raises
    ------
    PogsonValueError
        If shapes differ or a value is not finite and not allowed.

    Notes
    -----
    Construct with `from_fwhm`, `from_resolution` or `from_sigma`, which read better.

    Examples
    --------
    >>> lsf = LineSpread.from_resolution(2000.0)
    >>> lsf.fwhm([4000.0, 8000.0])
    array([2., 4.])
    >>> LineSpread.from_fwhm([2.0, 1e-4]).fwhm(5000.0)
    array(2.5)
    """

    values: np.ndarray
    wavelength: np.ndarray | None = None
    what: Literal["sigma", "fwhm", "resolution"] = "sigma"

    def __post_init__(self) -> None:
        if self.what not in _WHAT:
            raise PogsonValueError(
                f"Unknown description {self.what!r} of a line-spread function; allowed: "
                f"{choices(_WHAT)}."
            )
        values = np.atleast_1d(np.array(self.values, np.float64))
        if values.ndim != 1 or not np.all(np.isfinite(values)):
            raise PogsonValueError(
                f"The {self.what} of a line-spread function must be a list of finite numbers; got "
                f"shape {values.shape} with {int((~np.isfinite(values)).sum())} not finite."
            )
        if self.wavelength is not None:
            lam = check_wavelengths(self.wavelength, "the line-spread function")
            if lam.shape != values.shape:
                raise PogsonValueError(
                    f"The line-spread function has {values.size} values but wavelengths of shape "
                    f"{lam.shape}."
                )
            object.__setattr__(self, "wavelength", freeze(lam))
            self._check_width(values, lam)
        object.__setattr__(self, "values", freeze(values))

    def _check_width(self, values: np.ndarray, lam: np.ndarray) -> None:
        wrong = ~(values > 0) if self.what == "resolution" else values < 0
        if wrong.any():
            i = np.flatnonzero(wrong)[0]
            allowed = "positive" if self.what == "resolution" else "not negative"
            raise PogsonValueError(
                f"The {self.what} of the line-spread function is "
                f"{np.broadcast_to(values, lam.shape)[i]:g} at {lam[i]:g} Angstrom; it must be "
                f"{allowed}."
            )

    @classmethod
    def from_fwhm(cls, fwhm: Any, wavelength: Any = None) -> LineSpread:
        """Return the LSF of a full width at half maximum in Angstrom.

        Parameters
        ----------
        fwhm : float or array_like
            A constant, polynomial coefficients (constant term first), or samples at
            ``wavelength``.
        wavelength : array_like, optional
            Vacuum Angstrom of the samples.

        Examples
        --------
        >>> LineSpread.from_fwhm(3.0).sigma(6000.0)
        array(1.273983)
        """
        return cls(fwhm, wavelength, "fwhm")

    @classmethod
    def from_resolution(cls, resolution: Any, wavelength: Any = None) -> LineSpread:
        """Return the LSF of a resolving power R = wavelength / FWHM.

        Examples
        --------
        >>> LineSpread.from_resolution([1500.0, 2500.0], [4000.0, 8000.0]).fwhm(6000.0)
        array(3.)
        """
        return cls(resolution, wavelength, "resolution")

    @classmethod
    def from_sigma(cls, sigma: Any, wavelength: Any = None) -> LineSpread:
        """Return the LSF of a Gaussian sigma in Angstrom.

        Examples
        --------
        >>> LineSpread.from_sigma(1.0).sigma([5000.0, 6000.0])
        array([1., 1.])
        """
        return cls(sigma, wavelength, "sigma")

    def sigma(self, wavelength: Any) -> np.ndarray:
        """Gaussian sigma in Angstrom at vacuum wavelengths.

        Raises
        ------
        PogsonValueError
            If a polynomial gives a width below zero (or a resolution that is not positive) there.
        """
        lam = np.asarray(strip_unit(wavelength, u.AA, "wavelength"), np.float64)
        if self.wavelength is None:
            values = np.polynomial.polynomial.polyval(lam, self.values)
            self._check_width(np.atleast_1d(values), np.atleast_1d(lam))
        else:
            values = np.interp(lam, self.wavelength, self.values)
        if self.what == "resolution":
            values = lam / values
        return np.asarray(values if self.what == "sigma" else values / FWHM_PER_SIGMA)

    def fwhm(self, wavelength: Any) -> np.ndarray:
        """Full width at half maximum in Angstrom at vacuum wavelengths."""
        return np.asarray(self.sigma(wavelength) * FWHM_PER_SIGMA)

    def resolution(self, wavelength: Any) -> np.ndarray:
        """Resolving power, wavelength / FWHM, at vacuum wavelengths."""
        lam = np.asarray(strip_unit(wavelength, u.AA, "wavelength"), np.float64)
        return np.asarray(lam / self.fwhm(lam))

    @cached_property
    def key(self) -> str:
        """Digest of the content, the same for equal functions: what caches are keyed by."""
        digest = hashlib.sha256(self.what.encode())
        digest.update(self.values.tobytes())
        if self.wavelength is not None:
            digest.update(b"at" + self.wavelength.tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, LineSpread) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        if self.wavelength is None:
            return f"LineSpread({self.what} polynomial {self.values.tolist()})"
        lam = self.wavelength
        return (
            f"LineSpread({self.what} {self.values.min():g}-{self.values.max():g} sampled at "
            f"{lam.size} wavelengths {lam[0]:g}-{lam[-1]:g} Angstrom)"
        )
