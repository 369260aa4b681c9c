"""Run the command line as ``python -m pogson``."""

from __future__ import annotations

from pogson.cli import main

if __name__ == "__main__":
    main(prog_name="pogson")
