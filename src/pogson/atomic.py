"""Atomic writing: a file appears whole under its name or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pogson.errors import FileFormatError

__all__ = ["atomic_path", "atomic_write_bytes", "atomic_write_text"]


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside ``path``; rename it to ``path`` when the block ends well.

    Parameters
    ----------
    path : path-like
        Where the finished file must be. Its folder is made if needed.

    Yields
    ------
    pathlib.Path
        Temporary path in the same folder (so that the rename is atomic) with the same suffixes
        (so that writers that look at the suffix behave).

    Raises
    ------
    FileFormatError
        If the folder cannot be made or written, or ``path`` is a folder.

    Notes
    -----
    When the block raises, the temporary file is removed and an older file under ``path`` stays as
    it was: nothing is ever half-written. POSIX ``rename(2)`` replaces atomically.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with atomic_path(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("done")
    >>> [p.name for p in folder.iterdir()]
    ['a.txt']
    """
    target = Path(path)
    if target.is_dir():
        raise FileFormatError(f"{target} is a folder; give the name of a file to write.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileFormatError(f"Cannot make the folder {target.parent}: {error}.") from error
    temporary = target.with_name(f".{secrets.token_hex(6)}.part-{target.name}")
    try:
        yield temporary
        if not temporary.exists():
            raise FileFormatError(f"Nothing was written for {target}.")
        os.replace(temporary, target)
    except OSError as error:
        if isinstance(error, FileFormatError):
            raise
        raise FileFormatError(f"Cannot write {target}: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write bytes to a file atomically and return its path.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> atomic_write_bytes(folder / "a.bin", b"1").read_bytes()
    b'1'
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def atomic_write_text(path: str | os.PathLike[str], content: str) -> Path:
    """Write UTF-8 text to a file atomically and return its path.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> atomic_write_text(folder / "a.txt", "one").read_text()
    'one'
    """
    return atomic_write_bytes(path, content.encode("utf-8"))
