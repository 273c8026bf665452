"""The command line: `weightscale demo | train | analyze | plot | paper | info`.

Each module adds its commands to the parser; a command is a function of the parsed arguments.
"""

from __future__ import annotations

import argparse
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
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (training, analysis, paper, info):
        module.add_commands(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0, or 2 after a message on what was wrong, or 130 after Ctrl-C."""
    arguments = build_parser().parse_args(argv)
    try:
        arguments.call(arguments)
    except (ValueError, WeightScaleError) as error:
        print(f"weightscale: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nweightscale: stopped; what was recorded is kept: `weightscale analyze RUN` reads it,\n"
            "and train or paper go on with it by --resume",
            file=sys.stderr,
        )
        return 130
    return 0
