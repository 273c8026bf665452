"""The command line: `weightscale demo | train | analyze | plot | paper | info`.

Each module adds its commands to the parser; a command is a function of the parsed arguments.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from ..errors import WeightScaleError
from . import analysis, info, paper, training


def build_parser() -> argparse.ArgumentParser:
    """Every command with its flags."""
    parser = argparse.ArgumentParser(
        prog="weightscale", description="Record how much every layer of a network moves at every step, and explain it."
    )
    parser.add_argument("--version", action="version", version=metadata.version("weightscale_fast"))
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for module in (training, analysis, paper, info):
        module.add_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, or print the help where none is named.

    Returns:
        0; 2 after a message on what was wrong; 1 if a file could not be read or written; 130 after Ctrl-C; 141 if
        the reader of the output went away, as `head` does.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0
    try:
        arguments.call(arguments)
        sys.stdout.flush()
    except (ValueError, WeightScaleError) as error:
        print(f"weightscale: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        print(f"weightscale {arguments.command}: ended, because nobody reads its output any more", file=sys.stderr)
        return 141
    except OSError as error:
        print(f"weightscale {arguments.command}: {error}; nothing that was recorded is lost", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\nweightscale: stopped; what was recorded is kept: `weightscale analyze RUN` reads it,\n"
            "and train or paper go on with it by --resume",
            file=sys.stderr,
        )
        return 130
    return 0
