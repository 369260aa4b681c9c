"""From detections to stars: matching on the sky, duplicates, isolation, references.

Angles are degrees, radii arcsec, epochs Julian years; right ascension rates of change include the
cosine of the declination, milliarcsec a year.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import PogsonValueError
from pogson.parallel import usable_cores
from pogson.survey.observations import Observations, RowFlag, Stars, SurveyTables

__all__ = [
    "Association",
    "Seeds",
    "associate",
    "join_reference",
    "make_observations",
    "nearest_position",
]

_ARCSEC = 1.0 / 3600.0


@dataclass(frozen=True, eq=False)
class Seeds:
    """Known objects that detections are matched to first.

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Degrees at the epoch of the catalogue.
    pm_ra, pm_dec : array_like, optional
        Proper motions, milliarcsec a year (``pm_ra`` with the cosine of the declination); NaN: 0.
    epoch : float or array_like, optional
        Epoch of the positions, Julian year.

    Raises
    ------
    PogsonValueError
        If lengths differ or a position is not on the sphere.

    Examples
    --------
    >>> Seeds([10.0], [80.0], pm_ra=[3600.0], epoch=2016.0).at(2026.0)[0]
    array([10.057588])
    """

    ra: np.ndarray
    dec: np.ndarray
    pm_ra: Any = 0.0
    pm_dec: Any = 0.0
    epoch: Any = 2016.0

    def __post_init__(self) -> None:
        ra, dec = _positions(self.ra, self.dec, "seeds")
        object.__setattr__(self, "ra", ra)
        object.__setattr__(self, "dec", dec)
        for name in ("pm_ra", "pm_dec", "epoch"):
            try:
                value = np.broadcast_to(np.asarray(getattr(self, name), np.float64), ra.shape)
            except ValueError:
                raise PogsonValueError(
                    f"Column {name!r} of the seeds does not have {ra.size} values."
                ) from None
            if name != "epoch":
                value = np.nan_to_num(value)
            object.__setattr__(self, name, value)

    @property
    def speed(self) -> np.ndarray:
        """Total proper motion, arcsec a year."""
        return np.asarray(np.hypot(self.pm_ra, self.pm_dec) * 1e-3)

    def at(self, epoch: Any, rows: Any = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Return positions at an epoch (or one a row), degrees."""
        years = np.asarray(epoch, np.float64) - self.epoch[rows]
        mas = 1.0 / 3.6e6
        dec = np.clip(self.dec[rows] + years * self.pm_dec[rows] * mas, -90.0, 90.0)
        ra = self.ra[rows] + years * self.pm_ra[rows] * mas / np.cos(np.deg2rad(self.dec[rows]))
        return np.mod(ra, 360.0), dec


@dataclass(frozen=True, eq=False)
class Association:
    """Which detection is of which star.

    Parameters
    ----------
    star : numpy.ndarray of int, shape (detections,)
        Row of the star; -1: of no star (position missing).
    duplicate : numpy.ndarray of bool, shape (detections,)
        Another detection of the same star on the same exposure lies nearer to the star's mean
        place.
    ra, dec : numpy.ndarray, shape (stars,)
        Mean place (of detections at their own epochs), degrees.
    detections, exposures : numpy.ndarray of int, shape (stars,)
        Detections, and different exposures among them.
    extent : numpy.ndarray, shape (stars,)
        Largest distance of a detection from the mean place, arcsec.
    neighbor : numpy.ndarray, shape (stars,)
        Distance to the nearest other star, arcsec (infinite beyond the isolation radius).
    seed : numpy.ndarray of int, shape (stars,)
        Row of the seed; -1: none.
    radius, isolation : float
        As used, arcsec.

    Examples
    --------
    >>> found = associate([10.0, 10.0001, 20.0], [0.0, 0.0, 0.0], exposure=[1, 2, 1])
    >>> found.star, found.detections
    (array([0, 0, 1]), array([2, 1]))
    """

    star: np.ndarray
    duplicate: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    detections: np.ndarray
    exposures: np.ndarray
    extent: np.ndarray
    neighbor: np.ndarray
    seed: np.ndarray
    radius: float
    isolation: float

    def __len__(self) -> int:
        return int(self.ra.size)

    @property
    def isolated(self) -> np.ndarray:
        """Whether no other star lies within the isolation radius."""
        return np.asarray(self.neighbor > self.isolation)

    @property
    def chained(self) -> np.ndarray:
        """Whether detections lie further from the mean place than the matching radius."""
        return np.asarray(self.extent > self.radius)

    def __repr__(self) -> str:
        return (
            f"<Association: {self.star.size} detections of {len(self)} stars, "
            f"{int(self.duplicate.sum())} duplicates, {int(self.isolated.sum())} isolated>"
        )


def _positions(ra: Any, dec: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    x = np.atleast_1d(np.asarray(ra, np.float64))
    y = np.atleast_1d(np.asarray(dec, np.float64))
    if x.ndim != 1 or x.shape != y.shape:
        raise PogsonValueError(
            f"Positions of the {what} have shapes {x.shape} and {y.shape}; they must be 1-d, equal."
        )
    with np.errstate(invalid="ignore"):
        if np.any(np.abs(y) > 90.0):
            raise PogsonValueError(
                f"A declination of {what} is {y[np.abs(y) > 90.0][0]}; it must be in [-90, 90] "
                "degrees."
            )
        return np.mod(x, 360.0), y


def _radius(value: float, name: str, low: float = 0.0) -> float:
    if not low < float(value) <= 3600.0:
        raise PogsonValueError(f"{name} is {value!r} arcsec; it must be in ({low:g}, 3600].")
    return float(value)


def _zones(ra: np.ndarray, dec: np.ndarray, height: float) -> tuple[np.ndarray, ...]:
    """Return the sorting order, the first row of each zone, and the zone of each sorted row."""
    zone = np.minimum(((dec + 90.0) / height).astype(np.int64), int(180.0 / height))
    order = np.lexsort((dec, ra, zone)) if ra.size < 20_000 else _sorted(zone, ra, dec)
    start = np.searchsorted(zone[order], np.arange(int(180.0 / height) + 2))
    return order, start.astype(np.int64), zone[order]


def _sorted(zone: np.ndarray, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Sort by zone, right ascension and declination; one fast key, then ties exactly."""
    key = zone * 360.0 + ra
    order = np.argsort(key, kind="stable")
    k = key[order]
    tied = np.flatnonzero(np.diff(k) <= 1e-6)
    if tied.size:  # rounding of the key may misplace neighbours: sort runs of near-equal keys
        run = np.zeros(k.size, np.int64)
        run[1:] = np.cumsum(np.diff(k) > 1e-6)
        part = np.unique(np.concatenate([tied, tied + 1]))
        rows = order[part]
        order[part] = rows[np.lexsort((dec[rows], ra[rows], zone[rows], run[part]))]
    return np.asarray(order)


def _height(radius: float) -> float:
    """Zone height, degrees: at least the radius, and not more zones than a million."""
    return max(radius * _ARCSEC * (1.0 + 1e-9), 180.0 / 1_000_000)


def _limit(radius: float) -> float:
    return float((2.0 * np.sin(0.5 * np.deg2rad(radius * _ARCSEC))) ** 2)


def nearest_position(
    ra: Any, dec: Any, to_ra: Any, to_dec: Any, radius: float, *, same: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of some positions to each of others.

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Degrees.
    to_ra, to_dec : array_like, shape (m,)
        Degrees.
    radius : float
        Largest distance, arcsec.
    same : bool
        Both are the same list, and no position is its own neighbour.

    Returns
    -------
    index : numpy.ndarray of int, shape (n,)
        -1: none within the radius.
    distance : numpy.ndarray, shape (n,)
        Arcsec; infinite where there is none.

    Examples
    --------
    >>> nearest_position([359.9999], [0.0], [0.0001, 5.0], [0.0, 0.0], 1.0)
    (array([0]), array([0.72]))
    """
    from pogson.survey._association_kernels import nearest
    from pogson.survey.normal import share

    radius = _radius(radius, "radius")
    x, y = _positions(ra, dec, "detections")
    tx, ty = _positions(to_ra, to_dec, "catalogue")
    height = _height(radius)
    order, start, _ = _zones(tx, ty, height)
    sx, sy = tx[order], ty[order]
    if same:
        x, y = sx, sy
    out, squared = np.full(x.size, -1, np.int64), np.full(x.size, np.inf)
    threads = min(usable_cores(), 1 + x.size // 50_000)
    edges = np.linspace(0, x.size, threads + 1).astype(np.int64)

    def run(k: int) -> None:
        nearest(
            edges[k], edges[k + 1], x, y, start, height, sx, sy, radius * _ARCSEC, _limit(radius),
            same, out, squared,
        )  # fmt: skip

    share(run, threads, threads)
    hit = out >= 0
    index = np.where(hit, order[np.maximum(out, 0)] if order.size else -1, -1)
    distance = np.full(x.size, np.inf)
    distance[hit] = np.rad2deg(2.0 * np.arcsin(0.5 * np.sqrt(squared[hit]))) * 3600.0
    if not same:
        return index, distance
    back_i, back_d = np.empty_like(index), np.empty_like(distance)
    back_i[order], back_d[order] = index, distance
    return back_i, back_d


def _to_seeds(
    x: np.ndarray, y: np.ndarray, epoch: np.ndarray | None, seeds: Seeds, radius: float
) -> np.ndarray:
    """Return the nearest seed of each detection at the detection's own epoch, or -1."""
    if epoch is None or not np.any(seeds.speed):
        return nearest_position(x, y, seeds.ra, seeds.dec, radius)[0]
    best, distance = np.full(x.size, -1, np.int64), np.full(x.size, np.inf)
    for moment in np.unique(epoch):
        rows = np.flatnonzero(epoch == moment)
        ra, dec = seeds.at(moment)
        best[rows], distance[rows] = nearest_position(x[rows], y[rows], ra, dec, radius)
    return best


def friends_of_friends(
    x: np.ndarray, y: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Group positions; return the group of each and the row that represents each group.

    The representative is the first member by zone, right ascension and declination, and groups are
    numbered in the order of their representatives: neither depends on the order of the rows.
    """
    from pogson.survey._association_kernels import friends

    if not x.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    order, start, zone = _zones(x, y, _height(radius))
    parent = np.arange(x.size)
    friends(start, zone, x[order], y[order], radius * _ARCSEC, _limit(radius), parent)
    roots = np.flatnonzero(parent == np.arange(x.size))
    group = np.empty(x.size, np.int64)
    group[order] = np.searchsorted(roots, parent)
    return group, order[roots]


def associate(
    ra: Any,
    dec: Any,
    *,
    exposure: Any,
    radius: float = 1.0,
    isolation: float = 5.0,
    epoch: Any = None,
    seeds: Seeds | None = None,
    seeded_only: bool = False,
    weight: Any = None,
) -> Association:
    """Match detections into stars.

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Positions of detections, degrees; detections whose position is NaN are of no star.
    exposure : array_like of int, shape (n,)
        Exposure of each.
    radius : float
        Matching radius, arcsec: to seeds, and between detections of a group.
    isolation : float
        A star is isolated if no other one lies within this distance, arcsec.
    epoch : array_like, shape (n,), optional
        Julian year of each detection; seeds are moved there by their proper motion.
    seeds : Seeds, optional
        Known objects: each detection goes to the nearest one within the radius. Those left over
        are grouped among themselves.
    seeded_only : bool
        Leave those left over without a star.
    weight : array_like, shape (n,), optional
        Weights of mean places.

    Returns
    -------
    Association
        Seeds with detections come first, in their own order; then groups, by declination zone and
        right ascension.

    Raises
    ------
    PogsonValueError
        If lengths differ or a radius makes no sense.

    Notes
    -----
    Groups are friends of friends: detections nearer than the radius are of one star, directly or
    through others. That answer does not depend on the order of the rows, nor on how the sky is cut
    into pieces. In crowds groups can run together; `Association.chained` tells.

    Examples
    --------
    >>> seeds = Seeds([10.0], [0.0], pm_ra=[1000.0], epoch=2016.0)
    >>> found = associate([10.0, 10.0 + 5 / 3600], [0.0, 0.0], exposure=[1, 2],
    ...                   epoch=[2016.0, 2021.0], seeds=seeds)
    >>> found.star, found.seed
    (array([0, 0]), array([0]))
    """
    radius, isolation = _radius(radius, "radius"), _radius(isolation, "isolation", -1.0)
    x, y = _positions(ra, dec, "detections")
    n = x.size
    e = _column(exposure, n, "exposure").astype(np.int64)
    moment = None if epoch is None else _column(epoch, n, "epoch").astype(np.float64)
    w = np.ones(n) if weight is None else _column(weight, n, "weight").astype(np.float64)
    placed = np.isfinite(x) & np.isfinite(y)
    star = np.full(n, -1, np.int64)
    seed_of_star = np.zeros(0, np.int64)
    rest = placed.copy()
    if seeds is not None and seeds.ra.size:
        rows = np.flatnonzero(placed)
        hit = _to_seeds(x[rows], y[rows], None if moment is None else moment[rows], seeds, radius)
        seed_of_star, star_of = np.unique(hit[hit >= 0], return_inverse=True)
        star[rows[hit >= 0]] = star_of
        rest[rows[hit >= 0]] = False
    rows = np.flatnonzero(rest)
    if not seeded_only and rows.size:
        group, first = friends_of_friends(x[rows], y[rows], radius)
        star[rows] = group + seed_of_star.size
        seed_of_star = np.concatenate([seed_of_star, np.full(first.size, -1)])
    return summary(star, x, y, e, w, seed_of_star, radius, isolation)


def _column(values: Any, n: int, name: str) -> np.ndarray:
    a = np.asarray(values)
    if a.ndim == 0:
        a = np.full(n, a)
    if a.shape != (n,):
        raise PogsonValueError(f"Column {name!r} has shape {a.shape}, it must be ({n},).")
    return a


def _by_star(
    rows: np.ndarray, star: np.ndarray, exposure: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Sort rows by star, exposure, right ascension and declination."""
    s, e = star[rows], exposure[rows]
    low, span = (int(e.min()), int(np.ptp(e)) + 1) if rows.size else (0, 1)
    if span > 2**62 // max(int(s.max(initial=0)) + 1, 1):
        return np.asarray(rows[np.lexsort((y[rows], x[rows], e, s))])
    key = s * span + (e - low)
    rank = np.argsort(key, kind="stable")
    k = key[rank]
    tied = np.flatnonzero(np.diff(k) == 0)
    if tied.size:
        part = np.unique(np.concatenate([tied, tied + 1]))
        r = rank[part]
        rank[part] = r[np.lexsort((y[rows[r]], x[rows[r]], k[part]))]
    return np.asarray(rows[rank])


def summary(
    star: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    exposure: np.ndarray,
    weight: np.ndarray,
    seed: np.ndarray,
    radius: float,
    isolation: float,
) -> Association:
    """Work out what there is to know of stars whose detections are known.

    Sums run over detections by exposure, right ascension and declination, so that they do not
    depend on the order of the rows to the bit.
    """
    from pogson.survey._association_kernels import summarise

    stars = seed.size
    rows = np.flatnonzero(star >= 0)
    order = _by_star(rows, star, exposure, x, y)
    start = np.searchsorted(star[order], np.arange(stars + 1)).astype(np.int64)
    ra, dec, extent2 = np.full(stars, np.nan), np.full(stars, np.nan), np.zeros(stars)
    count, exposures = np.zeros(stars, np.int64), np.zeros(stars, np.int64)
    kept = np.ones(order.size, np.uint8)
    summarise(
        start, x[order], y[order], exposure[order], ra, dec, count, exposures, extent2, kept,
        weight[order],
    )  # fmt: skip
    duplicate = np.zeros(star.size, bool)
    duplicate[order[kept == 0]] = True
    neighbor = np.full(stars, np.inf)
    if isolation > 0 and stars:
        neighbor = nearest_position(ra, dec, ra, dec, isolation, same=True)[1]
    extent = np.rad2deg(2.0 * np.arcsin(0.5 * np.sqrt(extent2))) * 3600.0
    return Association(
        star, duplicate, ra, dec, count, exposures, extent, neighbor, seed, radius, isolation
    )


def join_reference(
    ra: Any, dec: Any, reference: Seeds, *, epoch: float | None = None, radius: float = 1.0
) -> np.ndarray:
    """Find the reference of each star: each other's nearest within a radius.

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Places of stars, degrees.
    reference : Seeds
        Places and proper motions of the reference catalogue.
    epoch : float, optional
        Mean epoch of the stars' places; the catalogue's own by default.
    radius : float
        Arcsec.

    Returns
    -------
    numpy.ndarray of int, shape (n,)
        Row of the reference catalogue; -1: none.

    Examples
    --------
    >>> join_reference([10.0, 10.0001], [0.0, 0.0], Seeds([10.00009], [0.0]))
    array([-1,  0])
    """
    if not np.size(ra) or not reference.ra.size:
        return np.full(np.size(ra), -1)
    rx, ry = (reference.ra, reference.dec) if epoch is None else reference.at(epoch)
    there, _ = nearest_position(ra, dec, rx, ry, radius)
    back, _ = nearest_position(rx, ry, ra, dec, radius)
    hit = there >= 0
    hit[hit] = back[there[hit]] == np.flatnonzero(hit)
    return np.where(hit, there, -1)


def make_observations(
    association: Association,
    tables: SurveyTables,
    *,
    exposure: Any,
    detector: Any,
    x: Any,
    y: Any,
    mag: Any,
    mag_err: Any,
    color: Any = None,
    minimum: int = 2,
    isolated: bool = True,
    keep: Any = None,
    airmass: Any = None,
    seeing: Any = None,
) -> tuple[Observations, np.ndarray]:
    """Make the rows of a solution from associated detections, one star an object and band.

    Parameters
    ----------
    association : Association
        Which detection is of which star.
    tables : SurveyTables
        Exposures (with their filters) and detectors.
    exposure, detector, x, y, mag, mag_err : array_like, shape (detections,)
        As for `Observations`: rows of the tables, pixels, instrumental magnitudes.
    color : array_like, shape (stars,), optional
        Colour of each star.
    minimum : int
        Exposures that a star must be seen on in a band; others carry no information unless they
        have a reference.
    isolated : bool
        Only isolated stars that are not chained.
    keep : array_like of bool, shape (stars,), optional
        Stars to keep whatever their number of exposures, such as those with references.
    airmass, seeing : array_like, optional
        Per detection.

    Returns
    -------
    observations : Observations
        Duplicate detections are flagged ``DUPLICATE``. ``stars.identifier`` is the row of the
        association.
    rows : numpy.ndarray of int, shape (len(observations),)
        Which detection each row is.

    Examples
    --------
    >>> from pogson.survey import Detectors, Exposures
    >>> found = associate([10.0, 10.0, 10.0], [0.0, 0.0, 0.00001], exposure=[0, 1, 1])
    >>> tables = SurveyTables(Exposures([5, 6]), Detectors([0]))
    >>> obs, rows = make_observations(found, tables, exposure=[0, 1, 1], detector=0, x=1, y=1,
    ...                               mag=[-9.0, -8.9, -8.0], mag_err=0.01)
    >>> obs, obs.flag_counts()
    (<Observations: 3 detections of 1 stars, 2 x 1>, {'DUPLICATE': 1})
    """
    a, n = association, association.star.size
    e = _column(exposure, n, "exposure").astype(np.int64)
    good = a.star >= 0
    if isolated:
        fine = a.isolated & ~a.chained
        good[good] = fine[a.star[good]]
    band = tables.exposures.filter[e].astype(np.int64)
    bands = max(tables.exposures.filter_count, 1)
    key = a.star * bands + band
    seen = np.bincount(key[good & ~a.duplicate], minlength=len(a) * bands)
    enough = seen >= minimum
    if keep is not None:
        enough |= np.repeat(np.asarray(keep, bool), bands) & (seen > 0)
    good[good] = enough[key[good]]
    rows = np.flatnonzero(good)
    used, number = np.unique(key[rows], return_inverse=True)
    objects = used // bands
    tint = np.full(len(a), np.nan) if color is None else np.asarray(color, np.float64)
    stars = Stars(
        objects,
        filter=used % bands,
        color=tint[objects],
        ra=a.ra[objects],
        dec=a.dec[objects],
    )
    given = {"detector": detector, "x": x, "y": y, "mag": mag, "mag_err": mag_err}
    given |= {"airmass": airmass, "seeing": seeing}
    columns = {k: _column(v, n, k) for k, v in given.items() if v is not None}
    # sort as Observations does, the kept one of duplicates first
    order = np.lexsort((a.duplicate[rows], columns["detector"][rows], e[rows], number))
    rows, number = rows[order], number[order]
    observations = Observations.from_columns(
        tables,
        stars,
        star=number,
        exposure=e[rows],
        flags=np.where(a.duplicate[rows], RowFlag.DUPLICATE.value, 0),
        **{k: v[rows] for k, v in columns.items()},
    )
    return observations, rows
