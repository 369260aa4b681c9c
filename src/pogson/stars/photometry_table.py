"""Photometry of stars for model fitting: fluxes, parallaxes and positions, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError, UnitMismatchError, choices
from pogson.stars._photometry_checks import (
    band_table,
    checked_latitudes,
    checked_parallaxes,
    refuse_errors,
    refuse_fluxes,
    refuse_magnitudes,
    sentinel_fluxes,
    sentinel_magnitudes,
    star_column,
)
from pogson.stars.star_flags import StarFlag
from pogson.units import strip_unit

__all__ = ["NJY_PER_MAGGIE", "StarPhotometry"]

NJY_PER_MAGGIE = 10.0 ** (0.4 * 31.4)
"""Nanojansky in one AB maggy (AB magnitude 0): 3630.78e9."""

_LN = 0.4 * np.log(10.0)
_BY_STAR = ("parallax", "parallax_err", "l", "b", "flags", "av_mean", "av_sd")
_UNITS = {"maggie": 1.0, "nJy": 1.0 / NJY_PER_MAGGIE}


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
    av_mean, av_sd : numpy.ndarray, shape (n_stars,), optional
        What is known of each star's A_V beforehand, in magnitudes; NaN where nothing is. See
        `with_extinctions`.
    ab : bool, optional
        Whether the fluxes came in nJy or another physical unit and so are AB; a fit in bands whose
        grid magnitudes are Vega then raises.

    Raises
    ------
    PogsonValueError
        If shapes disagree or an observed band has no finite flux and positive error.

    Notes
    -----
    Fluxes in nJy are AB by definition: they may be used for bands whose grid magnitudes are AB.
    For bands in Vega magnitudes (2MASS in MIST grids) give magnitudes, or maggies with respect to
    Vega.

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
    av_mean: np.ndarray = None  # type: ignore[assignment]
    av_sd: np.ndarray = None  # type: ignore[assignment]
    ab: bool = False

    def __post_init__(self) -> None:
        n, n_bands = np.shape(self.flux)
        for name in ("av_mean", "av_sd"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.full(n, np.nan))
        shapes: dict[str, tuple[int, ...]] = {
            "flux": (n, n_bands),
            "flux_err": (n, n_bands),
            "observed": (n, n_bands),
        }
        for name in (*_BY_STAR, "ids"):
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
        if not np.array_equal(np.isfinite(self.av_mean), self.av_sd > 0.0):
            raise PogsonValueError(
                "av_mean and av_sd must both be NaN, or finite and positive; use with_extinctions."
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
            Galactic coordinates in degrees. Latitudes beyond the poles mean "unknown".
        ids : array_like, shape (n_stars,), optional
            Identifiers; default 0, 1, 2 ...
        bad_errors : {'raise', 'mask'}
            What to do about zero and negative errors: raise, or leave the band out and flag the
            star.

        Raises
        ------
        PogsonValueError
            If errors are zero or negative, shapes disagree, the fluxes look like magnitudes or of
            another unit, the parallaxes like arcseconds, or the latitudes like longitudes.
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
        values = band_table(flux, "flux", len(bands), "")
        errors = band_table(flux_err, "flux_err", len(bands), "")
        _same_shape(values, errors, "flux_err")
        good = ~sentinel_fluxes(values, errors)
        refuse_magnitudes(values, errors, good, bands, unit)
        bad = good & ~(errors > 0.0)
        rows = refuse_errors(bad, errors, bands, bad_errors)
        factor = _UNITS[unit]
        good &= ~bad
        return cls._build(
            values * factor, errors * factor, good, bands, rows,
            parallax=parallax, parallax_err=parallax_err, parallax_unit=parallax_unit, l=l, b=b,
            ids=ids, bad_errors=bad_errors, ab=unit == "nJy",
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
        mags = band_table(mag, "mag", len(bands), _magnitude_unit(mag))
        errors = band_table(mag_err, "mag_err", len(bands), _magnitude_unit(mag_err))
        _same_shape(mags, errors, "mag_err")
        limits = np.zeros(mags.shape, bool)
        if upper_limit is not None:
            limits = np.broadcast_to(np.asarray(upper_limit, bool), mags.shape)
            if not limit_sigma > 0.0:
                raise PogsonValueError(f"limit_sigma must be positive, not {limit_sigma}.")
        errors = np.where(limits, 1.0, errors)
        good = ~sentinel_magnitudes(mags, errors)
        refuse_fluxes(mags, np.isfinite(mags) & (mags > -90.0) & (mags != 0.0), bands)
        bad = good & ~(errors > 0.0)
        rows = refuse_errors(bad, errors, bands, bad_errors)
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
        ab: bool = False,
    ) -> StarPhotometry:
        n = len(flux)
        if (parallax is None) != (parallax_err is None):
            raise PogsonValueError("Give parallax and parallax_err together.")
        plx, plx_err, gone = checked_parallaxes(parallax, parallax_err, n, parallax_unit)
        with np.errstate(invalid="ignore"):
            wrong = ~gone & ~(plx_err > 0.0)
        bad_plx = refuse_errors(wrong[:, None], plx_err[:, None], ["parallax"], bad_errors)
        gone |= bad_plx
        names = np.arange(n) if ids is None else np.atleast_1d(np.asarray(ids))
        flags = np.zeros(n, np.int64)
        flags[gone] |= StarFlag.NO_PARALLAX
        flags[~good.any(axis=1)] |= StarFlag.ALL_MASKED
        flags[bad_rows | bad_plx] |= StarFlag.BAD_ERROR
        return cls(
            np.where(good, flux, np.nan), np.where(good, flux_err, np.nan), good, bands,
            np.where(gone, np.nan, plx), np.where(gone, np.nan, plx_err),
            star_column(l, n, "l", "deg"), checked_latitudes(b, n), names, flags,
            ab=ab,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.flux)

    @property
    def n_bands(self) -> np.ndarray:
        """Number of observed bands of each star."""
        return np.asarray(self.observed.sum(axis=1), np.int64)

    def select(self, rows: Any) -> StarPhotometry:
        """Return the stars of a boolean mask, slice or integer index array."""
        names = ("flux", "flux_err", "observed", "ids", *_BY_STAR)
        return replace(self, **{k: getattr(self, k)[rows] for k in names})

    def with_extinctions(self, av_mean: Any, av_sd: Any) -> StarPhotometry:
        """Return the photometry with what is known of each star's A_V, such as a dust map's.

        A fit takes it as a Gaussian prior, cut at the limits of A_V, if its priors say so:
        `StarExtinctionPrior`.

        Parameters
        ----------
        av_mean, av_sd : array_like or Quantity, shape (n_stars,)
            Mean and standard deviation of A_V in magnitudes. NaN, masked, a mean of -90 or less and
            a deviation that is negative or infinite mean "nothing known". Means may be below zero.

        Raises
        ------
        PogsonValueError
            If shapes disagree or a deviation is zero.

        Examples
        --------
        >>> stars = StarPhotometry.from_fluxes([[1e-6]] * 2, [[1e-8]] * 2, bands=["g"])
        >>> stars.with_extinctions([0.08, np.nan], [0.02, 0.02]).av_sd
        array([0.02,  nan])
        """
        mean = star_column(av_mean, len(self), "av_mean", "mag")
        sd = star_column(av_sd, len(self), "av_sd", "mag")
        with np.errstate(invalid="ignore"):
            known = np.isfinite(mean) & (mean > -90.0) & (sd >= 0.0) & (sd < np.inf)
        zero = np.flatnonzero(known & (sd == 0.0))
        if zero.size:
            raise PogsonValueError(
                f"{zero.size} standard deviations of A_V are zero, the first in row {zero[0]}. "
                "They must be positive (add the scatter of stars about the map), or NaN where "
                "nothing is known."
            )
        return replace(
            self, av_mean=np.where(known, mean, np.nan), av_sd=np.where(known, sd, np.nan)
        )

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
        names = ("flux", "flux_err", "observed", *_BY_STAR)
        return (
            self.bands == other.bands
            and self.ab == other.ab
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
