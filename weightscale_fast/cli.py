"""The command line: `weightscale demo | train | analyze | plot | info`."""

from __future__ import annotations

import argparse
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .analysis import LayerClusters, cluster_layers
from .errors import WeightScaleError
from .figures.by_name import NAMES as FIGURES
from .figures.by_name import check_figure, draw
from .figures.sampling import finite_median
from .figures.style import OUTLIER, count, labels_of
from .figures.svg import svg_of
from .groups import cluster_groups, group_layers
from .history import RWCHistory
from .report import DPI, write_report
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
    _add_analysis_flags(analyze)
    analyze.set_defaults(call=run_analyze)

    plot = commands.add_parser("plot", help="draw one figure of a recorded run, or the maps of several")
    plot.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of the run")
    plot.add_argument("--figure", required=True, metavar="NAME", help=f"one of {', '.join(FIGURES)}")
    plot.add_argument("--out", type=Path, metavar="FILE", help="a .png or .svg (default: RUN/analysis/NAME.png)")
    _add_analysis_flags(plot)
    plot.set_defaults(call=run_plot)

    info = commands.add_parser("info", help="which backends and packages work here, and why the others do not")
    info.set_defaults(call=run_info)
    return parser


def _add_analysis_flags(parser: argparse.ArgumentParser) -> None:
    """What to cluster and how: see `cluster_layers`."""
    parser.add_argument("--k", default="auto", help="clusters: a number, or auto for the chord rule (default)")
    parser.add_argument("--recipe", help="weightscale: what the authors did, exactly")
    parser.add_argument("--scale", default="auto", help="linear, log, or auto: log where layers are decades apart")
    parser.add_argument("--outliers", default="two_sigma", help="two_sigma (default), none, mad or log")
    parser.add_argument("--space", default="raw", help="cluster the raw curves (raw, default) or their 2-D map (pca)")
    parser.add_argument("--method", default="kmeans", help="kmeans (default), or hdbscan, which names outlier layers")
    parser.add_argument("--by", metavar="GROUPS", help="kind, stage or a REGEX with one (group): each clustered apart")
    parser.add_argument("--layers", metavar="REGEX", help="only the layers whose name matches")
    parser.add_argument("--steps", metavar="FIRST:LAST", help="only the steps from FIRST to LAST")
    parser.add_argument("--seed", type=int, default=0)


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
    selection = {"layers": arguments.layers, "steps": arguments.steps}
    analyze(arguments.run, by=arguments.by, **selection, **_cluster_options(arguments))


def run_plot(arguments: argparse.Namespace) -> None:
    """Draw one figure, computing no more than it shows."""
    check_figure(arguments.figure, len(arguments.runs))
    out = arguments.out or arguments.runs[0] / "analysis" / f"{arguments.figure}.png"
    if out.suffix not in (".png", ".svg"):
        raise ValueError(f"--out must be a .png or .svg, got {str(out)!r}")
    options = _cluster_options(arguments)
    figure = draw(
        arguments.figure,
        {run.resolve().name: _load(run, arguments.layers, arguments.steps) for run in arguments.runs},
        lambda history: cluster_layers(history, **options),
        lambda history: _clusters_by(history, arguments.by or "kind", options),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".svg":
        out.write_bytes(svg_of(figure, DPI))
    else:
        figure.savefig(out, dpi=DPI)
    print(f"figure: {out}")


def _cluster_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The flags that are options of `cluster_layers`."""
    names = ("k", "recipe", "scale", "outliers", "space", "method", "seed")
    options = {name: getattr(arguments, name) for name in names}
    if options["k"] != "auto":
        try:
            options["k"] = int(options["k"])
        except ValueError:
            raise ValueError(f"--k must be a number or auto, got {options['k']!r}") from None
    return options


def _load(run: Path, layers: str | None, steps: str | None) -> RWCHistory:
    history = RWCHistory.load(run).select(layers)
    return history if steps is None else history.select(steps=_row_slice(history, steps))


def _clusters_by(history: RWCHistory, by: str, options: dict[str, Any]) -> dict[str, LayerClusters | None]:
    return cluster_groups(history, group_layers(history.names, history.kinds, by), **options)


def analyze(
    run: Path, *, layers: str | None = None, steps: str | None = None, by: str | None = None, **options: Any
) -> Path:
    """Cluster the layers of the run, write RUN/analysis/, print what a person wants to read; the report's path."""
    history = _load(run, layers, steps)
    groups = _clusters_by(history, by, options) if by is not None else {}
    clusters = cluster_layers(history, **options)
    per_epoch = RWCHistory.load(run / PER_EPOCH).select(layers) if (run / PER_EPOCH).exists() else None
    report = write_report(history, clusters, run / "analysis", per_epoch=per_epoch, groups=groups)
    print(f"{len(history.names)} layers, {history.numel.sum():,} weights, {len(history):,} recorded steps")
    _print_clusters(history, clusters)
    for group, its_clusters in groups.items():
        print(f"\n{group}: {'too few layers to cluster' if its_clusters is None else ''}".rstrip())
        if its_clusters is not None:
            _print_clusters(history, its_clusters)
    print(f"report: {report}")
    return report


def _print_clusters(history: RWCHistory, clusters: LayerClusters) -> None:
    sure = "" if np.isnan(clusters.stability) else f"; stability {clusters.stability:.2f}"
    print(f"{clusters.k} clusters ({clusters.k_reason}{sure}), by their median RWC:")
    for label in labels_of(clusters):
        members = clusters.rows[clusters.labels == label]
        kinds = Counter(history.kinds[i] for i in members)
        median = float(finite_median(history.rwc[:, members].ravel(), axis=0))
        print(
            f"  {'outliers' if label == OUTLIER else label}: {median:.2e}  {count(len(members), 'layer')} "
            f"({', '.join(f'{n} {kind}' for kind, n in kinds.items())})"
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
