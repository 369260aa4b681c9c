"""What a report shows of coadds, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = [
    "BackgroundMaps",
    "CoaddBand",
    "CoaddPicture",
    "CoaddReport",
    "LevelsOfVisits",
    "Product",
]


@dataclass(frozen=True)
class Product:
    """One image of a run and the state that it is in.

    Examples
    --------
    >>> Product("tile", "r-0-0", "r", "nJy", "fluence", "G2V", "subtracted", "total").what
    'tile'
    """

    what: str
    name: str
    band: str
    unit: str
    measure: str
    flat_for: str
    background: str
    reference: str


@dataclass(frozen=True, eq=False)
class BackgroundMaps:
    """Medians over cells of a detector image, before and after its background was subtracted.

    Examples
    --------
    >>> maps = BackgroundMaps("v1 D1", "r", [[5.0]], [[0.1]], (-0.5, 9.5, -0.5, 9.5), "nJy", True)
    >>> maps.before.shape
    (1, 1)
    """

    label: str
    band: str
    before: np.ndarray
    after: np.ndarray
    extent: tuple[float, float, float, float]
    unit: str
    surface_brightness: bool

    def __post_init__(self) -> None:
        for name in ("before", "after"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), float))


@dataclass(frozen=True, eq=False)
class CoaddPicture:
    """The mosaic of each band, binned for a picture, and the number of its inputs.

    Parameters
    ----------
    images : mapping of str to numpy.ndarray
        By band, in order of wavelength; NaN without data.
    counts : mapping of str to numpy.ndarray
        Number of inputs.
    extent : tuple of float
        Pixel edges x0, x1, y0, y1 of the grid.
    scale : float
        Arcsec of a pixel of the grid.

    Examples
    --------
    >>> picture = CoaddPicture({"r": np.ones((2, 3))}, {}, (-0.5, 2.5, -0.5, 1.5), 0.25)
    >>> list(picture.images)
    ['r']
    """

    images: Mapping[str, np.ndarray]
    counts: Mapping[str, np.ndarray]
    extent: tuple[float, float, float, float]
    scale: float


@dataclass(frozen=True, eq=False)
class CoaddBand:
    """Fluxes on the coadd of one band.

    Parameters
    ----------
    numbers : mapping
        Its part of ``summary.json``.
    rows : mapping of str to array
        Sources: ``flux``, ``flux_err``, ``flux_err_diagonal``, ``visit_flux`` (nJy).
    truth : mapping of str to array
        True stars: ``magnitude``, ``true_snr``, ``pull``, ``pull_diagonal``, ``reached``,
        ``expected``.

    Examples
    --------
    >>> CoaddBand().numbers
    {}
    """

    numbers: Mapping[str, Any] = field(default_factory=dict)
    rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LevelsOfVisits:
    """By how much the backgrounds of the visits of a band differed, and were moved.

    Parameters
    ----------
    band : str
        Name.
    visits : tuple of str
        Names of the visits.
    mean, lowest, highest : array_like, shape (n,)
        Of the level of each visit over the bins that it shares with others, in ``unit``.
    unit : str
        Surface brightness.
    rms_before, rms_after : float or None
        Differences between visits in units of their error.
    unmatched : tuple of str
        Visits that share too little sky with others.

    Examples
    --------
    >>> LevelsOfVisits("r", ("a",), [1.0], [0.5], [1.5], "nJy / arcsec2", 8.0, 1.2).highest
    array([1.5])
    """

    band: str
    visits: tuple[str, ...]
    mean: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    unit: str
    rms_before: float | None
    rms_after: float | None
    unmatched: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("mean", "lowest", "highest"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), float))


@dataclass(frozen=True, eq=False)
class CoaddReport:
    """Coadds of a run.

    Examples
    --------
    >>> CoaddReport().products
    ()
    """

    products: tuple[Product, ...] = ()
    maps: tuple[BackgroundMaps, ...] = ()
    picture: CoaddPicture | None = None
    bands: Mapping[str, CoaddBand] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    snr: float = 20.0
    levels: tuple[LevelsOfVisits, ...] = ()
