"""Catalogues in parts: the same file whole, killed and resumed, in any executor."""

from __future__ import annotations

import errno
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pogson.errors import (
    CalibrationError,
    FileFormatError,
    PogsonTypeError,
    ReferenceMismatchError,
)
from pogson.parallel import get_executor
from pogson.stars import (
    FitConfig,
    StarPhotometry,
    fit_catalog,
    fit_stars,
    healpix_of,
    read_posteriors,
    simulated_grid,
    write_grid,
)

CONFIG = FitConfig(n_draws=20, n_proposals=200, min_ess=1.0)


def catalogue(n: int = 24) -> StarPhotometry:
    grid = simulated_grid()
    flux = grid.fluxes(np.arange(300, 300 + n), av=0.4)
    lon = np.linspace(0.0, 350.0, n)
    return StarPhotometry.from_fluxes(
        flux, 0.03 * flux, bands=grid.bands, l=lon, b=np.full(n, 40.0), ids=np.arange(n) + 7
    )


def part(first: int, last: int) -> StarPhotometry:
    return catalogue().select(slice(first, last))


def test_parts_are_the_whole(tmp_path: Path) -> None:
    grid, stars = simulated_grid(), catalogue()
    whole = fit_stars(grid, stars, seed=2, config=CONFIG)
    path = fit_catalog(grid, stars, tmp_path / "a.parquet", seed=2, config=CONFIG, chunk_size=7)
    assert read_posteriors(path) == whole
    assert not list(tmp_path.glob("*.parts"))
    sources = [functools.partial(part, 0, 10), functools.partial(part, 10, 24)]
    path = fit_catalog(grid, sources, tmp_path / "b.parquet", seed=2, config=CONFIG)
    assert read_posteriors(path) == whole


@pytest.mark.parametrize("kind", ["threads", "processes", "dask"])
def test_every_executor_makes_the_same_file(tmp_path: Path, kind: str) -> None:
    stars = catalogue(8)
    grid = tmp_path / "grid.h5"
    write_grid(simulated_grid(), grid)
    fit_catalog(grid, stars, tmp_path / "serial.parquet", seed=2, config=CONFIG, chunk_size=4)
    options = {"seed": 2, "config": CONFIG, "chunk_size": 4}
    path = tmp_path / "other.parquet"
    if kind == "dask":
        distributed = pytest.importorskip("distributed")
        with (
            distributed.LocalCluster(
                n_workers=1, threads_per_worker=1, dashboard_address=":0", processes=True
            ) as cluster,
            get_executor(kind="dask", scheduler=cluster.scheduler_address) as executor,
        ):
            fit_catalog(grid, stars, path, executor=executor, **options)
    else:
        with get_executor(2, kind=kind) as executor:  # type: ignore[arg-type]
            fit_catalog(grid, stars, path, executor=executor, **options)
    assert path.read_bytes() == (tmp_path / "serial.parquet").read_bytes()


def no_space(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    grid, stars, path = simulated_grid(), catalogue(), tmp_path / "a.parquet"
    options = {"seed": 2, "config": CONFIG, "chunk_size": 6}
    write, calls = pq.write_table, []

    def filling(table: object, where: object, **kwargs: object) -> None:
        calls.append(where)
        write(table, where, **kwargs)
        if len(calls) > 2:
            with open(str(where), "r+b") as f:  # half a file is on the disk by then
                f.truncate(100)
            no_space()

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", filling)
        with pytest.raises(CalibrationError, match=r"2 of 4 parts failed.*No space left"):
            fit_catalog(grid, stars, path, **options)
    parts = tmp_path / "a.parquet.parts"
    assert sorted(p.name for p in parts.iterdir()) == [
        "part-000000.parquet", "part-000001.parquet", "plan.json",
    ]  # fmt: skip
    done: list[object] = []
    one_table, tables = pq.ParquetWriter.write_table, []

    def full_at_the_end(self: object, table: object, *args: object, **kwargs: object) -> None:
        tables.append(table)
        if len(tables) > 4:  # two parts, and two of those joined
            no_space()
        one_table(self, table, *args, **kwargs)

    with monkeypatch.context() as patch:  # full again while the parts are joined
        patch.setattr(pq.ParquetWriter, "write_table", full_at_the_end)
        with pytest.raises(FileFormatError, match="No space left"):
            fit_catalog(grid, stars, path, progress=done.append, **options)
    assert len(done) == 2
    assert not path.exists()
    assert len(list(parts.glob("part-*.parquet"))) == 4
    fit_catalog(grid, stars, path, progress=done.append, **options)
    assert len(done) == 2  # nothing fitted twice
    whole = fit_catalog(grid, stars, tmp_path / "b.parquet", **options)
    assert path.read_bytes() == whole.read_bytes()
    assert not parts.exists()


def test_processes_read_the_grid_from_its_file(tmp_path: Path) -> None:
    grid, stars = simulated_grid(), catalogue(8)
    with (
        get_executor(1, kind="processes") as executor,
        pytest.raises(PogsonTypeError, match="path of the grid"),
    ):
        fit_catalog(grid, stars, tmp_path / "a.parquet", seed=2, executor=executor)


def test_pixels_order_the_stars(tmp_path: Path) -> None:
    grid, stars = simulated_grid(), catalogue()
    path = fit_catalog(grid, stars, tmp_path / "a.parquet", seed=2, config=CONFIG, nside=2)
    got = read_posteriors(path)
    pixel = healpix_of(stars.l, stars.b, 2)[got.ids - 7]
    assert np.all(np.diff(pixel) >= 0)
    assert set(got.ids) == set(stars.ids)


def test_failed_part_is_fitted_on_the_next_call(tmp_path: Path) -> None:
    grid, flag = simulated_grid(), tmp_path / "ready"
    sources = [functools.partial(part, 0, 4), functools.partial(unless, str(flag))]
    with pytest.raises(CalibrationError, match="1 of 2 parts failed"):
        fit_catalog(grid, sources, tmp_path / "a.parquet", seed=2, config=CONFIG)
    flag.touch()
    done = []
    fit_catalog(grid, sources, tmp_path / "a.parquet", seed=2, config=CONFIG, progress=done.append)
    assert len(done) == 1


def unless(flag: str) -> StarPhotometry:
    if not Path(flag).exists():
        raise OSError("the disk is not there")
    return part(4, 8)


def test_parts_of_another_fit_are_refused(tmp_path: Path) -> None:
    grid = simulated_grid()
    sources = [functools.partial(part, 0, 4), functools.partial(unless, str(tmp_path / "never"))]
    with pytest.raises(CalibrationError):
        fit_catalog(grid, sources, tmp_path / "a.parquet", seed=2, config=CONFIG)
    with pytest.raises(ReferenceMismatchError, match="another fit"):
        fit_catalog(grid, sources, tmp_path / "a.parquet", seed=3, config=CONFIG)


SCRIPT = """
import sys, time
sys.path.insert(0, {here!r})
import test_stars_streaming as t
from pogson.stars import fit_catalog, simulated_grid
fit_catalog(simulated_grid(), t.catalogue(), sys.argv[1], seed=2, config=t.CONFIG, chunk_size=4,
            progress=lambda r: time.sleep(0.5))
"""


def test_kill_and_resume_give_the_same_file(tmp_path: Path) -> None:
    grid, stars = simulated_grid(), catalogue()
    path = tmp_path / "killed.parquet"
    code = SCRIPT.format(here=str(Path(__file__).parent))
    process = subprocess.Popen([sys.executable, "-c", code, str(path)])
    parts = tmp_path / "killed.parquet.parts"
    until = time.monotonic() + 120
    while len(list(parts.glob("part-*.parquet"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not path.exists()
    kept = len(list(parts.glob("part-*.parquet")))
    assert 2 <= kept < 6
    done: list[object] = []
    fit_catalog(grid, stars, path, seed=2, config=CONFIG, chunk_size=4, progress=done.append)
    assert len(done) == 6 - kept
    whole = tmp_path / "whole.parquet"
    fit_catalog(grid, stars, whole, seed=2, config=CONFIG, chunk_size=4)
    assert path.read_bytes() == whole.read_bytes()


def test_written_grid_serves_processes(tmp_path: Path) -> None:
    grid, stars = simulated_grid(), catalogue(4)
    write_grid(grid, tmp_path / "grid.h5")
    path = fit_catalog(tmp_path / "grid.h5", stars, tmp_path / "a.parquet", seed=2, config=CONFIG)
    assert len(read_posteriors(path)) == 4
