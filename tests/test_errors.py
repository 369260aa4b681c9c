"""The error taxonomy: each kind is a PogsonError and the fitting builtin."""

from __future__ import annotations

import inspect
import pickle

import pytest

from pogson import errors
from pogson.errors import PogsonError, choices

KINDS = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, PogsonError) and cls is not PogsonError
]


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.__name__)
def test_every_error_is_a_pogson_error_and_a_builtin(cls: type[PogsonError]) -> None:
    assert cls.__name__ in errors.__all__
    assert cls.__doc__
    builtin = [b for b in cls.__mro__ if b.__module__ == "builtins" and b not in (object,)]
    assert len(builtin) > len([b for b in PogsonError.__mro__ if b.__module__ == "builtins"]) - 1
    error = cls("weights.fits: 3 values are negative")
    assert str(error) == "weights.fits: 3 values are negative"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error)
    with pytest.raises(PogsonError, match="3 values"):
        raise error


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.BoundsError, ValueError),
        (errors.UnitMismatchError, ValueError),
        (errors.PogsonTypeError, TypeError),
        (errors.FileFormatError, OSError),
        (errors.MissingDataError, LookupError),
        (errors.CalibrationError, RuntimeError),
        (errors.MaskedDataError, errors.CalibrationError),
        (errors.ConfigError, ValueError),
    ],
)
def test_builtin_parents(cls: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(cls, builtin)


def test_warning_is_no_error() -> None:
    assert issubclass(errors.PogsonWarning, UserWarning)
    assert not issubclass(errors.PogsonWarning, PogsonError)


def test_choices() -> None:
    assert choices([]) == ""
    assert choices(["a"]) == "'a'"
    assert choices(["a", "b"]) == "'a' or 'b'"
    assert choices(x for x in ("a", "b", 3)) == "'a', 'b' or 3"
