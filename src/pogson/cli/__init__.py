"""The command line: one module a command, imported only when that command runs.

Exit codes: 0 done; 1 done, but some exposures failed or the audit broke a limit (the report says
which and why); 2 the input or the configuration is wrong; 130 interrupted.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

import click

from pogson._version import __version__
from pogson.errors import PogsonError

__all__ = ["EXIT_BAD_INPUT", "EXIT_INTERRUPTED", "EXIT_PARTIAL", "LazyGroup", "main"]

EXIT_PARTIAL = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

# name -> (module with `command`, one line for --help), so that --help imports none of them
_COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("pogson.cli.run", "Calibrate exposures: measure, zero points, catalogues, report."),
    "demo": ("pogson.cli.demo", "Simulate a small survey and calibrate it; compare with truth."),
    "solve": ("pogson.cli.solve", "One calibration of all exposures from the stars they share."),
    "inject": ("pogson.cli.inject", "Put synthetic sources into a calibrated image."),
    "image": ("pogson.cli.image", "Change the state of images, fit backgrounds, resample, add."),
    "scene": ("pogson.cli.scene", "Measure moving objects, transients, binaries over a scene."),
    "stars": ("pogson.cli.stars", "Fit stars with model grids: distances, extinctions, types."),
    "offsets": ("pogson.cli.offsets", "Offsets of photometric bands against stellar models."),
    "fluxcal": ("pogson.cli.fluxcal", "Flux-calibrate fibre spectra with their standard stars."),
    "report": ("pogson.cli.report", "Write the HTML report of a finished run again."),
    "inspect": ("pogson.cli.inspect", "Say in words or JSON what a file's numbers mean."),
    "data": ("pogson.cli.data", "List, fetch and find the real data sets used in examples."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported on use and whose errors are readable.

    Examples
    --------
    >>> main.list_commands(click.Context(main))[0]
    'run'
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of a user's work."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = importlib.import_module(entry[0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown name gets a suggestion."""
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], list(_COMMANDS), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"No command {args[0]!r}; the commands are {', '.join(_COMMANDS)}.{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn pogson's errors into a message and an exit code."""
        import warnings

        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except PogsonError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(EXIT_BAD_INPUT)
        except KeyboardInterrupt:
            click.echo("\nInterrupted; run again to resume.", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except MemoryError as error:
            click.echo(f"Error: Not enough memory: {_one_line(error)}. {_SMALLER}", err=True)
            ctx.exit(EXIT_BAD_INPUT)
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of our output has gone: click's business
                raise
            click.echo(f"Error: {_refused(error)}", err=True)
            ctx.exit(EXIT_BAD_INPUT)


_SMALLER = "Ask for fewer pixels or rows at a time, or for fewer --workers."


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _refused(error: OSError) -> str:
    """Say what the system refused: a permission, a full disk, a folder that is a file."""
    if error.filename is None:
        return f"The system refused to read or write: {_one_line(error)}."
    return (
        f"Cannot read or write {os.fsdecode(error.filename)!r}: {error.strerror}. Check the name, "
        f"its permissions, and that the disk has room."
    )


def _show_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    print(f"Warning: {message}", file=sys.stderr)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="pogson")
def main() -> None:
    """Photometric calibration in which every flux knows what it means."""
