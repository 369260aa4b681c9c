"""Sphinx configuration."""

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
templates_path = ["_templates"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"pogson {version}"
html_static_path = ["_static"]
autosummary_generate = True
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
default_role = "autolink"
nitpicky = False
