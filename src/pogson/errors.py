"""The errors pogson raises: one base class, each kind also the fitting builtin.

Every message says what was wrong (with the value, the file or the row), what is allowed, and what
to do. Catch `PogsonError` to catch them all; catch ``ValueError``, ``OSError`` ... to treat them
like any other error of that kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = [
    "BoundsError",
    "CalibrationError",
    "ConfigError",
    "FileFormatError",
    "MaskedDataError",
    "MeasureError",
    "MissingDataError",
    "PogsonError",
    "PogsonTypeError",
    "PogsonValueError",
    "PogsonWarning",
    "ReferenceMismatchError",
    "UnitMismatchError",
    "choices",
]


class PogsonError(Exception):
    """Base class of every error that pogson raises on purpose."""

    def __str__(self) -> str:
        # KeyError would quote its message; people should read a sentence.
        return " ".join(str(part) for part in self.args)


class PogsonValueError(PogsonError, ValueError):
    """A value is outside what is allowed."""


class PogsonTypeError(PogsonError, TypeError):
    """An argument is of the wrong type."""


class BoundsError(PogsonValueError):
    """A position lies outside the box on which a field, PSF or image is defined."""


class UnitMismatchError(PogsonValueError):
    """A unit cannot be converted to the one required."""


class MeasureError(PogsonValueError):
    """Fluence and surface brightness were mixed, or a conversion between them is impossible."""


class ReferenceMismatchError(PogsonValueError):
    """Fluxes of different references (apertures, operators, totals) were mixed."""


class CalibrationError(PogsonError, RuntimeError):
    """A calibration could not be made from the data given."""


class MaskedDataError(CalibrationError):
    """Nothing usable is left after masks and selections."""


class ConfigError(PogsonValueError):
    """A configuration file or option is wrong."""


class FileFormatError(PogsonError, OSError):
    """A file is not what it should be: truncated, of another format, or with parts missing."""


class MissingDataError(PogsonError, LookupError):
    """Something asked for by name is not there."""


class PogsonWarning(UserWarning):
    """Something was usable but deserves a look; the message carries the number."""


def choices(allowed: Iterable[Any]) -> str:
    """Return allowed values as readable text for a message.

    Examples
    --------
    >>> choices(["fluence", "surface_brightness"])
    "'fluence' or 'surface_brightness'"
    """
    words = [repr(str(a)) if isinstance(a, str) else repr(a) for a in allowed]
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + " or " + words[-1]
