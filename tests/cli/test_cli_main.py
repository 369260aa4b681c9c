"""The command line's frame: help, unknown commands, errors and exit codes."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from pogson.cli import _COMMANDS, main
from pogson.errors import FileFormatError


def test_help_lists_every_command() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name in _COMMANDS:
        assert name in result.output
    assert CliRunner().invoke(main, ["--version"]).output.startswith("pogson, version")


@pytest.mark.parametrize("name", list(_COMMANDS))
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output


def test_unknown_command_gets_a_suggestion() -> None:
    result = CliRunner().invoke(main, ["inspekt"])
    assert result.exit_code == 2
    assert "Did you mean 'inspect'?" in result.output


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [(FileFormatError("a.fits is truncated."), 2, "Error: a.fits is truncated."),
     (KeyboardInterrupt(), 130, "run again to resume")],
)  # fmt: skip
def test_errors_become_a_message_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, words: str
) -> None:
    @click.command()
    def command() -> None:
        raise raised

    monkeypatch.setattr(type(main), "get_command", lambda *_: command)
    result = CliRunner().invoke(main, ["run"])
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.output
