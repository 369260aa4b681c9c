"""Where in a TOML file a key stands, so that a message can name the line."""

from __future__ import annotations

import re

__all__ = ["key_lines", "line_of"]

_HEADER = re.compile(r"^\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(
    r"""^\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=(.*)$"""
)
_INLINE_KEY = re.compile(r"""[{,]\s*([A-Za-z0-9_-]+|"[^"]*"|'[^']*')\s*=""")


def _parts(dotted: str) -> tuple[str, ...]:
    found = re.findall(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""", dotted)
    return tuple(part.strip("\"'") for part in found)


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    r"""Return the 1-based line of every table header and key of a TOML text.

    Parameters
    ----------
    text : str
        A TOML document. Keys inside multi-line arrays and strings are not listed.

    Returns
    -------
    dict
        From the path of a key, such as ``("measure", "threshold")``, to its line.

    Examples
    --------
    >>> key_lines("[measure]\nthreshold = 3\n")
    {('measure',): 1, ('measure', 'threshold'): 2}
    """
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    inside: str | None = None  # the triple quote of a multi-line string, while inside one
    depth = 0  # open brackets of a multi-line array
    for number, line in enumerate(text.splitlines(), start=1):
        if inside is not None:
            inside = None if inside in line else inside
            continue
        if depth == 0:
            if header := _HEADER.match(line):
                table = _parts(header.group(1))
                lines.setdefault(table, number)
                continue
            if key := _KEY.match(line):
                path = (*table, *_parts(key.group(1)))
                lines.setdefault(path, number)
                for inline in _INLINE_KEY.finditer(key.group(2)):
                    lines.setdefault((*path, inline.group(1).strip("\"'")), number)
        for quote in ('"""', "'''"):
            if line.count(quote) % 2:
                inside = quote
        bare = re.sub(r"""("[^"]*"|'[^']*'|#.*)""", "", line)
        depth = max(0, depth + bare.count("[") - bare.count("]"))
    return lines


def line_of(lines: dict[tuple[str, ...], int], path: tuple[str, ...]) -> int | None:
    """Return the line of a key, or of the nearest table or key that holds it.

    Examples
    --------
    >>> line_of({("a",): 3}, ("a", "b", "0"))
    3
    """
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None
