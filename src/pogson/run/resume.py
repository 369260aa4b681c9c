"""Fingerprints of tasks: what is up to date is not computed again.

A task's fingerprint is the SHA-256 of its input files (name, size, time of change), the part of
the configuration that it reads, the version of its code's results, and the fingerprints of the
tasks before it. It is stored, after the outputs, beside them: an interrupted task has no state and
runs again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pogson._version import __version__
from pogson.errors import FileFormatError

__all__ = ["TaskState", "file_identity", "fingerprint"]

RESULT_VERSION = 1
"""Raised when the same inputs and configuration give other results than before."""


def file_identity(path: str | Path) -> tuple[str, int, int]:
    """Return name, size and time of change of a file (-1 where it is missing).

    Examples
    --------
    >>> file_identity("/no/such/file.fits")
    ('file.fits', -1, -1)
    """
    file = Path(path)
    try:
        status = file.stat()
    except OSError:
        return (file.name, -1, -1)
    return (file.name, status.st_size, status.st_mtime_ns)


def fingerprint(
    *, files: Iterable[str | Path] = (), settings: Any = None, upstream: Iterable[str] = ()
) -> str:
    """Return the fingerprint of a task.

    Parameters
    ----------
    files : iterable of path-like
        Input files.
    settings : JSON-ready
        Everything else that the result depends on.
    upstream : iterable of str
        Fingerprints of the tasks whose results it reads.

    Returns
    -------
    str
        64 hexadecimal digits.

    Examples
    --------
    >>> fingerprint(settings={"a": 1}) == fingerprint(settings={"a": 2})
    False
    """
    content = {
        "version": [__version__, RESULT_VERSION],
        "files": [file_identity(f) for f in files],
        "settings": settings,
        "upstream": list(upstream),
    }
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class TaskState:
    """The stored state of one task of one stage.

    Parameters
    ----------
    folder : path-like
        Folder of the stage's states.
    key : str
        Name of the task.

    Examples
    --------
    >>> import tempfile
    >>> state = TaskState(tempfile.mkdtemp(), "a")
    >>> state.is_current("f" * 64)
    False
    """

    def __init__(self, folder: str | Path, key: str) -> None:
        self.path = Path(folder) / f"{key}.state.json"

    def read(self) -> Mapping[str, Any]:
        """Return what is stored, empty if nothing (readable) is."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def is_current(self, fingerprint: str) -> bool:
        """Return whether the outputs belong to this fingerprint and are all there, whole."""
        content = self.read()
        outputs = content.get("outputs", {})
        return content.get("fingerprint") == fingerprint and all(
            file_identity(name)[1] == size for name, size in outputs.items()
        )

    def begin(self) -> None:
        """Forget the old state and remove its outputs: they no longer belong to the inputs."""
        for name in self.read().get("outputs", {}):
            Path(name).unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def finish(self, fingerprint: str, outputs: Iterable[str | Path]) -> None:
        """Store that the outputs of this fingerprint are complete.

        Raises
        ------
        FileFormatError
            If an output is not there.
        """
        from pogson.atomic import atomic_write_text

        sizes = {str(p): file_identity(p)[1] for p in outputs}
        for name, size in sizes.items():
            if size < 0:
                raise FileFormatError(f"The output {name} was not written.")
        content = {"fingerprint": fingerprint, "outputs": sizes}
        atomic_write_text(self.path, json.dumps(content, indent=1))
