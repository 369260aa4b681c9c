"""Which columns of a catalogue of stars hold what, said or guessed by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pogson.errors import MissingDataError, PogsonValueError, choices

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = ["StarColumns"]

ERROR_NAMES = ("{}_Err", "{}_err", "{}_ERR", "{}_error", "{}Err", "{}err", "e_{}", "err_{}",
               "sigma_{}", "{}_sigma")  # fmt: skip
"""How columns of errors are named, after the column of the value."""
_PARALLAX = (("parallax", "parallax_error"), ("parallax", "parallax_err"),
             ("Parallax", "Parallax_Err"), ("plx", "e_plx"), ("Plx", "e_Plx"))  # fmt: skip
_POSITION = (("l", "b", "galactic"), ("glon", "glat", "galactic"), ("GLON", "GLAT", "galactic"),
             ("ra", "dec", "icrs"), ("RA", "DEC", "icrs"),
             ("RA_ICRS", "DE_ICRS", "icrs"))  # fmt: skip
_IDS = ("source_id", "Gaia_DR2_ID", "gaia_id", "obj_id", "id", "ID", "Source")
MAS = {"mas": 1.0, "arcsec": 1000.0}
"""Units of parallaxes, in mas."""


@dataclass(frozen=True)
class StarColumns:
    """Which columns of a table hold what.

    A name such as ``mag[3]`` is the fourth element of a column of vectors.

    Parameters
    ----------
    bands : mapping of str to (str, str)
        Band of the grid -> (column of the value, column of its error).
    kind : {'magnitude', 'flux'}
        What the columns hold.
    unit : {'maggie', 'nJy'}
        Unit of fluxes that carry none.
    parallax : (str, str), optional
        Columns of the parallax and its error.
    parallax_unit : {'mas', 'arcsec'}
        Their unit where the columns carry none.
    parallax_zero_point : float
        In mas; subtracted from every parallax (Gaia DR2: about -0.05, see Zinn et al. 2019, ApJ
        878, 136).
    parallax_floor : float
        In mas; added in quadrature to every error of a parallax.
    position : (str, str), optional
        Columns of longitude and latitude, degrees.
    frame : {'galactic', 'icrs'}
        Their frame.
    id : str, optional
        Column of identifiers.
    extinction : tuple of str, optional
        Column of what is known of each star's extinction beforehand, and that of its standard
        deviation if there is one. Never guessed.
    extinction_scale : float
        A_V per unit of these columns: 1 for A_V, 2.742 for E(B-V) of the map of Schlegel et al.
        (Schlafly & Finkbeiner 2011, ApJ 737, 103).
    extinction_floor : float
        In magnitudes of A_V; added in quadrature to every standard deviation.

    Raises
    ------
    PogsonValueError
        If a word is not one of those allowed.

    Examples
    --------
    >>> StarColumns({"PS_g": ("mag[0]", "err[0]")}).kind
    'magnitude'
    """

    bands: Mapping[str, tuple[str, str]]
    kind: str = "magnitude"
    unit: str = "maggie"
    parallax: tuple[str, str] | None = None
    parallax_unit: str = "mas"
    parallax_zero_point: float = 0.0
    parallax_floor: float = 0.0
    position: tuple[str, str] | None = None
    frame: str = "galactic"
    id: str | None = None
    extinction: tuple[str, ...] | None = None
    extinction_scale: float = 1.0
    extinction_floor: float = 0.0

    def __post_init__(self) -> None:
        allowed: dict[str, tuple[str, ...]] = {
            "kind": ("magnitude", "flux"), "unit": ("maggie", "nJy"),
            "parallax_unit": tuple(MAS), "frame": ("galactic", "icrs"),
        }  # fmt: skip
        for name, words in allowed.items():
            if getattr(self, name) not in words:
                raise PogsonValueError(
                    f"{name} is {getattr(self, name)!r}; allowed: {choices(words)}."
                )
        if not self.bands:
            raise PogsonValueError("Name at least one band and its two columns.")
        if not self.parallax_floor >= 0.0:
            raise PogsonValueError(f"parallax_floor is {self.parallax_floor}; 0 or more, in mas.")
        if not (self.extinction_scale > 0.0 and self.extinction_floor >= 0.0):
            raise PogsonValueError(
                f"extinction_scale is {self.extinction_scale} and must be positive; "
                f"extinction_floor is {self.extinction_floor} and must be 0 or more."
            )
        if self.extinction is not None and len(self.extinction) == 1 and not self.extinction_floor:
            raise PogsonValueError(
                f"The extinction {self.extinction[0]!r} has no column of its standard deviation: "
                "give extinction_floor, in magnitudes of A_V."
            )

    @classmethod
    def guess(cls, table: Table, available: Sequence[str], **given: Any) -> StarColumns:
        """Return columns for those bands of which a table has both value and error.

        Parameters
        ----------
        table : astropy.table.Table
            The table.
        available : sequence of str
            Bands of the grid: a column of that name is looked for, and one of its error
            (``PS_g_Err``, ``e_PS_g`` ...).
        **given
            Any parameter of the class, in place of a guess; ``parallax=None`` for none.

        Raises
        ------
        MissingDataError
            If the table has none of the bands.

        Examples
        --------
        >>> from astropy.table import Table
        >>> table = Table({"PS_g": [15.0], "PS_g_Err": [0.1], "l": [10.0], "b": [45.0]})
        >>> StarColumns.guess(table, ["PS_g", "PS_r"])
        StarColumns(bands={'PS_g': ('PS_g', 'PS_g_Err')}, ..., position=('l', 'b'), ...)
        """
        names = list(table.colnames)
        if "bands" not in given:
            found = {}
            for band in available:
                error = next((e.format(band) for e in ERROR_NAMES if e.format(band) in names), "")
                if band in names and error:
                    found[band] = (band, error)
            if not found:
                raise MissingDataError(
                    f"The catalogue has no pair of columns like {available[0]!r} and "
                    f"{available[0] + '_Err'!r} for any band of the grid ({', '.join(available)}). "
                    f"Say which columns they are: [catalog.bands] {available[0]} = "
                    f'["value", "error"]. It has: {listed(names)}.'
                )
            given["bands"] = found
        if "parallax" not in given:
            given["parallax"] = next((p for p in _PARALLAX if set(p) <= set(names)), None)
        if "position" not in given:
            place = next((p for p in _POSITION if set(p[:2]) <= set(names)), None)
            if place is not None:
                given |= {"position": place[:2], "frame": place[2]}
        if "id" not in given:
            given["id"] = next((n for n in _IDS if n in names), None)
        return cls(**given)


def listed(names: Sequence[str], most: int = 30) -> str:
    """Return names as a sentence lists them, the first ones if there are many."""
    some = ", ".join(names[:most])
    return some if len(names) <= most else f"{some} and {len(names) - most} more"
