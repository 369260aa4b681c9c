"""Pieces of a report: sections, tables, cells and figures, before they become HTML."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Cell",
    "Column",
    "Section",
    "Table",
    "figure_section",
    "number_cell",
    "render_page",
    "text_cell",
]

_DPI = 144  # twice the size at which the page shows a figure: sharp on dense screens


@dataclass
class Cell:
    """One cell: what is shown, what it is sorted by, its style classes."""

    text: str
    sort: str
    css: str = ""


@dataclass
class Column:
    """Head of a column; text is aligned left."""

    name: str
    text: bool = False


@dataclass
class Table:
    """A table that the reader can sort."""

    columns: list[Column]
    rows: list[list[Cell]]


@dataclass
class Section:
    """One card of the report: words, a figure, tables, facts, or preformatted text."""

    anchor: str
    title: str
    caption: str = ""
    words: Sequence[str] = ()
    image: str = ""
    width: int = 0
    tables: list[Table] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    pre: str = ""


def number_cell(value: float, digits: int, scale: float = 1.0) -> Cell:
    """Return a number with some digits; a dash where it is not known."""
    if not math.isfinite(value):
        return Cell("–", "")
    shown = f"{scale * value:.{digits}f}".replace("-", "−")
    return Cell(shown, repr(scale * value))


def text_cell(value: str, css: str = "t") -> Cell:
    """Return a text."""
    return Cell(value, value, css)


def _png(figure: Any) -> tuple[str, int]:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode("ascii"), round(figure.get_figwidth() * 92)


def figure_section(
    anchor: str, title: str, make: Callable[[], Any], caption: str, absent: str
) -> Section:
    """Return the section of a figure, or its words where there is no figure to show."""
    figure = make()
    if figure is None:
        return Section(anchor, title, absent)
    image, width = _png(figure)
    return Section(anchor, title, caption, image=image, width=width)


def render_page(
    data: Any,
    sections: Sequence[Section],
    tiles: Sequence[Mapping[str, str]],
    *,
    config_text: str = "",
    made: str = "",
) -> str:
    """Return a page as one text that needs no network.

    Parameters
    ----------
    data : object
        With the attribute ``title``, and what else the template shows of it.
    sections : sequence of Section
        In order; the configuration, where there is one, comes last.
    tiles : sequence of mapping
        Numbers at the top.
    config_text : str, optional
        The configuration as text.
    made : str, optional
        When it was made.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    from pogson._version import __version__

    last = [Section("configuration", "Configuration", pre=config_text)] if config_text else []
    environment = Environment(
        loader=PackageLoader("pogson.report", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        data=data, sections=[*sections, *last], tiles=tiles, version=__version__, made=made
    )
