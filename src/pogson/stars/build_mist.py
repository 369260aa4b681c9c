"""A grid of real stars: MIST isochrones and bolometric corrections from installed packages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pogson.errors import MaskedDataError, PogsonValueError
from pogson.stars._mist_tables import (
    CORRECTIONS,
    ISOCHRONES,
    SOLAR_MBOL,
    Corrections,
    Isochrones,
    available_bands,
    check_asked,
    file_digest,
    installed_file,
    near,
    read_corrections,
    read_isochrones,
)
from pogson.stars.extinction_fit import RV_NODES
from pogson.stars.grid import StellarGrid, named_columns

__all__ = ["MistLattice", "build_mist_grid", "mist_bands"]

_BANDS = ("PS_g", "PS_r", "PS_i", "PS_z", "PS_y", "2MASS_J", "2MASS_H", "2MASS_Ks")
LAST_BINARY_EEP = 480
"""Primaries up to here may have a lesser companion; later ones outshine it."""


def _default_mini() -> tuple[float, ...]:
    parts = [np.arange(0.12, 0.50, 0.02), np.arange(0.50, 2.8, 0.025), np.arange(2.8, 5.01, 0.1)]
    return tuple(np.round(np.concatenate(parts), 4).tolist())


def _default_eep() -> tuple[int, ...]:
    return (*range(202, 454, 6), *range(454, 809, 2))


def _default_feh() -> tuple[float, ...]:
    return tuple(np.round(np.arange(-3.0, 0.501, 0.1), 4).tolist())


@dataclass(frozen=True)
class MistLattice:
    """Where models are computed: in (initial mass, EEP, [Fe/H]) or (age, EEP, [Fe/H]).

    Parameters
    ----------
    mini : sequence of float, optional
        Initial masses in solar masses; default 0.12 to 5.
    eep : sequence of int, optional
        Equivalent evolutionary points (Dotter 2016): 202 is the zero-age main sequence, 454 its
        end, 605 the tip of the giant branch, 707 the end of core helium burning, 808 the first
        thermal pulse. Default every 6th to 454, then every 2nd to 808.
    feh : sequence of float, optional
        Initial [Fe/H]; default -3 to 0.5 in steps of 0.1.
    smf : sequence of float, optional
        Mass of a companion over the primary's, 0 for none (the default); 1 is a twin.
    log_age : sequence of float, optional
        log10 of ages in years. When given, models lie on isochrones and ``mini`` is a prediction.

    Raises
    ------
    PogsonValueError
        If an axis does not increase or leaves its range.

    Examples
    --------
    >>> lattice = MistLattice(mini=[0.8, 1.0], eep=range(202, 455, 12), feh=[-0.25, 0.0])
    >>> lattice.coordinates, lattice.size
    ('mass', 88)
    """

    mini: Sequence[float] = field(default_factory=_default_mini)
    eep: Sequence[int] = field(default_factory=_default_eep)
    feh: Sequence[float] = field(default_factory=_default_feh)
    smf: Sequence[float] = (0.0,)
    log_age: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name in ("mini", "eep", "feh", "smf", "log_age"):
            given = getattr(self, name)
            if given is None:
                continue
            values = np.atleast_1d(np.asarray(given, np.float64))
            if values.ndim != 1 or not np.all(np.isfinite(values)) or np.any(np.diff(values) <= 0):
                raise PogsonValueError(
                    f"{name} of a lattice must be numbers that increase; got {values.tolist()}."
                )
            whole = name == "eep"
            if whole and np.any(values != np.round(values)):
                raise PogsonValueError(f"eep must be whole numbers; got {values.tolist()}.")
            items = tuple(int(v) if whole else float(v) for v in values)
            object.__setattr__(self, name, items)
        if self.mini[0] <= 0 or self.smf[0] < 0 or self.smf[-1] > 1:
            raise PogsonValueError(
                f"mini must be positive and smf within 0 to 1; they start at {self.mini[0]:g} and "
                f"run from {self.smf[0]:g} to {self.smf[-1]:g}."
            )

    @property
    def coordinates(self) -> Literal["mass", "age"]:
        """What the lattice is in beside EEP and metallicity."""
        return "mass" if self.log_age is None else "age"

    @property
    def size(self) -> int:
        """Number of points, of which those without a star are left out of a grid."""
        first = self.mini if self.log_age is None else self.log_age
        return len(first) * len(self.eep) * len(self.feh) * len(self.smf)


def mist_bands(corrections: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Return the bands that `build_mist_grid` can make from the installed corrections.

    Examples
    --------
    >>> try:
    ...     bands = mist_bands()
    ... except LookupError:  # the data packages are not installed
    ...     bands = ("PS_g", "2MASS_Ks")
    >>> "PS_g" in bands
    True
    """
    return tuple(available_bands(installed_file(CORRECTIONS, corrections)[0]))


def build_mist_grid(
    bands: Sequence[str] = _BANDS,
    *,
    lattice: MistLattice | None = None,
    law: str = "CCM89",
    av_max: float = 2.0,
    isochrones: str | os.PathLike[str] | None = None,
    corrections: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> StellarGrid:
    r"""Build a grid from MIST isochrones and bolometric corrections.

    The numbers come from two packages that you install yourself, ``lachesis-grids`` (isochrones,
    v2.5 with v/vcrit = 0.4 by the file's name) and ``astrolachesis`` (bolometric corrections on
    the lattice of v1.2); pogson ships none of them and runs none of their code.

    Parameters
    ----------
    bands : sequence of str, optional
        Any of `mist_bands`; default Pan-STARRS grizy and 2MASS JHKs.
    lattice : MistLattice, optional
        Where; default about 900,000 points in mass, EEP and metallicity.
    law : str, optional
        Law that says how the extinction changes with R_V: "CCM89", "O94", "F99", "F19", "G23" ...
        (`pogson.sed.EXTINCTION_LAWS`; it must cover 0.30 to 3.3 micron).
    av_max : float, optional
        The extinction formula is fitted, and its error stated, up to this A_V.
    isochrones, corrections : path-like, optional
        Files to read instead of the installed ones.
    progress : callable, optional
        Called as ``progress(done, total)`` after each metallicity.

    Returns
    -------
    StellarGrid
        Labels ``mini, eep, feh, afe, smf`` (on isochrones ``loga`` for ``mini``); predictions
        ``loga`` (or ``mini``), ``logl, logt, logg, Mr`` (absolute Pan-STARRS r), ``agewt``.

    Raises
    ------
    MissingDataError
        If the packages are not installed or a band is not in the corrections.
    PogsonValueError
        If the lattice leaves the isochrones.
    MaskedDataError
        If no point of the lattice has a star.

    Notes
    -----
    Isochrones: Choi et al. (2016, ApJ 823, 102), Dotter (2016, ApJS 222, 8). Tracks at fixed mass
    are the isochrones inverted at each EEP (monotone cubic in log mass); metallicities between the
    published ones are cubic in [Fe/H] (linear beside gaps). Corrections are interpolated in
    [Fe/H], log g (linear) and log Teff (modified Akima) at the *initial* [Fe/H]: diffusion changes
    the surface value by up to 0.1 dex near the turn-off of old stars, which shifts g by some 0.01
    mag. Corrections are tabulated at :math:`R_V = 3.1` with the law of Cardelli, Clayton & Mathis
    (1989, ApJ 345, 245); for other :math:`R_V` each band's extinction is multiplied by the ratio
    that ``law`` has at the wavelength where the tabulated extinction is found.

    ``agewt`` is the Jacobian to (mass, age): d age / d EEP in years, and on isochrones
    d mini / d EEP times d age / d log10 age. Points where it is zero are left out: between many
    EEPs early in core helium burning no time passes to the precision of the isochrones' masses.

    Examples
    --------
    >>> lattice = MistLattice(mini=[0.9, 1.0], eep=[250, 350], feh=[0.0])
    >>> try:
    ...     n = build_mist_grid(["PS_g", "2MASS_Ks"], lattice=lattice).n_models
    ... except LookupError:  # the data packages are not installed
    ...     n = 4
    >>> n
    4
    """
    points = MistLattice() if lattice is None else lattice
    names = (bands,) if isinstance(bands, str) else tuple(map(str, bands))
    iso_path, iso_name = installed_file(ISOCHRONES, isochrones)
    bc_path, bc_name = installed_file(CORRECTIONS, corrections)
    check_asked(bc_path, names, law)
    # one EEP more at each end, so that ages have a two-sided slope; companions start at 1
    first = 1 if any(0 < s < 1 for s in points.smf) else max(points.eep[0] - 1, 1)
    stars = read_isochrones(iso_path, (first, points.eep[-1] + 1))
    _check_range("feh", points.feh, stars.feh)
    if points.log_age is not None:
        _check_range("log_age", points.log_age, stars.log_age)
    read = tuple(dict.fromkeys([*names, "PS_r"]))
    light = read_corrections(bc_path, read, law, av_max, (2500.0, 4.0e5), points.feh)
    parts = []
    for i, part in enumerate(_slices(stars, light, points)):
        parts.append(part)
        if progress is not None:
            progress(i + 1, len(points.feh))
    columns = {k: np.concatenate([p[0][k] for p in parts]) for k in parts[0][0]}
    values = np.concatenate([p[1] for p in parts])
    if len(values) == 0:
        raise MaskedDataError(
            f"None of the {points.size} points of the lattice has a star: masses "
            f"{points.mini[0]:g}-{points.mini[-1]:g}, EEP {points.eep[0]}-{points.eep[-1]}, [Fe/H] "
            f"{points.feh[0]:g} to {points.feh[-1]:g}."
        )
    provenance = {
        "source": "MIST isochrones and bolometric corrections (Choi et al. 2016; Dotter 2016)",
        "isochrones": iso_name,
        "isochrones_sha256": file_digest(iso_path),
        "corrections": bc_name,
        "corrections_sha256": file_digest(bc_path),
        "extinction_law": f"CCM89 at R_V 3.1; change with R_V: {law}",
        "fit_av_max": float(av_max),
        "fit_rv": [RV_NODES[0], RV_NODES[-1]],
        "coordinates": points.coordinates,
        "lattice_points": points.size,
        "reference_distance_pc": 1000.0,
        "systems": {b: light.systems[b] for b in names},
    }
    return _as_grid(columns, values, names, points, provenance)


def _as_grid(
    columns: dict[str, np.ndarray],
    values: np.ndarray,
    names: tuple[str, ...],
    points: MistLattice,
    provenance: dict[str, Any],
) -> StellarGrid:
    """Return the grid of finished columns and coefficients."""
    first, other = ("mini", "loga") if points.log_age is None else ("loga", "mini")
    inputs = (first, "eep", "feh", "afe", "smf")
    outputs = (other, "logl", "logt", "logg", "Mr", "agewt")
    # the absolute r magnitude rides along in the last column
    columns["Mr"] = values[:, -1, 0] - 10.0
    return StellarGrid(
        values[:, : len(names), :3],
        names,
        named_columns({k: columns[k] for k in inputs}),
        named_columns({k: columns[k] for k in outputs}),
        provenance=provenance,
        fit_error=values[:, : len(names), 3],
    )


def _check_range(name: str, asked: Sequence[float], axis: np.ndarray) -> None:
    if asked[0] < axis[0] - 1e-9 or asked[-1] > axis[-1] + 1e-9:
        raise PogsonValueError(
            f"{name} {asked[0]:g} to {asked[-1]:g} asked for; the isochrones have {axis[0]:g} to "
            f"{axis[-1]:g}."
        )


# --- stars on the lattice -------------------------------------------------------------------------


def across_metallicity(axis: np.ndarray, values: np.ndarray, feh: float) -> np.ndarray:
    """Interpolate arrays at metallicities (axis 0): a cubic through four, else linear."""
    i = int(np.clip(np.searchsorted(axis, feh) - 1, 0, axis.size - 2))
    exact = np.flatnonzero(np.abs(axis - feh) < 1e-9)
    if exact.size:
        return values[int(exact[0])]
    t = (feh - axis[i]) / (axis[i + 1] - axis[i])
    linear = (1 - t) * values[i] + t * values[i + 1]
    if i == 0 or i + 2 >= axis.size:
        return linear
    nodes = axis[i - 1 : i + 3]
    weight = [
        np.prod([(feh - m) / (n - m) for m in np.delete(nodes, k)]) for k, n in enumerate(nodes)
    ]
    cubic = np.tensordot(weight, values[i - 1 : i + 3], axes=1)
    return np.where(np.isfinite(cubic), cubic, linear)


def invert_isochrones(
    stars: Isochrones, mini: np.ndarray, eeps: np.ndarray, feh: Sequence[float]
) -> np.ndarray:
    """Return (log age, log L, log Teff, log g) at masses, shaped (feh, mass, EEP, 4).

    Only EEPs and metallicities asked for, and their neighbours, are computed; others are NaN.
    """
    from scipy.interpolate import PchipInterpolator

    target = np.log10(mini)
    out = np.full((stars.feh.size, mini.size, stars.eep.size, 4), np.nan)
    ages = np.broadcast_to(stars.log_age[:, None], (stars.log_age.size, 1))
    close = np.isin(stars.eep, np.concatenate([eeps - 1, eeps, eeps + 1]))
    for f in range(stars.feh.size)[near(stars.feh, feh)]:
        for e in np.flatnonzero(close):
            column = stars.values[f, :, e]
            there = np.isfinite(column[:, 0])
            if np.count_nonzero(there) < 4:
                continue
            # older is lighter: keep the ages at which this holds
            logm = column[there, 0][::-1]
            kept = np.concatenate([[True], logm[1:] > np.maximum.accumulate(logm)[:-1] + 1e-7])
            x = logm[kept]
            y = np.concatenate([ages[there], column[there, 1:]], axis=1)[::-1][kept]
            if x.size < 4:
                continue
            inside = (target >= x[0] - 1e-4) & (target <= x[-1] + 1e-4)
            if not inside.any():
                continue
            right = np.clip(np.searchsorted(x, target[inside]), 1, x.size - 1)
            close_by = x[right] - x[right - 1] < _WIDEST_GAP
            where = np.flatnonzero(inside)[close_by]
            at = np.clip(target[where], x[0], x[-1])
            out[f, where, e] = PchipInterpolator(x, y)(at)
    return out


_WIDEST_GAP = 0.12
"""Widest step in log mass between isochrones that is interpolated across."""


def slope_along(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the derivative per step: two-sided, one-sided beside gaps and ends."""
    v = np.moveaxis(values, axis, -1)
    step = np.diff(v, axis=-1)
    gap = np.full((*v.shape[:-1], 1), np.nan)
    ahead, behind = np.concatenate([step, gap], -1), np.concatenate([gap, step], -1)
    mean = 0.5 * (ahead + behind)
    out = np.where(np.isfinite(mean), mean, np.where(np.isfinite(ahead), ahead, behind))
    return np.moveaxis(out, -1, axis)


def _slices(
    stars: Isochrones, light: Corrections, points: MistLattice
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Yield columns and coefficients of the models of each metallicity."""
    by_mass = points.log_age is None
    tracks = None
    if by_mass:
        tracks = invert_isochrones(stars, np.array(points.mini), np.array(points.eep), points.feh)
    companions = None
    if any(0 < s < 1 for s in points.smf):
        companions = _companions(stars)
    wanted = np.searchsorted(stars.eep, points.eep)
    for feh in points.feh:
        if tracks is not None:
            table = across_metallicity(stars.feh, tracks, feh)
            jacobian = slope_along(np.fmax.accumulate(10.0 ** table[..., 0], axis=1), 1)
            first = np.array(points.mini)
        else:
            table = across_metallicity(stars.feh, stars.values, feh)
            first = np.array(points.log_age)
            table = _between_ages(stars.log_age, table, first)
            growth = slope_along(np.fmax.accumulate(10.0 ** table[..., 0], axis=1), 1)
            jacobian = growth * (10.0**first * np.log(10.0))[:, None]
        table, jacobian = table[:, wanted], jacobian[:, wanted]
        kept = np.isfinite(table).all(axis=-1) & (jacobian > 0)
        a, e = np.nonzero(kept)
        star = table[kept]
        columns = {
            "mini": first[a] if by_mass else 10.0 ** star[:, 0],
            "loga": star[:, 0] if by_mass else first[a],
            "eep": np.array(points.eep, np.float64)[e],
            "feh": np.full(a.size, feh),
            "afe": np.zeros(a.size),
            "smf": np.zeros(a.size),
            "logl": star[:, 1],
            "logt": star[:, 2],
            "logg": star[:, 3],
            "agewt": jacobian[kept],
        }
        yield _with_light(columns, light, feh, points.smf, companions)


def _between_ages(axis: np.ndarray, table: np.ndarray, log_age: np.ndarray) -> np.ndarray:
    """Interpolate isochrones linearly in log age at fixed EEP."""
    i = np.clip(np.searchsorted(axis, log_age - 1e-9) - 1, 0, axis.size - 2)
    t = ((log_age - axis[i]) / (axis[i + 1] - axis[i]))[:, None, None]
    mixed = (1 - t) * table[i] + t * table[i + 1]
    mixed = np.where(t < 1e-6, table[i], mixed)
    return np.asarray(np.where(t > 1 - 1e-6, table[i + 1], mixed))


# --- light ----------------------------------------------------------------------------------------


def _bilinear(light: Corrections, at: np.ndarray, logt: np.ndarray, logg: np.ndarray) -> np.ndarray:
    """Interpolate a table of one metallicity; NaN outside it."""
    x, y = light.log_teff, light.logg
    i = np.clip(np.searchsorted(x, logt) - 1, 0, x.size - 2)
    j = np.clip(np.searchsorted(y, logg) - 1, 0, y.size - 2)
    s = ((logt - x[i]) / (x[i + 1] - x[i])).astype(np.float32)[:, None, None]
    t = ((logg - y[j]) / (y[j + 1] - y[j])).astype(np.float32)[:, None, None]
    low = at[i, j] * (1 - t) + at[i, j + 1] * t
    high = at[i + 1, j] * (1 - t) + at[i + 1, j + 1] * t
    out = (low * (1 - s) + high * s).astype(np.float64)
    outside = (logt < x[0]) | (logt > x[-1]) | (logg < y[0]) | (logg > y[-1])
    out[outside] = np.nan
    return np.asarray(out)


def _shine(light: Corrections, at: np.ndarray, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Return (magnitude at 1 kpc, c1, c2, error) of stars in each band."""
    out = _bilinear(light, at, columns["logt"], columns["logg"])
    out[..., 0] += (SOLAR_MBOL - 2.5 * columns["logl"] + 10.0)[:, None]
    return out


def _with_light(
    columns: dict[str, np.ndarray],
    light: Corrections,
    feh: float,
    smf: Sequence[float],
    companions: tuple[np.ndarray, ...] | None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return columns and coefficients, once for each mass of a companion."""
    at = across_metallicity(light.feh, light.values, feh)
    order = [*range(len(light.bands) - ("PS_r" not in light.bands[:-1])), light.bands.index("PS_r")]
    alone = _shine(light, at, columns)
    tables, values = [], []
    for share in smf:
        here, lit = columns, alone
        if share > 0:
            kept = np.ones(len(alone), bool) if share == 1 else columns["eep"] <= LAST_BINARY_EEP
            here = {k: v[kept] for k, v in columns.items()}
            here["smf"] = np.full(int(kept.sum()), share)
            lit = alone[kept]
            other = lit
            if share < 1 and companions is not None:
                other = _shine(light, at, _companion_stars(companions, here, feh, share))
            lit = _together(lit, other)
        good = np.isfinite(lit).all(axis=(1, 2))
        tables.append({k: v[good] for k, v in here.items()})
        values.append(lit[good][:, order])
    return {k: np.concatenate([t[k] for t in tables]) for k in columns}, np.concatenate(values)


def _together(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return coefficients of two stars seen as one; a second star of NaN gives no light.

    Extinctions per A_V add with the weight of the fluxes, which is exact for small A_V; at A_V of
    1 the neglected curvature is 0.46 w (1 - w) times the squared difference of the two.
    """
    flux = [10.0 ** (-0.4 * c[..., 0]) for c in (one, two)]
    dark = ~np.isfinite(two).all(axis=-1)
    flux[1] = np.where(dark, 0.0, flux[1])
    weight = (flux[1] / (flux[0] + flux[1]))[..., None]
    out = (1 - weight) * one + weight * np.where(dark[..., None], one, two)
    out[..., 0] = -2.5 * np.log10(flux[0] + flux[1])
    w = weight[..., 0]
    difference = np.where(dark, 0.0, (one - two)[..., 1] + 3.1 * (one - two)[..., 2])
    out[..., 3] += 0.2 * np.log(10.0) * w * (1 - w) * difference**2
    return np.asarray(out)


def _companions(stars: Isochrones) -> tuple[np.ndarray, ...]:
    """Return unevolved stars by (metallicity, age, log mass), with the axes."""
    logm = np.arange(-1.0, 1.0, 0.01)
    early = stars.eep <= LAST_BINARY_EEP
    table = np.full((stars.feh.size, stars.log_age.size, logm.size, 3), np.nan)
    for f in range(stars.feh.size):
        for a in range(stars.log_age.size):
            run = stars.values[f, a, early]
            run = run[np.isfinite(run).all(axis=1)]
            if len(run) < 2:
                continue
            run = run[np.argsort(run[:, 0], kind="stable")]
            for k in range(3):
                table[f, a, :, k] = np.interp(
                    logm, run[:, 0], run[:, k + 1], left=np.nan, right=np.nan
                )
    return stars.feh, stars.log_age, logm, table


def _companion_stars(
    companions: tuple[np.ndarray, ...], columns: dict[str, np.ndarray], feh: float, share: float
) -> dict[str, np.ndarray]:
    """Return log L, log Teff and log g of companions of the age of their primaries."""
    axis, ages, logm, table = companions
    at = across_metallicity(axis, table, feh)
    mass = np.log10(share * columns["mini"])
    i = np.clip(np.searchsorted(ages, columns["loga"]) - 1, 0, ages.size - 2)
    j = np.clip(np.searchsorted(logm, mass) - 1, 0, logm.size - 2)
    s = np.clip((columns["loga"] - ages[i]) / (ages[i + 1] - ages[i]), 0, 1)[:, None]
    t = ((mass - logm[j]) / (logm[j + 1] - logm[j]))[:, None]
    low = at[i, j] * (1 - t) + at[i, j + 1] * t
    high = at[i + 1, j] * (1 - t) + at[i + 1, j + 1] * t
    star = low * (1 - s) + high * s
    return {"logl": star[:, 0], "logt": star[:, 1], "logg": star[:, 2]}
