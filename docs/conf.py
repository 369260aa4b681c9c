"""Sphinx configuration."""

import importlib
import re
from pathlib import Path

from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging

from pogson._version import __version__

project = "pogson"
author = "The pogson developers"
copyright = "2026, The pogson developers"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "numpydoc",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pogson {version}"
autosummary_generate = True
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
default_role = "autolink"
nitpicky = False

_API = Path(__file__).parent / "api"
_PAGES = {
    module: page.stem
    for page in sorted(_API.glob("*.rst"))
    for module in re.findall(r"automodule:: (\S+)", page.read_text())
}
_HIDDEN = {"pogson.spectro.FilterCurve"}  # the page says where it is


def _public():
    """Yield module, name and object of every public name of the documented rooms."""
    for room in _PAGES:
        module = importlib.import_module(room)
        for name in module.__all__:
            yield module, name, getattr(module, name)


def _show_lazy_names_and_constants(app):
    """Let autodoc see names that a room imports on use, and constants that it re-exports."""
    for module, name, item in _public():
        vars(module).setdefault(name, item)
        if callable(item) and hasattr(item, "__doc__") and hasattr(item, "__module__"):
            continue
        room = ModuleAnalyzer.for_module(module.__name__)
        room.analyze()
        for part in sorted(Path(module.__file__).parent.glob("*.py")):
            if Path(module.__file__).stem != "__init__" or part.stem.startswith("__"):
                continue
            found = ModuleAnalyzer.for_module(f"{module.__name__}.{part.stem}")
            found.analyze()
            if ("", name) in found.attr_docs:
                room.attr_docs[("", name)] = found.attr_docs[("", name)]


def _at_home(app, env, node, contnode):
    """Resolve a name of a submodule, or of pogson itself, to the room that documents it."""
    if node.get("refdomain") != "py":
        return None
    parts = node["reftarget"].split(".")
    for depth in range(len(parts) - 1, 0, -1):
        try:
            item = importlib.import_module(".".join(parts[:depth]))
            for part in parts[depth:]:
                item = getattr(item, part)
        except (ImportError, AttributeError):
            continue
        for module, name, public in _public():
            if public is item and name == parts[-1]:
                domain = env.get_domain("py")
                return domain.resolve_xref(
                    env, node["refdoc"], app.builder, "obj", f"{module.__name__}.{name}", node,
                    contnode,
                )  # fmt: skip
    return None


def _every_public_name_is_there(app, exception):
    """Warn, which fails `make docs`, of public names without an entry in the reference."""
    if exception is not None:
        return
    there = app.env.get_domain("py").objects
    for module, name, _ in _public():
        full = f"{module.__name__}.{name}"
        if full not in there and full not in _HIDDEN:
            logging.getLogger(__name__).warning(
                "%s is public but not on docs/api/%s.rst: has it a docstring?",
                full, _PAGES[module.__name__],
            )  # fmt: skip


def setup(app):
    """Connect what is above."""
    app.connect("builder-inited", _show_lazy_names_and_constants)
    app.connect("missing-reference", _at_home)
    app.connect("build-finished", _every_public_name_is_there)
