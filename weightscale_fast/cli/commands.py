"""What every command of the command line has: a line of help, a description, and an example."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import WeightScaleError
from ..record.history import RWCHistory
from ..record.new_run import local_path
from ..record.run_folder import META
from ..text import count, printable

MOST_RUNS = 8  # names in a message


def add_command(
    commands: Any, name: str, title: str, description: str, example: str, **options: Any
) -> argparse.ArgumentParser:
    """Add a command, and return its parser.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned.
        name: the name of the command.
        title: one line for the list of all commands.
        description: what the command does, and what it writes.
        example: a command line to copy.
        options: further arguments of `ArgumentParser`.
    """
    example = f"example: {example}"
    options["epilog"] = f"{example}\n\n{options['epilog']}" if "epilog" in options else example
    parser: argparse.ArgumentParser = commands.add_parser(name, help=title, description=description, **options)
    return parser


def run_path(text: str) -> Path:
    """The type of a flag that names a run folder. It keeps the path as it was given, for the output."""
    try:
        local_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(text)


def say(text: str) -> None:
    """Print a line. Names come from a file: they must not steer the terminal, and it may lack some of their letters."""
    text = "\n".join(map(printable, text.split("\n")))
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def load_run(run: Path) -> RWCHistory:
    """The record of a run, which must have rows.

    Raises:
        WeightScaleError: it has none, or is no run folder.
    """
    _check_is_run(run)
    history = RWCHistory.load(run)
    if not len(history):
        raise WeightScaleError(
            f"{run} has no row on disk yet: a monitor writes its rows after 256 of them, after a minute, at "
            "monitor.flush() and at monitor.close(); try again then"
        )
    return history


def _check_is_run(folder: Path) -> None:
    """Raise `WeightScaleError` if the folder is no run but holds runs. The message names them."""
    if (folder / META).exists():
        return
    runs = sorted(meta.parent.name for meta in folder.glob(f"[!.]*/{META}"))
    if runs:
        names = ", ".join(runs[:MOST_RUNS]) + (", ..." if len(runs) > MOST_RUNS else "")
        raise WeightScaleError(f"{folder} is not a run folder, but holds {count(len(runs), 'run')}: {names}; name one")
