"""Photometry of stars for model fitting: fluxes, parallaxes and positions, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError, UnitMismatchError, choices
from pogson.stars.star_flags import StarFlag
from pogson.units import strip_unit

__all__ = ["NJY_PER_MAGGIE", "StarPhotometry"]

NJY_PER_MAGGIE = 10.0 ** (0.4 * 31.4)
"""Nanojansky in one AB maggy (AB magnitude 0): 3630.78e9."""

_LN = 0.4 * np.log(10.0)
_UNITS = {"maggie": 1.0, "nJy": 1.0 / NJY_PER_MAGGIE}


def _column(values: Any, n: int, name: str, unit: str = "") -> np.ndarray:
    """Return n float64 numbers, NaN where masked or missing."""
    if values is None:
        return np.full(n, np.nan)
    array = np.atleast_1d(strip_unit(values, unit, name))
    if array.shape != (n,):
        raise PogsonValueError(
            f"{name} must have one value a star, shape ({n},); its shape is {array.shape}."
        )
    return array.astype(np.float64)


def _table(values: Any, name: str, n_bands: int, unit: str | None) -> np.ndarray:
    array = np.asarray(values, np.float64) if unit is None else strip_unit(values, unit, name)
    if array.ndim == 1 and array.size == n_bands:
        array = array[None, :]
    if array.ndim != 2 or array.shape[1] != n_bands:
        raise PogsonValueError(
            f"{name} must have shape (n_stars, {n_bands}), one column a band; it has {array.shape}."
        )
    return np.array(array, np.float64)


def _sentinel_magnitudes(mag: np.ndarray, err: np.ndarray) -> np.ndarray:
    """Return where a magnitude or its error is one of the codes for "missing"."""
    with np.errstate(invalid="ignore"):
        no_value = ~np.isfinite(mag) | (mag == 0.0) | (mag <= -90.0) | (mag >= 90.0)
        no_error = ~np.isfinite(err) | (err >= 9.0) | (err <= -9.0)
    return no_value | no_error


def _sentinel_fluxes(flux: np.ndarray, err: np.ndarray) -> np.ndarray:
    """Return where a flux or its error is one of the codes for "missing"."""
    codes = np.isin(flux, (-99.0, -999.0, -9999.0, -99999.0))
    with np.errstate(invalid="ignore"):
        bare = (flux == 0.0) & ~(err > 0.0)
        return ~np.isfinite(flux) | codes | bare | ~np.isfinite(err) | np.isin(err, (-99.0, -999.0))


def _parallaxes(
    parallax: Any, parallax_err: Any, n: int, unit: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return parallaxes and errors in mas, and where there are none."""
    import astropy.units as u

    try:
        factor = float(u.Unit(unit).to("mas"))
    except (ValueError, TypeError, u.UnitConversionError):
        raise UnitMismatchError(
            f"Unknown unit {unit!r} of parallaxes; give an angle such as 'mas' or 'arcsec'."
        ) from None
    bare = getattr(parallax_err, "unit", None) is None
    plx = _column(parallax, n, "parallax", unit)
    err = _column(parallax_err, n, "parallax_err", unit)
    with np.errstate(invalid="ignore"):
        gone = ~np.isfinite(plx) | ~np.isfinite(err) | (err <= -9.0) | (err >= 1e4)
        gone |= (plx <= -900.0) | ((plx == 0.0) & ~(err > 0.0))
        errors = err[~gone & (err > 0.0)] * factor
    if bare and errors.size and float(np.median(errors)) < 1e-3:
        raise PogsonValueError(
            f"The errors of the parallaxes have a median of {float(np.median(errors)):.2g} mas, "
            f"below what any survey reaches, taken to be in {unit!r}: these look like arcseconds. "
            "Pass parallax_unit='arcsec', or a Quantity if they are right."
        )
    return plx * factor, err * factor, gone


def _refuse_fluxes(mag: np.ndarray, good: np.ndarray, bands: Sequence[str]) -> None:
    """Raise if the columns given as magnitudes hold fluxes."""
    for k, band in enumerate(bands):
        values = mag[good[:, k], k]
        codes = (values >= 90.0) & (values < 1e4) & (values == values.max(initial=0.0))
        values = values[~codes]  # 99, 99.99, 999 ...
        if values.size == 0:
            continue
        middle = float(np.median(values))
        if abs(middle) < 0.05 or middle > 45.0 or middle < -30.0:
            raise PogsonValueError(
                f"The magnitudes of band {band!r} have a median of {middle:.4g}: these look like "
                "fluxes. Magnitudes of stars lie between about -2 and 30; use "
                "StarPhotometry.from_fluxes(..., unit='maggie' or 'nJy') for fluxes."
            )


def _refuse_magnitudes(
    flux: np.ndarray, err: np.ndarray, good: np.ndarray, bands: Sequence[str], unit: str
) -> None:
    """Raise if the columns given as fluxes hold magnitudes."""
    for k, band in enumerate(bands):
        values, errors = flux[good[:, k], k], err[good[:, k], k]
        if values.size == 0:
            continue
        low, high, middle = float(values.min()), float(values.max()), float(np.median(values))
        if unit == "maggie":
            wrong = low > 2.0 and high < 40.0
        else:  # a star measured to 10 % at 10 nJy would have magnitude 29
            wrong = low > 2.0 and high < 40.0 and float(np.median(errors)) < 1.0
        if wrong:
            raise PogsonValueError(
                f"The fluxes of band {band!r} lie between {low:.4g} and {high:.4g} {unit} (median "
                f"{middle:.4g}): these look like magnitudes. Use StarPhotometry.from_magnitudes "
                "for magnitudes."
            )


def _refuse_errors(
    bad: np.ndarray, err: np.ndarray, bands: Sequence[str], bad_errors: str
) -> np.ndarray:
    """Raise on zero and negative errors, or return the rows that have them."""
    if bad_errors not in ("raise", "mask"):
        raise PogsonValueError(
            f"bad_errors is {bad_errors!r}; allowed: {choices(['raise', 'mask'])}."
        )
    rows = bad.any(axis=1)
    if bad_errors == "raise" and rows.any():
        row = int(np.flatnonzero(rows)[0])
        k = int(np.flatnonzero(bad[row])[0])
        raise PogsonValueError(
            f"{int(bad.sum())} errors in {int(rows.sum())} rows are zero or negative, the first in "
            f"row {row}, band {bands[k]!r}: {err[row, k]:g}. Errors must be positive; pass "
            "bad_errors='mask' to leave those bands out and flag their stars."
        )
    return np.asarray(rows)


@dataclass(frozen=True, eq=False)
class StarPhotometry:
    """Fluxes, parallaxes and positions of stars, ready to fit; immutable.

    Use `from_magnitudes`, `from_fluxes` or `from_table`, which recognise missing values and
    mixed-up units.

    Parameters
    ----------
    flux, flux_err : numpy.ndarray, shape (n_stars, n_bands)
        Fluxes and one-sigma errors in maggies: 1 is magnitude 0 in the magnitude system of the
        band in the grid (AB or Vega). Zero and negative fluxes are measurements. NaN where not
        observed.
    observed : numpy.ndarray of bool, shape (n_stars, n_bands)
        Where there is a measurement.
    bands : tuple of str
        Names of the bands, those of the grid.
    parallax, parallax_err : numpy.ndarray, shape (n_stars,)
        Parallaxes and errors in mas; NaN where there is none. May be negative.
    l, b : numpy.ndarray, shape (n_stars,)
        Galactic longitude and latitude in degrees; NaN where unknown.
    ids : numpy.ndarray, shape (n_stars,)
        Identifiers (integers or text); random streams are keyed by them.
    flags : numpy.ndarray of int, shape (n_stars,)
        `StarFlag` bits.

    Raises
    ------
    PogsonValueError
        If shapes disagree or an observed band has no finite flux and positive error.

    Notes
    -----
    Fluxes in nJy are AB by definition: they may be used for bands whose grid magnitudes are AB.

    Examples
    --------
    >>> stars = StarPhotometry.from_magnitudes(
    ...     [[15.0, 14.5], [16.0, -999.0]], [[0.02, 0.02], [0.03, -999.0]], bands=["g", "r"]
    ... )
    >>> stars
    StarPhotometry(2 stars, 2 bands: g r, 3 measurements, 0 parallaxes)
    """

    flux: np.ndarray
    flux_err: np.ndarray
    observed: np.ndarray
    bands: tuple[str, ...]
    parallax: np.ndarray
    parallax_err: np.ndarray
    l: np.ndarray  # noqa: E741 - the field's own letter
    b: np.ndarray
    ids: np.ndarray
    flags: np.ndarray

    def __post_init__(self) -> None:
        n, n_bands = np.shape(self.flux)
        shapes: dict[str, tuple[int, ...]] = {
            "flux": (n, n_bands),
            "flux_err": (n, n_bands),
            "observed": (n, n_bands),
        }
        for name in ("parallax", "parallax_err", "l", "b", "ids", "flags"):
            shapes[name] = (n,)
        for name, shape in shapes.items():
            array = np.array(getattr(self, name))
            if array.shape != shape:
                raise PogsonValueError(f"{name} must have shape {shape}; it has {array.shape}.")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "bands", tuple(str(band) for band in self.bands))
        if len(self.bands) != n_bands:
            raise PogsonValueError(f"{len(self.bands)} names for {n_bands} columns of fluxes.")
        good = np.isfinite(self.flux) & (self.flux_err > 0.0) & np.isfinite(self.flux_err)
        if np.any(self.observed & ~good):
            raise PogsonValueError(
                f"{int((self.observed & ~good).sum())} observed fluxes are not finite or have no "
                "positive error; use from_fluxes or from_magnitudes, which flag them."
            )

    @classmethod
    def from_fluxes(
        cls,
        flux: Any,
        flux_err: Any,
        *,
        bands: Sequence[str],
        unit: str = "maggie",
        parallax: Any = None,
        parallax_err: Any = None,
        parallax_unit: str = "mas",
        l: Any = None,  # noqa: E741
        b: Any = None,
        ids: Any = None,
        bad_errors: str = "raise",
    ) -> StarPhotometry:
        """Take fluxes; zero and negative ones are kept.

        Parameters
        ----------
        flux, flux_err : array_like or Quantity, shape (n_stars, n_bands)
            Fluxes and errors. NaN, masked, -99, -999, -9999 and a flux of 0 without a positive
            error mean "no measurement". An upper limit is a flux (0 or what was measured) with its
            one-sigma error. A Quantity is converted to nJy whatever ``unit`` says.
        bands : sequence of str
            Names of the columns.
        unit : {'maggie', 'nJy'}
            Unit of bare numbers; nJy means AB.
        parallax, parallax_err : array_like or Quantity, shape (n_stars,), optional
            Parallaxes and errors. NaN, masked, -900 or less, 0 without a positive error, and errors
            of 10,000 or more or -9 or less mean "none".
        parallax_unit : str
            Unit of bare numbers: ``"mas"`` or another angle, such as ``"arcsec"``.
        l, b : array_like or Quantity, shape (n_stars,), optional
            Galactic coordinates in degrees.
        ids : array_like, shape (n_stars,), optional
            Identifiers; default 0, 1, 2 ...
        bad_errors : {'raise', 'mask'}
            What to do about zero and negative errors: raise, or leave the band out and flag the
            star.

        Raises
        ------
        PogsonValueError
            If errors are zero or negative, shapes disagree, the fluxes look like magnitudes or the
            parallaxes like arcseconds.
        UnitMismatchError
            If a unit is unknown.

        Examples
        --------
        >>> stars = StarPhotometry.from_fluxes([[1e-6, -2e-9]], [[1e-8, 4e-9]], bands=["g", "r"])
        >>> stars.observed.tolist()
        [[True, True]]
        """
        bands = _names(bands)
        if getattr(flux, "unit", None) is not None:
            unit = "nJy"
            flux = strip_unit(flux, "nJy", "flux")
            flux_err = strip_unit(flux_err, "nJy", "flux_err")
        if unit not in _UNITS:
            raise UnitMismatchError(f"Unknown unit {unit!r} of flux; allowed: {choices(_UNITS)}.")
        values = _table(flux, "flux", len(bands), "")
        errors = _table(flux_err, "flux_err", len(bands), "")
        _same_shape(values, errors, "flux_err")
        good = ~_sentinel_fluxes(values, errors)
        _refuse_magnitudes(values, errors, good, bands, unit)
        bad = good & ~(errors > 0.0)
        rows = _refuse_errors(bad, errors, bands, bad_errors)
        factor = _UNITS[unit]
        good &= ~bad
        return cls._build(
            values * factor, errors * factor, good, bands, rows,
            parallax=parallax, parallax_err=parallax_err, parallax_unit=parallax_unit, l=l, b=b,
            ids=ids, bad_errors=bad_errors,
        )  # fmt: skip

    @classmethod
    def from_magnitudes(
        cls,
        mag: Any,
        mag_err: Any,
        *,
        bands: Sequence[str],
        upper_limit: Any = None,
        limit_sigma: float = 3.0,
        parallax: Any = None,
        parallax_err: Any = None,
        parallax_unit: str = "mas",
        l: Any = None,  # noqa: E741
        b: Any = None,
        ids: Any = None,
        bad_errors: str = "raise",
    ) -> StarPhotometry:
        """Take magnitudes in the magnitude system of the grid's bands.

        Parameters
        ----------
        mag, mag_err : array_like, shape (n_stars, n_bands)
            Magnitudes and errors. NaN, masked, 0, values beyond +-90 (-99, -999, 99 ...), and
            errors of 9 or more (9.995, inf ...) or -9 or less mean "no measurement".
        bands : sequence of str
            Names of the columns.
        upper_limit : array_like of bool, shape (n_stars, n_bands), optional
            Where the magnitude is the limit of a non-detection: taken as a flux of 0 with the
            limiting flux over ``limit_sigma`` as its error. Its ``mag_err`` is not used.
        limit_sigma : float
            How many sigma the limits are.
        parallax, parallax_err, parallax_unit, l, b, ids, bad_errors
            As in `from_fluxes`.

        Raises
        ------
        PogsonValueError
            If errors are zero or negative, shapes disagree, or the magnitudes look like fluxes.

        Notes
        -----
        ``flux = 10**(-0.4 mag)`` and ``flux_err = 0.4 ln(10) flux mag_err``: the photometry's own
        Gaussian errors are of the flux.

        Examples
        --------
        >>> stars = StarPhotometry.from_magnitudes([[20.0]], [[0.1]], bands=["g"])
        >>> stars.flux
        array([[1.e-08]])
        """
        bands = _names(bands)
        mags = _table(mag, "mag", len(bands), _magnitude_unit(mag))
        errors = _table(mag_err, "mag_err", len(bands), _magnitude_unit(mag_err))
        _same_shape(mags, errors, "mag_err")
        limits = np.zeros(mags.shape, bool)
        if upper_limit is not None:
            limits = np.broadcast_to(np.asarray(upper_limit, bool), mags.shape)
            if not limit_sigma > 0.0:
                raise PogsonValueError(f"limit_sigma must be positive, not {limit_sigma}.")
        errors = np.where(limits, 1.0, errors)
        good = ~_sentinel_magnitudes(mags, errors)
        _refuse_fluxes(mags, np.isfinite(mags) & (mags > -90.0) & (mags != 0.0), bands)
        bad = good & ~(errors > 0.0)
        rows = _refuse_errors(bad, errors, bands, bad_errors)
        good &= ~bad
        flux = 10.0 ** (-0.4 * np.where(good, mags, 0.0))
        flux_err = np.where(limits, flux / limit_sigma, _LN * flux * errors)
        return cls._build(
            np.where(limits, 0.0, flux), flux_err, good, bands, rows,
            parallax=parallax, parallax_err=parallax_err, parallax_unit=parallax_unit, l=l, b=b,
            ids=ids, bad_errors=bad_errors,
        )  # fmt: skip

    @classmethod
    def from_table(
        cls,
        table: Any,
        columns: Mapping[str, tuple[str, str]],
        *,
        kind: str = "magnitude",
        parallax: tuple[str, str] | None = None,
        parallax_unit: str = "mas",
        position: tuple[str, str] | None = None,
        ids: str | None = None,
        unit: str = "maggie",
        bad_errors: str = "raise",
    ) -> StarPhotometry:
        """Take columns of a table.

        Parameters
        ----------
        table : mapping of columns
            An astropy Table, a structured array, a dictionary of arrays, a pandas data frame.
        columns : mapping
            Band of the grid -> (column of the value, column of its error).
        kind : {'magnitude', 'flux'}
            What the columns hold.
        parallax : tuple of str, optional
            Columns of the parallax and its error.
        parallax_unit : str
            Unit of parallaxes in columns without one of their own.
        position : tuple of str, optional
            Columns of Galactic longitude and latitude, degrees.
        ids : str, optional
            Column of identifiers.
        unit : {'maggie', 'nJy'}
            Unit of fluxes without one of their own.
        bad_errors : {'raise', 'mask'}
            As in `from_fluxes`.

        Raises
        ------
        MissingDataError
            If a column is not there; the message lists those that are.
        PogsonValueError
            As `from_fluxes` and `from_magnitudes`.

        Examples
        --------
        >>> table = {"g": [15.0, 0.0], "eg": [0.02, 0.0], "plx": [1.0, 2.0], "eplx": [0.1, 0.1]}
        >>> StarPhotometry.from_table(table, {"PS_g": ("g", "eg")}, parallax=("plx", "eplx"))
        StarPhotometry(2 stars, 1 bands: PS_g, 1 measurements, 2 parallaxes)
        """
        if kind not in ("magnitude", "flux"):
            raise PogsonValueError(f"kind is {kind!r}; allowed: {choices(['magnitude', 'flux'])}.")

        def get(name: str) -> Any:
            names = _column_names(table)
            if name not in names:
                raise MissingDataError(
                    f"The table has no column {name!r}; it has {choices(names)}."
                )
            return table[name]

        flux_unit = {"maggie": "maggie", "nJy": "nJy"}.get(unit, unit)
        pairs = list(columns.values())
        if kind == "flux" and any(getattr(get(p[0]), "unit", None) is not None for p in pairs):
            flux_unit = "nJy"
        numbers = "nJy" if flux_unit == "nJy" and kind == "flux" else ""
        stack = [
            np.column_stack([_bare(get(pair[k]), numbers, pair[k]) for pair in pairs])
            for k in (0, 1)
        ]
        common: dict[str, Any] = {
            "bands": list(columns), "bad_errors": bad_errors, "parallax_unit": parallax_unit
        }  # fmt: skip
        if parallax is not None:
            common |= {"parallax": get(parallax[0]), "parallax_err": get(parallax[1])}
        if position is not None:
            common |= {"l": get(position[0]), "b": get(position[1])}
        if ids is not None:
            common["ids"] = np.asarray(get(ids))
        if kind == "magnitude":
            return cls.from_magnitudes(*stack, **common)
        return cls.from_fluxes(*stack, unit=flux_unit, **common)

    @classmethod
    def _build(
        cls,
        flux: np.ndarray,
        flux_err: np.ndarray,
        good: np.ndarray,
        bands: tuple[str, ...],
        bad_rows: np.ndarray,
        *,
        parallax: Any,
        parallax_err: Any,
        parallax_unit: str,
        l: Any,  # noqa: E741
        b: Any,
        ids: Any,
        bad_errors: str,
    ) -> StarPhotometry:
        n = len(flux)
        if (parallax is None) != (parallax_err is None):
            raise PogsonValueError("Give parallax and parallax_err together.")
        plx, plx_err, gone = _parallaxes(parallax, parallax_err, n, parallax_unit)
        with np.errstate(invalid="ignore"):
            wrong = ~gone & ~(plx_err > 0.0)
        bad_plx = _refuse_errors(wrong[:, None], plx_err[:, None], ["parallax"], bad_errors)
        gone |= bad_plx
        names = np.arange(n) if ids is None else np.atleast_1d(np.asarray(ids))
        flags = np.zeros(n, np.int64)
        flags[gone] |= StarFlag.NO_PARALLAX
        flags[~good.any(axis=1)] |= StarFlag.ALL_MASKED
        flags[bad_rows | bad_plx] |= StarFlag.BAD_ERROR
        return cls(
            np.where(good, flux, np.nan), np.where(good, flux_err, np.nan), good, bands,
            np.where(gone, np.nan, plx), np.where(gone, np.nan, plx_err),
            _column(l, n, "l", "deg"), _column(b, n, "b", "deg"), names, flags,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.flux)

    @property
    def n_bands(self) -> np.ndarray:
        """Number of observed bands of each star."""
        return np.asarray(self.observed.sum(axis=1), np.int64)

    def select(self, rows: Any) -> StarPhotometry:
        """Return the stars of a boolean mask, slice or integer index array."""
        names = ("flux", "flux_err", "observed", "parallax", "parallax_err", "l", "b", "ids")
        return replace(self, **{k: getattr(self, k)[rows] for k in (*names, "flags")})

    def scaled(self, factors: Any) -> StarPhotometry:
        """Return the photometry with fluxes and errors multiplied by a factor per band.

        Parameters
        ----------
        factors : array_like, shape (n_bands,)
            Positive flux factors, such as those of `photometric_offsets`.

        Examples
        --------
        >>> stars = StarPhotometry.from_fluxes([[1e-6]], [[1e-8]], bands=["g"])
        >>> stars.scaled([1.02]).flux
        array([[1.02e-06]])
        """
        values = np.asarray(factors, np.float64)
        if values.shape != (len(self.bands),) or not np.all(values > 0.0):
            raise PogsonValueError(
                f"factors must be {len(self.bands)} positive numbers, one a band; got {factors!r}."
            )
        return replace(self, flux=self.flux * values, flux_err=self.flux_err * values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StarPhotometry):
            return NotImplemented
        names = ("flux", "flux_err", "observed", "parallax", "parallax_err", "l", "b", "flags")
        return (
            self.bands == other.bands
            and np.array_equal(self.ids, other.ids)
            and all(
                np.array_equal(getattr(self, k), getattr(other, k), equal_nan=True) for k in names
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            f"StarPhotometry({len(self)} stars, {len(self.bands)} bands: {' '.join(self.bands)}, "
            f"{int(self.observed.sum())} measurements, "
            f"{int(np.isfinite(self.parallax).sum())} parallaxes)"
        )


def _names(bands: Sequence[str]) -> tuple[str, ...]:
    names = (bands,) if isinstance(bands, str) else tuple(str(band) for band in bands)
    if len(set(names)) != len(names) or not names:
        raise PogsonValueError(f"bands must be different names, one a column; got {names}.")
    return names


def _magnitude_unit(values: Any) -> str | None:
    return "mag" if str(getattr(values, "unit", "")) == "mag" else ""


def _bare(values: Any, unit: str, name: str) -> np.ndarray:
    """Return the numbers of a column, converting only where a unit is wanted."""
    if unit:
        return strip_unit(values, unit, name)
    filled = np.ma.filled(np.ma.asarray(getattr(values, "value", values), np.float64), np.nan)
    return np.asarray(filled, np.float64)


def _column_names(table: Any) -> list[str]:
    for attribute in ("colnames", "column_names", "keys"):
        found = getattr(table, attribute, None)
        if found is not None:
            return [str(c) for c in (found() if callable(found) else found)]
    return [str(c) for c in (getattr(table, "dtype", None) and table.dtype.names) or ()]


def _same_shape(a: np.ndarray, b: np.ndarray, name: str) -> None:
    if a.shape != b.shape:
        raise PogsonValueError(f"{name} must have shape {a.shape}; it has {b.shape}.")
