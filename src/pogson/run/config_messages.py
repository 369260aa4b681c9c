"""Turn validation errors of the configuration into sentences with file, line and suggestion."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pogson.errors import ConfigError, choices
from pogson.run.toml_lines import key_lines, line_of

__all__ = ["config_error"]


def _union_members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) is typing.Annotated:
        return _union_members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(m for a in typing.get_args(annotation) for m in _union_members(a))
    return (annotation,)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    for member in _union_members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            return member
    return None


def _model_at(model: type[BaseModel], path: tuple[str, ...]) -> type[BaseModel] | None:
    here: type[BaseModel] | None = model
    for part in path:
        if here is None or part not in here.model_fields:
            return None
        here = _model_of(here.model_fields[part].annotation)
    return here


def _allowed_words(model: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    """Return the literal values that a key may take, if it is of that kind."""
    holder = _model_at(model, path[:-1])
    if holder is None or path[-1] not in holder.model_fields:
        return []
    members = _union_members(holder.model_fields[path[-1]].annotation)
    return [
        w for m in members if typing.get_origin(m) is typing.Literal for w in typing.get_args(m)
    ]


def _did_you_mean(word: Any, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(words), n=1, cutoff=0.55)
    return f" Did you mean {close[0]!r}?" if close else ""


def _homes(model: type[BaseModel], key: str) -> list[str]:
    """Return the sections that do have a key of this name."""
    found = []
    for name, field in model.model_fields.items():
        section = _model_of(field.annotation)
        if section is not None and key in section.model_fields:
            found.append(f"[{name}]")
    return found


def _sentence(error: Any, path: tuple[str, ...], model: type[BaseModel]) -> str:
    key, value = path[-1] if path else "", error["input"]
    where = f"[{'.'.join(path[:-1])}] " if len(path) > 1 else ""
    holder = _model_at(model, path[:-1])
    keys = [k for k, f in holder.model_fields.items() if not f.exclude] if holder else []
    if error["type"] == "extra_forbidden":
        kind = "key" if where else "section or key"
        homes = _homes(model, key)
        hint = f" It belongs in {choices(homes)}.".replace("'", "") if homes else ""
        said = f"{where}unknown {kind} {key!r}; allowed: {', '.join(keys)}."
        return said + (hint or _did_you_mean(key, keys))
    if error["type"] == "missing":
        return f"{where}the {'key' if where else 'section'} {key!r} is missing and has no default."
    words = _allowed_words(model, path) if path else []
    if words:
        return f"{where}{key} = {value!r} is not allowed; allowed: {choices(words)}." + (
            _did_you_mean(value, words)
        )
    if error["type"] == "value_error":  # our own sentences
        return f"{where or (f'[{key}] ' if key else '')}{error['ctx']['error']}."
    return f"{where}{key} = {value!r} is not allowed: {_requirement(error, key)}."


def _requirement(error: Any, key: str) -> str:
    """Say what validation wanted, without words of the validating library."""
    context = error.get("ctx", {})
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"it must be a table of keys, such as a section [{key}]"
    if error["type"] in ("too_short", "too_long"):
        least = error["type"] == "too_short"
        number = context["min_length" if least else "max_length"]
        return (
            f"it must be a list of at {'least' if least else 'most'} {number} "
            f"value{'s' * (number != 1)}, not {context['actual_length']}"
        )
    return str(error["msg"][0].lower() + error["msg"][1:]).replace("input should be", "it must be")


def config_error(
    error: ValidationError,
    file: Path,
    text: str,
    overridden: set[tuple[str, ...]],
    model: type[BaseModel],
) -> ConfigError:
    """Return a readable error for everything that validation found.

    Parameters
    ----------
    error : pydantic.ValidationError
        What validation found.
    file : pathlib.Path
        The configuration file.
    text : str
        Its text, for line numbers.
    overridden : set of tuple of str
        Keys given by ``--set``, whose values do not stand in the file.
    model : type of pydantic.BaseModel
        The whole configuration.

    Returns
    -------
    ConfigError
        One line a problem.
    """
    lines = key_lines(text)
    said: list[str] = []
    seen: set[tuple[str, ...]] = set()
    for item in error.errors():
        # Members of a union report each their own complaint at deeper paths: keep the key only.
        raw = tuple(str(part) for part in item["loc"])
        path = _known_path(model, raw)
        if path in seen and item["type"] != "extra_forbidden":
            continue
        seen.add(path)
        if path in overridden:
            place = f"--set {'.'.join(path)}"
        else:
            line = line_of(lines, path)
            place = f"{file}, line {line}" if line else str(file)
        said.append(f"{place}: {_sentence(item, path, model)}")
    return ConfigError("\n".join(said))


def _known_path(model: type[BaseModel], path: tuple[str, ...]) -> tuple[str, ...]:
    """Cut a location at the first key that is not itself a section."""
    here: type[BaseModel] | None = model
    for depth, part in enumerate(path, start=1):
        if here is None or part not in here.model_fields:
            return path[:depth]
        here = _model_of(here.model_fields[part].annotation)
        if here is None:
            return path[:depth]
    return path
