"""Jobs on stars: killed and resumed, parallel, on a Dask cluster, and on real data."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from pogson.errors import ConfigError
from pogson.run.stars_config import load_stars_config
from pogson.run.stars_fit import run_stars
from pogson.run.stars_grid import build_grid
from pogson.run.stars_offsets import run_offsets
from pogson.run.stars_simulated import write_stars_job
from pogson.stars import read_posteriors

ROOT = Path(__file__).resolve().parents[2]
QUIET = ["report.enabled=false", "fit.draws=50", "fit.proposals=500"]


def test_a_killed_job_goes_on_and_gives_the_same_file(tmp_path):
    file = write_stars_job(tmp_path, n_stars=600, n_models=2000, rng_seed=5)
    settings = [*QUIET, "fit.chunk=20"]
    whole = run_stars(load_stars_config(file, settings, output=tmp_path / "whole"), workers=1)
    assert whole.n_computed == 30
    options = [f"--set={s}" for s in settings]
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "pogson", "stars", "fit", str(file), "-j", "1", "-q",
               "-o", str(out), *options]  # fmt: skip
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parts = out / "posteriors.parquet.parts"
    end = time.monotonic() + 120
    while len(list(parts.glob("part-*"))) < 3 and time.monotonic() < end:
        assert job.poll() is None, "the job ended before it could be killed"
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    kept = len(list(parts.glob("part-*.parquet")))
    assert 3 <= kept < 30
    assert not (out / "posteriors.parquet").exists()
    resumed = run_stars(load_stars_config(file, settings, output=out), workers=1)
    assert resumed.n_computed == 30 - kept
    assert resumed.table.read_bytes() == whole.table.read_bytes()
    assert run_stars(load_stars_config(file, settings, output=out), workers=1).n_computed == 0


def test_processes_and_dask_give_the_same_file(tmp_path):
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    file = write_stars_job(tmp_path, n_stars=30, n_models=500, rng_seed=6)
    settings = [*QUIET, "fit.chunk=10"]

    def fit(name, **where):
        return run_stars(load_stars_config(file, settings, output=tmp_path / name), **where)

    one = fit("one", workers=1).table.read_bytes()
    assert fit("two", workers=2, kind="threads").table.read_bytes() == one
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster = distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        )
        with cluster:
            address = cluster.scheduler_address
            assert fit("dask", scheduler=address).table.read_bytes() == one
    with pytest.raises(ConfigError, match="binaries"):
        run_stars(load_stars_config(file, ["grid.binaries=true"]), scheduler="tcp://x:1")


def test_offsets_are_the_same_in_any_executor_and_after_a_kill(tmp_path):
    """One process, two processes, a Dask cluster, and a job killed and resumed: one result."""
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    file = write_stars_job(tmp_path, n_stars=80, n_models=500, offsets=True, rng_seed=8)
    settings = [*QUIET, "fit.chunk=40", "offsets.gauge=PS_r", "offsets.max_rounds=2",
                "offsets.averages=1", "offsets.draws=50", "fit.min_ess=1"]  # fmt: skip
    names = ("posteriors.parquet", "offsets.ecsv", "offsets.txt", "offsets.json")

    def made(name, **where):
        job = run_offsets(load_stars_config(file, settings, output=tmp_path / name), **where)
        assert not list(job.folder.glob("stages/offsets/work-*"))
        return [(job.folder / n).read_bytes() for n in names]

    one = made("one", workers=1)
    assert made("two", workers=2, kind="processes") == one
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        assert made("dask", scheduler=cluster.scheduler_address) == one
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "pogson", "offsets", str(file), "-j", "1", "-q", "-o",
               str(out), *(f"--set={s}" for s in settings)]  # fmt: skip
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not list(out.glob("stages/offsets/work-*/draws-*")) and time.monotonic() < end:
        assert job.poll() is None, "the job ended before it could be killed"
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    assert list(out.glob("stages/offsets/work-*/draws-*.npz"))
    assert made("killed", workers=1) == one


@pytest.mark.slow
def test_processes_give_the_same_file(tmp_path):
    file = write_stars_job(tmp_path, n_stars=30, n_models=500, rng_seed=6)
    settings = [*QUIET, "fit.chunk=10"]
    tables = [
        run_stars(load_stars_config(file, settings, output=tmp_path / str(n)), workers=n).table
        for n in (1, 2)
    ]
    assert tables[0].read_bytes() == tables[1].read_bytes()


def test_several_files_are_one_catalogue(tmp_path):
    from astropy.table import Table

    file = write_stars_job(tmp_path, n_stars=20, n_models=500, rng_seed=7)
    whole = run_stars(load_stars_config(file, QUIET, output=tmp_path / "a"), workers=1)
    stars = Table.read(tmp_path / "stars.ecsv")
    stars[:8].write(tmp_path / "part-0.ecsv", format="ascii.ecsv")
    stars[8:].write(tmp_path / "part-1.ecsv", format="ascii.ecsv")
    text = [*QUIET, 'catalog.files="part-*.ecsv"', "fit.nside=64"]
    parts = run_stars(load_stars_config(file, text, output=tmp_path / "b"), workers=1)
    one, other = read_posteriors(whole.table), read_posteriors(parts.table)
    assert sorted(one.ids.tolist()) == sorted(other.ids.tolist())
    order = np.argsort(other.ids)
    np.testing.assert_array_equal(one.distance_kpc, other.distance_kpc[order])


def test_a_dust_map_is_the_prior_of_extinction(tmp_path):
    import h5py

    file = write_stars_job(tmp_path, n_stars=12, n_models=500, rng_seed=9)
    with h5py.File(tmp_path / "dust.h5", "w") as made:
        made["mean"] = np.full(12, 0.1)
        made.attrs.update(nside=1, order="nested", frame="galactic")
    dusty = [*QUIET, "priors.dust_map=dust.h5", "priors.dust_scale=3.0", "priors.dust_scatter=0.01"]
    job = run_stars(load_stars_config(file, dusty), workers=1)
    fit = read_posteriors(job.table)
    assert np.abs(np.median(fit.av) - 0.3) < 0.02
    assert "dust.h5" in str(fit.provenance["priors"])
    with pytest.raises(ConfigError, match="dust_map"):
        run_stars(load_stars_config(file, [*QUIET, "priors.dust_map=none.h5"]), workers=1)
    with pytest.raises(ConfigError, match="takes the place"):
        load_stars_config(file, [*dusty, "priors.av_sd=0.1"])


def test_distances_are_right_within_their_errors(tmp_path):
    from astropy.table import Table

    file = write_stars_job(tmp_path, n_stars=150, n_models=2000, rng_seed=8)
    job = run_stars(load_stars_config(file, ["report.enabled=false"]), workers=1)
    fit, truth = read_posteriors(job.table), Table.read(tmp_path / "stars.ecsv")
    below = (fit.distance_kpc < np.asarray(truth["true_distance"])[:, None]).mean(axis=1)
    inside = np.mean((below > 0.16) & (below < 0.84))
    print("68 % intervals hold", inside)
    assert abs(inside - 0.68) < 4 * np.sqrt(0.68 * 0.32 / 150)


# --- real data ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mist_m67(tmp_path_factory):
    """Return the grid of the tutorial, or skip where its packages are not installed."""
    path = tmp_path_factory.mktemp("mist") / "m67.h5"
    try:
        build_grid(
            "mist", path, av_max=1.0,
            axes={"log_age": "9.5:9.65:0.05", "feh": "-0.1:0.1:0.1", "eep": "202:808:2",
                  "smf": "0,0.4,0.5,0.6,0.7,0.8,0.9,1"},
        )  # fmt: skip
    except LookupError as error:
        pytest.skip(f"no MIST grid: {error}")
    return path


def blocks(language):
    page = (ROOT / "docs" / "tutorials" / "cluster.rst").read_text(encoding="utf-8")
    pattern = rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)"
    return [textwrap.dedent(b) for b in re.findall(pattern, page, re.M)]


@pytest.fixture
def m67(shared_data, mist_m67, tmp_path):
    """Lay out what the tutorial has in its folder."""
    data = shared_data("m67/NGC_2682.fits").parent
    (tmp_path / "m67-data").symlink_to(data, target_is_directory=True)
    shutil.copy(mist_m67, tmp_path / "m67.h5")
    (tmp_path / "m67.toml").write_text(blocks("toml")[0])
    return tmp_path


def test_m67_as_the_tutorial_says(m67):
    said, names = io.StringIO(), {}
    code = blocks("python")[0].replace("run_stars(load", "run_stars(workers=1, config=load")
    with contextlib.chdir(m67), contextlib.redirect_stdout(said):
        exec(compile(code, "cluster.rst", "exec"), names)
    print(said.getvalue())
    cluster = names["job"].summary["cluster"]
    # An et al. (2007): 9.61 +- 0.03; parallax zero point +- 0.02 mas is +- 0.036
    assert abs(cluster["distance_modulus"] - 9.61) < 2 * np.hypot(0.03, 0.036)
    # Taylor (2007): E(B-V) 0.041 +- 0.004, A_V = 3.1 E(B-V); models +- 0.03
    assert abs(cluster["av"] - 0.127) < 2 * np.hypot(0.0124, 0.03)
    assert names["job"].n_fitted == names["job"].n_stars == 606


def test_m67_offsets_with_the_scatter_free(m67):
    """A third of the stars: the iteration ends, near what the whole catalogue gives."""
    free = ["fit.error_floor=0.0", "priors.av_mean=0.127", "priors.av_sd=0.012", "fit.draws=50",
            "offsets.max_stars=200", "offsets.draws=120", "offsets.averages=2",
            "fit.proposals=600", "fit.min_ess=60", "report.enabled=false",
            "report.cluster=false", "offsets.trends=false"]  # fmt: skip
    text = (m67 / "m67.toml").read_text().replace("scatter = 0.02\n", "")
    assert "scatter" not in text
    (m67 / "free.toml").write_text(text)
    job = run_offsets(load_stars_config(m67 / "free.toml", free, output=m67 / "free"), workers=1)
    print("\n".join(job.headlines))
    said = "\n".join(job.headlines)
    assert "NOT CONVERGED" not in said
    assert "SUSPECT" not in said
    assert "Scatter at its floor of 2 %" in said
    whole = {"PS_g": 1.0152, "PS_i": 1.0029, "PS_z": 1.0058, "PS_y": 1.0079, "2MASS_J": 1.0196,
             "2MASS_H": 1.0486, "2MASS_Ks": 1.0266}  # fmt: skip
    for band, offset in whole.items():
        value = job.summary["offsets"]["bands"][band]
        assert value["scatter"] >= 0.02
        assert abs(value["offset"] - offset) < 3 * value["error"], band


@pytest.mark.slow
def test_m67_offsets(m67):
    held = ["fit.error_floor=0.0", "priors.av_mean=0.127", "priors.av_sd=0.012"]
    config = load_stars_config(m67 / "m67.toml", held, output=m67 / "off")
    job = run_offsets(config, workers=2)
    print("\n".join(job.headlines))
    bands = job.summary["offsets"]["bands"]
    assert bands["PS_r"]["offset"] == 1.0
    for band, value in bands.items():
        assert 0.9 < value["offset"] < 1.1, band
        assert value["error"] < 0.02


@pytest.mark.slow
def test_orion_with_the_whole_grid(shared_data, tmp_path):
    data = shared_data("m67/Orion_l204.7_b-19.2.h5")
    try:
        build_grid("mist", tmp_path / "mist.h5")
    except LookupError as error:
        pytest.skip(f"no MIST grid: {error}")
    bands = ("PS_g", "PS_r", "PS_i", "PS_z", "PS_y", "2MASS_J", "2MASS_H", "2MASS_Ks")
    columns = ", ".join(f'"{b}" = ["mag[{k}]", "err[{k}]"]' for k, b in enumerate(bands))
    (tmp_path / "orion.toml").write_text(
        f'[catalog]\nfiles = "{data}"\nparallax_unit = "arcsec"\nbands = {{ {columns} }}\n'
        '[grid]\nfile = "mist.h5"\n[fit]\nerror_floor = 0.02\n[priors]\nav_limits = [0.0, 6.0]\n'
    )
    job = run_stars(load_stars_config(tmp_path / "orion.toml"), workers=2)
    assert job.n_fitted == job.n_stars == 1642
    assert job.summary["flags"].get("LOW_ESS", 0) < 40
