"""Executors: order, errors as values, every kind gives the same results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from pogson.errors import ConfigError, FileFormatError, MissingDataError, PogsonValueError
from pogson.parallel import SerialExecutor, get_executor, map_tasks, usable_cores

KINDS = ["serial", "threads", "processes"]


def stream(item: int) -> float:
    """Return a number from the random stream of one item."""
    return float(np.random.default_rng([item, 7]).normal())


def sometimes_fails(item: int) -> int:
    """Raise for multiples of three, also an exception that cannot be pickled."""
    if item % 3 == 0:
        raise FileFormatError(f"item {item} is bad.")
    if item % 5 == 0:

        class LocalError(Exception):
            pass

        raise LocalError("local")
    return item * item


def dies(item: int) -> int:
    """End the worker process without a word."""
    if item == 1:
        os._exit(3)
    return item


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 2])
def test_results_do_not_depend_on_kind_or_workers(kind: str, workers: int) -> None:
    with get_executor(workers, kind=kind) as executor:
        results = map_tasks(stream, range(12), executor=executor)
    assert [r.index for r in results] == list(range(12))
    assert [r.value for r in results] == [stream(i) for i in range(12)]


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_recorded_and_do_not_stop_the_others(kind: str) -> None:
    seen = []
    with get_executor(2, kind=kind) as executor:
        results = map_tasks(sometimes_fails, range(8), executor=executor, progress=seen.append)
    assert [r.ok for r in results] == [i % 3 != 0 and i % 5 != 0 for i in range(8)]
    bad = results[3].error
    assert bad is not None
    assert (bad.kind, bad.message, bad.expected) == ("FileFormatError", "item 3 is bad.", True)
    assert results[5].error is not None
    assert not results[5].error.expected
    assert "LocalError" in results[5].error.traceback
    assert sorted(r.index for r in seen) == list(range(8))


def test_a_dead_worker_is_an_error_of_its_tasks_not_a_hang() -> None:
    with get_executor(1, kind="processes") as executor:
        results = map_tasks(dies, [0, 1, 2], executor=executor)
    assert not results[1].ok
    assert results[1].error is not None
    assert "died" in results[1].error.message


def test_a_broken_pool_does_not_wait_for_a_worker_that_it_overlooked() -> None:
    executor = get_executor(2, kind="processes")
    futures = [executor.submit(time.sleep, 60.0) for _ in range(2)]
    first, second = executor._processes.values()
    real, calls = second.terminate, []
    second.terminate = lambda: calls.append(1) if not calls else real()  # overlooked at first
    os.kill(first.pid, signal.SIGKILL)
    assert futures[0].exception(30.0) is not None
    start = time.monotonic()
    executor.shutdown()
    assert time.monotonic() - start < 30.0
    assert calls


def test_a_value_that_cannot_travel_is_an_error() -> None:
    with get_executor(1, kind="processes") as executor:
        results = map_tasks(len, [[1], (lambda: 0)], executor=executor)
    assert [r.ok for r in results] == [True, False]


def test_bad_requests() -> None:
    with pytest.raises(PogsonValueError, match="at least 1"):
        get_executor(0)
    with pytest.raises(ConfigError, match="'serial', 'threads'"):
        get_executor(2, kind="fibres")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tcp://"):
        get_executor(kind="dask")
    with pytest.raises(ConfigError, match="scheduler"):
        get_executor(kind="threads", scheduler="tcp://localhost:1")
    assert isinstance(get_executor(1), SerialExecutor)
    assert usable_cores() >= 1


def test_dask_gives_the_same_results() -> None:
    pytest.importorskip("distributed", reason="the 'dask' extra is not installed")
    script = textwrap.dedent(
        """
        import warnings; warnings.simplefilter("ignore")
        from distributed import LocalCluster
        from pogson.parallel import get_executor, map_tasks
        if __name__ == "__main__":
            with LocalCluster(n_workers=1, threads_per_worker=2, processes=False,
                              dashboard_address=None) as cluster:
                with get_executor(scheduler=cluster.scheduler_address) as executor:
                    print([(r.value, r.error and r.error.kind)
                           for r in map_tasks(float, ["1", "x"], executor=executor)])
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert "[(1.0, None), (None, 'ValueError')]" in done.stdout, done.stderr[-2000:]


def test_no_scheduler_there_is_a_clear_error() -> None:
    distributed = pytest.importorskip("distributed", reason="the 'dask' extra is not installed")
    assert distributed
    code = (
        "import warnings; warnings.simplefilter('ignore')\n"
        "from pogson.parallel import get_executor\n"
        "from pogson.errors import MissingDataError\n"
        "try:\n    get_executor(scheduler='not-an-address')\n"
        "except MissingDataError as e:\n    print('said:', e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert "said: No Dask scheduler answers at 'not-an-address'" in done.stdout, done.stderr[-2000:]
    assert MissingDataError


def test_ctrl_c_stops_workers_at_once(tmp_path: object) -> None:
    script = textwrap.dedent(
        """
        import signal, sys, time
        from pogson.parallel import get_executor, map_tasks
        if __name__ == "__main__":
            # a shell starts its background jobs deaf to SIGINT, and so all that they start
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with get_executor(2, kind="processes") as executor:
                map_tasks(abs, [1, 2], executor=executor)
                print("ready", *executor._processes, flush=True)
                try:
                    map_tasks(time.sleep, [60] * 4, executor=executor)
                except KeyboardInterrupt:
                    print("interrupted", flush=True)
                    sys.exit(130)
        """
    )
    path = os.path.join(str(tmp_path), "sleeper.py")
    with open(path, "w") as file:
        file.write(script)
    process = subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = [int(w) for w in process.stdout.readline().split()[1:]]
    assert workers
    time.sleep(0.5)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert "interrupted" in out
    assert process.returncode == 130
    assert time.monotonic() - start < 20
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_a_script_without_a_guard_is_told_what_to_do(tmp_path):
    script = tmp_path / "calls.py"
    script.write_text(
        "import os\n"
        "from pogson.parallel import get_executor, map_tasks\n"
        "os.mkdir('taken')\n"  # as a run locks its folder; its workers come here too
        "with get_executor(2) as executor:\n"
        "    results = map_tasks(abs, [1, -2], executor=executor)\n"
        "print([r.error and r.error.message for r in results])\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False,
        cwd=tmp_path,
    )  # fmt: skip
    assert "calls.py" in done.stdout
    assert "if __name__ == '__main__':" in done.stdout
