"""What is in a grid, in numbers and as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pogson.stars.grid import StellarGrid
from pogson.stars.grid_file import LAST_MAIN_SEQUENCE_EEP

__all__ = ["BandSummary", "GridReport", "LabelSummary", "grid_report"]


@dataclass(frozen=True)
class LabelSummary:
    """Range of a label or prediction.

    Parameters
    ----------
    name : str
        The label.
    is_input : bool
        Whether the lattice was laid out in it.
    low, high : float
        Smallest and largest value; NaN if there is none.
    distinct : int
        Number of different values.

    Examples
    --------
    >>> LabelSummary("feh", True, -3.0, 0.5, 36).distinct
    36
    """

    name: str
    is_input: bool
    low: float
    high: float
    distinct: int


@dataclass(frozen=True)
class BandSummary:
    """Brightness and extinction of a band over all models.

    Parameters
    ----------
    name, system : str
        The band, and ``"AB"``, ``"Vega"`` or ``"unknown"``.
    brightest, faintest : float
        Absolute magnitudes without extinction.
    extinction : float
        Median A / A_V at R_V = 3.1.
    fit_error : float or None
        Median over models of the largest error of the extinction formula, in magnitudes.
    largest_fit_error : float or None
        The largest of all models.

    Examples
    --------
    >>> BandSummary("PS_g", "AB", -6.0, 15.0, 1.17, None, None).system
    'AB'
    """

    name: str
    system: str
    brightest: float
    faintest: float
    extinction: float
    fit_error: float | None
    largest_fit_error: float | None


@dataclass(frozen=True)
class GridReport:
    """Counts, ranges and origin of a grid; `lines` gives it as text.

    Parameters
    ----------
    n_models, n_main_sequence, n_evolved, n_binaries : int
        Counts; the middle two add up to all models if the grid knows the EEP, and are 0 if not.
    megabytes : float
        Size of the coefficients in memory.
    labels : tuple of LabelSummary
        Labels, then predictions.
    bands : tuple of BandSummary
        The bands.
    digest : str
        `StellarGrid.digest`.
    provenance : dict
        Where the numbers come from.

    Examples
    --------
    >>> from pogson.stars import simulated_grid
    >>> report = grid_report(simulated_grid(500))
    >>> report.n_models == report.n_main_sequence + report.n_evolved
    True
    """

    n_models: int
    n_main_sequence: int
    n_evolved: int
    n_binaries: int
    megabytes: float
    labels: tuple[LabelSummary, ...]
    bands: tuple[BandSummary, ...]
    digest: str
    provenance: dict[str, Any]

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        out = [
            f"{self.n_models} models ({self.n_main_sequence} up to the end of the main sequence, "
            f"{self.n_evolved} beyond), {self.n_binaries} binaries, {self.megabytes:.0f} MB",
            f"digest {self.digest}",
        ]
        skipped = ("systems", "vega_offsets")
        out += [f"{k}: {v}" for k, v in self.provenance.items() if k not in skipped]
        out.append("label        role        lowest     highest   values")
        for label in self.labels:
            role = "lattice" if label.is_input else "prediction"
            out.append(
                f"{label.name:<12} {role:<10} {label.low:>8.4g} {label.high:>11.4g} "
                f"{label.distinct:>8d}"
            )
        out.append("band              system  M brightest  faintest  A/A_V  error [mmag]  largest")
        for band in self.bands:
            error = (
                "           -        -"
                if band.fit_error is None or band.largest_fit_error is None
                else f"{1e3 * band.fit_error:>12.1f} {1e3 * band.largest_fit_error:>8.1f}"
            )
            out.append(
                f"{band.name:<17} {band.system:<7} {band.brightest:>11.2f} {band.faintest:>9.2f} "
                f"{band.extinction:>6.3f}  {error}"
            )
        return out


def grid_report(grid: StellarGrid) -> GridReport:
    """Return counts, ranges and origin of a grid.

    Parameters
    ----------
    grid : StellarGrid
        The grid.

    Examples
    --------
    >>> from pogson.stars import simulated_grid
    >>> report = grid_report(simulated_grid(500))
    >>> report.bands[0].name, report.labels[0].name
    ('PS_g', 'mini')
    >>> print(report.lines()[0])
    442 models (288 up to the end of the main sequence, 154 beyond), 0 binaries, 0 MB
    """
    names = grid.label_names
    main = 0
    if "eep" in names:
        main = int(np.sum(grid.label("eep") <= LAST_MAIN_SEQUENCE_EEP))
    labels = []
    for name in names:
        values = grid.label(name)
        values = values[np.isfinite(values)]
        low, high = (values.min(), values.max()) if values.size else (np.nan, np.nan)
        labels.append(
            LabelSummary(
                name,
                name in (grid.labels.dtype.names or ()),
                float(low),
                float(high),
                int(np.unique(values).size),
            )
        )
    bands = []
    for j, name in enumerate(grid.bands):
        c = grid.coefficients[:, j].astype(np.float64)
        errors = None if grid.fit_error is None else grid.fit_error[:, j]
        bands.append(
            BandSummary(
                name,
                grid.systems[name],
                float(c[:, 0].min() - 10.0),
                float(c[:, 0].max() - 10.0),
                float(np.median(c[:, 1] + 3.1 * c[:, 2])),
                None if errors is None else float(np.median(errors)),
                None if errors is None else float(errors.max()),
            )
        )
    return GridReport(
        grid.n_models,
        main,
        grid.n_models - main if "eep" in names else 0,
        int(np.sum(grid.label("smf") > 0)) if "smf" in names else 0,
        grid.coefficients.nbytes / 1e6,
        tuple(labels),
        tuple(bands),
        grid.digest,
        dict(grid.provenance),
    )
