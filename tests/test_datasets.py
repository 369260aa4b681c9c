"""The data registry: names, places, downloads with checksums."""

from __future__ import annotations

import hashlib

import pytest

from pogson import datasets
from pogson.datasets import (
    Dataset,
    cache_folder,
    dataset,
    dataset_path,
    fetch,
    find_datasets,
    list_datasets,
    verify,
)
from pogson.errors import FileFormatError, MissingDataError

CONTENT = b"some bytes\n"


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Return the folder of a registry of two files, served by file: addresses."""
    mirror = tmp_path / "mirror"
    entries = {}
    for name in ("set/one.txt", "set/two words.txt"):
        path = f"deep/{name}"
        place = mirror / "owner/repo" / ("c" * 40) / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(CONTENT)
        digest = hashlib.sha256(CONTENT).hexdigest()
        entries[name] = Dataset(name, len(CONTENT), digest, "owner/repo", "c" * 40, path, "CC0")
    monkeypatch.setattr(datasets, "_registry", lambda: entries)
    monkeypatch.setenv("POGSON_DATA_URL", mirror.as_uri())
    monkeypatch.setenv("POGSON_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("POGSON_DATA", raising=False)
    return mirror


def test_registry_is_well_formed():
    found = list_datasets()
    assert len(found) > 100
    assert len({d.name for d in found}) == len(found)
    for d in found:
        assert len(d.sha256) == 64
        assert len(d.commit) == 40
        assert d.size > 0
        assert d.repository.count("/") == 1
        assert ".." not in d.name
        assert " " not in d.path, d.path
        assert d.licence
        assert d.url.startswith("https://raw.githubusercontent.com/")


def test_registry_agrees_with_the_real_files(shared_data):
    for name in ("hsc", "decam-cutouts/testcase4", "lco-catalog"):
        for entry in find_datasets(name):
            verify(shared_data(entry.name), entry)


def test_names_and_groups():
    assert {d.group for d in list_datasets("hsc")} == {"hsc"}
    with pytest.raises(MissingDataError, match="Did you mean 'hsc"):
        find_datasets("hscc")
    with pytest.raises(MissingDataError, match="Groups are"):
        find_datasets("")
    with pytest.raises(MissingDataError, match="group of"):
        dataset("hsc")


def test_fetch_downloads_checks_and_keeps(registry):
    with pytest.raises(MissingDataError, match=r"pogson data fetch set/one.txt"):
        dataset_path("set/one.txt")
    paths = fetch("set")
    assert [p.read_bytes() for p in paths] == [CONTENT, CONTENT]
    assert dataset_path("set/one.txt", check=True) == paths[0]
    assert dataset_path("set") == cache_folder() / "set"
    for place in registry.rglob("*.txt"):
        place.unlink()
    assert fetch("set/one.txt") == paths[:1]  # nothing is downloaded twice


def test_a_wrong_download_is_refused_and_not_kept(registry):
    for place in registry.rglob("*.txt"):
        place.write_bytes(b"SOME bytes\n")
    with pytest.raises(FileFormatError, match="SHA-256"):
        fetch("set/one.txt")
    for place in registry.rglob("*.txt"):
        place.write_bytes(b"short")
    with pytest.raises(FileFormatError, match="truncated or another file"):
        fetch("set/one.txt")
    assert [p for p in cache_folder().rglob("*") if p.is_file()] == []


def test_no_network_is_a_clear_error(registry):
    def offline(url, output_file, pooch):
        raise OSError("no route to host")

    with pytest.raises(MissingDataError, match=r"no route to host.*POGSON_DATA"):
        fetch("set/one.txt", downloader=offline)
    with pytest.raises(MissingDataError, match="left no file"):
        fetch("set/one.txt", downloader=lambda *a: None)
    for place in registry.rglob("*.txt"):
        place.unlink()
    with pytest.raises(MissingDataError, match="Cannot download"):
        fetch("set/one.txt")


def test_a_damaged_cache_file_is_replaced(registry):
    path = fetch("set/one.txt")[0]
    path.write_bytes(b"damaged!!!!")
    with pytest.raises(FileFormatError, match="SHA-256"):
        dataset_path("set/one.txt", check=True)
    assert fetch("set/one.txt")[0].read_bytes() == CONTENT


def test_the_users_folder_is_first_and_never_written(registry, tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    (mine / "set").mkdir(parents=True)
    (mine / "set" / "one.txt").write_bytes(CONTENT)
    monkeypatch.setenv("POGSON_DATA", str(mine))
    assert dataset_path("set/one.txt") == mine / "set" / "one.txt"
    assert fetch("set/two words.txt")[0].parent.parent == cache_folder()
    (mine / "set" / "one.txt").write_bytes(b"damaged!!!!")
    with pytest.raises(FileFormatError, match="mine"):
        fetch("set/one.txt")
    assert (mine / "set" / "one.txt").read_bytes() == b"damaged!!!!"


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b"])
def test_a_registry_cannot_point_outside(tmp_path, name):
    with pytest.raises(MissingDataError, match="not a path inside"):
        datasets._safe(tmp_path, name)
