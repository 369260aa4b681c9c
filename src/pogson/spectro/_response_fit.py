"""The steps of the joint response fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import CubicSpline

from pogson.errors import CalibrationError
from pogson.spectro import _match_kernels as kernels
from pogson.spectro._shape_modes import BroadSolution, ShapePriors, solve_broad_shape
from pogson.spectro.star_rejection import contradiction, find_wrong_stars
from pogson.spectro.throughput import ResponseConfig, ResponseSolution, StandardData, _power

_BINS = 24
_BEND = 0.5


class _Star:
    """One star's arrays, with what changes from round to round."""

    def __init__(self, data: StandardData, regions: Sequence[tuple[float, float]]) -> None:
        lam = np.asarray(data.wavelength, np.float64)
        good = np.isfinite(data.counts) & np.isfinite(data.model) & (data.ivar > 0)
        self.data, self.lam, self.x = data, lam, np.log(lam)
        self.counts = np.where(good, data.counts, 0.0)
        self.model = np.where(good, data.model, 0.0)
        self.ivar = np.where(good, data.ivar, 0.0)
        self.telluric = np.zeros(lam.size, bool)
        for low, high in regions:
            self.telluric |= (lam >= low) & (lam <= high)
        self.absorbed = np.ones(lam.size)
        self.robust = np.ones(lam.size)
        self.share = np.ones(lam.size)
        self.grey, self.slope = 0.0, 0.0

    def basis(self, log_range: tuple[float, float], n: int) -> None:
        self.index, self.value = kernels.uniform_spline(self.x, *log_range, n)

    def design(self, x0: float, unit: float) -> np.ndarray:
        """Counts expected of spline 1."""
        return np.asarray(
            unit * self.model * self.absorbed * np.exp(self.grey + self.slope * (self.x - x0))
        )

    def free_weights(self, expected: np.ndarray) -> None:
        """Replace inverse variances made from the noisy counts by those of the expected counts."""
        good = self.ivar > 0
        variance = np.where(good, 1.0 / np.where(good, self.ivar, 1.0), 0.0)
        level = _running_median(np.where(good, variance, np.nan), 51)
        dv = (variance - level)[good]
        dc = (self.counts - expected)[good]
        local = dv < 4 * level[good]
        scale = np.sum(dc[local] ** 2 / level[good][local])
        if scale <= 0:
            return
        gain = np.sum((dv * dc / level[good])[local]) / scale
        error = np.sqrt(np.sum(((dv * dc / level[good])[local]) ** 2)) / scale
        if gain > 4 * error:  # variance follows the noise of its own pixel
            clean = np.maximum(variance - gain * (self.counts - expected), 0.2 * level)
            self.ivar = np.where(good, 1.0 / np.where(good, clean, 1.0), 0.0)


def _running_median(values: np.ndarray, width: int) -> np.ndarray:
    from scipy.ndimage import median_filter

    good = np.isfinite(values)
    filled = np.interp(np.arange(values.size), np.flatnonzero(good), values[good])
    return np.asarray(median_filter(filled, width, mode="nearest"))


class JointFit:
    """All stars, one response."""

    def __init__(self, stars: Sequence[StandardData], config: ResponseConfig) -> None:
        self.config = config
        self.given = list(stars)
        self.reasons = {s.name: "" for s in stars}
        self.stars: list[_Star] = []
        for data in stars:
            star = _Star(data, config.telluric_regions)
            if np.sum((star.ivar > 0) & ~star.telluric) < 50:
                self.reasons[data.name] = "fewer than 50 usable pixels"
            elif np.sum(star.ivar * star.model * star.counts) <= 0:
                self.reasons[data.name] = "no light: its counts add to nothing"
            else:
                self.stars.append(star)
        if not self.stars:
            raise CalibrationError(f"No standard star is usable: {self.reasons}.")
        low = min(s.x[s.ivar > 0][0] for s in self.stars)
        high = max(s.x[s.ivar > 0][-1] for s in self.stars)
        self.range = (float(low), float(high))
        self.x0 = 0.5 * (low + high)
        self.scatter = config.template_scatter
        self.absorption_known = False
        self.contradiction = float("nan")
        self.broad: BroadSolution | None = None
        ratios = [
            np.sum(s.ivar * s.model * s.counts) / np.sum(s.ivar * s.model**2) for s in self.stars
        ]
        self.unit = float(np.median(ratios))
        for s, ratio in zip(self.stars, ratios, strict=True):
            s.grey = float(np.log(ratio / self.unit))

    def solve(self) -> ResponseSolution:
        """Run all steps."""
        edges = np.linspace(*self.range, _BINS + 1)
        self.bins = 0.5 * (edges[1:] + edges[:-1])
        self._start(edges)
        self._reject(edges)
        n = int(min(28, max(self.config.knots)))
        self._rounds(n, 3)
        scores = self._cross_validate()
        n = min(scores, key=lambda k: scores[k])
        self._rounds(n, 4)
        curves, noise = self._curves(edges, self._response_at)
        self._learn_scatter(curves, noise)
        self._rounds(n, 2)
        curves, noise = self._curves(edges, self._response_at)
        if self._shift_shape(curves, noise):
            curves, noise = self._curves(edges, self._response_at)
        return self._result(curves, noise, scores)

    # ---- stars ---------------------------------------------------------------------------------

    def _start(self, edges: np.ndarray) -> None:
        """First continuum of each star alone, to free its weights of its noise."""
        for s in self.stars:
            s.basis(self.range, 20)
            w = np.where(s.telluric, 0.0, s.ivar)
            # even weights in relative error: immune to what the variances were made from
            level = _running_median(np.where(s.ivar > 0, s.ivar, np.nan), 101)
            fit = kernels.profiled_fit(
                s.counts, np.where(w > 0, level, 0.0), s.model, s.index, s.value, 23
            )
            s.free_weights(fit)

    def _curves(self, edges: np.ndarray, response: object = None) -> tuple[np.ndarray, np.ndarray]:
        """ln(counts / expected) of each star in coarse bins and its noise variance."""
        y = np.full((len(self.stars), _BINS), np.nan)
        v = np.full_like(y, np.nan)
        for i, s in enumerate(self.stars):
            r = np.ones(s.x.size) if response is None else self._response_at(s)
            g = s.design(self.x0, self.unit) * r
            if response is None:
                g = self.unit * s.model
            w = np.where(s.telluric, 0.0, s.ivar * s.robust)
            place = np.clip(np.digitize(s.x, edges) - 1, 0, _BINS - 1)
            top = np.bincount(place, w * g * s.counts, _BINS)
            bottom = np.bincount(place, w * g * g, _BINS)
            full = np.bincount(place, (w > 0).astype(float), _BINS) > 5
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = top / bottom
                good = full & (ratio > 0)
                y[i, good] = np.log(ratio[good])
                v[i, good] = 1.0 / (bottom[good] * ratio[good] ** 2)
        return y, v

    def _reject(self, edges: np.ndarray) -> None:
        y, v = self._curves(edges)
        misfits = np.array([s.data.misfit for s in self.stars])
        odd: dict[int, str] = {}
        if len(self.stars) >= 2:
            limit = max(self.config.largest_misfit, 4 * float(np.median(misfits)))
            for i in np.flatnonzero(misfits > limit):
                odd[int(i)] = f"its lines differ from every model by {100 * misfits[i]:.1f} % rms"
        if len(odd) == len(self.stars):
            odd = {}
        left = [i for i in range(len(self.stars)) if i not in odd]
        for place, chi2 in find_wrong_stars(self.bins, y[left], v[left], self.config.rejection):
            odd[left[place]] = f"the other stars contradict it: chi-square {chi2:.1f} per bin"
        for k, reason in odd.items():
            self.reasons[self.stars[k].data.name] = reason
        self.stars = [s for i, s in enumerate(self.stars) if i not in odd]
        if len(self.stars) == 2:
            two = [i for i in range(len(y)) if i not in odd]
            self.contradiction = contradiction(self.bins, y[two], v[two], self.config.rejection)

    # ---- the linear parts ----------------------------------------------------------------------

    def _response_at(self, s: _Star) -> np.ndarray:
        return kernels.spline_values(self.c, s.index, s.value)

    def _normal(self, s: _Star, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gram, moment = np.zeros((self.n + 3, 4)), np.zeros(self.n + 3)
        kernels.accumulate(
            s.counts, weight, s.design(self.x0, self.unit), s.index, s.value, gram, moment
        )
        return gram, moment

    def _spline_weight(self, s: _Star) -> np.ndarray:
        return np.where(s.telluric, 0.0, s.ivar * s.robust * s.share)

    def _solve_spline(self) -> None:
        parts = [self._normal(s, self._spline_weight(s)) for s in self.stars]
        self.gram = sum((p[0] for p in parts), np.zeros((self.n + 3, 4)))
        moment = sum((p[1] for p in parts), np.zeros(self.n + 3))
        self.c = kernels.solve_band(self.gram, moment, _roughness(self.gram))

    def _solve_losses(self) -> None:
        slopes = self.config.slopes and len(self.stars) >= 3
        for s in self.stars:
            for _ in range(3):
                g = s.design(self.x0, self.unit) * self._response_at(s)
                w = self._spline_weight(s)
                residual = s.counts - g
                dx = s.x - self.x0
                a00 = np.sum(w * g * g)
                a01 = np.sum(w * g * g * dx)
                # the prior is on the loss from one end to the other
                sigma = self.config.rejection.slope / (self.range[1] - self.range[0])
                a11 = np.sum(w * g * g * dx * dx) + 1 / sigma**2
                b0 = np.sum(w * g * residual)
                b1 = np.sum(w * g * residual * dx) - s.slope / sigma**2
                if slopes:
                    det = a00 * a11 - a01 * a01
                    s.grey += float(np.clip((a11 * b0 - a01 * b1) / det, -2, 2))
                    s.slope += float((a00 * b1 - a01 * b0) / det)
                else:
                    s.grey += float(np.clip(b0 / a00, -2, 2))
        grey = float(np.mean([s.grey for s in self.stars]))
        slope = float(np.mean([s.slope for s in self.stars]))
        for s in self.stars:
            s.grey -= grey
            s.slope -= slope
        self.unit *= float(np.exp(grey))

    def _weights(self) -> None:
        h = (self.range[1] - self.range[0]) / self.n
        for s in self.stars:
            g = s.design(self.x0, self.unit) * self._response_at(s)
            floor = max(s.data.misfit, 0.005)
            with np.errstate(divide="ignore", invalid="ignore"):
                z2 = (s.counts - g) ** 2 / (1.0 / s.ivar + (floor * g) ** 2)
            z = np.sqrt(np.nan_to_num(z2, posinf=0.0))
            s.robust = np.minimum(1.0, self.config.huber / np.maximum(z, 1e-9))
            s.robust[z > 2.5 * self.config.huber] = 0.0
            if not self.absorption_known:
                s.robust[s.telluric] = 1.0
            # information of the pixels within one interval against the mismatch of the template
            info = np.where(s.telluric, 0.0, s.ivar * g * g)
            place = np.clip(((s.x - self.range[0]) / h).astype(int), 0, self.n - 1)
            per = np.bincount(place, info, self.n)[:]
            centre = self.range[0] + h * (np.arange(self.n) + 0.5)
            s.share = 1.0 / (1.0 + self.scatter**2 * np.interp(s.x, centre, per))

    def _solve_telluric(self) -> None:
        reference = max(self.stars, key=lambda s: float(np.sum(s.ivar * s.model**2)))
        self.tell_lam = reference.lam[reference.telluric]
        self.airmass = float(np.mean([s.data.airmass for s in self.stars]))
        n = self.tell_lam.size
        if n < 2:
            self.tell, self.tell_var = np.ones(n), np.zeros(n)
            return
        power = np.array([_power(w, self.config) for w in self.tell_lam])
        tell = getattr(self, "tell", np.ones(n))
        for _ in range(3):
            top, bottom = np.full(n, 1e-6), np.full(n, 1e-6)
            scale = 0.0
            for s in self.stars:
                pick = np.flatnonzero(s.telluric & (s.ivar > 0))
                left = np.clip(np.searchsorted(self.tell_lam, s.lam[pick]) - 1, 0, n - 2)
                gap = self.tell_lam[left + 1] - self.tell_lam[left]
                f = np.clip((s.lam[pick] - self.tell_lam[left]) / gap, 0, 1)
                near = np.where(f > 0.5, left + 1, left)
                q = (s.data.airmass / self.airmass) ** power[near]
                s.absorbed = np.ones(s.x.size)
                g = (s.design(self.x0, self.unit) * self._response_at(s))[pick]
                w = s.ivar[pick] * s.robust[pick]
                now = (1 - f) * tell[left] + f * tell[left + 1]
                safe = np.maximum(now, 0.02)
                slope = g * q * safe ** (q - 1)
                target = s.counts[pick] - g * safe**q + slope * safe - slope * (now - tell[near])
                top += np.bincount(near, w * slope * target, n)
                bottom += np.bincount(near, w * slope**2, n)
                scale += 1
            tell = np.clip(top / bottom, 0.0, 1.5)
        empty = bottom < 1e-3 * np.median(bottom)
        if (~empty).sum() > 1:
            tell[empty] = np.interp(self.tell_lam[empty], self.tell_lam[~empty], tell[~empty])
        self.tell, self.tell_var, self.absorption_known = tell, 1.0 / bottom, True
        for s in self.stars:
            pick = s.telluric
            value = np.interp(s.lam[pick], self.tell_lam, tell)
            q = (s.data.airmass / self.airmass) ** np.interp(s.lam[pick], self.tell_lam, power)
            s.absorbed[pick] = np.maximum(value, 1e-4) ** q

    def _rounds(self, n: int, rounds: int) -> None:
        self.n = n
        for s in self.stars:
            s.basis(self.range, n)
        self._solve_spline()
        for _ in range(rounds):
            self._weights()
            self._solve_losses()
            self._solve_spline()
            self._solve_telluric()

    # ---- choices -------------------------------------------------------------------------------

    def _cross_validate(self) -> dict[int, float]:
        scores: dict[int, float] = {}
        for n in self.config.knots:
            self.n = n
            for s in self.stars:
                s.basis(self.range, n)
            parts, held = self._folds()
            gram = sum((p[0] for p in parts), np.zeros((n + 3, 4)))
            moment = sum((p[1] for p in parts), np.zeros(n + 3))
            score = 0.0
            for (g, m), (s, weight) in zip(parts, held, strict=True):
                c = kernels.solve_band(gram - g, moment - m, _roughness(gram - g))
                fit = s.design(self.x0, self.unit) * kernels.spline_values(c, s.index, s.value)
                score += float(np.sum(weight * (s.counts - fit) ** 2))
            scores[int(n)] = score
        return scores

    def _folds(self) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[tuple[_Star, np.ndarray]]]:
        parts, held = [], []
        for s in self.stars:
            weight = self._spline_weight(s)
            if len(self.stars) >= 3:
                groups = [np.ones(s.x.size, bool)]
            else:
                groups = [(np.arange(s.x.size) // 12) % 5 == k for k in range(5)]
            for group in groups:
                w = np.where(group, weight, 0.0)
                parts.append(self._normal(s, w))
                held.append((s, w))
        return parts, held

    def _learn_scatter(self, curves: np.ndarray, noise: np.ndarray) -> None:
        n = len(self.stars)
        prior, prior_dof = self.config.template_scatter**2, 3.0
        excess = 0.0
        if n >= 2:
            centred = curves - np.nanmean(curves, axis=1, keepdims=True)
            per_star = np.nanmean(centred**2 - noise, axis=1) * n / (n - 1)
            excess = float(np.sum(np.maximum(per_star, 0.0))) * (n - 1) / n
        self.scatter = float(np.sqrt((prior * prior_dof + excess) / (prior_dof + n - 1)))

    def _shift_shape(self, curves: np.ndarray, noise: np.ndarray) -> bool:
        """Let the photometry of all stars decide on the broad shape, with their models' errors."""
        config = self.config
        shapes = [s.data.shape for s in self.stars if s.data.shape is not None]
        if len(shapes) < len(self.stars) or config.template_common <= 0:
            return False
        slopes = config.slopes and len(self.stars) >= 3
        priors = ShapePriors(
            config.template_common,
            self.scatter,
            grey=2 * config.rejection.grey,
            slope=config.rejection.slope / (self.range[1] - self.range[0]) if slopes else 0.0,
            zero_point=max(config.zero_point_error / 1.0857, 1e-6),
        )
        edges = np.linspace(*self.range, _BINS + 1)
        derivatives = []
        for s, shape in zip(self.stars, shapes, strict=True):
            w = np.where(s.telluric, 0.0, s.ivar * s.model**2) + 1e-30
            place = np.clip(np.digitize(s.x, edges) - 1, 0, _BINS - 1)
            bottom = np.bincount(place, w, _BINS)
            derivatives.append(
                np.array([np.bincount(place, w * d, _BINS) / bottom for d in shape.derivative])
            )
        self.broad = solve_broad_shape(self.bins, curves, noise, shapes, derivatives, priors)
        x = np.linspace(*self.range, 12 * self.n)
        change = CubicSpline(self.bins, self.broad.correction)(
            np.clip(x, self.bins[0], self.bins[-1])
        )
        basis = np.zeros((x.size, self.n + 3))
        index, value = kernels.uniform_spline(x, *self.range, self.n)
        np.put_along_axis(basis, index[:, None] + np.arange(4), value, axis=1)
        self.c = np.linalg.lstsq(basis, (basis @ self.c) * np.exp(change), rcond=None)[0]
        for s, grey, slope in zip(self.stars, self.broad.grey, self.broad.slope, strict=True):
            s.grey += float(grey)
            s.slope += float(slope)
        self._solve_telluric()
        return True

    # ---- result --------------------------------------------------------------------------------

    def _covariance(self) -> np.ndarray:
        size = self.n + 3
        mean = float(np.mean(self.gram[:, 0]))
        bend = np.diff(np.eye(size), n=2, axis=0)
        middle = _roughness(self.gram) * mean * bend.T @ bend
        inverse = np.linalg.inv(_dense(self.gram) + middle + 1e-9 * mean * np.eye(size))
        for s in self.stars:
            w = np.where(s.telluric, 0.0, s.ivar * (s.robust * s.share) ** 2)
            middle += _dense(self._normal(s, w)[0])
        return np.asarray(inverse @ middle @ inverse)

    def _result(
        self, curves: np.ndarray, noise: np.ndarray, scores: dict[int, float]
    ) -> ResponseSolution:
        config, n = self.config, len(self.stars)
        information = np.array(
            [[np.sum((s.ivar * s.share * s.model**2)[~s.telluric])] for s in self.stars]
        )
        information /= information.sum()
        effective = 1.0 / float(np.sum(information**2))
        # errors of each star's model, from its own fit, and what the stars show between them
        local = np.zeros(_BINS)
        for s, share in zip(self.stars, information[:, 0], strict=True):
            if s.data.shape_modes is not None:
                modes = np.nan_to_num(s.data.shape_modes)
                modes = modes - modes.mean(axis=1, keepdims=True)
                variance = np.sum(modes**2, axis=0)
                local += share**2 * np.interp(self.bins, s.x, variance)
        if n >= 2:
            centred = curves - np.nanmean(curves, axis=1, keepdims=True)
            excess = np.nansum(centred**2 - noise, axis=0)
            weights = np.exp(-0.5 * ((self.bins[:, None] - self.bins) / 0.08) ** 2)
            weights /= weights.sum(axis=1, keepdims=True)
            seen = np.maximum(weights @ excess, 0.0)
            shape = (6.0 * self.scatter**2 + seen) / (6.0 + n - 1) / effective
        else:
            shape = np.full(_BINS, self.scatter**2)
        template = np.sqrt(np.maximum(shape, 0.5 * (shape + local)) + config.template_floor**2)
        errors = np.array([s.data.log_scale_error for s in self.stars])
        scale = np.sqrt(np.sum(errors**2) / n**2 + config.scale_floor**2)
        covariance = None
        if self.broad is not None:  # shared mismatch and zero points are part of it
            scale = np.sqrt(self.broad.covariance.mean())
            centre = np.eye(_BINS) - 1.0 / _BINS
            covariance = centre @ self.broad.covariance @ centre
            template = np.sqrt(np.diag(covariance))
        # two stars may contradict each other: then the scale is no better than they agree
        greys = np.array([s.grey for s in self.stars])
        excess = np.var(greys, ddof=1) - config.rejection.grey**2 if n > 1 else 0.0
        scale = np.hypot(scale, np.sqrt(max(excess, 0.0) / n))
        names = tuple(s.name for s in self.given)
        kept = {s.data.name: s for s in self.stars}
        chi2, count = 0.0, 0
        for s in self.stars:
            g = s.design(self.x0, self.unit) * self._response_at(s)
            chi2 += float(np.sum(s.ivar * s.robust * (s.counts - g) ** 2))
            count += int(np.sum(s.ivar > 0))
        table = np.full((len(names), _BINS), np.nan)
        for i, name in enumerate(names):
            if name in kept:
                table[i] = curves[self.stars.index(kept[name])]
        return ResponseSolution(
            names,
            np.array([name in kept for name in names]),
            tuple(self.reasons[name] for name in names),
            np.array([kept[m].grey if m in kept else np.nan for m in names]),
            np.array([kept[m].slope if m in kept else np.nan for m in names]),
            self.range, self.c, self._covariance(), self.unit,
            self.tell_lam, np.where(self.tell_var < 1.0, self.tell, np.nan), self.tell_var,
            self.airmass,
            float(scale), self.bins, template, self.bins, table, scores,
            chi2, count - (self.n + 3) - 2 * n - self.tell_lam.size, config,
            template_covariance=covariance, contradiction=self.contradiction,
        )  # fmt: skip


def _roughness(gram: np.ndarray) -> float:
    """Penalty of squared second differences of coefficients that are about 1, for `solve_band`.

    That of a prior of 0.5: nothing beside data, but a long gap is bridged and its error known.
    """
    return max(1e-6, _BEND**-2 / max(float(np.mean(gram[:, 0])), 1e-300))


def _dense(band: np.ndarray) -> np.ndarray:
    out = np.diag(band[:, 0])
    for j in range(1, 4):
        out += np.diag(band[:-j, j], j) + np.diag(band[:-j, j], -j)
    return out
