"""Fluxes of injected sources over time: the same source in visits, templates and coadds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import MissingDataError, PogsonValueError, choices
from pogson.inject.catalogue import InjectionCatalog

if TYPE_CHECKING:
    from pogson.images import Exposure

__all__ = ["LightCurves"]

_INTERPOLATION = ("linear", "epochs")


@dataclass(frozen=True, eq=False, repr=False)
class LightCurves:
    """Fluxes by source, band and time; make them with `from_table`.

    Parameters
    ----------
    points : mapping of (str, str) to (numpy.ndarray, numpy.ndarray)
        Times (MJD, ascending) and fluxes (nJy) for each source id and band.
    interpolation : {"linear", "epochs"}
        "linear": straight between points, 0 before the first and after the last. "epochs": the
        flux of a point within ``tolerance`` of the exposure's time, 0 at all other times.
    tolerance : float
        Days, for "epochs".

    Notes
    -----
    Fluxes have the reference of the catalogue's band. A template taken before the first point
    holds the source at flux 0: the difference image then shows it whole.
    """

    points: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]
    interpolation: str = "linear"
    tolerance: float = 1e-3

    @classmethod
    def from_table(
        cls, table: Any, *, interpolation: str = "linear", tolerance: float = 1e-3
    ) -> LightCurves:
        """Read light curves from a table with a row for each point.

        Parameters
        ----------
        table : astropy.table.Table
            ``id``, ``mjd`` and ``flux`` in nJy, and ``band`` where there are several. Rows that
            are not finite are refused.
        interpolation, tolerance
            As in the class.

        Raises
        ------
        MissingDataError
            If a column is missing.
        PogsonValueError
            If a time or flux is not finite, a point is given twice, or the interpolation unknown.

        Examples
        --------
        >>> from astropy.table import Table
        >>> curve = Table({"id": ["sn"] * 3, "mjd": [10.0, 20.0, 40.0], "flux": [0.0, 100.0, 20.0]})
        >>> curves = LightCurves.from_table(curve)
        >>> curves.flux("sn", 15.0), curves.flux("sn", 5.0), curves.flux("sn", 30.0)
        (50.0, 0.0, 60.0)
        """
        if interpolation not in _INTERPOLATION:
            raise PogsonValueError(
                f"Unknown interpolation {interpolation!r}; allowed: {choices(_INTERPOLATION)}."
            )
        if not (np.isfinite(tolerance) and tolerance >= 0):
            raise PogsonValueError(f"tolerance={tolerance!r} must be days, at least 0.")
        missing = [c for c in ("id", "mjd", "flux") if c not in table.colnames]
        if missing:
            raise MissingDataError(
                f"Light curves need the columns id, mjd and flux; {choices(missing)} is missing."
            )
        from pogson.units import strip_unit

        ids = [str(i) for i in table["id"]]
        bands = [str(b) for b in table["band"]] if "band" in table.colnames else [""] * len(table)
        mjd = strip_unit(table["mjd"], "day", "mjd")
        flux = strip_unit(table["flux"], "nJy", "flux")
        wrong = ~(np.isfinite(mjd) & np.isfinite(flux))
        if wrong.any():
            raise PogsonValueError(
                f"{int(wrong.sum())} points of the light curves are not finite, the first of "
                f"source {ids[int(np.argmax(wrong))]!r}."
            )
        rows: dict[tuple[str, str], list[int]] = {}
        for k, key in enumerate(zip(ids, bands, strict=True)):
            rows.setdefault(key, []).append(k)
        points = {}
        for key, some in rows.items():
            order = np.array(some)[np.argsort(mjd[some], kind="stable")]
            if (np.diff(mjd[order]) == 0).any():
                raise PogsonValueError(f"The light curve of {key[0]!r} has two points at one time.")
            points[key] = (mjd[order], flux[order])
        return cls(MappingProxyType(points), interpolation, float(tolerance))

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the sources, in the order of the table."""
        return tuple(dict.fromkeys(i for i, _ in self.points))

    def flux(self, source_id: str, mjd: float, band: str = "") -> float:
        """Return the flux of a source at a time, in nJy; 0 if it has no curve in this band."""
        key = (str(source_id), band)
        times, values = self.points.get(key, self.points.get((str(source_id), ""), (None, None)))
        if times is None or values is None:
            return 0.0
        if self.interpolation == "epochs":
            k = int(np.argmin(np.abs(times - mjd)))
            return float(values[k]) if abs(times[k] - mjd) <= self.tolerance else 0.0
        return float(np.interp(mjd, times, values, left=0.0, right=0.0))

    def fluxes(self, mjd: float, band: str = "") -> dict[str, float]:
        """Return the flux of every source at a time, in nJy."""
        return {i: self.flux(i, mjd, band) for i in self.ids}

    def mean_fluxes(
        self, mjds: Sequence[float], *, weights: Sequence[float] | None = None, band: str = ""
    ) -> dict[str, float]:
        """Return the fluxes that a weighted mean of exposures holds, as a coadd or template.

        Parameters
        ----------
        mjds : sequence of float
            Times of the exposures in the coadd.
        weights : sequence of float, optional
            Their weights; equal by default.
        band : str, optional
            Band.

        Examples
        --------
        >>> from astropy.table import Table
        >>> curve = Table({"id": ["v", "v"], "mjd": [0.0, 10.0], "flux": [0.0, 10.0]})
        >>> LightCurves.from_table(curve).mean_fluxes([2.0, 6.0], weights=[3.0, 1.0])
        {'v': 3.0}
        """
        if len(mjds) == 0:
            raise PogsonValueError("A coadd has at least one exposure.")
        w = np.ones(len(mjds)) if weights is None else np.asarray(weights, np.float64)
        if w.shape != (len(mjds),) or not (np.isfinite(w).all() and w.sum() > 0):
            raise PogsonValueError("Give one finite weight for each exposure, not all of them 0.")
        w = w / w.sum()
        return {
            i: float(sum(wk * self.flux(i, t, band) for wk, t in zip(w, mjds, strict=True)))
            for i in self.ids
        }

    def catalog_for(self, catalog: InjectionCatalog, exposure: Exposure) -> InjectionCatalog:
        """Return a catalogue with the fluxes at an exposure's time.

        Sources without a light curve keep their flux.

        Parameters
        ----------
        catalog : InjectionCatalog
            The sources.
        exposure : Exposure
            With ``metadata["mjd"]`` (the middle of the exposure, or a time near enough).

        Raises
        ------
        MissingDataError
            If the exposure does not say its time.

        Examples
        --------
        >>> import numpy as np
        >>> from astropy.table import Table
        >>> from pogson.calib import FluxReference
        >>> from pogson.images import Exposure
        >>> star = {"id": ["v"], "x": [5.0], "y": [5.0], "flux": [1.0]}
        >>> catalog = InjectionCatalog.from_table(star, reference=FluxReference.total())
        >>> curve = Table({"id": ["v", "v"], "mjd": [0.0, 10.0], "flux": [0.0, 10.0]})
        >>> exposure = Exposure(np.ones((9, 9)), unit="nJy", measure="fluence",
        ...                     metadata={"mjd": 4.0})
        >>> LightCurves.from_table(curve).catalog_for(catalog, exposure).flux()
        array([4.])
        """
        mjd = exposure.metadata.get("mjd")
        if mjd is None or not np.isfinite(float(mjd)):
            raise MissingDataError(
                "A light curve needs the time of the exposure: put it into metadata['mjd']."
            )
        band = catalog.band_for(exposure)
        fluxes = dict(zip(catalog.ids.tolist(), catalog.flux(band).tolist(), strict=True))
        mine = set(fluxes)
        fluxes.update({i: f for i, f in self.fluxes(float(mjd), band).items() if i in mine})
        return catalog.with_fluxes(fluxes, band=band)

    def __repr__(self) -> str:
        return (
            f"<LightCurves: {len(self.ids)} sources, {len(self.points)} curves, "
            f"interpolation {self.interpolation!r}>"
        )
