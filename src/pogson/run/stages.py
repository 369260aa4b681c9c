"""Stages of parallel tasks that are not repeated while they are up to date.

`pogson run` and `pogson scene` are both made of them: a stage is a function applied to the jobs of
all tasks; a task that fails is recorded and the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pogson.errors import ConfigError
from pogson.parallel import TaskResult, map_tasks
from pogson.run.resume import TaskState

__all__ = ["Failure", "Listener", "StageItem", "StagedRun", "locked", "logging_to"]

_log = logging.getLogger("pogson.run")
_MEANT_FOR_ALL = ("ConfigError",)  # wrong for every task alike: stop at once


class Listener(Protocol):
    """What a progress display offers; see `pogson.cli.run.ProgressBars`."""

    def begin(self, stage: str, total: int, reused: int = 0) -> None:
        """Start a stage."""

    def advance(self, key: str, reason: str | None) -> None:
        """One task ended; ``reason`` says why it failed."""


@dataclass(frozen=True)
class Failure:
    """A task that failed.

    Parameters
    ----------
    key : str
        The task: an exposure, or a target.
    stage : str
        Where it failed.
    reason : str
        Why.

    Examples
    --------
    >>> Failure("v1-N1", "measure", "all pixels are masked").stage
    'measure'
    """

    key: str
    stage: str
    reason: str


@dataclass(frozen=True)
class StageItem:
    """One task of one stage: its job, what its result depends on, and the files that it writes.

    Parameters
    ----------
    key : str
        Name, safe as a file name.
    job : object
        What the stage's function takes; it must be picklable.
    fingerprint : str
        From `pogson.run.resume.fingerprint`.
    outputs : tuple of str
        Files that the function writes.
    """

    key: str
    job: Any
    fingerprint: str
    outputs: tuple[str, ...]


@dataclass
class StagedRun:
    """Runs stages and remembers what became of their tasks.

    Parameters
    ----------
    root : pathlib.Path
        Folder of the results; states go to ``root/stages/<stage>``.
    executor : concurrent.futures.Executor
        Where tasks run.
    listener : Listener, optional
        Progress display.
    later : sequence of str, optional
        Stages whose results of a task are removed when the task fails.
    optional : sequence of str, optional
        Stages whose failures are kept apart, in ``optional_failures``: the task itself is done.

    Examples
    --------
    >>> import tempfile
    >>> from pogson.parallel import SerialExecutor
    >>> run = StagedRun(Path(tempfile.mkdtemp()), SerialExecutor())
    >>> run.stage("double", float, [StageItem("a", "1.5", "x", ()), StageItem("b", "?", "x", ())])
    >>> sorted(run.failures), run.n_computed
    (['b'], 2)
    """

    root: Path
    executor: Any
    listener: Listener | None = None
    later: Sequence[str] = ()
    optional: Sequence[str] = ()
    prints: dict[tuple[str, str], str] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    optional_failures: dict[str, Failure] = field(default_factory=dict)
    n_computed: int = 0

    def stage(self, name: str, function: Callable[[Any], Any], items: Sequence[StageItem]) -> None:
        """Run those tasks of a stage that are not up to date; record failures.

        Raises
        ------
        ConfigError
            If a task finds the configuration wrong, which is so for all.
        """
        folder = self.root / "stages" / name
        todo = []
        for item in items:
            self.prints[name, item.key] = item.fingerprint
            if not TaskState(folder, item.key).is_current(item.fingerprint):
                todo.append(item)
        if self.listener is not None:
            self.listener.begin(name, len(items), len(items) - len(todo))
        _log.info("%s: %d tasks, %d up to date", name, len(items), len(items) - len(todo))
        for item in todo:
            TaskState(folder, item.key).begin()

        def done(result: TaskResult) -> None:
            self._done(name, todo[result.index], result)

        map_tasks(function, [i.job for i in todo], executor=self.executor, progress=done)

    def _done(self, stage: str, item: StageItem, result: TaskResult) -> None:
        self.n_computed += 1
        reason = None
        if result.error is None:
            TaskState(self.root / "stages" / stage, item.key).finish(item.fingerprint, item.outputs)
            _log.info("%s %s: done in %.2f s %s", stage, item.key, result.seconds, result.value)
        else:
            if result.error.kind in _MEANT_FOR_ALL:
                raise ConfigError(result.error.message)
            reason = result.error.message
            if not result.error.expected:
                reason = f"{result.error.kind}: {reason} (unexpected; traceback in run.log)"
            for output in item.outputs:
                Path(output).unlink(missing_ok=True)
            if stage not in self.optional:
                for later in self.later:  # results of inputs that are no more
                    TaskState(self.root / "stages" / later, item.key).begin()
            failures = self.optional_failures if stage in self.optional else self.failures
            failures[item.key] = Failure(item.key, stage, reason)
            _log.error("%s %s failed: %s\n%s", stage, item.key, reason, result.error.traceback)
        if self.listener is not None:
            self.listener.advance(item.key, reason)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keep two runs from writing into one folder.

    Raises
    ------
    ConfigError
        If another process holds it, or nothing can be written there.
    """
    import fcntl

    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / ".lock").open("w")
    except OSError as error:
        reason = "it is a file" if root.is_file() else error.strerror
        raise ConfigError(
            f"The results cannot be written into {root}: {reason}. Name a folder that you may "
            f"write into, with --output."
        ) from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"Another run is writing into {root}; wait for it, or choose another --output."
            ) from None
        yield


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Append what the runs log to a file."""
    handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = _log.level
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
        handler.close()
