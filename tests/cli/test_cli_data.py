"""``pogson data list|fetch|path`` as commands."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from pogson.cli import main


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("POGSON_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("POGSON_DATA", raising=False)
    monkeypatch.setenv("POGSON_DATA_URL", (tmp_path / "mirror").as_uri())


def run(*args):
    return CliRunner().invoke(main, ["data", *args])


def test_list():
    result = run("list", "decam-cutouts/testcase4")
    assert result.exit_code == 0
    assert "legacysurvey/legacypipe" in result.output
    rows = json.loads(run("list", "hsc", "--json").stdout)
    assert len(rows) == 30
    assert not any(row["here"] for row in rows)


def test_unknown_names_and_missing_files():
    for command in (("path", "nope"), ("fetch", "nope"), ("list", "nope")):
        result = run(*command)
        assert result.exit_code == 2
        assert "No data set or group is named 'nope'" in result.stderr
    result = run("path", "lco-catalog")
    assert result.exit_code == 2
    assert "pogson data fetch lco-catalog" in result.stderr
    result = run("fetch", "lco-catalog")
    assert result.exit_code == 2
    assert "Cannot download" in result.stderr


def test_path_and_fetch_where_the_files_are(shared_data, monkeypatch):
    root = shared_data("MANIFEST.csv").parent
    monkeypatch.setenv("POGSON_DATA", str(root))
    assert run("path", "hsc", "--check").stdout.strip() == str(root / "hsc")
    assert run("fetch", "lco-catalog").stdout.strip().startswith(str(root))
