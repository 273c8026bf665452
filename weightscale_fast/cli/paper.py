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
from .commands import add_command
from .training import add_config_flags, add_loading_flags, given_config

DESCRIPTION = """\
Trains a network of the papers with the paper's settings, once for each seed,
and writes a run folder for each to ROOT/NETWORK-DATA/seed-SEED. The report on
their mean goes to ROOT/NETWORK-DATA/analysis. --report writes one page of all
runs under ROOT."""
AUGMENTED = {"flip": "flipped", "crop_flip": "cropped and flipped"}
NOT_IN_THE_TEXT = (
    "Flips, crops, and the 2020 paper's batch size and seeds are those of the authors' code: the texts give none.\n"
    "Two things differ from that code. Each data set is normalized by the mean and the deviation of its own training\n"
    "images; the code normalizes CIFAR by ImageNet's, and MNIST not at all. The last batch of an epoch is left out if\n"
    "it is not full."
)
CHANGES = ["data", "epochs", "batch_size", "limit", "precision", "every", "device"]


def add_commands(commands: Any) -> None:
    """Add `paper`."""
    paper = add_command(
        commands,
        "paper",
        "run an experiment of the papers, or report on those that were run",
        DESCRIPTION,
        "weightscale paper resnet18-fashion-mnist --epochs 3 --seeds 1 --limit 6000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The values of --as-coded. Each is something that the authors' code did and their text does not say:\n"
        + "\n".join(f"  {name:<12}{text}" for name, text in AS_CODED.items()),
    )
    paper.add_argument("name", nargs="?", metavar="NAME", help="the experiment; --list shows all")
    paper.add_argument("--list", action="store_true", help="list the experiments and their settings")
    paper.add_argument(
        "--report", type=Path, metavar="ROOT", help="write one page of all runs under ROOT: ROOT/paper.html"
    )
    paper.add_argument(
        "--runs", type=Path, default=Path("runs/paper"), metavar="ROOT", help="where the runs go (default: runs/paper)"
    )
    paper.add_argument("--seeds", type=int, metavar="N", help="only the first N of the paper's seeds (default: all)")
    paper.add_argument("--resume", action="store_true", help="go on after the last whole epoch of the last seed")
    paper.add_argument(
        "--as-coded",
        action="append",
        choices=list(AS_CODED),
        default=[],
        help="do what the authors' code did, see below; may be given several times",
    )
    add_config_flags(paper, CHANGES, default="the paper's")
    add_loading_flags(paper)
    paper.set_defaults(call=run_paper)


def run_paper(arguments: argparse.Namespace) -> None:
    """List the experiments, run one, or report on all that were run."""
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
        print(describe(*table([SeedRuns.load(folder)])))
        print(f"report: {report}")
        if not arguments.as_coded:
            print(f"to compare it with the paper: weightscale paper --report {arguments.runs}")


def describe(row: Row) -> str:
    """The result of an experiment in a sentence: a row of the papers' tables."""
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
    """The presets of each paper, a line each."""
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
