"""Reading a TOML file into a checked model, with overrides; what every configuration shares."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pogson.errors import ConfigError
from pogson.run.config_messages import config_error

__all__ = ["checked_config", "read_toml_config"]

Model = TypeVar("Model", bound=BaseModel)


def read_toml_config(
    path: str | Path,
    model: type[Model],
    overrides: Sequence[str] = (),
    *,
    output: str | Path | None = None,
    output_section: str,
    given: Mapping[str, Mapping[str, Any]] | None = None,
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
    given : mapping of sections to keys, optional
        Values that replace those of the file, before the overrides.

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
    except OSError as error:
        reason = "it is a folder; name a file in it" if file.is_dir() else error.strerror
        raise ConfigError(f"Cannot read the configuration {str(file)!r}: {reason}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"Cannot read the configuration {str(file)!r}: TOML is text in UTF-8, and this is "
            f"none ({error})."
        ) from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}.") from None
    if "folder" in raw:  # an internal field, not a key of the file
        raise ConfigError(f"{file}: unknown key 'folder' at the top; keys belong in sections.")
    for section, values in (given or {}).items():
        _section(raw, (section,), f"--{section}").update(values)
    return checked_config(
        raw, model, overrides, output=output, output_section=output_section,
        folder=file.absolute().parent, said=file, text=text,
    )  # fmt: skip


def checked_config(
    raw: Mapping[str, Any],
    model: type[Model],
    overrides: Sequence[str] = (),
    *,
    output: str | Path | None = None,
    output_section: str,
    folder: Path,
    said: str | Path,
    text: str = "",
) -> Model:
    """Check values against a model that has a field ``folder``; see `read_toml_config`.

    Parameters
    ----------
    raw : mapping
        Sections of values.
    model : type of pydantic.BaseModel
        The whole configuration.
    overrides, output, output_section
        As in `read_toml_config`.
    folder : pathlib.Path
        Where relative paths start.
    said : str or pathlib.Path
        What to call the source in messages.
    text : str, optional
        Text of the file, for line numbers.

    Returns
    -------
    pydantic.BaseModel

    Raises
    ------
    ConfigError
        As `read_toml_config`.
    """
    values = {k: dict(v) if isinstance(v, Mapping) else v for k, v in raw.items()}
    overridden = {_apply_override(values, item) for item in overrides}
    if output is not None:
        section = _section(values, (output_section,), f"--output {output}")
        section["output"] = str(Path(output).absolute())
    try:
        return model.model_validate({**values, "folder": folder})
    except ValidationError as error:
        raise config_error(error, Path(said), text, overridden, model) from None


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
