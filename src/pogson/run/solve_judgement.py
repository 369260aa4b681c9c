"""What is to be said of the exposures of a global solution: loose sets, strange ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pogson.survey import Connections, Observations, Solution

_ENOUGH = 1_000_000  # detections, of whole stars, that tell the scatter of the exposures

__all__ = ["connection_words", "exposure_scatter", "strange_exposures"]


def connection_words(links: Connections, exposures: Any) -> list[str]:
    """Return, for each band, how its exposures fall into sets that share no star.

    Parameters
    ----------
    links : Connections
        Of all bands (different bands never share a star).
    exposures : Exposures
        Their bands.

    Examples
    --------
    >>> from pogson.survey import Connections, Exposures
    >>> links = Connections(np.array([0, 1]), np.array([True, False]), np.array([9, 9]),
    ...                     np.array([11, 12]))
    >>> connection_words(links, Exposures([11, 12], filter_names=("g",)))[1]
    'g: exposures 12 share no star with the larger set; no reference ties them.'
    """
    out = []
    for f in np.unique(exposures.filter):
        here = exposures.filter == f
        sets = [int(g) for g in np.unique(links.group[here]) if g >= 0]
        if len(sets) < 2:
            continue
        band = exposures.filter_name(int(f))
        out.append(f"{band}: the exposures fall into {len(sets)} sets that share no star.")
        for g in sets[1:]:
            ids = np.array(exposures.labels)[links.group == g]
            shown = ", ".join(ids[:6]) + (", ..." if ids.size > 6 else "")
            how = "references tie them" if links.anchored[g] else "no reference ties them"
            out.append(f"{band}: exposures {shown} share no star with the larger set; {how}.")
    return out


def strange_exposures(chi2: np.ndarray, solution: Solution, o: Observations) -> list[str]:
    """Name exposures whose stars scatter far more than those of the others.

    Parameters
    ----------
    chi2 : numpy.ndarray
        Per detection, of each exposure.
    solution : Solution
        Its model and parameters.
    o : Observations
        Whole stars: all of them, or some.

    Notes
    -----
    In a band of few exposures a strange one makes the fitted floor large enough for its own chi2:
    so the scatter about the medians of the stars is looked at, too, which one strange exposure
    among three does not move.
    """
    exposures = solution.model.tables.exposures
    middle = float(np.nanmedian(chi2)) if np.isfinite(chi2).any() else np.nan
    large = np.nan_to_num(chi2) > max(4.0 * middle, 3.0)
    scatter, others = exposure_scatter(solution, o)
    wide = np.nan_to_num(scatter) > np.maximum(5.0 * others, 0.03)
    out = []
    for i in np.flatnonzero(large | wide):
        how = (
            f"scatter {chi2[i]:.1f} times as much (chi2 per detection) as their errors say"
            if large[i]
            else f"scatter by {1e3 * scatter[i]:.0f} mmag beyond their noise, those of the other "
            f"exposures of the band by {1e3 * others[i]:.0f} mmag"
        )
        out.append(
            f"The stars of exposure {exposures.labels[i]} "
            f"({exposures.filter_name(int(exposures.filter[i]))}) {how}: clouds with structure, "
            "another filter than its label says, or bad measurements. solve.exclude leaves it out."
        )
    return out


def exposure_scatter(solution: Solution, o: Observations) -> tuple[np.ndarray, np.ndarray]:
    """Return the robust scatter of exposures beyond the noise, and the median of their band's.

    Parameters
    ----------
    solution : Solution
        Its model and parameters.
    o : Observations
        Whole stars; rejected detections take part.

    Returns
    -------
    scatter, others : numpy.ndarray, shape (exposures,)
        Magnitudes; NaN where there are too few stars of three detections.
    """
    from pogson.survey import RowFlag
    from pogson.survey.diagnostics_parameters import replace_rows

    exposures = solution.model.tables.exposures
    step = -(-len(o) // _ENOUGH)
    if step > 1:
        o = replace_rows(o, np.flatnonzero(o.star % step == 0))
    natural = np.asarray(o.mag) - solution.model.evaluate(o, solution.parameters)
    on = np.flatnonzero(((o.flags & ~np.uint8(RowFlag.REJECTED.value)) == 0) & np.isfinite(natural))
    on = on[np.lexsort((natural[on], o.star[on]))]
    star, value = o.star[on], natural[on]
    first = np.flatnonzero(np.diff(star, prepend=-1))
    count = np.diff(np.append(first, star.size))
    median = 0.5 * (value[first + (count - 1) // 2] + value[first + count // 2])
    use = np.repeat(count >= 3, count)
    away, e = (value - np.repeat(median, count))[use], o.exposure[on][use]
    noise = np.asarray(o.mag_err)[on][use]
    scatter, others = (np.full(len(exposures), np.nan) for _ in range(2))
    order = np.argsort(e, kind="stable")
    edges = np.searchsorted(e[order], np.arange(len(exposures) + 1))
    for i in range(len(exposures)):
        rows = order[edges[i] : edges[i + 1]]
        if rows.size >= 10:
            spread = 1.4826 * float(np.median(np.abs(away[rows] - np.median(away[rows]))))
            scatter[i] = np.sqrt(max(spread**2 - float(np.median(noise[rows])) ** 2, 0.0))
    for f in np.unique(exposures.filter):
        here = exposures.filter == f
        if np.isfinite(scatter[here]).any():
            others[here] = np.nanmedian(scatter[here])
    return scatter, others
