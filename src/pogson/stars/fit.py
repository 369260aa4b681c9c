"""Posterior of every star over (model, distance, A_V, R_V): scan, refine, sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.errors import PogsonTypeError, PogsonValueError
from pogson.parallel import get_executor
from pogson.stars._photometry_checks import refuse_vega
from pogson.stars.fit_setup import (
    FitConfig,
    PreparedGrid,
    limits_of,
    prepare_grid,
    rv_log_norm,
    sightline_tables,
    star_numbers,
)
from pogson.stars.grid import StellarGrid
from pogson.stars.photometry_table import StarPhotometry
from pogson.stars.posteriors import DRAW_COLUMNS, STAR_COLUMNS, StarPosteriors
from pogson.stars.priors import StarPriors
from pogson.stars.priors_dust import needs_extinctions
from pogson.stars.star_flags import StarFlag
from pogson.streams import stream

__all__ = ["FitConfig", "StarFitter", "fit_stars"]

_LN_D = np.log(10.0) / 5.0


def fit_stars(
    grid: StellarGrid,
    photometry: StarPhotometry,
    *,
    seed: int,
    priors: StarPriors | None = None,
    config: FitConfig | None = None,
    workers: int = 1,
) -> StarPosteriors:
    r"""Fit every star with every model of a grid.

    Parameters
    ----------
    grid : StellarGrid
        Models; must have the bands of the photometry.
    photometry : StarPhotometry
        Stars.
    seed : int
        Seed of the random draws; each star has its own stream, keyed by its id, so that neither
        order nor ``workers`` changes a result.
    priors : StarPriors, optional
        Default `StarPriors`.
    config : FitConfig, optional
        Default `FitConfig`.
    workers : int
        Threads, over stars.

    Returns
    -------
    StarPosteriors
        In the order of the photometry; stars that cannot be fitted are flagged.

    Raises
    ------
    MissingDataError
        If the grid lacks a band, a label that a prior needs, or the errors that
        ``fit_error_scale`` asks for.
    UnitMismatchError
        If fluxes in nJy, which are AB, are to be fitted in bands whose magnitudes are Vega.
    PogsonValueError
        If every model has prior probability zero, or stars and priors do not agree on who gives
        extinctions.

    Notes
    -----
    The likelihood is Gaussian in flux and parallax, so that negative fluxes, upper limits and
    negative parallaxes need no special treatment. All models are scanned by weighted least squares
    in magnitudes, closed-form in (mu, A_V, A_V R_V), with the priors of A_V and R_V; stars with
    weak bands are scored in flux. Models are then drawn in proportion to their scores, refined in
    flux by Newton steps, their parameters drawn from a Gaussian mixture about the mode, cut at the
    limits of A_V, and all draws weighted by the exact posterior over the probability they were
    drawn with. The effective sample size is that of these weights.

    Examples
    --------
    >>> from pogson.stars import simulated_grid
    >>> grid = simulated_grid()
    >>> flux = grid.fluxes([40], av=0.3, distance_kpc=2.0)
    >>> stars = StarPhotometry.from_fluxes(
    ...     flux, 0.02 * flux, bands=grid.bands, parallax=[0.5], parallax_err=[0.01],
    ...     l=[120.0], b=[20.0],
    ... )
    >>> fit = fit_stars(grid, stars, seed=3)
    >>> bool(abs(np.median(fit.distance_kpc) - 2.0) < 0.2)
    True
    """
    fitter = StarFitter(grid, photometry.bands, priors=priors, config=config)
    needs_extinctions(fitter.priors.extinction, photometry)
    return fitter.fit(photometry, seed=seed, workers=workers)


class _Room:
    """Buffers of one scan: the models that survive, of every star of a block."""

    def __init__(self, n_stars: int, n_models: int) -> None:
        shape = (n_stars, n_models)
        self.index, self.score = np.empty(shape, np.int32), np.empty(shape, np.float32)
        self.start = np.empty((*shape, 3), np.float32)


class StarFitter:
    """A grid made ready to fit any number of catalogues in the same bands.

    Parameters
    ----------
    grid : StellarGrid
        Models.
    bands : sequence of str
        Bands to fit, all in the grid.
    priors : StarPriors, optional
        Default `StarPriors`.
    config : FitConfig, optional
        Default `FitConfig`.

    Examples
    --------
    >>> from pogson.stars import simulated_grid
    >>> grid = simulated_grid()
    >>> StarFitter(grid, grid.bands[:3]).bands == grid.bands[:3]
    True
    """

    def __init__(
        self,
        grid: StellarGrid,
        bands: Any,
        *,
        priors: StarPriors | None = None,
        config: FitConfig | None = None,
    ) -> None:
        self.priors = StarPriors() if priors is None else priors
        self.config = FitConfig() if config is None else config
        if not isinstance(self.priors, StarPriors):
            raise PogsonTypeError(f"priors must be a StarPriors, not {type(priors).__name__}.")
        if not isinstance(self.config, FitConfig):
            raise PogsonTypeError(f"config must be a FitConfig, not {type(config).__name__}.")
        self.grid = grid
        self.bands = tuple(str(band) for band in bands)
        self.config.floors(self.bands)
        used = grid if self.bands == grid.bands else grid.with_bands(self.bands)
        self._bands_digest = used.digest
        self._prepared: PreparedGrid = prepare_grid(used, self.priors, self.config)
        self._limits, self._n_table = limits_of(self.priors, self.config)
        self._rv_norm = rv_log_norm(self.priors)
        # Rooms are handed from thread to thread: the system clears every page of a new one.
        self._rooms: list[_Room] = []
        self._whole: list[_Room] = []

    def provenance(self, seed: int) -> dict[str, Any]:
        """Return what identifies a fit with this fitter, JSON-like."""
        from pogson._version import __version__

        return {
            "pogson": __version__,
            "grid_digest": self.grid.digest,
            "bands_digest": self._bands_digest,
            "grid": {str(k): str(v) for k, v in self.grid.provenance.items()},
            "bands": list(self.bands),
            "priors": dict(self.priors.describe()),
            "config": self.config.describe(),
            "error_floors": [float(f) for f in self._prepared.floors],
            "seed": int(seed),
        }

    def fit(self, photometry: StarPhotometry, *, seed: int, workers: int = 1) -> StarPosteriors:
        """Fit a catalogue; see `fit_stars`.

        Raises
        ------
        PogsonValueError
            If the bands of the photometry are not those of the fitter.
        UnitMismatchError
            If fluxes in nJy, which are AB, are to be fitted in Vega bands.
        """
        if photometry.bands != self.bands:
            raise PogsonValueError(
                f"The photometry has bands {photometry.bands}, the fitter {self.bands}; make the "
                "fitter with the bands of the photometry, in its order."
            )
        refuse_vega(photometry.ab, self.bands, self.grid.systems)
        n, n_draws = len(photometry), self.config.n_draws
        out: dict[str, np.ndarray] = {}
        for name, kind in DRAW_COLUMNS.items():
            out[name] = np.full((n, n_draws), -1 if name == "model_index" else np.nan, kind)
        for name, kind in STAR_COLUMNS.items():
            out[name] = np.full(n, 0 if kind.startswith("int") else np.nan, kind)
        flags = photometry.flags | self._unfit(photometry)
        out["flags"], out["ess"] = flags, np.zeros(n)
        out["n_data"] = (photometry.n_bands + np.isfinite(photometry.parallax)).astype(np.int32)
        skip = StarFlag.ALL_MASKED | StarFlag.NO_POSITION
        todo = np.flatnonzero((flags & skip) == 0)
        size = min(self.config.block_size, max(1, -(-len(todo) // max(workers, 1))))
        blocks = [todo[i : i + size] for i in range(0, len(todo), size)]

        def work(rows: np.ndarray) -> None:
            self._fit_block(photometry.select(rows), rows, seed, out)

        if workers == 1 or len(blocks) < 2:
            for rows in blocks:
                work(rows)
        else:
            with get_executor(workers, kind="threads") as executor:
                list(executor.map(work, blocks))
        return StarPosteriors(
            ids=photometry.ids, bands=self.bands, grid_digest=self.grid.digest,
            provenance=self.provenance(seed), **out,
        )  # fmt: skip

    def _unfit(self, photometry: StarPhotometry) -> np.ndarray:
        """Return the flags that are known before the fit."""
        flags = np.zeros(len(photometry), np.int64)
        seen = photometry.observed
        flags[photometry.n_bands < 4] |= StarFlag.FEW_BANDS
        signal = np.where(seen, photometry.flux, 0.0) / np.where(seen, photometry.flux_err, 1.0)
        flags[~np.any(signal >= 3.0, axis=1)] |= StarFlag.LOW_SIGNAL
        if self.priors.needs_position:
            known = np.isfinite(photometry.l) & np.isfinite(photometry.b)
            if len(known) and not known.any():
                raise PogsonValueError(
                    "The priors of distance or extinction need Galactic coordinates and no star "
                    "has them: pass l= and b= to StarPhotometry, or use "
                    "StarPriors(distance=FlatDistance())."
                )
            flags[~known] |= StarFlag.NO_POSITION
        return flags

    def _room(self, n_stars: int) -> _Room:
        """Return buffers that nobody uses, for the survivors of as many stars as asked for.

        How many models survive is not known beforehand; where they are too many the star is scanned
        alone, with room for the whole grid.
        """
        n_models = len(self._prepared.coefficients)
        try:
            if n_stars == 1:
                return self._whole.pop()
            room = self._rooms.pop()
            if len(room.index) >= n_stars:
                return room
        except IndexError:
            pass
        if n_stars == 1:
            return _Room(1, n_models)
        return _Room(max(n_stars, 2), min(n_models, 4 * self._wanted))

    def _give_back(self, room: _Room) -> None:
        """Keep buffers for whoever comes next."""
        (self._whole if len(room.index) == 1 else self._rooms).append(room)

    @property
    def _wanted(self) -> int:
        """About how many models of a star survive the scan."""
        return max(4000, 4 * self.config.n_proposals)

    def _block(self, stars: StarPhotometry, seed: int) -> _Block:
        """Return the numbers of the stars of a block, as the kernels take them."""
        from pogson.stars import _scan_kernels as c

        n, p = len(stars), self._prepared
        flux, ivar, w, m, scalars = star_numbers(stars, self.priors, self.config, p)
        sight = [
            sightline_tables(
                self.priors, p, self._limits, self._n_table, float(stars.l[k]), float(stars.b[k]),
                (scalars[k, c.SCAN_PLX], scalars[k, c.SCAN_PLX_IVAR]),
                0.6 if scalars[k, c.FLUX_SCAN] else 0.3,
                (float(stars.av_mean[k]), float(stars.av_sd[k])),
            )
            for k in range(n)
        ]  # fmt: skip
        tables, dusts, lines, scans = (np.stack([s[k] for s in sight]) for k in range(4))
        keys = np.array([_key(seed, _name(name)) for name in stars.ids], np.uint64)
        return _Block(
            flux, ivar, w, m, scalars, tables, dusts, lines.astype(np.float32), scans,
            np.array([s[4] for s in sight]), keys,
        )  # fmt: skip

    def _scan(self, block: _Block, some: slice, wanted: int, room: _Room) -> np.ndarray:
        """Scan the grid for some stars of a block; return how many models of each survive."""
        from pogson.stars import _scan_kernels as c

        p, b = self._prepared, block
        count = np.zeros(len(b.flux[some]), np.int64)
        few = len(p.coefficients) <= wanted
        n_pilot = 0 if few else min(max(len(p.tiles) // 32, 16), len(p.tiles))
        c.scan_block(
            p.tiles, (0,) * min(p.n_bands, 8), p.order, p.centre, p.coefficients, p.tile_weights,
            p.tile_prior, b.flux[some], b.ivar[some], b.w[some], b.m[some], b.scalars[some],
            self._limits, b.lines[some], b.scans[some], b.dusts[some], b.keys[some], wanted,
            n_pilot, room.index, room.score, room.start, count,
        )  # fmt: skip
        return count

    def _fit_block(
        self, stars: StarPhotometry, rows: np.ndarray, seed: int, out: dict[str, np.ndarray]
    ) -> None:
        n = len(stars)
        block = self._block(stars, seed)
        room, whole = self._room(n), None
        count = self._scan(block, slice(0, n), self._wanted, room)
        for k in range(n):
            star = self._star(stars, block, k)
            values: dict[str, Any] = {}
            for attempt in range(2):
                at, row, number = room, k, int(count[k])
                if attempt > 0 or number > room.index.shape[1]:
                    whole = self._room(1) if whole is None else whole
                    wanted = self._wanted * 8**attempt
                    number = int(self._scan(block, slice(k, k + 1), wanted, whole)[0])
                    at, row = whole, 0
                if number == 0:
                    values = {"flags": int(StarFlag.NO_MODEL)}
                    break
                sample = at.index[row], at.score[row], at.start[row], number
                values = self._sampled(star, sample, seed, attempt)
                if values.get("ess", np.inf) >= self.config.min_ess:
                    break
            for column, value in values.items():
                if column == "flags":
                    out["flags"][rows[k]] |= value
                else:
                    out[column][rows[k]] = value
        for used in (room, whole):
            if used is not None:
                self._give_back(used)

    def _star(self, stars: StarPhotometry, block: _Block, k: int) -> _Star:
        """Return the numbers of one star for the sampler."""
        ivar = block.ivar[k]
        constant = 0.5 * float(np.log(ivar[ivar > 0.0] / (2.0 * np.pi)).sum())
        if np.isfinite(stars.parallax_err[k]):
            constant -= float(np.log(stars.parallax_err[k] * np.sqrt(2.0 * np.pi)))
        return _Star(
            _name(stars.ids[k]), block.flux[k], ivar, block.scalars[k], block.tables[k],
            block.scans[k], block.dusts[k], constant, self._rv_norm - float(block.log_norm[k]),
        )  # fmt: skip

    def _sampled(
        self,
        star: _Star,
        survivors: tuple[np.ndarray, np.ndarray, np.ndarray, int],
        seed: int,
        attempt: int,
    ) -> dict[str, Any]:
        """Return the columns of one star; a second attempt makes 8 times the proposals."""
        c = self.config
        rng = stream(seed, "star", star.name, attempt)
        model, params, like, prior, weight, lowest, thinned = self._proposals(
            star, survivors, c.n_proposals * 8**attempt, rng
        )
        top = weight.max()
        if not np.isfinite(top):
            return {"flags": int(StarFlag.NO_MODEL)}
        share = np.exp(weight - top)
        ess = 1.0 / (float((share**2).sum() / share.sum() ** 2) + thinned)
        chosen = _systematic(share, c.n_draws, rng)
        mu = params[chosen, 0]
        distance = 10.0 ** (mu / 5.0)
        like = like[chosen] + star.log_norm
        prior = prior[chosen] + star.prior_norm - np.log(_LN_D * distance)
        flags = 0 if ess >= c.min_ess else int(StarFlag.LOW_ESS)
        high, low = self._limits[3], self._limits[2]
        if np.mean(params[chosen, 1] > high - 0.02 * (high - low)) > 0.1:
            flags |= int(StarFlag.AT_EXTINCTION_LIMIT)
        n_data = int((star.ivar > 0.0).sum()) + int(
            np.isfinite(star.scalars[-1]) and star.scalars[-1] > 0
        )
        if _chi2_tail(lowest, n_data - 3) < c.poor_fit:
            flags |= int(StarFlag.POOR_FIT)
        return {
            "model_index": model[chosen], "distance_kpc": distance, "av": params[chosen, 1],
            "rv": params[chosen, 2], "log_likelihood": like, "log_posterior": like + prior,
            "ess": ess, "best_chi2": lowest, "flags": flags,
            "log_evidence": float(top + np.log(share.mean())) + star.log_norm + star.prior_norm,
        }  # fmt: skip

    def _proposals(
        self,
        star: _Star,
        survivors: tuple[np.ndarray, np.ndarray, np.ndarray, int],
        n: int,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, float, float]:
        from pogson.stars._draw_kernels import sample_models

        p = self._prepared
        model, params = np.empty(n, np.int64), np.empty((n, 3))
        like, prior, weight = np.empty(n), np.empty(n), np.empty(n)
        lowest, thinned = sample_models(
            *survivors, p.coefficients, p.weights, p.log_prior, star.flux, star.ivar, star.scalars,
            self._limits, star.table, star.scan, star.dust, rng.random((n, 2)),
            rng.standard_normal((n, 2)), rng.random(), model, params, like, prior, weight,
        )  # fmt: skip
        return model, params, like, prior, weight, float(lowest), float(thinned)


@dataclass(frozen=True)
class _Block:
    """Numbers of the stars of a block for the scan."""

    flux: np.ndarray
    ivar: np.ndarray
    w: np.ndarray
    m: np.ndarray
    scalars: np.ndarray
    tables: np.ndarray
    dusts: np.ndarray
    lines: np.ndarray
    scans: np.ndarray
    log_norm: np.ndarray
    keys: np.ndarray


@dataclass(frozen=True)
class _Star:
    """Numbers of one star for the sampler."""

    name: Any
    flux: np.ndarray
    ivar: np.ndarray
    scalars: np.ndarray
    table: np.ndarray
    scan: np.ndarray
    dust: np.ndarray
    log_norm: float
    prior_norm: float


def _name(value: Any) -> str | int:
    """Return an identifier as a plain integer or text."""
    plain = value.item() if isinstance(value, np.generic) else value
    return plain if isinstance(plain, int) else str(plain)


def _key(seed: int, name: str | int) -> int:
    """Return a 64-bit key of the scan of one star."""
    return int(stream(seed, "scan", name).integers(0, 2**63))


def _systematic(share: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n indices drawn in proportion to the weights, in random order."""
    cumulative = np.cumsum(share)
    places = (np.arange(n) + rng.random()) / n * cumulative[-1]
    chosen = np.minimum(np.searchsorted(cumulative, places, side="right"), len(share) - 1)
    return np.asarray(rng.permutation(chosen))


def _chi2_tail(chi2: float, dof: int) -> float:
    """Probability of a chi-square this large; 1 without degrees of freedom."""
    from scipy.special import gammaincc

    return float(gammaincc(0.5 * dof, 0.5 * chi2)) if dof > 0 else 1.0
