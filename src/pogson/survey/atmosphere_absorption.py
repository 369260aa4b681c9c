r"""Optical depth of clear air: Rayleigh scattering and absorption by ozone, oxygen and water.

Wavelengths are vacuum wavelengths in Angstrom; depths are natural (not decadic).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from pogson.errors import FileFormatError, MissingDataError, PogsonValueError, choices

__all__ = [
    "STANDARD_PRESSURE",
    "BandAbsorber",
    "TabulatedAbsorber",
    "load_absorber",
    "rayleigh_depth",
]

STANDARD_PRESSURE = 1013.25
"""Pressure, hPa, for which tables are given."""

_GAP = 60.0  # Angstrom without samples: no absorption between


def rayleigh_depth(wavelength: Any, pressure: Any = STANDARD_PRESSURE) -> np.ndarray:
    """Optical depth of molecular scattering through one airmass.

    Parameters
    ----------
    wavelength : array_like
        Vacuum wavelength, Angstrom, 2500 to 25000.
    pressure : array_like, optional
        Pressure at the telescope, hPa.

    Notes
    -----
    Bodhaine et al. (1999, J. Atmos. Oceanic Technol. 16, 1854), eq. 30: dry air with 360 ppm of
    carbon dioxide at sea level and latitude 45 degrees, to 0.01 % of their full calculation from
    2500 to 8500 Angstrom; proportional to the pressure.

    Examples
    --------
    >>> rayleigh_depth([4000.0, 5500.0]).round(4)
    array([0.3602, 0.0971])
    """
    m2 = (np.asarray(wavelength, np.float64) * 1e-4) ** 2
    depth = (
        0.0021520
        * (1.0455996 - 341.29061 / m2 - 0.90230850 * m2)
        / (1.0 + 0.0027059889 / m2 - 85.968563 * m2)
    )
    return np.asarray(depth * (np.asarray(pressure, np.float64) / STANDARD_PRESSURE))


@dataclass(frozen=True, eq=False)
class BandAbsorber:
    r"""Absorption of a gas by a band model: :math:`\tau = (s\,(P/P_0)^n u)^a`.

    Parameters
    ----------
    name : str
        The gas.
    wavelength : array_like, shape (n,)
        Vacuum Angstrom, strictly increasing; gaps wider than 60 Angstrom hold no absorption if
        both their ends are zero or the end of the table.
    strength, exponent, pressure_exponent : array_like, shape (n,)
        s per unit of the amount u along the line of sight, a and n. An exponent of 1 is Beer's law;
        lines that saturate have about 0.6.

    Notes
    -----
    The shipped tables hold the coefficients of LOWTRAN 7 (Kneizys et al. 1988, *Users guide to
    LOWTRAN 7*, AFGL-TR-88-0177), every 5 or 10 cm^-1 at a resolution of 20 cm^-1. In that model the
    amount is weighted along the path with powers of pressure (and, weakly, temperature, neglected
    here: the factor is within 2 % of one). The weighting is done here once: oxygen is mixed
    uniformly; water has a scale height a quarter of that of air. Ozone: Chappuis band of LOWTRAN 7,
    Huggins band of Bass & Paur at 230 K.

    Examples
    --------
    >>> box = BandAbsorber("x", [5000.0, 5010.0], [0.1, 0.1], [0.5, 0.5], [1.0, 1.0])
    >>> box.depth([5005.0], 10.0)
    array([1.])
    """

    name: str
    wavelength: np.ndarray
    strength: np.ndarray
    exponent: np.ndarray
    pressure_exponent: np.ndarray

    def __post_init__(self) -> None:
        for field in ("wavelength", "strength", "exponent", "pressure_exponent"):
            a = np.array(getattr(self, field), np.float64)
            if a.shape != np.shape(self.wavelength) or not np.isfinite(a).all():
                raise PogsonValueError(
                    f"Column {field!r} of absorber {self.name!r} has shape {a.shape} or is not "
                    f"finite; it must be finite and of shape {np.shape(self.wavelength)}."
                )
            a.flags.writeable = False
            object.__setattr__(self, field, a)
        if np.any(np.diff(self.wavelength) <= 0) or np.any(self.strength < 0):
            raise PogsonValueError(
                f"Absorber {self.name!r}: wavelengths must increase and strengths be >= 0."
            )

    def depth(self, wavelength: Any, amount: Any, pressure: Any = STANDARD_PRESSURE) -> np.ndarray:
        """Optical depth, shape (..., wavelengths).

        Parameters
        ----------
        wavelength : array_like, shape (m,)
            Vacuum Angstrom.
        amount, pressure : array_like, shape (...)
            Amount along the line of sight, and pressure at the telescope, hPa.
        """
        return self.depth_and_slope(wavelength, amount, pressure)[0]

    def depth_and_slope(
        self, wavelength: Any, amount: Any, pressure: Any = STANDARD_PRESSURE
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the depth and its derivative by the logarithm of the amount."""
        s, a, n = self._at(np.asarray(wavelength, np.float64))
        u = np.asarray(amount, np.float64)[..., None]
        p = np.asarray(pressure, np.float64)[..., None] / STANDARD_PRESSURE
        on = np.flatnonzero(s > 0)
        shape = (*np.broadcast_shapes(u.shape[:-1], p.shape[:-1]), s.size)
        depth, slope = np.zeros(shape), np.zeros(shape)
        if on.size:
            with np.errstate(divide="ignore"):
                log = np.log(s[on]) + n[on] * np.log(p) + np.log(np.maximum(u, 1e-30))
            part = np.exp(a[on] * log)
            depth[..., on] = part
            slope[..., on] = a[on] * part
        return depth, slope

    def _at(self, lam: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x = self.wavelength
        k = np.clip(np.searchsorted(x, lam), 1, x.size - 1)
        inside = (lam >= x[0]) & (lam <= x[-1]) & (x[k] - x[k - 1] <= self._gap(k))
        s = np.where(inside, np.interp(lam, x, self.strength), 0.0)
        return s, np.interp(lam, x, self.exponent), np.interp(lam, x, self.pressure_exponent)

    def _gap(self, k: np.ndarray) -> np.ndarray:
        """Widest interval that is bridged: any, where both of its ends absorb smoothly."""
        return np.where(self.exponent[k] == 1.0, np.inf, _GAP)


@dataclass(frozen=True, eq=False)
class TabulatedAbsorber:
    """Absorption of a gas from tables at several amounts, such as the output of a radiative code.

    Parameters
    ----------
    name : str
        The gas.
    wavelength : array_like, shape (n,)
        Vacuum Angstrom, strictly increasing; no absorption outside.
    amount : array_like, shape (k,)
        Amounts along the line of sight, increasing and positive (Dobson units of ozone, airmasses
        of oxygen, mm of water).
    transmission : array_like, shape (k, n)
        Of that gas alone, in (0, 1].

    Raises
    ------
    PogsonValueError
        If shapes do not fit or a transmission is outside (0, 1].

    Notes
    -----
    Depths are interpolated as powers of the amount between neighbouring tables, and extrapolated
    by the same power. The pressure is that of the tables.

    Examples
    --------
    >>> gas = TabulatedAbsorber("water", [7000.0, 7100.0], [1.0, 4.0],
    ...                         [[0.9, 0.9], [0.81, 0.81]])
    >>> np.exp(-gas.depth([7050.0], 2.0)).round(4)
    array([0.8616])
    """

    name: str
    wavelength: np.ndarray
    amount: np.ndarray
    transmission: np.ndarray

    def __post_init__(self) -> None:
        lam = np.array(self.wavelength, np.float64)
        u = np.atleast_1d(np.array(self.amount, np.float64))
        t = np.atleast_2d(np.array(self.transmission, np.float64))
        good = t.shape == (u.size, lam.size) and np.all(np.diff(lam) > 0) and np.all(u > 0)
        if not (good and np.all(np.diff(u) > 0) and np.all((t > 0) & (t <= 1))):
            raise PogsonValueError(
                f"Absorber {self.name!r}: {u.size} amounts and {lam.size} wavelengths, both "
                f"increasing, need transmissions in (0, 1] of shape {(u.size, lam.size)}, not "
                f"{t.shape}."
            )
        for name, value in (("wavelength", lam), ("amount", u), ("transmission", t)):
            value.flags.writeable = False
            object.__setattr__(self, name, value)

    @classmethod
    def read(cls, path: str | Path, name: str | None = None) -> TabulatedAbsorber:
        """Read transmissions from an ECSV file.

        Parameters
        ----------
        path : path-like
            The first column is the wavelength (vacuum; Angstrom unless its unit says otherwise);
            each other one is the transmission for the amount that is its name, in increasing order,
            such as ``1.0``, ``5.0``, ``20.0`` for millimetres of water.
        name : str, optional
            The gas; the stem of the file by default.

        Raises
        ------
        FileFormatError
            If the file cannot be read as such a table.

        Examples
        --------
        >>> import tempfile
        >>> from astropy.table import Table
        >>> file = tempfile.mkdtemp() + "/water.ecsv"
        >>> Table({"wavelength": [7000.0, 7100.0], "2.0": [0.9, 0.8]}).write(file)
        >>> TabulatedAbsorber.read(file).amount
        array([2.])
        """
        import astropy.units as u
        from astropy.table import Table

        path = Path(path)
        try:
            table = Table.read(path, format="ascii.ecsv")
            first, *others = table.colnames
            scale = (table[first].unit or u.Angstrom).to(u.Angstrom)
            lam = np.asarray(table[first], np.float64) * scale
            values = [np.asarray(table[c], np.float64) for c in others]
            amounts = [float(c) for c in others]
            return cls(name or path.stem, lam, np.array(amounts), np.array(values))
        except (OSError, ValueError, u.UnitConversionError) as error:
            raise FileFormatError(
                f"{path} is not a table of transmissions: an ECSV file with wavelengths and one "
                f"column an amount, named by it ({error})."
            ) from None

    def depth(self, wavelength: Any, amount: Any, pressure: Any = STANDARD_PRESSURE) -> np.ndarray:
        """Optical depth, shape (..., wavelengths); the pressure has no effect."""
        return self.depth_and_slope(wavelength, amount, pressure)[0]

    def depth_and_slope(
        self, wavelength: Any, amount: Any, pressure: Any = STANDARD_PRESSURE
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the depth and its derivative by the logarithm of the amount."""
        lam = np.asarray(wavelength, np.float64)
        tables = np.array(
            [np.interp(lam, self.wavelength, -np.log(t), 0.0, 0.0) for t in self.transmission]
        )
        u = np.maximum(np.asarray(amount, np.float64), 1e-30)
        if self.amount.size == 1:
            depth = (u / self.amount[0])[..., None] * tables[0]
            return depth, depth
        k = np.clip(np.searchsorted(self.amount, u) - 1, 0, self.amount.size - 2)
        x = np.log(u / self.amount[k]) / np.log(self.amount[k + 1] / self.amount[k])
        low, high = np.maximum(tables[k], 1e-30), np.maximum(tables[k + 1], 1e-30)
        power = np.log(high / low) / np.log(self.amount[k + 1] / self.amount[k])[..., None]
        depth = low * (high / low) ** x[..., None]
        depth = np.where(tables[k + 1] > 0, depth, 0.0)
        return depth, depth * power


@cache
def _shipped() -> dict[str, BandAbsorber]:
    text = (resources.files("pogson.survey") / "atmosphere_absorption.csv").read_text("utf-8")
    rows: dict[str, list[list[float]]] = {}
    for line in text.splitlines():
        if line and not line.startswith(("#", "gas")):
            gas, *values = line.split(",")
            rows.setdefault(gas, []).append([float(v) for v in values])
    return {g: BandAbsorber(g, *np.array(v).T) for g, v in rows.items()}


def load_absorber(gas: str) -> BandAbsorber:
    """Return the shipped absorption of a gas.

    Parameters
    ----------
    gas : {'ozone', 'oxygen', 'water'}
        Amounts are Dobson units, airmasses and millimetres of precipitable water.

    Raises
    ------
    MissingDataError
        For any other gas.

    Examples
    --------
    >>> np.exp(-load_absorber("water").depth([9350.0], [2.0, 10.0])).round(2).ravel()
    array([0.72, 0.45])
    """
    try:
        return _shipped()[gas]
    except KeyError:
        raise MissingDataError(
            f"There is no absorption table of {gas!r}; allowed: {choices(sorted(_shipped()))}. "
            "Others: TabulatedAbsorber(name, wavelength, amount, transmission)."
        ) from None
