"""Association of detections into stars, against brute force, astropy and itself in pieces."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from pogson.errors import ConfigError, FileFormatError, PogsonValueError
from pogson.survey import Detectors, Exposures, SurveyTables, calibrate
from pogson.survey.association import (
    Seeds,
    associate,
    join_reference,
    make_observations,
    nearest_position,
)
from pogson.survey.association_partition import associate_partitions
from pogson.survey.terms_grey import ExposureZeroPoint

SEED = 20261122
ARCSEC = 1 / 3600.0


def field(rng, stars, visits, *, ra0, dec0, size, scatter=0.1, motion=0.0):
    """Stars over a patch, each seen on most visits; returns detections and truth."""
    dec = dec0 + size * (rng.random(stars) - 0.5)
    dec = np.clip(dec, -89.9999, 89.9999)
    ra = ra0 + size * (rng.random(stars) - 0.5) / np.maximum(np.cos(np.deg2rad(dec)), 1e-3)
    star, visit = (a.ravel() for a in np.meshgrid(np.arange(stars), np.arange(visits)))
    on = rng.random(star.size) < 0.8
    star, visit = star[on], visit[on]
    pm = motion * rng.normal(size=(2, stars))
    years = visit * 1.0
    d = dec[star] + scatter * ARCSEC * rng.normal(size=star.size) + pm[1, star] * ARCSEC * years
    cos = np.maximum(np.cos(np.deg2rad(dec[star])), 1e-3)
    r = (
        ra[star]
        + (scatter * ARCSEC * rng.normal(size=star.size) + pm[0, star] * ARCSEC * years) / cos
    )
    return np.mod(r, 360.0), np.clip(d, -90, 90), visit, star, (np.mod(ra, 360.0), dec, pm)


def brute(ra, dec, radius):
    c = np.deg2rad(np.stack([ra, dec]))
    v = np.stack([np.cos(c[1]) * np.cos(c[0]), np.cos(c[1]) * np.sin(c[0]), np.sin(c[1])], axis=1)
    chord = np.linalg.norm(v[:, None] - v[None], axis=2)
    i, j = np.nonzero(chord <= 2 * np.sin(0.5 * np.deg2rad(radius * ARCSEC)))
    graph = coo_matrix((np.ones(i.size), (i, j)), shape=(ra.size,) * 2)
    return connected_components(graph, directed=False)[1]


def same_partition(a, b):
    pairs = np.unique(np.stack([a, b]), axis=1).shape[1]
    return pairs == np.unique(a).size == np.unique(b).size


@pytest.mark.parametrize(
    ("ra0", "dec0"), [(10.0, 0.0), (0.0, 20.0), (359.9999, -45.0), (120.0, 89.999), (0.0, -89.9999)]
)
def test_groups_are_those_of_brute_force_everywhere_on_the_sphere(ra0, dec0):
    rng = np.random.default_rng(SEED)
    # crowded on purpose: chains of several stars happen
    ra, dec, visit, _, _ = field(rng, 150, 5, ra0=ra0, dec0=dec0, size=0.006, scatter=0.3)
    for radius in (0.4, 1.0, 3.0):
        found = associate(ra, dec, exposure=visit, radius=radius)
        assert same_partition(found.star, brute(ra, dec, radius)), (radius, SEED)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 60.0, 89.9995]))
def test_order_of_rows_changes_nothing(seed, dec0):
    rng = np.random.default_rng(seed)
    ra, dec, visit, _, _ = field(rng, 60, 4, ra0=0.0, dec0=dec0, size=0.01, scatter=0.4)
    a = associate(ra, dec, exposure=visit)
    order = rng.permutation(ra.size)
    b = associate(ra[order], dec[order], exposure=visit[order])
    assert np.array_equal(a.star[order], b.star)
    for name in ("ra", "dec", "extent", "neighbor", "detections", "exposures"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert np.array_equal(a.duplicate[order], b.duplicate)


def test_nearest_agrees_with_astropy():
    rng = np.random.default_rng(SEED)
    a = rng.uniform(0, 360, 3000), np.rad2deg(np.arcsin(rng.uniform(-1, 1, 3000)))
    b = np.mod(a[0] + 1e-3 * rng.normal(size=3000), 360), np.clip(a[1] + 1e-3, -90, 90)
    index, distance = nearest_position(*a, *b, 3600.0)
    there, sep, _ = SkyCoord(*a, unit="deg").match_to_catalog_sky(SkyCoord(*b, unit="deg"))
    near = sep.arcsec < 3599
    assert near.sum() > 2000
    assert np.array_equal(index[near], there[near])
    np.testing.assert_allclose(distance[near], sep.arcsec[near], rtol=1e-9, atol=1e-7)
    assert np.all(index[sep.arcsec > 3601] == -1)


def test_stars_duplicates_isolation_and_reference():
    ra = np.array([10.0, 10.0, 10.0 + 0.3 * ARCSEC, 10.0 + 3 * ARCSEC, 20.0, np.nan])
    found = associate(ra, np.zeros(6), exposure=[1, 2, 2, 1, 1, 1], isolation=5.0)
    assert found.star.tolist() == [0, 0, 0, 1, 2, -1]
    assert found.duplicate.tolist() == [False, False, True, False, False, False]
    assert found.exposures.tolist() == [2, 1, 1]
    assert found.isolated.tolist() == [False, False, True]
    assert found.neighbor[1] == pytest.approx(2.9, abs=1e-6)
    # 10.0 and 10.00001: only the nearer of two stars gets the reference
    rows = join_reference(found.ra, found.dec, Seeds([10.0, 50.0], [0.0, 0.0]), radius=5.0)
    assert rows.tolist() == [0, -1, -1]


def test_proper_motion_takes_detections_to_their_seed():
    rng = np.random.default_rng(SEED)
    ra, dec, visit, star, (ra0, dec0, pm) = field(
        rng, 300, 10, ra0=150.0, dec0=50.0, size=0.3, scatter=0.05, motion=1.0
    )
    seeds = Seeds(ra0, dec0, pm_ra=1000 * pm[0], pm_dec=1000 * pm[1], epoch=2016.0)
    still = Seeds(ra0, dec0)
    with_motion = associate(ra, dec, exposure=visit, epoch=2016.0 + visit, seeds=seeds)
    without = associate(ra, dec, exposure=visit, epoch=2016.0 + visit, seeds=still)
    assert np.mean(with_motion.seed[with_motion.star] == star) > 0.999
    assert np.mean(without.seed[without.star] == star) < 0.6
    only = associate(ra, dec, exposure=visit, seeds=still, seeded_only=True)
    assert np.all(only.seed >= 0)
    assert np.any(only.star < 0)


@pytest.mark.parametrize("seeded", [False, True])
def test_pieces_give_the_answer_of_the_whole_to_the_bit(tmp_path, seeded):
    rng = np.random.default_rng(SEED)
    parts = [  # over pixel corners, the zero of right ascension, and a pole
        field(rng, 400, 6, ra0=0.0, dec0=0.0, size=0.02, scatter=0.5),
        field(rng, 400, 6, ra0=45.0, dec0=0.0, size=0.02, scatter=0.5),
        field(rng, 200, 6, ra0=0.0, dec0=90.0, size=0.01, scatter=0.5),
        field(rng, 2000, 6, ra0=200.0, dec0=30.0, size=8.0, scatter=0.3),
    ]
    ra, dec, visit = (np.concatenate([p[k] for p in parts]) for k in range(3))
    order = rng.permutation(ra.size)
    ra, dec, visit = ra[order], dec[order], visit[order]
    seeds = None
    if seeded:
        pick = rng.choice(ra.size, 200, replace=False)
        seeds = Seeds(ra[pick], dec[pick])
    whole = associate(ra, dec, exposure=visit, seeds=seeds)
    table = pa.table({"ra": ra, "dec": dec, "exposure": visit, "flux": np.arange(ra.size) * 1.0})
    pq.write_table(table.slice(0, 5000), tmp_path / "a.parquet")
    pieces = associate_partitions(
        [tmp_path / "a.parquet", table.slice(5000)],
        tmp_path / "out",
        nside=64,
        seeds=seeds,
        rows=999,
    )
    assert len(pieces.pixels) > 10
    assert pieces.stars == len(whole)
    star, duplicate = np.full(ra.size, -1), np.zeros(ra.size, bool)
    seen = 0
    for found, rows in pieces.pieces():
        at = rows["row"].to_numpy()
        assert np.array_equal(rows["flux"].to_numpy(), at * 1.0)
        number = rows["star"].to_numpy()
        star[at], duplicate[at] = number, found.duplicate
        numbers = np.unique(number)
        seen += numbers.size
        for name in ("ra", "dec", "extent", "neighbor", "seed", "detections"):
            assert np.array_equal(getattr(found, name), getattr(whole, name)[numbers]), name
    assert seen == pieces.stars
    assert np.array_equal(star, whole.star)
    assert np.array_equal(duplicate, whole.duplicate)
    assert not list((tmp_path / "out").glob("scatter*"))


def test_detections_become_a_solution():
    rng = np.random.default_rng(SEED)
    ra, dec, visit, star, _ = field(rng, 400, 6, ra0=30.0, dec0=-30.0, size=4.0)
    zero, true = 25 + 0.1 * rng.normal(size=6), rng.uniform(15, 18, 400)
    mag = true[star] - zero[visit] + 0.003 * rng.normal(size=star.size)
    extra = np.r_[np.arange(star.size), 0]  # one detection twice
    found = associate(
        ra[extra], dec[extra] + 0.2 * ARCSEC * (extra != extra), exposure=visit[extra]
    )
    tables = SurveyTables(Exposures(np.arange(6)), Detectors([0]))
    obs, rows = make_observations(
        found, tables, exposure=visit[extra], detector=0, x=0, y=0, mag=mag[extra], mag_err=0.003
    )
    assert obs.flag_counts()["DUPLICATE"] == 1
    assert np.array_equal(obs.mag, mag[extra][rows])
    assert np.all(found.isolated[obs.stars.identifier])
    s = calibrate(obs, [ExposureZeroPoint()], gauge="anchor")
    d = s["exposure_zero_point"] - zero
    assert np.std(d) < 5 * 0.003 / np.sqrt(250)


def test_bad_input_says_what_is_wrong(tmp_path):
    with pytest.raises(PogsonValueError, match=r"declination of detections is 95"):
        associate([1.0], [95.0], exposure=[1])
    with pytest.raises(PogsonValueError, match=r"radius is 0 arcsec"):
        associate([1.0], [5.0], exposure=[1], radius=0)
    with pytest.raises(PogsonValueError, match=r"'exposure' has shape \(2,\)"):
        associate([1.0], [5.0], exposure=[1, 2])
    with pytest.raises(ConfigError, match="power of two"):
        associate_partitions([], tmp_path, nside=12)
    with pytest.raises(ConfigError, match="too small for a radius"):
        associate_partitions([], tmp_path, nside=1024, radius=600.0)
    with pytest.raises(FileFormatError, match="lacks columns"):
        associate_partitions([pa.table({"ra": [1.0]})], tmp_path)
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(FileFormatError, match="cannot be read as Parquet"):
        associate_partitions([tmp_path / "x.parquet"], tmp_path / "o")
    nothing = associate([], [], exposure=[])
    assert len(nothing) == 0


@pytest.mark.slow
def test_four_million_detections_in_seconds():
    rng = np.random.default_rng(SEED)
    ra, dec, visit, star, truth = field(
        rng, 250_000, 20, ra0=180.0, dec0=-30.0, size=5.0, scatter=0.05
    )
    associate(ra[:1000], dec[:1000], exposure=visit[:1000])
    start = time.process_time()
    found = associate(ra, dec, exposure=visit)
    seconds = time.process_time() - start
    assert seconds < 20, seconds  # of processor time
    # true stars so near each other that their detections can be friends: nobody tells them apart
    apart = nearest_position(*truth[:2], *truth[:2], 2.0 * found.radius, same=True)[1]
    single = apart[star] > found.radius + 10 * 0.05
    assert same_partition(found.star[single], star[single])
    # and two stars taken for one are seen twice on an exposure, which is said
    pairs = np.unique(np.stack([found.star, star]), axis=1)
    merged = np.flatnonzero(np.bincount(pairs[0]) > 1)
    assert 100 < merged.size < 1000  # of 250,000 on 25 square degrees
    assert (found.detections[merged] > found.exposures[merged]).all()
