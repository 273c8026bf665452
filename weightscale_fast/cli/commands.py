"""What every command of the command line has: a line of help, a description, and an example."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..record.new_run import local_path


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
