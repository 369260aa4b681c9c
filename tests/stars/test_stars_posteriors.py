"""Posteriors: grids that do not match, joining, summaries, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pogson.errors import FileFormatError, ReferenceMismatchError
from pogson.stars import (
    FitConfig,
    StarPhotometry,
    StarPosteriors,
    fit_stars,
    read_posteriors,
    simulated_grid,
    write_posteriors,
)


def fitted(n: int = 4, seed: int = 1) -> StarPosteriors:
    grid = simulated_grid()
    flux = grid.fluxes(np.arange(200, 200 + n), av=0.4)
    flux[-1] = np.nan
    stars = StarPhotometry.from_fluxes(
        flux, 0.03 * flux, bands=grid.bands, l=np.full(n, 30.0), b=np.full(n, 40.0)
    )
    return fit_stars(grid, stars, seed=seed, config=FitConfig(n_draws=60))


def test_another_grid_is_refused() -> None:
    grid, fit = simulated_grid(), fitted()
    fit.check_grid(grid)
    fit.check_grid(grid.with_bands(fit.bands))
    other = grid.select(np.arange(grid.n_models - 1))
    with pytest.raises(ReferenceMismatchError, match="model indices mean nothing"):
        fit.label(other, "feh")
    feh = fit.label(grid, "feh")
    assert np.isfinite(feh[:3]).all()
    assert np.isnan(feh[3]).all()


def test_joining_checks_where_parts_come_from() -> None:
    fit = fitted()
    assert StarPosteriors.concatenate([fit.select(slice(0, 2)), fit.select(slice(2, 4))]) == fit
    with pytest.raises(ReferenceMismatchError, match="other priors or settings"):
        StarPosteriors.concatenate([fit, fitted(seed=2)])


def test_summary_and_quantiles() -> None:
    fit = fitted()
    row = fit.summary()
    assert np.all(row["av_16"][:3] <= row["av"][:3])
    assert np.isnan(row["av"][3])
    assert fit.count_flags()["ALL_MASKED"] == 1


def test_file_round_trip(tmp_path: Path) -> None:
    fit = fitted()
    path = write_posteriors(tmp_path / "a.parquet", fit)
    assert read_posteriors(path) == fit
    assert read_posteriors(path).provenance["seed"] == 1
    (tmp_path / "b.parquet").write_bytes(path.read_bytes()[:200])
    with pytest.raises(FileFormatError, match="Cannot read posteriors"):
        read_posteriors(tmp_path / "b.parquet")
