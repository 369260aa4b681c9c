"""Bases for band offsets that vary with magnitude, colour or position."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pogson.errors import PogsonValueError
from pogson.fields import Box, ChebyshevField
from pogson.stars.calibrate_result import BandCalibration

__all__ = ["offset_field", "polynomial_basis", "position_basis"]

Floats = NDArray[np.float64]


def polynomial_basis(order: int, **covariates: ArrayLike) -> tuple[Floats, tuple[str, ...]]:
    """Return a polynomial basis in any covariates, and the names of its terms.

    Parameters
    ----------
    order : int
        Largest total power.
    **covariates : array (stars,)
        Magnitude, colour ...: each is centred on its mean and divided by its standard deviation.

    Returns
    -------
    design : ndarray (stars, terms)
        The first column is ones.
    terms : tuple of str
        Names.

    Examples
    --------
    >>> design, terms = polynomial_basis(1, mag=[14.0, 16.0], colour=[0.5, 1.5])
    >>> terms
    ('constant', 'mag', 'colour')
    >>> design
    array([[ 1., -1., -1.], [ 1., 1., 1.]])
    """
    if order < 0 or not covariates:
        raise PogsonValueError(
            f"order={order} with {len(covariates)} covariates: 0 or more, and at least 1, needed."
        )
    scaled = []
    for name, given in covariates.items():
        values = np.asarray(given, dtype=float)
        if values.ndim != 1 or not np.isfinite(values).all() or not np.std(values) > 0:
            raise PogsonValueError(
                f"Covariate {name!r} must be a list of finite numbers that vary; select the stars "
                "that have it."
            )
        scaled.append((values - values.mean()) / values.std())
    columns, names = [np.ones_like(scaled[0])], ["constant"]
    keys = list(covariates)
    for total in range(1, order + 1):
        for chosen in itertools.combinations_with_replacement(range(len(keys)), total):
            columns.append(np.prod([scaled[j] for j in chosen], axis=0))
            names.append("*".join(keys[j] for j in chosen))
    return np.column_stack(columns), tuple(names)


def position_basis(
    box: Box, order: int, *, x: ArrayLike, y: ArrayLike
) -> tuple[Floats, tuple[str, ...]]:
    """Return Chebyshev polynomials of position, and their names.

    Parameters
    ----------
    box : Box
        Pixel box on which the field lives; pixels are 0-based, centres on integers.
    order : int
        Largest total order.
    x, y : array (stars,)
        Pixel positions.

    Returns
    -------
    design : ndarray (stars, terms)
        The first column is ones.
    terms : tuple of str
        "constant", then ``Tj(y)Ti(x)``.

    Examples
    --------
    >>> design, terms = position_basis(Box(0, 0, 101, 101), 1, x=[0.0, 50.0], y=[50.0, 100.0])
    >>> terms
    ('constant', 'T0(y)T1(x)', 'T1(y)T0(x)')
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    columns, names = [], []
    for j, i in _orders(order):
        c = np.zeros((order + 1, order + 1))
        c[j, i] = 1.0
        columns.append(np.asarray(ChebyshevField(box, c)(x=x, y=y), dtype=float))
        names.append("constant" if i == j == 0 else f"T{j}(y)T{i}(x)")
    return np.column_stack(columns), tuple(names)


def _orders(order: int) -> list[tuple[int, int]]:
    """Return (j of y, i of x) by total order."""
    return [(j, n - j) for n in range(order + 1) for j in range(n + 1)]


def offset_field(calibration: BandCalibration, band: str, box: Box) -> ChebyshevField:
    """Return ln offset of a band as a field of position.

    Parameters
    ----------
    calibration : BandCalibration
        Made with the basis of `position_basis`.
    band : str
        Band.
    box : Box
        The box given to `position_basis`.

    Returns
    -------
    ChebyshevField
        Natural logarithm of the flux factor.

    Examples
    --------
    >>> import numpy as np
    >>> made = BandCalibration.from_offsets(["g"], [1.02], [[1e-4]])
    >>> float(np.exp(offset_field(made, "g", Box(0, 0, 10, 10))(x=3.0, y=4.0)))
    1.02
    """
    if band not in calibration.bands:
        raise PogsonValueError(f"band={band!r}: the calibration has {calibration.bands}.")
    a = calibration.coefficients[calibration.bands.index(band)]
    order = next((n for n in range(30) if len(_orders(n)) >= len(a)), 0)
    if len(_orders(order)) != len(a) or (len(a) > 1 and "T" not in calibration.terms[1]):
        raise PogsonValueError(f"The terms {calibration.terms} are not those of position_basis.")
    c = np.zeros((order + 1, order + 1))
    for value, (j, i) in zip(a, _orders(order), strict=True):
        c[j, i] = value
    return ChebyshevField(box, c)
