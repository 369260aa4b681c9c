"""The rules of the house that a machine can check: names, sizes, documented public things."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pogson

ROOT = Path(pogson.__file__).parent
MODULES = sorted(p for p in ROOT.rglob("*.py") if p.name != "_version.py")
# "About 600" and "about 60" in the design; these are where about ends.
MODULE_LINES, FUNCTION_LINES = 620, 65
FORBIDDEN = {"utils", "util", "helpers", "helper", "core", "common", "misc", "tools"}

NO_EXAMPLE = {
    **{
        f"formats.{name}": "needs a file of the LSST pipelines, too long to make in an example; "
        "tests/formats reads real ones and docs/howto shows how"
        for name in (
            "read_lsst_catalog", "read_lsst_field", "read_lsst_photo_calib",
            "read_lsst_photo_calib_parts", "read_lsst_reference_catalog", "read_lsst_sky_map",
            "read_lsst_visit_summary",
        )
    },
    "formats.read_piff": "needs a file of Piff with its star table; tests/formats makes and reads",
    **{
        f"inject.{name}": "made or used by functions whose examples show it"
        for name in ("Audit", "GainMap", "Injection", "InjectionCatalog", "LightCurves", "recover")
    },
    "run.run_survey": "takes half a minute; docs/howto and tests/run do it",
    "run.run_demo": "takes a minute; `make demo` does it",
    "run.report_from_folder": "needs a finished run; tests/run does it",
}  # fmt: skip
"""Public things without an example, and why."""


def rooms() -> list[str]:
    return [m.name for m in pkgutil.iter_modules(pogson.__path__) if not m.name.startswith("_")]


def public_things() -> Iterator[tuple[str, Any]]:
    for room in rooms():
        module = importlib.import_module(f"pogson.{room}")
        for name in getattr(module, "__all__", []):
            thing = getattr(module, name)
            if inspect.isclass(thing) or inspect.isroutine(thing):
                yield f"{room}.{name}", thing


THINGS = dict(public_things())


def examples(thing: Any) -> bool:
    """Return whether a thing's own docstring, not an inherited one, has examples."""
    return "Examples\n--------\n" in inspect.cleandoc(thing.__doc__ or "")


def needs_example(name: str, thing: Any) -> bool:
    # an error is shown by what raises it
    error = inspect.isclass(thing) and issubclass(thing, Exception)
    return not error and name not in NO_EXAMPLE


def test_there_is_a_public_api() -> None:
    assert len(THINGS) > 150
    assert {"fields", "sky", "psf", "sed", "calib", "images", "formats"} <= set(rooms())


@pytest.mark.parametrize("name", list(THINGS))
def test_public_things_are_documented(name: str) -> None:
    thing = THINGS[name]
    summary = inspect.cleandoc(thing.__doc__ or "").split("\n")[0].strip()
    assert summary, f"{name} has no docstring"
    assert summary.endswith((".", ":")), f"{name}: the summary must be one line: {summary!r}"
    if needs_example(name, thing):
        assert examples(thing), f"{name} has no section Examples; add one that runs"


def test_the_exceptions_are_needed() -> None:
    assert set(NO_EXAMPLE) <= set(THINGS)
    held = [name for name in NO_EXAMPLE if examples(THINGS[name])]
    assert not [name for name in held if not name.startswith("inject.")]


def test_modules_are_short_and_named() -> None:
    long = {p: len(p.read_text("utf-8").splitlines()) for p in MODULES}
    long = {str(p.relative_to(ROOT)): n for p, n in long.items() if n > MODULE_LINES}
    assert not long
    assert not [
        p
        for p in MODULES
        if FORBIDDEN & {part.lstrip("_") for part in p.with_suffix("").parts[-2:]}
    ]


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function without its docstring."""
    assert node.end_lineno is not None
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is not None:
        first = node.body[0]
        assert first.end_lineno is not None
        lines -= first.end_lineno - first.lineno + 1
    return lines


def test_functions_are_short() -> None:
    long = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = code_lines(node)
                if lines > FUNCTION_LINES:
                    long[f"{path.relative_to(ROOT)}:{node.name}"] = lines
    assert not long


def test_no_pickle_no_eval() -> None:
    """No code of the package loads a pickle or evaluates text."""
    found = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import) and any(a.name == "pickle" for a in node.names):
                found.append(f"{path.name} imports pickle")
            if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "cPickle", "dill"):
                found.append(f"{path.name} imports {node.module}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec"):
                found.append(f"{path.name} calls {ast.unparse(node.func)}")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                found.append(f"{path.name} sets allow_pickle={ast.unparse(node.value)}")
    found = [text for text in found if not text.endswith("allow_pickle=False")]
    assert not found


def test_names_of_test_files_are_unique() -> None:
    # Test folders are no packages, so that two files of one name cannot both be imported.
    names = [p.name for p in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
