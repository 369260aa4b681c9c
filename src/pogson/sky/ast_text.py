"""Checking the text dump of an AST object before the AST library reads it.

The library trusts its own dumps: a damaged count or index in one makes it read or write outside
its arrays and takes the process down. So the structure is checked here first: the nesting, that
counts fit the arrays they count, and that mappings fit the mappings and frames they are joined to.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from pogson.errors import PogsonValueError, choices

__all__ = ["checked_ast_text"]

_MAX_CHARACTERS = 2**24
_MAX_DEPTH = 100
_MAX_AXES = 20
_MAX_FRAMES = 100
_MAX_TERMS = 100_000
_MAX_POWER = 100

_ITEM = re.compile(r"([A-Za-z_][A-Za-z0-9_]*) =(?: (.*))?$")
_INDEXED = re.compile(r"([A-Z][A-Za-z]*?)(\d+)$")
_DIGITS = re.compile(r"\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

# Attributes each class adds to those of its ancestors: n a number, t a quoted text, o an object.
# A key with "#" stands for that stem with any number. (SUN/211 and the dumps themselves.)
_KEYS: dict[str, dict[str, str]] = {
    "Object": {"ID": "t", "Ident": "t", "UseDfs": "n"},
    "Mapping": {"Nin": "n", "Nout": "n", "Invert": "n", "IsSimp": "n", "Report": "n"},
    "Frame": {
        **dict.fromkeys(("Title", "Domain", "System", "AlSys"), "t"),
        **dict.fromkeys(("Naxes", "Epoch", "Digits", "Presrv", "Permut", "MinAx", "MaxAx"), "n"),
        **dict.fromkeys(("MchEnd", "ObsLat", "ObsLon", "ObsAlt", "Dtai", "Dut1", "Prm#"), "n"),
        "Ax#": "o",
    },
    "SkyFrame": {
        **dict.fromkeys(("Proj", "SRefIs"), "t"),
        **dict.fromkeys(("SRef#", "SRefP#", "Eqnox", "NegLon", "AlOff", "SkyTol"), "n"),
    },
    "FrameSet": {
        **dict.fromkeys(("Nframe", "Base", "Currnt", "Nnode", "Nod#", "Lnk#", "Inv#"), "n"),
        "Frm#": "o",
        "Map#": "o",
    },
    "Axis": {
        **dict.fromkeys(("Label", "Symbol", "Unit", "Format"), "t"),
        **dict.fromkeys(("Digits", "Dirn", "Top", "Bottom"), "n"),
    },
    "SkyAxis": dict.fromkeys(("IsLat", "AsTime", "CentZr"), "n"),
    "CmpMap": {"Series": "n", "InvA": "n", "InvB": "n", "MapA": "o", "MapB": "o"},
    "LutMap": dict.fromkeys(("Nlut", "Start", "Incr", "LutInt", "L#"), "n"),
    "MatrixMap": {"M#": "n", "IM#": "n", "Form": "t"},
    "PermMap": dict.fromkeys(("Out#", "In#", "Con#"), "n"),
    "PolyMap": {
        **dict.fromkeys(("MPF#", "NCF#", "CF#", "PF#", "MPI#", "NCI#", "CI#", "PI#"), "n"),
        **dict.fromkeys(("IterInv", "NiterInv", "TolInv"), "n"),
    },
    "ShiftMap": {"Sft#": "n"},
    "SphMap": {"UntRd": "n", "PlrLg": "n"},
    "UnitMap": {},
    "WcsMap": {"Type": "t", "WcsAx#": "n", "PV#_#": "n"},
    "WinMap": {"Sft#": "n", "Scl#": "n"},
    "ZoomMap": {"Zoom": "n"},
}
_MAPPINGS = frozenset(k for k in _KEYS if k.endswith("Map"))
_FRAMES = frozenset(("Frame", "SkyFrame"))
_CONCRETE = _MAPPINGS | {"Frame", "SkyFrame", "FrameSet", "Axis", "SkyAxis"}

# Texts the library compares with its own lists.
_WORDS = {
    ("SkyFrame", "System"): "ICRS FK5 FK4 FK4-NO-E GALACTIC ECLIPTIC SUPERGALACTIC J2000 GAPPT",
    ("SkyFrame", "AlSys"): "ICRS FK5 FK4 FK4-NO-E GALACTIC ECLIPTIC SUPERGALACTIC J2000 GAPPT",
    ("Frame", "System"): "Cartesian",
    ("Frame", "AlSys"): "Cartesian",
    ("SkyFrame", "SRefIs"): "Ignored Origin Pole",
    ("MatrixMap", "Form"): "Full Diagonal Unit",
    ("WcsMap", "Type"): "AZP SZP TAN STG SIN ARC ZPN ZEA AIR CYP CEA CAR MER SFL PAR MOL AIT COP "
    "COE COD COO BON PCO TSC CSC QSC HPX TPN TNX XPH",
}


def _ancestors(kind: str) -> list[str]:
    """Return the classes whose attributes come before a class's own, in order."""
    if kind in _MAPPINGS:
        return ["Object", "Mapping"]
    if kind in ("SkyFrame", "FrameSet"):
        return ["Object", "Mapping", "Frame"]
    if kind == "SkyAxis":
        return ["Object", "Axis"]
    return ["Object", "Mapping"] if kind == "Frame" else ["Object"]


@dataclass
class _Node:
    """One object of a dump."""

    kind: str
    values: dict[str, str] = field(default_factory=dict)
    parts: dict[str, _Node] = field(default_factory=dict)

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        text = self.values.get(key)
        if text is None:
            return default
        try:
            value = int(text)
        except ValueError:
            raise PogsonValueError(f"{self.kind} has {key} = {text}, not a whole number.") from None
        if not low <= value <= high:
            raise PogsonValueError(f"{self.kind} has {key} = {value}; allowed are {low} to {high}.")
        return value

    def indexed(self, stem: str) -> dict[int, str]:
        """Return the values of keys ``stem1``, ``stem2`` ... by number."""
        found = {}
        for key, value in self.values.items():
            match = _INDEXED.match(key)
            if match and match.group(1) == stem:
                found[int(match.group(2))] = value
        return found

    def part(self, key: str) -> _Node:
        try:
            return self.parts[key]
        except KeyError:
            raise PogsonValueError(f"{self.kind} lacks its part {key}.") from None


def checked_ast_text(text: str) -> str:
    r"""Return a dump without comments, or raise if its structure is not sound.

    Parameters
    ----------
    text : str
        Dump of one object ("Begin FrameSet" ... "End FrameSet").

    Raises
    ------
    PogsonValueError
        If the text is not one well-formed object.

    Examples
    --------
    >>> print(checked_ast_text("Begin UnitMap # a comment\n  Nin = 2\nIsA Mapping\nEnd UnitMap"))
    Begin UnitMap
    Nin = 2
    IsA Mapping
    End UnitMap
    """
    if not isinstance(text, str) or not text.isascii() or len(text) > _MAX_CHARACTERS:
        raise PogsonValueError("An AST description must be plain ASCII text of modest length.")
    lines = [cleaned for line in text.splitlines() if (cleaned := _without_comment(line))]
    root, end = _parse(lines, 0, 0)
    _check(root)
    return "\n".join(lines[:end])


def _without_comment(line: str) -> str:
    """Return a line without the comment that begins at the first '#' outside quotes."""
    quoted = False
    for i, character in enumerate(line):
        if character == '"':
            quoted = not quoted
        elif character == "#" and not quoted:
            return line[:i].strip()
        elif not character.isprintable() and character != "\t":
            raise PogsonValueError(f"Unprintable character {character!r} in an AST description.")
    return line.strip()


def _parse(lines: list[str], start: int, depth: int) -> tuple[_Node, int]:
    """Parse the object that begins at a line; return it and the line after it."""
    if depth > _MAX_DEPTH:
        raise PogsonValueError(f"AST objects are nested more than {_MAX_DEPTH} deep.")
    words = lines[start].split() if start < len(lines) else []
    if len(words) != 2 or words[0] != "Begin":
        found = lines[start][:40] if start < len(lines) else "the end of the text"
        raise PogsonValueError(f"Expected 'Begin' and an AST class, found {found!r}.")
    node = _Node(words[1])
    if node.kind not in _CONCRETE:
        raise PogsonValueError(
            f"AST class {node.kind[:40]!r} is not supported; supported: "
            f"{choices(sorted(_CONCRETE))}."
        )
    # the classes whose attributes may come next, the object's own last
    levels = [*_ancestors(node.kind), node.kind]
    keys: list[str] = []
    i = start + 1
    while i < len(lines):
        line = lines[i]
        if line.startswith("End "):
            if line.split() != ["End", node.kind]:
                raise PogsonValueError(f"AST object {node.kind} is closed by {line[:40]!r}.")
            _check_level(node.kind, node.kind, keys)
            return node, i + 1
        if line.startswith("IsA "):
            level = line[4:]
            if level not in levels[:-1]:
                raise PogsonValueError(f"{node.kind} is said to be a {level[:40]!r}.")
            _check_level(node.kind, level, keys)
            levels, keys = levels[levels.index(level) + 1 :], []
            i += 1
            continue
        match = _ITEM.match(line)
        if match is None:
            raise PogsonValueError(f"Not a line of an AST description: {line[:60]!r}.")
        key, value = match.groups()
        if key in node.values or key in node.parts:
            raise PogsonValueError(f"{node.kind} has {key} twice.")
        keys.append(key)
        if value is None:
            node.parts[key], i = _parse(lines, i + 1, depth + 1)
        else:
            node.values[key] = _checked_value(node.kind, key, value.strip())
            i += 1
    raise PogsonValueError(f"The text ends inside the AST object {node.kind}.")


def _key_type(level: str, key: str) -> str | None:
    return _KEYS[level].get(key) or _KEYS[level].get(_DIGITS.sub("#", key))


def _check_level(kind: str, level: str, keys: list[str]) -> None:
    """Raise if an attribute is not one that a class (``level``) of the object has."""
    # a FrameSet takes the attributes of a Frame from its current frame and has none of its own
    closed = kind == "FrameSet" and level in ("Mapping", "Frame")
    for key in keys:
        if closed or _key_type(level, key) is None:
            raise PogsonValueError(f"{kind} has {key} where attributes of {level} are expected.")


def _checked_value(kind: str, key: str, value: str) -> str:
    types = {_key_type(level, key) for level in (*_ancestors(kind), kind)} - {None}
    if value.startswith('"'):
        if len(value) < 2 or not value.endswith('"') or '"' in value[1:-1] or len(value) > 1000:
            raise PogsonValueError(f"{kind} has an unclosed text in {key}.")
        words = _WORDS.get((kind, key))
        if types != {"t"} or (words is not None and value[1:-1] not in words.split()):
            raise PogsonValueError(f"{kind} has {key} = {value[:40]}, which is not allowed.")
        return value
    if types != {"n"}:
        raise PogsonValueError(f"{kind} has {key} = {value[:40]}, which is not allowed.")
    if value == "<bad>":
        return value
    try:
        number = float(value)
    except ValueError:
        raise PogsonValueError(f"{kind} has {key} = {value[:40]}, not a number.") from None
    if not abs(number) < 1e300 or _NUMBER.fullmatch(value) is None:
        raise PogsonValueError(f"{kind} has {key} = {value[:40]}, not a finite number.")
    return value


# -- rules by class -------------------------------------------------------------------------
def _check(node: _Node) -> None:
    """Check an object and all its parts."""
    if node.kind in _MAPPINGS:
        _sizes(node)
    elif node.kind in _FRAMES:
        _frame(node)
    elif node.kind == "FrameSet":
        _frame_set(node)
    for part in node.parts.values():
        _check(part)


def _sizes(node: _Node) -> tuple[int, int]:
    """Return (inputs, outputs) of a mapping as it is used, its invert flag applied."""
    if node.kind == "FrameSet":
        base, current = _frame_set(node)
        return base, current
    if node.kind in _FRAMES:
        axes = _frame(node)
        return axes, axes
    if node.kind not in _MAPPINGS:
        raise PogsonValueError(f"A mapping is needed, not a {node.kind}.")
    nin = node.integer("Nin", 0, 1, _MAX_AXES)
    if nin == 0:
        raise PogsonValueError(f"{node.kind} does not say how many axes it has (Nin).")
    nout = node.integer("Nout", nin, 1, _MAX_AXES)
    rule = _RULES.get(node.kind)
    if rule is not None:
        rule(node, nin, nout)
    inverted = node.integer("Invert", 0, 0, 1)
    return (nout, nin) if inverted else (nin, nout)


def _require(condition: bool, node: _Node, what: str) -> None:
    if not condition:
        raise PogsonValueError(f"The AST object {node.kind} is inconsistent: {what}.")


def _square(node: _Node, nin: int, nout: int) -> None:
    _require(nin == nout, node, f"{nin} inputs and {nout} outputs")
    for stem in ("Sft", "Scl"):
        _require(all(1 <= k <= nin for k in node.indexed(stem)), node, f"index of {stem}")
    factors = [*node.indexed("Scl").values(), node.values.get("Zoom", "1")]
    _require("<bad>" in factors or all(float(v) != 0 for v in factors), node, "a factor of 0")


def _used(node: _Node, invert: int) -> tuple[int, int]:
    """Return sizes of a component, whose own invert flag the compound overrides."""
    nin, nout = _sizes(node)
    own = node.integer("Invert", 0, 0, 1) if node.kind in _MAPPINGS else 0
    return (nin, nout) if own == invert else (nout, nin)


def _compound(node: _Node, nin: int, nout: int) -> None:
    a = _used(node.part("MapA"), node.integer("InvA", 0, 0, 1))
    b = _used(node.part("MapB"), node.integer("InvB", 0, 0, 1))
    if node.integer("Series", 1, 0, 1):
        _require(a[1] == b[0], node, f"{a[1]} outputs lead to {b[0]} inputs")
        _require((a[0], b[1]) == (nin, nout), node, f"parts map {a[0]} to {b[1]} axes")
    else:
        total = (a[0] + b[0], a[1] + b[1])
        _require(total == (nin, nout), node, f"parts map {total[0]} to {total[1]} axes")


def _polynomial(node: _Node, nin: int, nout: int) -> None:
    for last, axes, outputs in (("F", nin, nout), ("I", nout, nin)):
        powers, counts = node.indexed(f"MP{last}"), node.indexed(f"NC{last}")
        if not counts:
            _require(
                not node.indexed(f"C{last}") and not node.indexed(f"P{last}"),
                node,
                f"coefficients without counts (NC{last})",
            )
            continue
        _require(set(powers) <= set(range(1, axes + 1)), node, f"axes of MP{last}")
        _require(set(counts) <= set(range(1, outputs + 1)), node, f"axes of NC{last}")
        most = {k: node.integer(f"MP{last}{k}", 0, 0, _MAX_POWER) for k in range(1, axes + 1)}
        terms = sum(node.integer(f"NC{last}{k}", 0, 0, _MAX_TERMS) for k in range(1, outputs + 1))
        used = node.indexed(f"C{last}")
        _require(all(1 <= k <= terms for k in used), node, f"{terms} terms, C{last} beyond")
        for k in node.indexed(f"P{last}"):
            _require(1 <= k <= terms * axes, node, f"{terms} terms, P{last}{k} beyond")
            axis = (k - 1) % axes + 1
            node.integer(f"P{last}{k}", 0, 0, most[axis])
    node.integer("NiterInv", 4, 0, 1000)
    node.integer("IterInv", 0, 0, 1)


def _matrix(node: _Node, nin: int, nout: int) -> None:
    form = node.values.get("Form", '"Full"')
    _require(form in ('"Full"', '"Diagonal"', '"Unit"'), node, f"Form = {form}")
    size = {'"Full"': nin * nout, '"Diagonal"': min(nin, nout), '"Unit"': 0}[form]
    for stem in ("M", "IM"):
        indices = [
            int(m.group(1))
            for key in node.values
            if (m := re.fullmatch(rf"{stem}(\d+)", key)) is not None
        ]
        _require(all(0 <= k < size for k in indices), node, f"{stem} has more than {size} values")


def _sphere(node: _Node, nin: int, nout: int) -> None:
    _require((nin, nout) == (3, 2), node, f"{nin} inputs and {nout} outputs")


def _projection(node: _Node, nin: int, nout: int) -> None:
    _require(nin == nout and nin >= 2, node, f"{nin} inputs and {nout} outputs")
    axes = [node.integer(f"WcsAx{k}", k, 1, nin) for k in (1, 2)]
    _require(axes[0] != axes[1], node, "both sky coordinates on one axis")
    for key in node.values:
        match = re.fullmatch(r"PV(?:i)?(\d+)_(\d+)", key)
        if match:
            _require(
                1 <= int(match.group(1)) <= nin and int(match.group(2)) < 100, node, f"index {key}"
            )


def _permutation(node: _Node, nin: int, nout: int) -> None:
    constants = len(node.indexed("Con"))
    for stem, size, other in (("Out", nout, nin), ("In", nin, nout)):
        for k in node.indexed(stem):
            _require(1 <= k <= size, node, f"index {stem}{k}")
            node.integer(f"{stem}{k}", 0, -constants, other)


def _table(node: _Node, nin: int, nout: int) -> None:
    _require((nin, nout) == (1, 1), node, f"{nin} inputs and {nout} outputs")
    n = node.integer("Nlut", 0, 2, _MAX_TERMS)
    _require(n >= 2, node, "no table")
    _require(all(1 <= k <= n for k in node.indexed("L")), node, "more values than Nlut")


_RULES: dict[str, Callable[[_Node, int, int], None]] = {
    "UnitMap": _square,
    "ZoomMap": _square,
    "ShiftMap": _square,
    "WinMap": _square,
    "CmpMap": _compound,
    "PolyMap": _polynomial,
    "MatrixMap": _matrix,
    "SphMap": _sphere,
    "WcsMap": _projection,
    "PermMap": _permutation,
    "LutMap": _table,
}


def _frame(node: _Node) -> int:
    _require(node.kind in _FRAMES, node, "it is not a frame")
    axes = node.integer("Naxes", 0, 1, _MAX_AXES)
    _require(axes >= 1, node, "no number of axes")
    _require(node.kind != "SkyFrame" or axes == 2, node, f"a sky frame of {axes} axes")
    for key, part in node.parts.items():
        match = _INDEXED.match(key)
        if match and match.group(1) == "Ax":
            _require(1 <= int(match.group(2)) <= axes, node, f"{key} beyond {axes} axes")
            _require(part.kind in ("Axis", "SkyAxis"), node, f"{key} is a {part.kind}")
    order = [node.integer(f"Prm{k}", k, 1, axes) for k in range(1, axes + 1)]
    _require(sorted(order) == list(range(1, axes + 1)), node, "Prm is no permutation")
    _require(set(node.indexed("Prm")) <= set(order), node, f"Prm beyond {axes} axes")
    for stem in ("SRef", "SRefP"):
        _require(set(node.indexed(stem)) <= set(order), node, f"{stem} beyond {axes} axes")
    return axes


def _frame_set(node: _Node) -> tuple[int, int]:
    """Check a FrameSet; return the axes of its base and current frames."""
    count = node.integer("Nframe", 0, 1, _MAX_FRAMES)
    _require(count >= 1, node, "no number of frames")
    frames = [_frame(node.part(f"Frm{k}")) for k in range(1, count + 1)]
    nodes = node.integer("Nnode", count, count, _MAX_FRAMES)
    # each node but the first hangs on an earlier one by a mapping; axes follow from the frames
    axes: dict[int, int] = {}
    for k, n_axes in enumerate(frames, start=1):
        axes[node.integer(f"Nod{k}", k, 1, nodes)] = n_axes
    for k in range(2, nodes + 1):
        link = node.integer(f"Lnk{k}", 0, 1, nodes)
        _require(1 <= link != k, node, f"Lnk{k}")
        mapping = node.part(f"Map{k}")
        sizes = _used(mapping, node.integer(f"Inv{k}", 0, 0, 1))
        for here, size in ((link, sizes[0]), (k, sizes[1])):
            _require(axes.setdefault(here, size) == size, node, f"Map{k} has {sizes} axes")
    _acyclic(node, nodes)
    for key in ("Base", "Currnt"):
        node.integer(key, 1, 1, count)
    extra = set(node.parts) - {
        *(f"Frm{k}" for k in range(1, count + 1)),
        *(f"Map{k}" for k in range(2, nodes + 1)),
    }
    _require(not extra, node, f"unexpected part {choices(sorted(extra))}")
    return (
        frames[node.integer("Base", 1, 1, count) - 1],
        frames[node.integer("Currnt", count, 1, count) - 1],
    )


def _acyclic(node: _Node, nodes: int) -> None:
    """Raise if following the links from some node never reaches node 1."""
    for start in range(2, nodes + 1):
        at, steps = start, 0
        while at != 1:
            at = node.integer(f"Lnk{at}", 1, 1, nodes)
            steps += 1
            _require(steps <= nodes, node, "its links go round in circles")
