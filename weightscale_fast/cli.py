"""The command line: `weightscale demo | train | analyze | info`."""

from __future__ import annotations

import argparse
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from .analysis import LayerClusters, cluster_layers
from .errors import WeightScaleError
from .history import RWCHistory
from .report import write_report
from .rwc.op import BACKENDS, choose_backend, load_backend
from .train import TrainConfig, train
from .train.loop import PER_EPOCH

PACKAGES = ("torch", "triton", "numpy", "safetensors", "scikit-learn", "matplotlib", "timm", "torchvision")


def build_parser() -> argparse.ArgumentParser:
    """Every command with its flags."""
    parser = argparse.ArgumentParser(
        prog="weightscale", description="Record how much every layer of a network moves at every step, and explain it."
    )
    parser.add_argument("--version", action="version", version=metadata.version("weightscale_fast"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train ResNet-50 on 5,000 MNIST digits for three minutes, and explain it")
    demo.add_argument("--run", type=Path, help="folder of the run (default: runs/demo, or the next free name)")
    demo.set_defaults(call=run_demo)

    train = commands.add_parser(
        "train",
        help="train any timm model, recording every step",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train.add_argument("run", type=Path, metavar="RUN", help="folder of the run, a new one")
    _add_train_flags(train)
    train.set_defaults(call=run_train)

    analyze = commands.add_parser("analyze", help="cluster the layers of a recorded run, and write its report")
    analyze.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    analyze.add_argument("--k", default="auto", help="clusters: a number, or auto for the chord rule (default)")
    analyze.add_argument("--outliers", default="two_sigma", help="two_sigma (default), none, mad or log")
    analyze.add_argument("--space", default="raw", help="cluster the raw curves (raw, default) or their 2-D map (pca)")
    analyze.add_argument("--layers", metavar="REGEX", help="only the layers whose name matches")
    analyze.add_argument("--steps", metavar="FIRST:LAST", help="only the steps from FIRST to LAST")
    analyze.add_argument("--seed", type=int, default=0)
    analyze.set_defaults(call=run_analyze)

    info = commands.add_parser("info", help="which backends and packages work here, and why the others do not")
    info.set_defaults(call=run_info)
    return parser


def _add_train_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for each field of TrainConfig, with its default."""
    helps = {
        "model": "a timm name",
        "data": "mnist-5k, digits, or a folder with one folder of images a class",
        "optimizer": "adam, adamw or sgd",
        "momentum": "of sgd",
        "image_size": "resize the images to this many pixels square",
        "definition": "norm_ratio or mean_ratio",
        "every": "steps between two rows of the record",
    }
    kinds = {"str": str, "int": int, "int | None": int, "float": float}
    for field in fields(TrainConfig):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=kinds[str(field.type)], default=field.default, help=helps.get(field.name, " "))


def run_demo(arguments: argparse.Namespace) -> None:
    """Train the demo's network and analyze it."""
    run = arguments.run or _free_name(Path("runs/demo"))
    config = TrainConfig()
    print(
        f"{config.model} on {config.data}, {config.optimizer} {config.lr}, {config.epochs} epochs; recording to {run}"
    )
    analyze(train(config, run))


def run_train(arguments: argparse.Namespace) -> None:
    """Train, then say how to analyze."""
    names = {field.name for field in fields(TrainConfig)}
    config = TrainConfig(**{name: value for name, value in vars(arguments).items() if name in names})
    run = train(config, arguments.run)
    print(f"recorded to {run}; now: weightscale analyze {run}")


def run_analyze(arguments: argparse.Namespace) -> None:
    """Analyze a recorded run."""
    k = arguments.k
    if k != "auto":
        try:
            k = int(k)
        except ValueError:
            raise ValueError(f"--k must be a number or auto, got {k!r}") from None
    analyze(
        arguments.run,
        layers=arguments.layers,
        steps=arguments.steps,
        k=k,
        outliers=arguments.outliers,
        space=arguments.space,
        seed=arguments.seed,
    )


def analyze(run: Path, *, layers: str | None = None, steps: str | None = None, **options: object) -> Path:
    """Cluster the layers of the run, write RUN/analysis/, print what a person wants to read; the report's path."""
    history = RWCHistory.load(run).select(layers)
    if steps is not None:
        history = history.select(steps=_row_slice(history, steps))
    clusters = cluster_layers(history, **options)  # type: ignore[arg-type]
    per_epoch = RWCHistory.load(run / PER_EPOCH).select(layers) if (run / PER_EPOCH).exists() else None
    report = write_report(history, clusters, run / "analysis", per_epoch=per_epoch)
    _print_clusters(history, clusters)
    print(f"report: {report}")
    return report


def _print_clusters(history: RWCHistory, clusters: LayerClusters) -> None:
    print(f"{len(history.names)} layers, {history.numel.sum():,} weights, {len(history):,} recorded steps")
    print(f"{clusters.k} clusters ({clusters.k_reason}; stability {clusters.stability:.2f}), by their median RWC:")
    for label in range(clusters.k):
        members = clusters.rows[clusters.labels == label]
        kinds = Counter(history.kinds[i] for i in members)
        median = float(np.nanmedian(history.rwc[:, members]))
        print(
            f"  {label}: {median:.2e}  {len(members)} layers ({', '.join(f'{n} {kind}' for kind, n in kinds.items())})"
            f" from {history.names[members[0]]} to {history.names[members[-1]]}"
        )


def _row_slice(history: RWCHistory, steps: str) -> slice:
    first, separator, last = steps.partition(":")
    try:
        start = int(history.steps.searchsorted(int(first or 0)))
        stop = int(history.steps.searchsorted(int(last), side="right")) if last else len(history)
    except ValueError:
        separator = ""
    if not separator:
        raise ValueError(f"--steps must be FIRST:LAST, two step numbers, either left out; got {steps!r}")
    return slice(start, stop)


def run_info(arguments: argparse.Namespace) -> None:
    """Print versions, and each backend with the reason where it does not work."""
    print(f"weightscale_fast {metadata.version('weightscale_fast')}, Python {platform.python_version()}")
    for package in PACKAGES:
        try:
            print(f"  {package:<14}{metadata.version(package)}")
        except metadata.PackageNotFoundError:
            print(f"  {package:<14}not installed")
    devices = [torch.device("cpu")]
    if torch.accelerator.is_available():
        devices.append(torch.device(torch.accelerator.current_accelerator().type))  # type: ignore[union-attr]
    for device in devices:
        chosen = choose_backend(device)
        print(f"backends for weights on {device}:")
        for name in BACKENDS:
            backend = load_backend(name)
            print(f"  {name:<14}{backend.refusal(device) or 'works'}{', chosen' if backend is chosen else ''}")


def _free_name(path: Path) -> Path:
    """`path`, or path-2, path-3, ... if it is taken."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


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
            "\nweightscale: stopped; what was recorded is kept, and `weightscale analyze RUN` reads it", file=sys.stderr
        )
        return 130
    return 0
