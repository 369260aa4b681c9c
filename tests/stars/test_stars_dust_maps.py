"""Dust maps in files: pixels, orders, frames, distances, gaps, and what is refused."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy_healpix import HEALPix

from pogson.errors import FileFormatError, MissingDataError, PogsonValueError
from pogson.stars import StarPhotometry, StarPriors, fit_stars, read_dust_map, simulated_grid

NEAR = np.array([0.5, 2.0])


def by_latitude(nside, order, frame):
    """A_V = 1 + sin b at every pixel centre, in Galactic latitude."""
    lon, lat = HEALPix(nside, order=order).healpix_to_lonlat(np.arange(12 * nside**2))
    b = lat if frame == "galactic" else SkyCoord(lon, lat, frame="icrs").galactic.b
    return 1.0 + np.sin(b.to_value(u.rad))


def fits_map(path, values, nside, ordering, coordsys="G", rows=None, more=()):
    values = np.asarray(values, np.float32)
    shaped = values if rows is None else values.reshape(-1, rows)
    form = "E" if shaped.ndim == 1 else f"{shaped.shape[1]}E"
    columns = [fits.Column("AV", form, array=shaped), *more]
    table = fits.BinTableHDU.from_columns(columns)
    table.header.update(PIXTYPE="HEALPIX", NSIDE=nside, ORDERING=ordering, COORDSYS=coordsys)
    table.writeto(path)
    return path


@pytest.mark.parametrize("ordering", ["NESTED", "RING"])
@pytest.mark.parametrize("coordsys", ["G", "C"])
@pytest.mark.parametrize("rows", [None, 1024])
def test_fits_maps_of_every_order_and_frame(tmp_path, ordering, coordsys, rows):
    frame = {"G": "galactic", "C": "icrs"}[coordsys]
    values = by_latitude(32, ordering.lower(), frame)
    path = fits_map(tmp_path / "map.fits", values, 32, ordering, coordsys, rows)
    prior = read_dust_map(path, scale=2.0, scatter=0.1)
    rng = np.random.default_rng(3)
    for l, b in zip(rng.uniform(0, 360, 30), rng.uniform(-90, 90, 30), strict=True):  # noqa: E741
        mean, sd = prior.profile(NEAR, l, b)
        # a pixel of nside 32 is 1.8 degrees across
        assert np.allclose(mean, 2 * (1 + np.sin(np.radians(b))), atol=2 * np.radians(1.8))
        assert np.allclose(sd, 0.1)


def hdf5_map(path, **sets):
    with h5py.File(path, "w") as file:
        for name, values in sets.items():
            file[name] = values
        file.attrs.update(nside=1, order="nested", frame="galactic")
    return path


def test_distances_deviations_and_gaps(tmp_path):
    mean = np.full((12, 2), [0.2, 0.6])
    mean[:4] = np.nan  # the northern cap
    path = hdf5_map(tmp_path / "m.h5", mean=mean, sd=mean / 10, distance_kpc=[1.0, 3.0])
    prior = read_dust_map(path, scatter=0.0)
    got, sd = prior.profile(np.array([0.0, 0.5, 2.0, 50.0]), 45.0, -60.0)
    assert np.allclose(got, [0.0, 0.1, 0.4, 0.6])
    assert np.allclose(sd, [0.02, 0.02, 0.04, 0.06])
    assert np.all(np.isinf(prior.profile(NEAR, 45.0, 80.0)[1]))
    assert pickle.loads(pickle.dumps(prior)) == prior  # travels to other processes
    assert "m.h5" in prior.describe()["name"]


def test_a_map_moves_extinctions_to_its_own(tmp_path):
    path = hdf5_map(tmp_path / "m.h5", mean=np.where(np.arange(12) < 4, 0.2, 0.9))
    grid = simulated_grid()
    flux = grid.fluxes([40, 40], av=0.5, distance_kpc=1.0)
    stars = StarPhotometry.from_fluxes(
        flux, 0.1 * flux, bands=grid.bands, l=[45.0, 45.0], b=[80.0, -80.0]
    )
    prior = StarPriors(extinction=read_dust_map(path, scatter=0.02, high=3.0))
    av = np.median(fit_stars(grid, stars, seed=1, priors=prior).av, axis=1)
    assert np.allclose(av, [0.2, 0.9], atol=0.05)


def test_what_is_refused(tmp_path):
    good = hdf5_map(tmp_path / "good.h5", mean=np.ones(12))
    with pytest.raises(PogsonValueError, match=r"scatter=0\.1"):
        read_dust_map(good, scatter=0.0)
    with pytest.raises(FileFormatError, match="no dust map"):
        read_dust_map(tmp_path / "none.h5")
    for name, sets, said in (
        ("a", {"mean": np.ones(13)}, "12 pixels"),
        ("b", {"mean": np.ones((12, 2))}, "distance_kpc"),
        ("c", {"mean": np.ones((12, 2)), "distance_kpc": [2.0, 1.0]}, "rising"),
        ("d", {"mean": np.full(12, np.nan)}, "no usable pixel"),
    ):
        with pytest.raises(FileFormatError, match=said):
            read_dust_map(hdf5_map(tmp_path / f"{name}.h5", **sets))
    with pytest.raises(MissingDataError, match="mean"):
        read_dust_map(hdf5_map(tmp_path / "e.h5", other=np.ones(12)))
    (tmp_path / "text.fits").write_text("no map")
    with pytest.raises(FileFormatError, match="dust map"):
        read_dust_map(tmp_path / "text.fits")
    file = fits_map(tmp_path / "o.fits", np.ones(12), 1, "SPIRAL")
    with pytest.raises(FileFormatError, match="spiral"):
        read_dust_map(file)
    with pytest.raises(MissingDataError, match="EBV"):
        read_dust_map(file, column="EBV")


def test_a_map_that_changes_stops_the_job(tmp_path):
    from pogson.stars import dust_maps

    path = hdf5_map(tmp_path / "m.h5", mean=np.ones(12))
    prior = read_dust_map(path)
    hdf5_map(path, mean=np.zeros(12))
    dust_maps._loaded.cache_clear()
    with pytest.raises(FileFormatError, match="changed"):
        prior.profile(NEAR, 0.0, 0.0)
