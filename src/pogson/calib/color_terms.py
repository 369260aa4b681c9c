"""Colour terms: transformations between photometric systems, each with its source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError, choices

__all__ = ["ColorTerm", "list_color_terms", "published_color_term"]

_POGSON = 2.5 / np.log(10.0)


@dataclass(frozen=True, slots=True)
class ColorTerm:
    r"""A polynomial in a colour that leads from one band to another.

    .. math:: m_\mathrm{target} = m_\mathrm{base} + \sum_k a_k\,(c - c_0)^k

    Parameters
    ----------
    coefficients : tuple of float
        :math:`a_0, a_1, \ldots` in magnitudes.
    pivot : float
        Colour :math:`c_0`.
    color_range : tuple of 2 floats
        Colours for which it holds; outside, the correction is NaN (never clipped in silence).
    name, base, color, target, base_system, target_system : str or tuple
        What is transformed into what. ``color`` names the two bands of the colour.
    citation : str
        Where the numbers come from.

    Raises
    ------
    PogsonValueError
        If the numbers are not finite or the range is empty.

    Examples
    --------
    >>> term = ColorTerm((0.0, 0.1), pivot=0.5, color_range=(0.0, 2.0))
    >>> term.correction([0.5, 1.5, 9.0])
    array([0. , 0.1, nan])
    """

    coefficients: tuple[float, ...]
    pivot: float = 0.0
    color_range: tuple[float, float] = (-np.inf, np.inf)
    name: str = ""
    base: str = ""
    color: tuple[str, ...] = ()
    target: str = ""
    base_system: str = ""
    target_system: str = ""
    citation: str = ""

    def __post_init__(self) -> None:
        coefficients = tuple(float(c) for c in self.coefficients)
        low, high = (float(v) for v in self.color_range)
        if not coefficients or not np.isfinite([*coefficients, self.pivot]).all():
            raise PogsonValueError(
                f"Colour-term coefficients {self.coefficients!r} and pivot {self.pivot!r} must be "
                "finite, and there must be at least one coefficient."
            )
        if not low < high:
            raise PogsonValueError(f"The colour range {self.color_range!r} is empty.")
        object.__setattr__(self, "coefficients", coefficients)
        object.__setattr__(self, "color_range", (low, high))
        object.__setattr__(self, "color", tuple(self.color))

    def in_range(self, color: Any) -> np.ndarray:
        """Return whether colours lie in the range of the term (False for NaN)."""
        c = np.asarray(color, np.float64)
        with np.errstate(invalid="ignore"):
            return np.asarray((c >= self.color_range[0]) & (c <= self.color_range[1]))

    def correction(self, color: Any) -> np.ndarray:
        """Magnitudes to add to the base band; NaN outside the colour range.

        Parameters
        ----------
        color : array_like
            Colours in magnitudes.
        """
        c = np.asarray(color, np.float64)
        value = np.polynomial.polynomial.polyval(c - self.pivot, self.coefficients)
        return np.where(self.in_range(c), value, np.nan)

    def slope(self, color: Any) -> np.ndarray:
        """Derivative of `correction` with colour; NaN outside the colour range."""
        c = np.asarray(color, np.float64)
        derivative = np.polynomial.polynomial.polyder(self.coefficients)
        value = np.polynomial.polynomial.polyval(c - self.pivot, derivative)
        return np.where(self.in_range(c), value, np.nan)

    def magnitude(self, base: Any, color: Any, base_err: Any = None, color_err: Any = None) -> Any:
        """Transform magnitudes of the base band.

        Parameters
        ----------
        base, color : array_like
            Magnitudes and colours.
        base_err, color_err : array_like, optional
            Standard errors, taken as independent.

        Returns
        -------
        magnitude : numpy.ndarray
            In the target band; NaN outside the colour range.
        magnitude_err : numpy.ndarray
            Only with ``base_err``.

        Examples
        --------
        >>> term = published_color_term("gaia_dr2-decam_z")
        >>> round(float(term.magnitude(18.0, 1.4)), 4)
        17.3651
        """
        mag = np.asarray(base, np.float64) + self.correction(color)
        if base_err is None:
            return mag
        err2 = np.asarray(base_err, np.float64) ** 2
        if color_err is not None:
            err2 = err2 + (self.slope(color) * np.asarray(color_err, np.float64)) ** 2
        return mag, np.sqrt(err2) + 0.0 * mag

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description, read back by `from_dict`."""
        low, high = self.color_range
        return {
            "coefficients": list(self.coefficients),
            "pivot": float(self.pivot),
            "color_range": [v if np.isfinite(v) else None for v in (low, high)],
            "name": self.name,
            "base": self.base,
            "color": list(self.color),
            "target": self.target,
            "base_system": self.base_system,
            "target_system": self.target_system,
            "citation": self.citation,
        }

    @classmethod
    def from_dict(cls, data: Any) -> ColorTerm:
        """Read the description written by `to_dict`.

        Raises
        ------
        PogsonValueError
            If it is not such a description.
        """
        try:
            values = dict(data)
            low, high = values.pop("color_range", (None, None))
            return cls(
                color_range=(-np.inf if low is None else low, np.inf if high is None else high),
                **values,
            )
        except (TypeError, ValueError) as error:
            raise PogsonValueError(f"{data!r} does not describe a colour term: {error}") from None


@lru_cache(maxsize=1)
def _published() -> dict[str, ColorTerm]:
    import tomllib
    from importlib.resources import files

    text = files("pogson.calib").joinpath("color_terms.toml").read_text(encoding="utf-8")
    return {
        name: ColorTerm.from_dict({"name": name, **entry})
        for name, entry in tomllib.loads(text).items()
    }


def list_color_terms() -> list[str]:
    """Return the names of the published colour terms that come with the package.

    Examples
    --------
    >>> "gaia_dr2-decam_z" in list_color_terms()
    True
    """
    return sorted(_published())


def published_color_term(name: str) -> ColorTerm:
    """Return a published colour term by name.

    Parameters
    ----------
    name : str
        One of `list_color_terms`.

    Raises
    ------
    MissingDataError
        If there is none of that name.

    Examples
    --------
    >>> term = published_color_term("gaia_dr2-decam_g")
    >>> term.color_range, len(term.coefficients)
    ((-0.6, 4.1), 13)
    """
    if name not in _published():
        raise MissingDataError(
            f"No published colour term {name!r}; there are {choices(list_color_terms())}."
        )
    return _published()[name]
