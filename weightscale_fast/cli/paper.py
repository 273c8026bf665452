"""`weightscale paper`: the papers' experiments by name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..paper.experiment import run_preset
from ..paper.page import write_page
from ..paper.presets import AS_CODED, PAPERS, PRESETS, find_preset
from ..paper.results import Row, table
from ..paper.seeds import SeedRuns
from ..paper.summary import summarize
from ..text import count
from .training import add_config_flags, add_loading_flags, given_config

AUGMENTED = {"flip": "flipped", "crop_flip": "cropped and flipped"}
NOT_IN_THE_TEXT = (
    "Flips, crops, and the 2020 paper's batch size and seeds are those of the authors' code: the texts give none.\n"
    "Not as in that code, each data set is normalized by the mean and the deviation of its own training images (there\n"
    "CIFAR is by ImageNet's, and MNIST is not), and the last batch of an epoch is left out where it is not full."
)
CHANGES = ["data", "epochs", "batch_size", "limit", "precision", "every", "device"]


def add_commands(commands: Any) -> None:
    """Add `paper`."""
    paper = commands.add_parser(
        "paper",
        help="run an experiment of the papers, or report on those that were run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="what --as-coded may be, each something that the authors' code did and their text does not say:\n"
        + "\n".join(f"  {name:<12}{text}" for name, text in AS_CODED.items()),
    )
    paper.add_argument("name", nargs="?", metavar="NAME", help="which experiment, see --list")
    paper.add_argument("--list", action="store_true", help="the experiments, with their settings")
    paper.add_argument("--report", type=Path, metavar="ROOT", help="one page of all runs under ROOT: ROOT/paper.html")
    paper.add_argument("--runs", type=Path, default=Path("runs/paper"), metavar="ROOT", help="where the runs go")
    paper.add_argument("--seeds", type=int, metavar="N", help="only the first N of the paper's seeds")
    paper.add_argument("--resume", action="store_true", help="go on after the last whole epoch of the last seed")
    paper.add_argument(
        "--as-coded",
        action="append",
        choices=list(AS_CODED),
        default=[],
        help="do as the authors' code did, see below; may be given several times",
    )
    add_config_flags(paper, CHANGES, default="the paper's")
    add_loading_flags(paper)
    paper.set_defaults(call=run_paper)


def run_paper(arguments: argparse.Namespace) -> None:
    """List, run or report."""
    if arguments.list:
        print(list_presets())
    elif arguments.report is not None:
        print(f"report: {write_page(arguments.report)}")
    elif arguments.name is None:
        raise ValueError("paper needs the NAME of an experiment, --list to see them, or --report ROOT")
    else:
        preset = find_preset(arguments.name)
        folder = run_preset(
            preset,
            arguments.runs,
            seeds=arguments.seeds,
            options=arguments.as_coded,
            changes=given_config(arguments),
            data_root=arguments.data_root,
            download=arguments.download,
            workers=arguments.workers,
            resume=arguments.resume,
        )
        report = summarize(folder)
        print(told(*table([SeedRuns.load(folder)])))
        print(f"report: {report}")
        if not arguments.as_coded:
            print(f"beside the paper's: weightscale paper --report {arguments.runs}")


def told(row: Row) -> str:
    """The row of the paper's table that a run gives."""
    accuracies = ", ".join(
        f"{name.replace('_', ' ').replace('top', 'top-')} {values.mean():.1%}"
        + (f" ± {100 * values.std():.1f}" if len(values) > 1 else "")
        for name, values in row.accuracy.items()
    )
    paper = "" if row.published is None else f" (the paper: {row.published:.1%})"
    about = f"{row.network} on {row.data}, {row.images} images, {row.epochs} epochs, {count(row.seeds, 'seed')}"
    as_coded = f", as coded ({', '.join(row.as_coded)})" if row.as_coded else ""
    left_out = "".join(f"; seed {seed} {reason}, and is left out" for seed, reason in row.left_out.items())
    return f"{about}{as_coded}: {accuracies}{paper}{left_out}"


def list_presets() -> str:
    """A line for each preset, by paper."""
    lines = []
    for paper, title in PAPERS.items():
        lines.append(f"{title}:")
        for preset in PRESETS.values():
            if preset.paper == paper:
                config = preset.config
                settings = f"{config.optimizer} {config.lr:g}"
                augment = AUGMENTED[config.augment]
                if config.optimizer == "sgd":
                    settings += f", momentum {config.momentum:g}, weight decay {config.weight_decay:g}"
                lines.append(
                    f"  {preset.name:<24} {settings}, {config.epochs} epochs, batch {config.batch_size}, "
                    f"{config.image_size} x {config.image_size}, {augment}, {count(len(preset.seeds), 'seed')}"
                    f"{f' ({preset.note})' if preset.note else ''}"
                )
    return "\n".join([*lines, "", NOT_IN_THE_TEXT])
