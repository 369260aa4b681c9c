"""Catalogues of sources to inject, whose fluxes say what they are fluxes of.

Positions are ``ra``, ``dec`` in degrees or ``x``, ``y`` in pixels (0-based, pixel centres on
integers).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.calib import FluxReference
from pogson.errors import (
    MissingDataError,
    PogsonError,
    PogsonTypeError,
    PogsonValueError,
    ReferenceMismatchError,
    choices,
)
from pogson.inject.aliases import translate_columns
from pogson.inject.catalogue_columns import (
    SERSIC_RANGE,
    SOURCE_TYPES,
    as_reference,
    flag_duplicates,
    flag_shapes,
    flux_columns,
    id_text,
    read_ids,
    read_parameters,
    read_positions,
    read_source_types,
)
from pogson.inject.flags import InjectionFlag

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.images import Exposure

__all__ = ["SERSIC_RANGE", "SOURCE_TYPES", "InjectionCatalog"]


@dataclass(frozen=True, eq=False, repr=False)
class InjectionCatalog:
    """Sources to inject; make one with `from_table`.

    Parameters
    ----------
    table : astropy.table.Table
        Normalised columns: ``id`` (text, unique), ``x``, ``y``, ``ra``, ``dec`` (NaN where not
        given), ``source_type``, ``flux`` or ``flux_<band>`` in nJy, and the parameters of the
        types. Treat it as read-only.
    references : mapping of str to FluxReference
        Reference of the fluxes of each band; the key "" is for a flux that names no band.
    flags : numpy.ndarray of int32
        `InjectionFlag` bits found so far, one for each row.
    name : str
        Name of the catalogue, for provenance.

    Notes
    -----
    Source types and their columns (angles: degrees east of north; lengths: arcsec):

    ``point``
        A star or any unresolved source.
    ``sersic``
        ``sersic_index``, ``half_light_radius`` (of the circularised profile: the geometric mean
        of the axes of the half-light ellipse), ``axis_ratio`` (1), ``position_angle`` (0).
    ``bulge_disc``
        The same columns with the prefixes ``bulge_`` (index 4) and ``disc_`` (index 1), and
        ``bulge_fraction``, the fraction of the total flux in the bulge.
    ``stamp``
        ``stamp`` (a 2-d image) and ``stamp_reference``, which says what the flux of the catalogue
        is on that image.
    ``trail``
        ``rate_ra`` (including cos dec), ``rate_dec`` in arcsec/s; the exposure time is that of
        the exposure and the flux is that of the whole trail.
    ``galsim``
        ``galsim``: an object of the GalSim package, in arcsec.
    """

    table: Table
    references: Mapping[str, FluxReference]
    flags: np.ndarray
    name: str = ""

    # -- making -----------------------------------------------------------------------------
    @classmethod
    def from_table(
        cls,
        table: Any,
        *,
        band: str | None = None,
        schema: str = "pogson",
        reference: FluxReference | Mapping[str, Any] | None = None,
        name: str = "",
    ) -> InjectionCatalog:
        """Read a catalogue from a table.

        Parameters
        ----------
        table : astropy.table.Table or mapping
            ``ra``, ``dec`` or ``x``, ``y``; ``flux`` (nJy, or the column's unit) or ``mag`` (AB),
            or a ``flux_<band>`` or ``mag_<band>`` for each band; ``id`` and ``source_type``
            ("point" by default); the parameters of the types. Without ``id`` an id is made from
            position, type and flux, so that it does not depend on the order of rows.
        band : str, optional
            Keep this band only; it also names a ``flux`` or ``mag`` column that names none.
        schema : {"pogson", "lsst", "legacy-radians"}, optional
            Column names of other injectors, see `pogson.inject.aliases`.
        reference : FluxReference, optional
            What the fluxes are fluxes of, where the columns do not say it in
            ``column.info.meta["reference"]``.
        name : str, optional
            Name of the catalogue, for provenance.

        Returns
        -------
        InjectionCatalog
            With all rows; those that cannot be drawn are flagged.

        Raises
        ------
        ReferenceMismatchError
            If a flux column is a bare number without reference, or the column's reference and
            ``reference`` differ.
        MissingDataError
            If there is no position or flux column, or not the band asked for.

        Examples
        --------
        >>> from pogson.calib import FluxReference
        >>> rows = {"id": ["a", "b"], "ra": [10.0, 10.1], "dec": [0.0, 0.0], "mag_r": [20.0, 21.0]}
        >>> catalog = InjectionCatalog.from_table(rows, reference=FluxReference.aperture(12))
        >>> catalog
        <InjectionCatalog: 2 sources, band r in aperture 12 px exact, none flagged>
        >>> catalog.flux("r").round(1)
        array([36307.8, 14454.4])
        >>> InjectionCatalog.from_table(rows)
        Traceback (most recent call last):
        ...
        pogson.errors.ReferenceMismatchError: The column 'mag_r' holds bare numbers ...
        """
        from astropy.table import Table

        try:
            given = table if isinstance(table, Table) else Table(dict(table))
        except (TypeError, ValueError) as error:
            raise PogsonTypeError(f"The catalogue is not a table: {error}.") from None
        given = translate_columns(given, schema)
        flags = np.zeros(len(given), np.int32)
        out = Table(meta=dict(given.meta))
        read_positions(given, out)
        columns, references = flux_columns(given, band, as_reference(reference))
        out["source_type"] = read_source_types(given, flags)
        for key, (values, bad) in columns.items():
            label = f"flux_{key}" if key else "flux"
            out[label] = values
            out[label].unit = "nJy"
            out[label].info.meta = {"reference": references[key].to_dict()}
            if len(columns) == 1:
                flags[bad] |= int(InjectionFlag.BAD_FLUX)
        read_parameters(given, out)
        out.add_column(read_ids(given, out, flags), index=0, name="id")
        flag_shapes(out, flags)
        flags.flags.writeable = False
        return cls(out, MappingProxyType(references), flags, name)

    @classmethod
    def joined(cls, *catalogs: InjectionCatalog) -> InjectionCatalog:
        """Join catalogues whose fluxes have the same references.

        Raises
        ------
        ReferenceMismatchError
            If they have other references or bands.
        """
        from astropy.table import vstack

        if not catalogs:
            raise PogsonValueError("Give at least one catalogue to join.")
        first = catalogs[0]
        for other in catalogs[1:]:
            if set(other.references) != set(first.references):
                raise ReferenceMismatchError(
                    f"The catalogues have different bands: {choices(first.references)} and "
                    f"{choices(other.references)}."
                )
            for band, reference in first.references.items():
                if reference != other.references[band]:
                    raise ReferenceMismatchError(
                        f"Two catalogues with different flux references cannot be joined: "
                        f"'{reference.label}' and '{other.references[band].label}'. Convert one "
                        "with FluxReference.convert(flux, to=..., psf=..., x=..., y=...) first, or "
                        "inject them one after the other (again=True)."
                    )
        table = vstack([c.table for c in catalogs], metadata_conflicts="silent")
        flags = np.concatenate([c.flags for c in catalogs])
        flag_duplicates(np.asarray(table["id"]), flags)
        flags.flags.writeable = False
        names = "+".join(c.name for c in catalogs if c.name)
        return cls(table, first.references, flags, names)

    # -- what is in it ----------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self.table)

    @property
    def ids(self) -> np.ndarray:
        """Ids of the sources, text."""
        return np.asarray(self.table["id"])

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands for which there are fluxes; ("",) if the fluxes name none."""
        return tuple(self.references)

    def flux(self, band: str = "") -> np.ndarray:
        """Return the fluxes of a band in nJy.

        Raises
        ------
        MissingDataError
            If there is no such band.
        """
        return np.asarray(self.table[self._column(band)], np.float64)

    def reference(self, band: str = "") -> FluxReference:
        """Return the reference of the fluxes of a band."""
        self._column(band)
        return self.references[band]

    def _column(self, band: str) -> str:
        if band not in self.references:
            raise MissingDataError(
                f"The catalogue has no band {band!r}; it has {choices(self.references)}."
            )
        return f"flux_{band}" if band else "flux"

    # -- parts ------------------------------------------------------------------------------
    def select(self, rows: Any = None, *, ids: Iterable[Any] | None = None) -> InjectionCatalog:
        """Return some of the sources.

        Parameters
        ----------
        rows : array_like, optional
            Boolean array, row numbers or a slice.
        ids : iterable, optional
            Ids to keep, in this order; ids that are not there raise.

        Raises
        ------
        MissingDataError
            If an id is not in the catalogue.
        """
        if (rows is None) == (ids is None):
            raise PogsonValueError("Select by rows or by ids, one of the two.")
        if ids is not None:
            at = {name: k for k, name in enumerate(self.ids.tolist())}
            wanted = [id_text(i) for i in ids]
            missing = [w for w in wanted if w not in at]
            if missing:
                raise MissingDataError(
                    f"{len(missing)} ids are not in the catalogue, the first {missing[0]!r}."
                )
            rows = np.array([at[w] for w in wanted], int)
        index = np.arange(len(self))[rows]
        return replace(self, table=self.table[index], flags=self.flags[index])

    def with_fluxes(
        self, fluxes: Mapping[str, Any], *, band: str = "", fill: float = 0.0
    ) -> InjectionCatalog:
        """Return the catalogue with other fluxes of one band, as at one epoch of a light curve.

        Parameters
        ----------
        fluxes : mapping of str to float
            Flux in nJy by source id, in the reference of the band.
        band : str, optional
            Band to change.
        fill : float, optional
            Flux of sources that are not in ``fluxes``.
        """
        column = self._column(band)
        table = self.table.copy(copy_data=True)
        known = {id_text(k): float(v) for k, v in fluxes.items()}
        table[column][:] = [known.get(i, fill) for i in self.ids.tolist()]
        flags = self.flags & ~np.int32(InjectionFlag.BAD_FLUX)
        flags[~np.isfinite(np.asarray(table[column]))] |= int(InjectionFlag.BAD_FLUX)
        return replace(self, table=table, flags=flags)

    def band_for(self, exposure: Exposure) -> str:
        """Return the catalogue's band for an exposure.

        The exposure's ``bandpass`` ("decam2014-z"), its part after the last "-", and
        ``metadata["band"]`` are tried; a catalogue without bands fits every exposure.

        Raises
        ------
        MissingDataError
            If none of them is in the catalogue.
        """
        if self.bands == ("",):
            return ""
        name = exposure.bandpass or ""
        tried = [name, name.rsplit("-", 1)[-1], str(exposure.metadata.get("band") or "")]
        for candidate in tried:
            if candidate and candidate in self.references:
                return candidate
        known = sorted({t for t in tried if t})
        raise MissingDataError(
            f"The catalogue has fluxes in {choices(self.references)}, none for this exposure "
            + (f"in {choices(known)}." if known else "which names no band; give it bandpass=...")
        )

    def for_exposure(self, exposure: Exposure) -> InjectionCatalog:
        """Return the catalogue with pixel and sky positions and the fluxes of an exposure's band.

        A sky position goes before a pixel position where the exposure has a sky map. Rows are
        kept, all of them.

        Parameters
        ----------
        exposure : Exposure
            Where the sources will go.

        Returns
        -------
        InjectionCatalog
            With ``x``, ``y``, ``ra``, ``dec`` filled where they can be, the one band, and
            BAD_POSITION and BAD_FLUX flags.

        Raises
        ------
        MissingDataError
            If all rows have sky positions only and the exposure has no sky map, or it has no band
            in the catalogue.
        """
        band = self.band_for(exposure)
        table, flags = self.table.copy(copy_data=True), self.flags.copy()
        x, y, ra, dec = (np.array(table[n], np.float64) for n in ("x", "y", "ra", "dec"))
        on_sky = np.isfinite(ra) & np.isfinite(dec)
        on_sky &= np.abs(np.where(on_sky, dec, 0.0)) <= 90.0
        if exposure.sky is None:
            if on_sky.any() and not np.isfinite(x).any():
                raise MissingDataError(
                    "The catalogue has sky positions, but the exposure has no sky map; give it one "
                    "(exposure.with_(sky=...)) or pixel positions x, y."
                )
        else:
            _fill_pixels(exposure, x, y, ra, dec, on_sky)
            on_pixels = np.isfinite(x) & np.isfinite(y) & ~on_sky
            if on_pixels.any():
                ra[on_pixels], dec[on_pixels] = exposure.sky.sky(x=x[on_pixels], y=y[on_pixels])
        bad = ~(np.isfinite(x) & np.isfinite(y) & (np.abs(x) < 1e8) & (np.abs(y) < 1e8))
        flags[bad] |= int(InjectionFlag.BAD_POSITION)
        flags[~np.isfinite(self.flux(band))] |= int(InjectionFlag.BAD_FLUX)
        for column, values in zip(("x", "y", "ra", "dec"), (x, y, ra, dec), strict=True):
            table[column] = values
        for other in self.bands:
            if other != band:
                table.remove_column(self._column(other))
        references = MappingProxyType({band: self.references[band]})
        return replace(self, table=table, flags=flags, references=references)

    def __repr__(self) -> str:
        bands = "; ".join(
            (f"band {b} in " if b else "") + r.label for b, r in self.references.items()
        )
        n = int((self.flags != 0).sum())
        flagged = f"{n} flagged" if n else "none flagged"
        return f"<InjectionCatalog: {len(self)} sources, {bands}, {flagged}>"


def _fill_pixels(
    exposure: Exposure,
    x: np.ndarray,
    y: np.ndarray,
    ra: np.ndarray,
    dec: np.ndarray,
    on_sky: np.ndarray,
) -> None:
    """Fill pixel positions from sky positions; those with no pixel become NaN, row by row."""
    assert exposure.sky is not None
    rows = np.flatnonzero(on_sky)
    if not rows.size:
        return
    try:
        x[rows], y[rows] = exposure.sky.pixel(ra[rows], dec[rows])
    except PogsonError:
        # one position beyond the map's reach must not lose the others
        for k in rows:
            try:
                x[k], y[k] = exposure.sky.pixel(ra[k], dec[k])
            except PogsonError:
                x[k] = y[k] = np.nan
