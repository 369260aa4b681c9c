"""Reading a TOML file into a checked model, with overrides; what every configuration shares."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pogson.errors import ConfigError
from pogson.run.config_messages import config_error

__all__ = ["read_toml_config"]

Model = TypeVar("Model", bound=BaseModel)


def read_toml_config(
    path: str | Path,
    model: type[Model],
    overrides: Sequence[str] = (),
    *,
    output: str | Path | None = None,
    output_section: str,
) -> Model:
    """Read a TOML file and check it against a model that has a field ``folder``.

    Parameters
    ----------
    path : str or pathlib.Path
        TOML file.
    model : type of pydantic.BaseModel
        The whole configuration.
    overrides : sequence of str, optional
        ``"section.key=value"`` texts that replace values of the file; the value is TOML, or a
        bare word.
    output : str or pathlib.Path, optional
        Replaces the key ``output`` of a section; relative to the current folder.
    output_section : str
        The section that has the key ``output``.

    Returns
    -------
    pydantic.BaseModel
        The model, with ``folder`` the folder of the file.

    Raises
    ------
    ConfigError
        Naming the file, the line, the key, the value, what is allowed and a likely spelling.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"There is no configuration file {str(file)!r}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the configuration {str(file)!r}: {error}.") from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}.") from None
    if "folder" in raw:  # an internal field, not a key of the file
        raise ConfigError(f"{file}: unknown key 'folder' at the top; keys belong in sections.")
    overridden = {_apply_override(raw, item) for item in overrides}
    if output is not None:
        section = _section(raw, (output_section,), f"--output {output}")
        section["output"] = str(Path(output).absolute())
    try:
        return model.model_validate({**raw, "folder": file.absolute().parent})
    except ValidationError as error:
        raise config_error(error, file, text, overridden, model) from None


def _section(raw: dict[str, Any], path: tuple[str, ...], said: str) -> dict[str, Any]:
    here = raw
    for part in path:
        here = here.setdefault(part, {})
        if not isinstance(here, dict):
            raise ConfigError(f"{said}: {part!r} is a value, not a section.")
    return here


def _apply_override(raw: dict[str, Any], item: str) -> tuple[str, ...]:
    key, equals, text = item.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or len(path) < 2 or not all(path):
        raise ConfigError(
            f"--set {item!r} must be written section.key=value, such as measure.threshold=3."
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word: no need to quote twice in a shell
    _section(raw, path[:-1], f"--set {item!r}")[path[-1]] = value
    return path
