"""Real catalogues fitted with MIST models: M67, and a field towards Orion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pogson.errors import MissingDataError, PogsonValueError
from pogson.stars import (
    ExtinctionPrior,
    FitConfig,
    MistLattice,
    StarFlag,
    StarPhotometry,
    StarPriors,
    StellarGrid,
    build_mist_grid,
    fit_stars,
)

BANDS = ("PS_g", "PS_r", "PS_i", "PS_z", "PS_y", "2MASS_J", "2MASS_H", "2MASS_Ks")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def grid() -> StellarGrid:
    """A coarse grid, or a skip that says which data package is not installed."""
    lattice = MistLattice(
        mini=np.geomspace(0.12, 3.0, 70), eep=range(202, 606, 6), feh=np.arange(-1.0, 0.51, 0.25)
    )
    try:
        return build_mist_grid(BANDS, lattice=lattice)
    except MissingDataError as error:
        pytest.skip(str(error))


def test_m67(grid: StellarGrid, shared_data: Callable[[str], Path]) -> None:
    """All stars with eight magnitudes; 2MASS magnitudes without an error are upper limits.

    Distance of the members: 0.86 kpc from Gaia DR2 parallaxes (Cantat-Gaudin et al. 2018, A&A 618,
    A93), with a systematic error of some per cent here: parallaxes without a zero point, models.
    """
    from astropy.io import fits

    data = fits.getdata(shared_data("m67/NGC_2682.fits"))
    mag = np.column_stack([data[b] for b in BANDS]).astype(float)
    err = np.column_stack([data[f"{b}_Err"] for b in BANDS]).astype(float)
    limit = np.isfinite(mag) & np.isnan(err)
    stars = StarPhotometry.from_magnitudes(
        mag, err, bands=BANDS, upper_limit=limit, limit_sigma=1.645, bad_errors="mask",
        parallax=data["Parallax"].astype(float), parallax_err=data["Parallax_Err"].astype(float),
        l=data["l"], b=data["b"], ids=np.arange(len(data)),
    ).select(np.isfinite(mag).all(axis=1))  # fmt: skip
    member = (data["HDBscan_MemProb"] > 0.8)[np.isfinite(mag).all(axis=1)]
    assert len(stars) == 1174
    assert stars.observed.all()
    priors = StarPriors(extinction=ExtinctionPrior(high=3.0))
    fit = fit_stars(grid, stars, seed=1, priors=priors, config=FitConfig(error_floor=0.03))
    distance = fit.quantiles("distance_kpc")[:, 1]
    print(fit.count_flags(), np.median(distance[member]), np.std(np.log(distance[member])))
    assert fit.fitted.all()
    assert np.mean((fit.flags & StarFlag.LOW_ESS) != 0) < 0.02
    assert np.mean((fit.flags & StarFlag.POOR_FIT) != 0) < 0.10
    assert 0.82 < np.median(distance[member]) < 0.92
    # most of it from parallaxes of 0.045 mas, 5 % each
    assert np.std(np.log(distance[member])) < 0.10


def test_orion_field(grid: StellarGrid, shared_data: Callable[[str], Path]) -> None:
    """All 1642 stars; the file holds parallaxes in arcseconds, 0 +- 1e10 where there are none."""
    import h5py

    with h5py.File(shared_data("m67/Orion_l204.7_b-19.2.h5")) as file:
        data = file["photometry/pixel 0-0"][:]
    columns = {
        "bands": BANDS, "parallax": data["parallax"], "parallax_err": data["parallax_error"],
        "l": data["l"], "b": data["b"], "ids": data["obj_id"],
    }  # fmt: skip
    with pytest.raises(PogsonValueError, match="look like arcseconds"):
        StarPhotometry.from_magnitudes(data["mag"], data["err"], **columns)
    stars = StarPhotometry.from_magnitudes(
        data["mag"], data["err"], parallax_unit="arcsec", **columns
    )
    assert int(np.isnan(stars.parallax).sum()) == int((data["parallax_error"] > 1e9).sum()) == 441
    assert np.nanmin(stars.parallax_err) == pytest.approx(0.027, abs=0.001)  # Gaia's best, in mas
    priors = StarPriors(extinction=ExtinctionPrior(high=8.0))
    fit = fit_stars(grid, stars, seed=1, priors=priors, config=FitConfig(error_floor=0.03))
    print(fit.count_flags())
    assert len(fit) == 1642
    assert fit.fitted.all()
    assert np.mean((fit.flags & StarFlag.LOW_ESS) != 0) < 0.02
    low, middle, high = fit.quantiles("distance_kpc").T
    sharp = stars.parallax > 8 * stars.parallax_err
    assert sharp.sum() > 100
    assert np.median(np.abs(middle[sharp] * stars.parallax[sharp] - 1)) < 0.05
    # the field lies behind the edge of Orion A: hardly any star is unreddened
    av = fit.quantiles("av")[:, 1]
    assert 0.3 < np.median(av[middle > 0.6]) < 2.0
    assert np.all((low <= middle) & (middle <= high))
