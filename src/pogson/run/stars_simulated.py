"""A made-up catalogue of stars with its grid, offsets and configuration, to try the jobs on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pogson.atomic import atomic_write_text
from pogson.errors import PogsonValueError
from pogson.streams import stream

__all__ = ["write_stars_job"]

_OFFSETS = (1.03, 0.98, 1.0, 1.02, 0.97, 1.01, 0.985, 1.04)


def write_stars_job(
    folder: str | Path,
    *,
    n_stars: int = 100,
    n_models: int = 2000,
    error: float = 0.02,
    parallax_error: float = 0.02,
    offsets: bool = False,
    rng_seed: int = 1,
) -> Path:
    r"""Write a grid, a catalogue drawn from it, and ``stars.toml``.

    Parameters
    ----------
    folder : path-like
        Where to.
    n_stars, n_models : int, optional
        Sizes of the catalogue and of the grid (`pogson.stars.simulated_grid`).
    error : float, optional
        Errors of the fluxes, as a fraction.
    parallax_error : float, optional
        In mas.
    offsets : bool, optional
        Whether to divide the fluxes of each band by an offset of up to 4 %; ``truth.txt`` has them.
    rng_seed : int, optional
        Seed.

    Returns
    -------
    pathlib.Path
        The configuration.

    Raises
    ------
    PogsonValueError
        If there are no stars.

    Notes
    -----
    Models are drawn from the mass function and the lattice's volume, distances flat in distance
    modulus between 0.3 and 3 kpc, A_V flat from 0 to 1, R_V from the prior of the fit. Every tenth
    star lacks a band, with the usual codes, so that readers have something to do.

    Examples
    --------
    >>> import tempfile
    >>> write_stars_job(tempfile.mkdtemp(), n_stars=10).name
    'stars.toml'
    """
    from astropy.table import Table

    from pogson.stars import LatticeVolume, MassFunction, simulated_grid, write_grid

    if n_stars < 1:
        raise PogsonValueError(f"A catalogue has at least one star; n_stars is {n_stars}.")
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    grid, rng = simulated_grid(n_models), stream(rng_seed, "stars job")
    log_prior = MassFunction().log_prior(grid) + LatticeVolume().log_prior(grid)
    weight = np.exp(log_prior - log_prior.max())
    model = rng.choice(grid.n_models, n_stars, p=weight / weight.sum())
    distance = 10 ** rng.uniform(np.log10(0.3), np.log10(3.0), n_stars)
    av, rv = rng.uniform(0, 1, n_stars), rng.normal(3.32, 0.18, n_stars)
    flux = grid.fluxes(model, av=av, rv=rv, distance_kpc=distance)
    sigma = error * flux
    flux = flux + sigma * rng.normal(size=flux.shape)
    factors = np.array(_OFFSETS) if offsets else np.ones(len(_OFFSETS))
    flux, sigma = flux / factors, sigma / factors
    mag = -2.5 * np.log10(np.maximum(flux, 1e-30))
    err = 2.5 / np.log(10) * sigma / np.maximum(flux, 1e-30)
    codes = [(np.nan, np.nan), (0.0, 0.0), (-9999.0, -9999.0), (20.0, 9.995), (-999.0, np.inf)]
    for i in range(0, n_stars, 10):
        mag[i, i // 10 % 8], err[i, i // 10 % 8] = codes[i // 10 % len(codes)]
    table = Table({"source_id": 1000 + np.arange(n_stars)})
    table["l"], table["b"] = rng.uniform(100, 104, n_stars), rng.uniform(28, 32, n_stars)
    table["parallax"] = 1 / distance + parallax_error * rng.normal(size=n_stars)
    table["parallax_error"] = np.full(n_stars, parallax_error)
    for k, band in enumerate(grid.bands):
        table[band], table[f"{band}_Err"] = mag[:, k], err[:, k]
    table["true_distance"], table["true_av"] = distance, av
    table.write(root / "stars.ecsv", format="ascii.ecsv", overwrite=True)
    write_grid(grid, root / "grid.h5")
    lines = [f"{b} {f:.6f}" for b, f in zip(grid.bands, factors, strict=True)]
    atomic_write_text(root / "truth.txt", "\n".join(lines) + "\n")
    text = (
        '[catalog]\nfiles = "stars.ecsv"\n\n[grid]\nfile = "grid.h5"\n\n'
        '[priors]\ndistance = "modulus"\nav_limits = [0.0, 1.0]\n\n'
        "[offsets]\nscatter_floor = 0.0\n"
    )
    return atomic_write_text(root / "stars.toml", text)
