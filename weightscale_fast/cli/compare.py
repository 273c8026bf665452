"""`weightscale compare`: where two recorded runs differ, as an exit code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..comparison import compare
from ..comparison.align import ALIGN
from .commands import add_command, run_path, say


def add_commands(commands: Any) -> None:
    """Add `compare`."""
    command = add_command(
        commands,
        "compare",
        "say where two recorded runs differ first, as an exit code",
        "Prints the first step and layers at which two runs differ, how the difference goes on, and what the runs were "
        "given differently. The exit code is 0 if they are the same, 1 if they differ, and 2 if they cannot be "
        "compared. It writes nothing unless --out is given.",
        "weightscale compare runs/before runs/after --noise runs/before-again --out compare.html",
    )
    command.add_argument("a", type=run_path, metavar="RUN_A", help="folder of the first run")
    command.add_argument("b", type=run_path, metavar="RUN_B", help="folder of the second run")
    command.add_argument("--noise", type=run_path, nargs="+", metavar="RUN", help="repeats of RUN_A: the noise floor")
    command.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help=r"replace the regular expression OLD in the layers' names of RUN_A, as in ^model\.=; may be repeated",
    )
    command.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="X",
        help="relative difference of the sums up to which the runs are the same (default: 0, the same bits)",
    )
    command.add_argument(
        "--align", default="auto", metavar="BY", help=f"which rows belong together: {', '.join(ALIGN)} (default: auto)"
    )
    command.add_argument("--out", type=Path, metavar="FILE", help="write a page with a map and curves: a .html")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(call=run_compare)


def run_compare(arguments: argparse.Namespace) -> int:
    """Compare two recorded runs."""
    if arguments.out is not None and arguments.out.suffix != ".html":
        raise ValueError(f"--out must be a .html, got {str(arguments.out)!r}")
    if arguments.out is not None and not arguments.out.absolute().parent.is_dir():
        raise ValueError(f"--out must be in a folder that exists, got {str(arguments.out)!r}: make the folder first")
    comparison = compare(
        arguments.a,
        arguments.b,
        arguments.noise,
        layer_map=dict(map(_replacement, arguments.map)),
        tolerance=arguments.tolerance,
        align=arguments.align,
    )
    if arguments.json:
        print(comparison.to_json())
    else:
        say(str(comparison))
    if arguments.out is not None:
        comparison.write_page(arguments.out)
        if not arguments.json:
            say(f"page: {arguments.out}")
    return int(not comparison.same)


def _replacement(text: str) -> tuple[str, str]:
    old, equals, new = text.rpartition("=")
    if not equals or not old:
        raise ValueError(rf"--map must be OLD=NEW, a regular expression and what replaces it, got {text!r}")
    return old, new
