"""What is injected in a run: how many sources where, how bright; common to all exposures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pogson.errors import ConfigError, MissingDataError
from pogson.run.config import AuditConfig, RunConfig
from pogson.run.resume import file_identity

if TYPE_CHECKING:
    from astropy.table import Table

    from pogson.images import Exposure

__all__ = ["AuditPlan", "make_audit_plan"]

_BRIGHTER, _FAINTER = 4.5, 1.5  # magnitudes about the 5-sigma depth: S/N 315 to 1.3
_ROUND = 0.5
_SEPARATION = 3.0  # calibration apertures: no two injected sources share an aperture


@dataclass(frozen=True)
class AuditPlan:
    """Density and magnitudes of the injected sources.

    Parameters
    ----------
    audit : AuditConfig
        Section ``[audit]``.
    density : float
        Sources per arcmin2 of each round.
    min_separation : float
        Arcsec.
    magnitudes : mapping of str to (float, float)
        Bright and faint end for each band; empty where a distribution is drawn from.
    distribution : str or None
        Path of the table to draw from.
    """

    audit: AuditConfig
    density: float
    min_separation: float
    magnitudes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    distribution: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return everything a task's result depends on, JSON-ready; limits are not among it."""
        chosen = self.audit.model_dump(mode="json", exclude={
            "limits", "enabled", "bin_width", "isolation", "neighbor_light", "pull_snr",
        })  # fmt: skip
        shared: dict[str, Any] = {
            "density": self.density,
            "min_separation": self.min_separation,
            "magnitudes": {k: list(v) for k, v in self.magnitudes.items()},
        }
        if self.distribution is not None:
            shared["distribution"] = file_identity(self.distribution)
        return {"audit": chosen, **shared}

    def sources(self, exposure: Exposure, band: str, number: int) -> Table:
        """Return the sources of one round in an exposure: ``id``, ``ra``, ``dec``, ``mag``.

        The same place gets the same source, with the same magnitude, in every exposure of a band;
        in other bands its place is the same.

        Parameters
        ----------
        exposure : Exposure
            With a sky map.
        band : str
            Its band.
        number : int
            The round.
        """
        from pogson.inject.sky_placement import place_on_sky

        assert exposure.sky is not None
        positions = place_on_sky(
            [exposure.sky.footprint(exposure.box)], density=self.density,
            pattern=self.audit.pattern, min_separation=self.min_separation, seed=self.audit.seed,
            name=f"{number}-",
        )  # fmt: skip
        if self.distribution is not None:
            return self._from_distribution(positions, band)
        from pogson.streams import stream

        bright, faint = self.magnitudes[band]
        ids = positions["id"].tolist()
        u = [stream(self.audit.seed, "magnitude", name).random() for name in ids]
        positions["mag"] = bright + (faint - bright) * np.array(u, float)
        return positions

    def _from_distribution(self, positions: Table, band: str) -> Table:
        from pogson.inject import sample_fluxes

        assert self.distribution is not None
        table = _distribution(self.distribution, file_identity(self.distribution))
        names = [n for n in (f"mag_{band}", f"flux_{band}", "mag", "flux") if n in table.colnames]
        if not names:
            raise MissingDataError(
                f"[audit] distribution: {self.distribution} has no column mag_{band}, flux_{band}, "
                f"mag or flux; it has {', '.join(table.colnames)}."
            )
        weight = self.audit.weight
        keep = [names[0]] + ([weight] if weight else [])
        chosen = table[keep]
        chosen.rename_column(names[0], names[0].split("_")[0])
        return sample_fluxes(positions, chosen, seed=self.audit.seed, weight=weight)


@lru_cache(maxsize=2)
def _distribution(path: str, _identity: Any) -> Table:
    from pogson.formats import read_catalog

    table = read_catalog(path)
    types = set(np.asarray(table["source_type"]).astype(str)) if "source_type" in table.colnames\
        else {"point"}  # fmt: skip
    if types != {"point"}:
        raise ConfigError(
            f"[audit] distribution: {path} has source types {sorted(types)}; the audit of a run "
            "injects point sources. Use pogson inject and pogson.inject.audit_sources for others."
        )
    return table


def make_audit_plan(
    config: RunConfig, entries: Mapping[str, list[tuple[float, float]]]
) -> AuditPlan:
    """Choose density and magnitudes for a run.

    Parameters
    ----------
    config : RunConfig
        With the section ``[audit]``.
    entries : mapping of str to list of (float, float)
        For each band, area in arcmin2 and 5-sigma depth of the exposures that were calibrated;
        NaN where the depth is not known.

    Returns
    -------
    AuditPlan
        Numbers taken from the exposures are rounded, so that one more exposure does not change
        (and repeat) the audit of all others.

    Raises
    ------
    ConfigError
        If the depth is not known and magnitudes are not given, or the sources are too many for
        their separation.
    """
    from pogson.errors import PogsonValueError
    from pogson.inject.sky_placement import largest_density

    audit = config.audit
    assert audit is not None
    areas = [area for rows in entries.values() for area, _ in rows]
    density = float(f"{audit.number / float(np.median(areas)):.2g}") if areas else 1.0
    separation = audit.min_separation
    if separation is None:
        separation = _SEPARATION * config.measure.calibration_aperture
    most = largest_density(audit.pattern, separation)
    if density > most:
        fits = int(most * float(np.median(areas)))
        raise ConfigError(
            f"[audit] number = {audit.number}: at most {fits} sources fit {separation:g} arcsec "
            f"apart ({audit.pattern}) into an exposure. Ask for fewer and set audit.rounds, or "
            "make audit.min_separation smaller."
        )
    if audit.distribution is not None:
        path = config.path(audit.distribution)
        if not path.exists():
            raise ConfigError(f"[audit] distribution: there is no file {str(path)!r}.")
        return AuditPlan(audit, density, separation, {}, str(path))
    try:
        magnitudes = {band: _range(audit, band, rows) for band, rows in entries.items()}
    except PogsonValueError as error:
        raise ConfigError(str(error)) from None
    return AuditPlan(audit, density, separation, magnitudes)


def _range(audit: AuditConfig, band: str, rows: list[tuple[float, float]]) -> tuple[float, float]:
    if audit.magnitudes != "auto":
        return audit.magnitudes[0], audit.magnitudes[1]
    depths = np.array([depth for _, depth in rows], float)
    depths = depths[np.isfinite(depths)]
    if not depths.size:
        raise ConfigError(
            f"[audit] magnitudes = 'auto': the depth of the exposures in {band} is not known; give "
            "magnitudes = [bright, faint]."
        )
    depth = _ROUND * round(float(np.median(depths)) / _ROUND)
    return depth - _BRIGHTER, depth + _FAINTER
