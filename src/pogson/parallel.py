"""Run many independent tasks: in this process, threads, processes or on a Dask cluster.

Everything goes through `concurrent.futures.Executor`, so that a stage does not know where it runs.
Tasks should pass file paths rather than arrays and last 0.2 s or more. A result never depends on
the number of workers: `map_tasks` returns results in the order of the items, and random streams
belong to items, not to workers.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pogson.errors import ConfigError, MissingDataError, PogsonError, PogsonValueError, choices

__all__ = [
    "ExecutorKind",
    "SerialExecutor",
    "TaskError",
    "TaskResult",
    "get_executor",
    "map_tasks",
    "usable_cores",
]

ExecutorKind = Literal["serial", "threads", "processes", "dask"]
"""Where tasks run."""
_KINDS: tuple[str, ...] = ("serial", "threads", "processes", "dask")


@dataclass(frozen=True, slots=True)
class TaskError:
    """Why a task failed, as plain text that travels between processes.

    Parameters
    ----------
    kind : str
        Name of the exception class.
    message : str
        The message of the exception.
    traceback : str
        Full traceback text, for logs.
    expected : bool
        True for a `pogson.errors.PogsonError` (bad input, said clearly), False for anything else.

    Examples
    --------
    >>> TaskError("FileFormatError", "a.fits is truncated.", "", True).message
    'a.fits is truncated.'
    """

    kind: str
    message: str
    traceback: str
    expected: bool


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What became of one task.

    Parameters
    ----------
    index : int
        Position of the task's item in the input.
    value : object
        Return value, or None if the task failed.
    error : TaskError or None
        The reason of a failure.
    seconds : float
        Wall-clock time of the task itself.

    Examples
    --------
    >>> TaskResult(0, 4.0, None, 0.1).ok
    True
    """

    index: int
    value: Any
    error: TaskError | None
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the task ended without an exception."""
        return self.error is None


class SerialExecutor(Executor):
    """An executor that runs each task at once in the calling thread.

    Examples
    --------
    >>> with SerialExecutor() as executor:
    ...     executor.submit(pow, 2, 5).result()
    32
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args, **kwargs)`` now and return a finished future."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class _ProcessExecutor(ProcessPoolExecutor):
    """A spawn-based pool whose workers leave Ctrl-C to the parent and die with it."""

    def __init__(self, workers: int) -> None:
        from multiprocessing.context import SpawnContext

        started: list[Any] = []

        class _Context(SpawnContext):
            """Remembers every worker, also those that an interrupt kept from being listed."""

            def Process(  # type: ignore[override]  # noqa: N802  its name there
                self, *args: Any, **options: Any
            ) -> Any:
                process = SpawnContext.Process(*args, **options)
                started.append(process)
                return process

        super().__init__(workers, mp_context=_Context(), initializer=_start_worker)
        self._started = started

    def _end_workers(self) -> None:
        for process in self._started:
            if process.pid is not None:
                process.terminate()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Close the pool.

        A worker that is being started while another one dies can be overlooked when a broken pool
        ends its workers, and be waited for without end; here none is left.
        """
        if self._broken:
            self._end_workers()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def kill(self) -> None:
        """Stop the workers at once; whatever they were doing is lost."""
        self.shutdown(wait=False, cancel_futures=True)
        self._end_workers()
        for process in self._started:
            if process.pid is not None:
                process.join(5.0)


def _start_worker() -> None:
    """Set up a worker process: one thread of BLAS and numba each, deaf to Ctrl-C."""
    import multiprocessing
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    _keep_memory()
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow_parent() -> None:
            parent.join()
            os._exit(1)  # the parent is gone: nobody will read what we make

        threading.Thread(target=follow_parent, daemon=True).start()


def _keep_memory() -> None:
    """Let the allocator of a worker keep freed arrays for the next ones (glibc; else nothing).

    By default arrays of megabytes go back to the system when freed, and come back one page fault
    for every 4 kB: a fifth of the time of tasks that make many of them.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    trim, top_pad, mmap = -1, -2, -3  # names of malloc.h
    mallopt(trim, 256 << 20)
    mallopt(top_pad, 16 << 20)
    mallopt(mmap, 32 << 20)


def usable_cores() -> int:
    """Return the number of cores this process may use.

    Examples
    --------
    >>> usable_cores() >= 1
    True
    """
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on macOS
        return max(1, os.cpu_count() or 1)


def get_executor(
    workers: int | None = None,
    *,
    kind: ExecutorKind | None = None,
    scheduler: str | None = None,
) -> Executor:
    """Return an executor.

    Parameters
    ----------
    workers : int, optional
        Number of workers; default all usable cores. Ignored for Dask, where the cluster has its
        own.
    kind : {'serial', 'threads', 'processes', 'dask'}, optional
        Where tasks run. Default: Dask if ``scheduler`` is given, serial for one worker, else
        processes.
    scheduler : str, optional
        Address of a Dask scheduler such as ``tcp://host:8786``.

    Returns
    -------
    concurrent.futures.Executor
        Use it in a ``with`` statement.

    Raises
    ------
    ConfigError
        If the kind is unknown, or Dask is asked for without a scheduler.
    PogsonValueError
        If ``workers`` is below 1.
    MissingDataError
        If ``distributed`` is not installed or the scheduler does not answer.

    Examples
    --------
    >>> with get_executor(2, kind="threads") as executor:
    ...     [r.value for r in map_tasks(abs, [-1, -2, -3], executor=executor)]
    [1, 2, 3]
    """
    if kind is not None and kind not in _KINDS:
        raise ConfigError(f"Unknown kind of executor {kind!r}; allowed: {choices(_KINDS)}.")
    if workers is not None and workers < 1:
        raise PogsonValueError(f"The number of workers must be at least 1, not {workers}.")
    if scheduler is not None or kind == "dask":
        if kind not in (None, "dask"):
            raise ConfigError(f"A scheduler address needs kind='dask', not {kind!r}.")
        if not scheduler:
            raise ConfigError(
                "A Dask executor needs the scheduler's address, such as 'tcp://host:8786'."
            )
        return _dask_executor(scheduler)
    count = usable_cores() if workers is None else workers
    if kind == "serial" or (kind is None and count == 1):
        return SerialExecutor()
    if kind == "threads":
        return ThreadPoolExecutor(count, thread_name_prefix="pogson")
    return _ProcessExecutor(count)


def _dask_executor(scheduler: str) -> Executor:
    try:
        import distributed
    except ImportError:
        raise MissingDataError(
            f"Running on the scheduler {scheduler!r} needs the package 'distributed'; install it "
            "with: pip install 'pogson[dask]'."
        ) from None
    try:
        if "://" not in scheduler or scheduler.startswith(("tcp://", "tls://")):
            # without a port the client fails too, and then hangs while it closes itself
            distributed.comm.get_address_host_port(scheduler)
        client = distributed.Client(scheduler, timeout="10s", set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise MissingDataError(
            f"No Dask scheduler answers at {scheduler!r} ({error}); give an address such as "
            "'tcp://host:8786'."
        ) from None
    executor = client.get_executor(pure=False)
    shutdown = executor.shutdown

    def shutdown_and_close(*args: Any, **kwargs: Any) -> None:
        shutdown(*args, **kwargs)
        client.close()

    executor.shutdown = shutdown_and_close
    return executor


def map_tasks(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    executor: Executor | None = None,
    progress: Callable[[TaskResult], None] | None = None,
) -> list[TaskResult]:
    """Apply a function to every item; a failure of one is recorded and does not stop the others.

    Parameters
    ----------
    function : callable
        Takes one item. With processes or Dask it must be importable (defined at the top level of
        a module), and items and values must be picklable.
    items : iterable
        The items, one a task.
    executor : concurrent.futures.Executor, optional
        From `get_executor`; default serial.
    progress : callable, optional
        Called in this thread with each `TaskResult` as it comes in, in any order.

    Returns
    -------
    list of TaskResult
        In the order of the items, whatever the executor.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C; waiting tasks are cancelled and worker processes stopped first.

    Examples
    --------
    >>> results = map_tasks(float, ["1.5", "not a number"])
    >>> [r.ok for r in results], results[0].value, results[1].error.kind
    ([True, False], 1.5, 'ValueError')
    """
    todo = list(items)
    runner = SerialExecutor() if executor is None else executor
    results: list[TaskResult | None] = [None] * len(todo)
    with _limited_blas(runner):
        futures: dict[Future[Any], int] = {}
        try:
            for result in _completed(runner, function, todo, futures):
                results[result.index] = result
                if progress is not None:
                    progress(result)
        except BaseException:
            for future in futures:
                future.cancel()
            if isinstance(runner, _ProcessExecutor):
                runner.kill()
            raise
    return [r for r in results if r is not None]


def _completed(
    runner: Executor,
    function: Callable[[Any], Any],
    todo: Sequence[Any],
    futures: dict[Future[Any], int],
) -> Iterator[TaskResult]:
    if isinstance(runner, SerialExecutor):  # one at a time, so that progress is reported as it goes
        for index, item in enumerate(todo):
            yield _captured(function, index, item)
        return
    for index, item in enumerate(todo):
        try:
            futures[runner.submit(_captured, function, index, item)] = index
        except (BrokenProcessPool, RuntimeError) as error:
            yield _lost(index, error)
    # A Dask future is not a concurrent.futures.Future of this process, but its executor's is.
    for future in as_completed(futures):
        try:
            yield future.result()
        except (BrokenProcessPool, CancelledError) as error:
            yield _lost(futures[future], error)
        except Exception as error:  # a value or item that cannot travel between processes
            yield TaskResult(futures[future], None, _task_error(error), 0.0)


def _captured(function: Callable[[Any], Any], index: int, item: Any) -> TaskResult:
    """Run one task; turn any exception into text, because not every exception can be pickled."""
    start = time.perf_counter()
    try:
        value = function(item)
    except Exception as error:
        return TaskResult(index, None, _task_error(error), time.perf_counter() - start)
    return TaskResult(index, value, None, time.perf_counter() - start)


def _task_error(error: BaseException) -> TaskError:
    text = "".join(traceback.format_exception(error))
    message = str(error) or type(error).__name__
    return TaskError(type(error).__name__, message, text, isinstance(error, PogsonError))


def _lost(index: int, error: BaseException) -> TaskResult:
    message = (
        "A worker process died before this task ended (killed, or out of memory); run again with "
        f"fewer workers.{_guard_hint()}"
    )
    return TaskResult(index, None, TaskError(type(error).__name__, message, str(error), True), 0.0)


def _guard_hint() -> str:
    """Return what a script without a guard has to change: its workers run the script themselves."""
    main = sys.modules.get("__main__")
    script = Path(getattr(main, "__file__", None) or "pogson").name
    if script.startswith(("pogson", "__main__")):
        return ""
    return f" If {script} calls this outside of `if __name__ == '__main__':`, put it there."


@contextmanager
def _threads_share_cores(executor: ThreadPoolExecutor) -> Iterator[None]:
    from threadpoolctl import threadpool_limits

    workers = executor._max_workers
    with threadpool_limits(limits=max(1, usable_cores() // workers)):
        yield


def _limited_blas(executor: Executor) -> AbstractContextManager[None]:
    """Keep BLAS from starting a thread per core in each of many worker threads."""
    if isinstance(executor, ThreadPoolExecutor):
        return _threads_share_cores(executor)
    return nullcontext()
