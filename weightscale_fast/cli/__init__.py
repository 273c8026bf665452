"""The command line: `weightscale demo | train | analyze | plot | check | compare | paper | info`.

Each module adds its commands to the parser. A command is a function that takes the parsed arguments. It may return the
exit code; None is 0.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from ..errors import WeightScaleError
from . import analysis, check, compare, info, paper, training


def build_parser() -> argparse.ArgumentParser:
    """The parser, with every command and its flags."""
    parser = argparse.ArgumentParser(
        prog="weightscale", description="Record how much every layer of a network moves at every step, and explain it."
    )
    parser.add_argument("--version", action="version", version=metadata.version("weightscale_fast"))
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for module in (training, analysis, check, compare, paper, info):
        module.add_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Without a command, print the help.

    Returns:
        0 if all went well; 2 after a message that says what was wrong; 1 if a file could not be read or written, if
        `check` found something, or if `compare` found a difference; 130 after Ctrl-C; 141 if the reader of the output
        went away, as `head` does.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0
    name = f"weightscale {arguments.command}"
    try:
        code: int | None = arguments.call(arguments)
        sys.stdout.flush()
    except (ValueError, WeightScaleError) as error:
        print(f"weightscale: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        _drop_output()
        print(f"{name}: stopped, because the reader of its output went away", file=sys.stderr)
        return 141
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        print(f"{name}: {error}; nothing that was recorded is lost", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{name}: stopped{_what_is_kept(arguments)}", file=sys.stderr)
        return 130
    return code or 0


def _drop_output() -> None:
    """Send what is left of the output nowhere. Python flushes it once more at its end, and that would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _what_is_kept(arguments: argparse.Namespace) -> str:
    """Where an interrupted command has left its record, and how to go on. Each line is short."""
    if arguments.command in ("demo", "train") and arguments.run is not None and arguments.run.exists():
        return (
            f"; what was recorded is kept in\n  {arguments.run}\nTo read it:\n  weightscale analyze {arguments.run}\n"
            f"To go on:\n  weightscale train {arguments.run} --resume"
        )
    if arguments.command == "paper" and arguments.name is not None and arguments.runs.exists():
        return f"; what was recorded is kept in\n  {arguments.runs}\nTo go on, give the same command with --resume"
    return ""
