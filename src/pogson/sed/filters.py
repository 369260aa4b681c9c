"""Filter curves by name or from the user's own files, and AB magnitudes through them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import astropy.units as u
import numpy as np

from pogson.errors import (
    CalibrationError,
    FileFormatError,
    MissingDataError,
    PogsonValueError,
    choices,
)
from pogson.sed._grid import check_wavelength
from pogson.sed.bandpass import Bandpass
from pogson.sed.spectrum import Spectrum, air_to_vacuum
from pogson.sed.synthetic import synthetic_magnitude

__all__ = ["FilterCurve", "load_filter_curve", "load_filter_curves", "synthetic_photometry"]

_SYSTEMS = ("AB", "Vega")
_SUFFIXES = (".dat", ".txt", ".ecsv", ".csv")
_LARGEST_LOSS = 0.01

# Groups of speclite published as responses per unit energy: Bessell (1990, PASP 102, 1181) and
# 2MASS (Cohen, Wheaton & Megeath 2003, AJ 126, 1090).
_ENERGY_GROUPS = ("bessell", "twomass")
# Short names of bands and the response of speclite each is.
_SHORT: dict[str, tuple[str, str]] = {
    **{f"ps1_{b}": (f"panstarrs-{b}", "photon") for b in "grizy"},
    **{f"sdss_{b}": (f"sdss2010-{b}", "photon") for b in "ugriz"},
    **{f"decam_{b}": (f"decam2014-{b}", "photon") for b in "ugrizY"},
    "gaia_g": ("gaiadr2-G", "photon"),
    "gaia_bp": ("gaiadr2-BP", "photon"),
    "gaia_rp": ("gaiadr2-RP", "photon"),
    "2mass_j": ("twomass-J", "energy"),
    "2mass_h": ("twomass-H", "energy"),
    "2mass_k": ("twomass-Ks", "energy"),
}


@dataclass(frozen=True, eq=False)
class FilterCurve:
    """A filter's transmission with the magnitude system its catalogue uses.

    Parameters
    ----------
    name : str
        Name of the band in the photometry.
    wavelength : array_like, shape (n,)
        Vacuum Angstrom, strictly increasing.
    transmission : array_like, shape (n,)
        Response of the whole system; its scale does not matter.
    system : {"AB", "Vega"}, optional
        The system of the catalogue's magnitudes.
    vega_to_ab : float, optional
        ``m_AB = m_catalogue + vega_to_ab``; 0 for AB.
    detector : {"photon", "energy"}, optional
        Whether ``transmission`` is per photon (the default) or per unit energy.

    Examples
    --------
    >>> f = FilterCurve("box", [4999.0, 5000.0, 6000.0, 6001.0], [0.0, 1.0, 1.0, 0.0])
    >>> round(f.wave_eff), f.bandpass.detector
    (5500, 'photon')
    """

    name: str
    wavelength: np.ndarray
    transmission: np.ndarray
    system: Literal["AB", "Vega"] = "AB"
    vega_to_ab: float = 0.0
    detector: Literal["photon", "energy"] = "photon"

    def __post_init__(self) -> None:
        if self.system not in _SYSTEMS:
            raise PogsonValueError(
                f"Unknown magnitude system {self.system!r} of filter {self.name!r}; allowed: "
                f"{choices(_SYSTEMS)}."
            )
        if not np.isfinite(self.vega_to_ab):
            raise PogsonValueError(
                f"vega_to_ab of filter {self.name!r} is {self.vega_to_ab}; a missing offset is not "
                f"zero: derive it with pogson.sed.vega_offset."
            )
        band = Bandpass(self.name, self.wavelength, self.transmission, self.detector)
        object.__setattr__(self, "wavelength", band.wavelength)
        object.__setattr__(self, "transmission", band.throughput)
        object.__setattr__(self, "_bandpass", band)

    @property
    def bandpass(self) -> Bandpass:
        """The curve as a `Bandpass`."""
        band: Bandpass = self.__dict__["_bandpass"]
        return band

    @cached_property
    def wave_eff(self) -> float:
        """Mean wavelength weighted by the transmission, Angstrom."""
        return self.bandpass._moment(1) / self.bandpass._moment(0)

    @property
    def pivot_wavelength(self) -> float:
        """Pivot wavelength, Angstrom; see `Bandpass.pivot_wavelength`."""
        return self.bandpass.pivot_wavelength

    @property
    def wave_range(self) -> tuple[float, float]:
        """Wavelengths between which the transmission exceeds 1 % of its peak, Angstrom."""
        on = self.wavelength[self.transmission > 0.01 * self.transmission.max()]
        return float(on[0]), float(on[-1])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FilterCurve):
            return NotImplemented
        mine = (self.system, self.vega_to_ab, self.bandpass)
        return mine == (other.system, other.vega_to_ab, other.bandpass)

    def __hash__(self) -> int:
        return hash((self.system, self.vega_to_ab, self.bandpass))

    def __repr__(self) -> str:
        offset = "" if self.system == "AB" else f" {self.vega_to_ab:+.4f}"
        return (
            f"FilterCurve({self.name!r}, pivot {self.pivot_wavelength:.1f} Angstrom, "
            f"{self.detector}, {self.system}{offset})"
        )


@cache
def _named(name: str) -> FilterCurve:
    from pogson.sed.vega import VEGA_OFFSETS

    known, detector = _SHORT.get(name, (name, "photon"))
    if known.partition("-")[0] in _ENERGY_GROUPS:
        detector = "energy"
    system = "Vega" if known in VEGA_OFFSETS else "AB"
    try:
        band = Bandpass.from_speclite(known)
    except MissingDataError as error:
        raise MissingDataError(
            f"Unknown filter {name!r}; short names are {choices(sorted(_SHORT))}, and every "
            f"'group-band' of speclite is allowed. Load your own curves from a file."
        ) from error
    offset = VEGA_OFFSETS[known] if system == "Vega" else 0.0
    return FilterCurve(
        name,
        band.wavelength,
        band.throughput,
        system,  # type: ignore[arg-type]
        offset,
        detector,  # type: ignore[arg-type]
    )


def load_filter_curve(
    filter_name: str | os.PathLike[str],
    *,
    unit: str | None = None,
    detector: Literal["photon", "energy"] | None = None,
    system: Literal["AB", "Vega"] = "AB",
    vega_to_ab: float | None = None,
    medium: Literal["vacuum", "air"] = "vacuum",
    name: str | None = None,
) -> FilterCurve:
    """Return a filter curve, by name or from a file.

    Parameters
    ----------
    filter_name : str or path-like
        A short name (``"ps1_g"``, ``"sdss_r"``, ``"decam_z"``, ``"gaia_bp"``, ``"2mass_j"``), a
        'group-band' of speclite (``"lsst2023-r"``), or a file with two columns, wavelength and
        response: ECSV (whose units are read), or text with ``#`` comments.
    unit : str, optional
        For text files: unit of the wavelengths ("Angstrom", "nm", "um"). Required there.
    detector : {"photon", "energy"}, optional
        What the response is per. Required for files. For names it is known: Bessell's and 2MASS's
        are per unit energy, the others per photon.
    system : {"AB", "Vega"}, optional
        For files: the system of the magnitudes it will be used with.
    vega_to_ab : float, optional
        For files with "Vega": see `pogson.sed.vega_offset`. Required there.
    medium : {"vacuum", "air"}, optional
        For files: what the wavelengths are measured in.
    name : str, optional
        For files: name of the band; the file's stem unless given.

    Raises
    ------
    MissingDataError
        If the name is unknown or the file is not there.
    FileFormatError
        If a file is not two columns of numbers.
    PogsonValueError
        If something that is required for a file is not said.

    Examples
    --------
    >>> load_filter_curve("gaia_rp")
    FilterCurve('gaia_rp', pivot 7740.9 Angstrom, photon, Vega +0.3767)
    """
    text = str(filter_name)
    if not isinstance(filter_name, os.PathLike) and not text.endswith(_SUFFIXES):
        return _named(text)
    path = Path(filter_name)
    if detector is None:
        raise PogsonValueError(
            f"Say what the response in {path} is per: detector='photon' (a CCD) or 'energy'."
        )
    if system == "Vega" and vega_to_ab is None:
        raise PogsonValueError(
            f"{path} is for Vega magnitudes; give vega_to_ab (derive it with vega_offset). A "
            f"missing offset is not taken as zero."
        )
    lam, response = _read_columns(path, unit)
    if medium == "air":
        lam = air_to_vacuum(lam)
    elif medium != "vacuum":
        raise PogsonValueError(f"Unknown wavelength medium {medium!r}; allowed: 'vacuum', 'air'.")
    return FilterCurve(
        name or path.name.split(".")[0], lam, response, system, vega_to_ab or 0.0, detector
    )


def load_filter_curves(
    filter_names: Sequence[str | os.PathLike[str]] | Mapping[str, Mapping[str, Any]],
) -> dict[str, FilterCurve]:
    """Return filter curves by name.

    Parameters
    ----------
    filter_names : sequence, or mapping
        Names as in `load_filter_curve`; or a mapping from names or files to what is declared of
        each (the keywords of `load_filter_curve`).

    Examples
    --------
    >>> curves = load_filter_curves(["ps1_g", "2mass_j"])
    >>> curves["2mass_j"]
    FilterCurve('2mass_j', pivot 12319.3 Angstrom, energy, Vega +0.9033)
    """
    if isinstance(filter_names, str | os.PathLike):
        raise PogsonValueError(
            f"Give a list of filter names, not the single name {str(filter_names)!r}."
        )
    found = {}
    for given in filter_names:
        declared = filter_names[given] if isinstance(filter_names, Mapping) else {}  # type: ignore[index]
        curve = load_filter_curve(given, **declared)
        found[curve.name] = curve
    return found


def _read_columns(path: Path, unit: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return wavelengths in Angstrom and responses of a file."""
    from astropy.table import Table

    if not path.is_file():
        raise MissingDataError(f"There is no filter file {path}.")
    ecsv = path.suffix == ".ecsv"
    if unit is None and not ecsv:
        raise PogsonValueError(
            f"Say the unit of the wavelengths in {path}: unit='Angstrom', 'nm' or 'um'."
        )
    try:
        if ecsv:
            table = Table.read(path, format="ascii.ecsv")
            first = table[table.colnames[0]]
            scale = float((first.unit or u.Unit(unit or "Angstrom")).to(u.AA))
            columns = [np.asarray(table[c], np.float64) for c in table.colnames[:2]]
        else:
            scale = float(u.Unit(unit).to(u.AA))
            lines = (x.replace(",", " ") for x in path.read_text("utf-8").splitlines())
            columns = list(np.loadtxt(lines, usecols=(0, 1), unpack=True, ndmin=2))
    except (ValueError, IndexError, OSError, UnicodeDecodeError, u.UnitConversionError) as error:
        raise FileFormatError(
            f"{path} is not a filter curve (two columns of numbers, wavelength in a unit of "
            f"length and response): {error}"
        ) from error
    lam = check_wavelength(columns[0] * scale, f"filter file {path}")
    if not 500.0 < lam[0] < 1e6:
        raise PogsonValueError(
            f"The wavelengths in {path} begin at {lam[0]:g} Angstrom; is the unit right?"
        )
    return lam, columns[1]


def synthetic_photometry(spectrum: Any, filter_curve: FilterCurve | Bandpass) -> float:
    """AB magnitude of a spectrum through a filter.

    Parameters
    ----------
    spectrum : Spectrum, Spectrum1D or StellarTemplate
        Anything with ``wavelength`` (vacuum Angstrom unless it says ``medium``) and ``flux``
        (erg/s/cm2/Angstrom). Where it has a ``mask`` (True is good) bad pixels count as not
        covered; the spectrum is taken as linear across them.
    filter_curve : FilterCurve or Bandpass
        The response.

    Returns
    -------
    magnitude : float
        NaN if the synthetic flux is zero or negative.

    Raises
    ------
    CalibrationError
        If the good pixels cover less than 99 % of the band: a truncated band is not a magnitude.

    Notes
    -----
    The integral is that of `pogson.sed.synthetic_flux`. Zero and negative pixels are part of it.

    Examples
    --------
    >>> lam = np.linspace(3000.0, 11000.0, 801)
    >>> flat = Spectrum(lam, 3.63078055e-20 * 2.99792458e18 / lam**2)
    >>> round(synthetic_photometry(flat, load_filter_curve("ps1_g")), 6)
    0.0
    """
    band = filter_curve if isinstance(filter_curve, Bandpass) else filter_curve.bandpass
    if isinstance(spectrum, Spectrum):
        return synthetic_magnitude(spectrum, band)
    lam = np.asarray(spectrum.wavelength, np.float64)
    flux = np.asarray(spectrum.flux, np.float64)
    good = np.isfinite(flux) & np.asarray(getattr(spectrum, "mask", True), bool)
    if good.sum() < 2:
        raise CalibrationError(
            f"The spectrum has {int(good.sum())} good pixels; no magnitude in {band.name!r}."
        )
    medium: Any = getattr(spectrum, "medium", "vacuum")
    usable = Spectrum(lam[good], flux[good], medium)
    lost = _lost_fraction(lam, good, band)
    if lost > _LARGEST_LOSS:
        raise CalibrationError(
            f"Bad pixels hide {100 * lost:.2f} % of bandpass {band.name!r}; at most "
            f"{100 * _LARGEST_LOSS:g} % may be. Interpolate them with a model first."
        )
    return synthetic_magnitude(usable, band)


def _lost_fraction(lam: np.ndarray, good: np.ndarray, band: Bandpass) -> float:
    """Fraction of a band's weight that falls on bad pixels between good ones."""
    if good.all():
        return 0.0
    middle = 0.5 * (lam[1:] + lam[:-1])
    edges = np.concatenate([[lam[0]], middle, [lam[-1]]])
    weight = band.evaluate(lam) / lam**band._power * np.diff(edges)
    whole = band._moment(-band._power)
    return float(weight[~good].sum() / whole)
