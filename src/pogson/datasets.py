"""Real data sets for examples and tests: a registry, and files fetched with their checksums.

No data come with the package. The registry names public files by repository, commit and path, with
size, SHA-256 and licence. A file is looked for in the folder that the environment variable
``POGSON_DATA`` names, then in the cache; `fetch` downloads what is missing and accepts it only if
its SHA-256 agrees.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from pogson.errors import FileFormatError, MissingDataError

__all__ = [
    "Dataset",
    "cache_folder",
    "dataset",
    "dataset_path",
    "fetch",
    "find_datasets",
    "list_datasets",
    "verify",
]

BASE_URL = "https://raw.githubusercontent.com"
"""Where files of public repositories are served; the environment variable POGSON_DATA_URL wins."""


@dataclass(frozen=True)
class Dataset:
    """One file of the registry.

    Parameters
    ----------
    name : str
        Path below the data folder, with slashes: ``"hsc/photoCalib-version1.fits"``.
    size : int
        Bytes.
    sha256 : str
        Checksum, hexadecimal.
    repository, commit, path : str
        GitHub repository (``owner/name``), commit, and path there.
    licence : str
        Licence of the repository or file, as far as it is stated.

    Examples
    --------
    >>> dataset("hsc/photoCalib-version1.fits").repository
    'lsst/afw'
    """

    name: str
    size: int
    sha256: str
    repository: str
    commit: str
    path: str
    licence: str

    @property
    def group(self) -> str:
        """First folder of the name, for example ``"hsc"``."""
        return self.name.split("/", 1)[0]

    @property
    def url(self) -> str:
        """Address of the file."""
        base = os.environ.get("POGSON_DATA_URL") or BASE_URL
        return f"{base.rstrip('/')}/{self.repository}/{self.commit}/{quote(self.path)}"


@cache
def _registry() -> dict[str, Dataset]:
    text = (resources.files("pogson") / "datasets.csv").read_text("utf-8")
    found = {}
    for row in csv.DictReader(text.splitlines()):
        found[row["path"]] = Dataset(
            row["path"], int(row["bytes"]), row["sha256"], row["github_repository"],
            row["commit"], row["path_in_repository"], row["licence"],
        )  # fmt: skip
    return found


def list_datasets(group: str | None = None) -> list[Dataset]:
    """Return the registered data sets, sorted by name.

    Parameters
    ----------
    group : str, optional
        Only those in this folder or file: ``"hsc"``, ``"decam-cutouts/testcase4"``.

    Raises
    ------
    MissingDataError
        If nothing has that name.

    Examples
    --------
    >>> len(list_datasets("decam-cutouts/testcase4")) > 5
    True
    """
    everything = [_registry()[name] for name in sorted(_registry())]
    return everything if group is None else find_datasets(group)


def find_datasets(name: str) -> list[Dataset]:
    """Return the data sets that a name means: one file, or all files in a folder.

    Raises
    ------
    MissingDataError
        If nothing has that name; the message offers similar names.

    Examples
    --------
    >>> [d.name for d in find_datasets("lco-catalog")]
    ['lco-catalog/cpt1m012-fa06-20200113-0102-matched-cat.fits']
    """
    registry = _registry()
    wanted = name.strip().strip("/")
    if wanted in registry:
        return [registry[wanted]]
    inside = [registry[n] for n in sorted(registry) if n.startswith(wanted + "/")]
    if inside and wanted:
        return inside
    raise MissingDataError(
        f"No data set or group is named {name!r}. {_suggestion(wanted, registry)}"
        f"Groups are {', '.join(sorted({d.group for d in registry.values()}))}; "
        f"`pogson data list` shows every file."
    )


def _suggestion(name: str, registry: Iterable[str]) -> str:
    import difflib

    known = set(registry) | {"/".join(n.split("/")[:i]) for n in registry for i in (1, 2)}
    close = difflib.get_close_matches(name, sorted(known), n=2, cutoff=0.6)
    return f"Did you mean {' or '.join(repr(c) for c in close)}? " if close else ""


def dataset(name: str) -> Dataset:
    """Return one file of the registry.

    Raises
    ------
    MissingDataError
        If there is no such file, or the name means several.

    Examples
    --------
    >>> dataset("hsc/photoCalib-version0.fits").group
    'hsc'
    """
    found = find_datasets(name)
    if len(found) > 1:
        raise MissingDataError(
            f"{name!r} is a group of {len(found)} files, such as {found[0].name!r}; name one file."
        )
    return found[0]


def cache_folder() -> Path:
    """Return the folder in which fetched files are kept.

    ``POGSON_CACHE`` if set, else the user's cache folder for pogson.

    Examples
    --------
    >>> cache_folder().name
    'pogson'
    """
    chosen = os.environ.get("POGSON_CACHE")
    if chosen:
        return Path(chosen)
    import pooch

    return Path(pooch.os_cache("pogson"))


def _safe(folder: Path, name: str) -> Path:
    # names come from the registry, but a registry must not be able to point outside the folder
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise MissingDataError(f"The data-set name {name!r} is not a path inside the data folder.")
    return folder.joinpath(*parts)


def verify(path: str | os.PathLike[str], entry: Dataset) -> None:
    """Make sure that a file is the registered one.

    Raises
    ------
    FileFormatError
        If its size or SHA-256 differs.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "photoCalib-version1.fits"
    >>> _ = path.write_bytes(b"SIMPLE")
    >>> verify(path, dataset("hsc/photoCalib-version1.fits"))
    Traceback (most recent call last):
    ...
    pogson.errors.FileFormatError: ... has 6 bytes, but ...
    """
    target = Path(path)
    size = target.stat().st_size
    if size != entry.size:
        raise FileFormatError(
            f"{target} has {size} bytes, but {entry.name} has {entry.size}: it is truncated or "
            f"another file. Remove it and fetch it again."
        )
    digest = hashlib.sha256()
    with target.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != entry.sha256:
        raise FileFormatError(
            f"{target} has SHA-256 {digest.hexdigest()[:12]}..., but {entry.name} has "
            f"{entry.sha256[:12]}...: it is not the registered file. Remove it and fetch it again."
        )


def dataset_path(name: str, *, check: bool = False) -> Path:
    """Return where a data set is on this machine, without downloading anything.

    Parameters
    ----------
    name : str
        One file, or a group (then the folder is returned, if all its files are there).
    check : bool
        Compare the SHA-256 too.

    Returns
    -------
    pathlib.Path
        In the folder ``POGSON_DATA`` if it is there, else in the cache.

    Raises
    ------
    MissingDataError
        If the name is unknown, or the file is on this machine in neither place.
    FileFormatError
        If ``check`` finds another file than the registered one.

    Examples
    --------
    >>> dataset_path("no-such-thing")
    Traceback (most recent call last):
    pogson.errors.MissingDataError: No data set or group is named 'no-such-thing'...
    """
    entries = find_datasets(name)
    for folder in _folders():
        paths = [_safe(folder, e.name) for e in entries]
        if all(p.is_file() for p in paths):
            if check:
                for path, entry in zip(paths, entries, strict=True):
                    verify(path, entry)
            single = len(entries) == 1 and entries[0].name == name.strip().strip("/")
            return paths[0] if single else _safe(folder, name.strip().strip("/"))
    places = " or ".join(str(f) for f in _folders())
    raise MissingDataError(
        f"{name!r} is not on this machine (not in {places}). `pogson data fetch {name}` "
        f"downloads it ({sum(e.size for e in entries) / 1e6:.1f} MB)."
    )


def _folders() -> list[Path]:
    chosen = os.environ.get("POGSON_DATA")
    return [*([Path(chosen)] if chosen else []), cache_folder()]


def fetch(name: str, *, downloader: Any = None) -> list[Path]:
    """Return the files of a data set or group, downloading those that are missing.

    Parameters
    ----------
    name : str
        A file or a group, as in `find_datasets`.
    downloader : callable, optional
        Downloader of pooch; chosen from the address by default.

    Returns
    -------
    list of pathlib.Path

    Raises
    ------
    MissingDataError
        If the name is unknown or a file cannot be downloaded.
    FileFormatError
        If a downloaded file is not the registered one; it is not kept.

    Examples
    --------
    >>> fetch("no-such-thing")
    Traceback (most recent call last):
    ...
    pogson.errors.MissingDataError: ...
    """
    return [_fetch_one(entry, downloader) for entry in find_datasets(name)]


def _fetch_one(entry: Dataset, downloader: Any) -> Path:
    try:
        path = dataset_path(entry.name)
    except MissingDataError:
        return _download(entry, downloader)
    try:
        verify(path, entry)
    except FileFormatError:
        if cache_folder() not in path.parents:
            raise  # the user's own folder: not ours to replace
        path.unlink()
        return _download(entry, downloader)
    return path


def _download(entry: Dataset, downloader: Any) -> Path:
    import pooch

    from pogson.atomic import atomic_path

    target = _safe(cache_folder(), entry.name)
    pooch.get_logger().setLevel("WARNING")
    if downloader is None:
        downloader = _downloader(entry.url)
    with atomic_path(target) as temporary:
        try:
            downloader(entry.url, str(temporary), None)
        except Exception as error:
            raise MissingDataError(
                f"Cannot download {entry.name} from {entry.url}: {error}. Check the network, or "
                f"put the file into the folder that POGSON_DATA names."
            ) from error
        if not temporary.is_file():
            raise MissingDataError(f"The download of {entry.url} left no file.")
        verify(temporary, entry)
    return target


def _downloader(url: str) -> Any:
    """Return the downloader for an address; ``file:`` addresses (mirrors on disk) are copied."""
    import pooch

    if url.startswith("file:"):
        return _copy_file
    return pooch.HTTPDownloader(timeout=30, progressbar=False)


def _copy_file(url: str, output_file: str, _: Any) -> None:
    import shutil
    from urllib.parse import unquote, urlparse

    shutil.copyfile(unquote(urlparse(url).path), output_file)
