"""`weightscale analyze` and `weightscale plot`: what a recorded run shows."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..analysis import LayerClusters, cluster_layers
from ..analysis.groups import cluster_groups, group_layers
from ..analysis.medians import finite_median
from ..analysis.result import OUTLIER
from ..analysis.usable import finite_part, left_out_of_clusters, made_part
from ..figures.by_name import FROM_HISTORY, check_figure, draw
from ..figures.by_name import NAMES as FIGURES
from ..figures.save import FORMATS, save_figure
from ..figures.style import labels_of
from ..files import check_own_folder
from ..health.check import check_health
from ..record.history import RWCHistory
from ..report.write import write_report
from ..text import count
from ..train.loop import PER_EPOCH
from .check import print_findings
from .commands import add_command, load_run, run_path, say


def add_commands(commands: Any) -> None:
    """Add `analyze` and `plot`."""
    analyze = add_command(
        commands,
        "analyze",
        "cluster the layers of a recorded run, and write its report",
        "Says what is wrong with a recorded run, clusters its layers by how much they move, and writes a page, figures "
        "and tables to RUN/analysis.",
        "weightscale analyze runs/first --by kind",
    )
    analyze.add_argument("run", type=run_path, metavar="RUN", help="folder of the run")
    analyze.add_argument("--out", type=Path, metavar="DIR", help="where to write the report (default: RUN/analysis)")
    _add_analysis_flags(analyze)
    analyze.set_defaults(call=run_analyze)

    plot = add_command(
        commands,
        "plot",
        "draw one figure of a recorded run, or the maps of several",
        "Draws one figure of a recorded run, or the maps of several runs, and writes it to RUN/analysis/NAME.png.",
        "weightscale plot runs/first --figure heat_map --out heat.svg",
    )
    plot.add_argument("runs", type=run_path, nargs="+", metavar="RUN", help="folder of the run")
    plot.add_argument("--figure", required=True, metavar="NAME", help=f"one of {', '.join(FIGURES)}")
    plot.add_argument("--out", type=Path, metavar="FILE", help="a .png, .svg or .pdf (default: RUN/analysis/NAME.png)")
    _add_analysis_flags(plot)
    plot.set_defaults(call=run_plot)


def _add_analysis_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what to cluster and how: see `cluster_layers`."""
    parser.add_argument("--k", default="auto", help="clusters: a number, or auto for the chord rule (default)")
    parser.add_argument("--recipe", help="weightscale: exactly what the authors did")
    parser.add_argument("--scale", default="auto", help="linear, log, or auto: log where layers are decades apart")
    parser.add_argument("--outliers", default="two_sigma", help="two_sigma (default), none, mad or log")
    parser.add_argument("--space", default="raw", help="cluster the raw curves (raw, default) or their 2-D map (pca)")
    parser.add_argument("--method", default="kmeans", help="kmeans (default), or hdbscan, which names outlier layers")
    parser.add_argument(
        "--by", metavar="GROUPS", help="cluster each group apart: kind, stage or a REGEX with one (group)"
    )
    parser.add_argument("--layers", metavar="REGEX", help="only the layers whose name matches")
    parser.add_argument("--steps", metavar="FIRST:LAST", help="only the steps from FIRST to LAST")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random starts of k-means (default: 0)")


def run_analyze(arguments: argparse.Namespace) -> None:
    """Analyze a recorded run."""
    selection = {"layers": arguments.layers, "steps": arguments.steps}
    analyze(arguments.run, by=arguments.by, out=arguments.out, **selection, **_cluster_options(arguments))


def run_plot(arguments: argparse.Namespace) -> None:
    """Draw one figure. Only what the figure shows is computed."""
    check_figure(arguments.figure, len(arguments.runs))
    out = arguments.out or arguments.runs[0] / "analysis" / f"{arguments.figure}.png"
    if out.suffix not in FORMATS:
        raise ValueError(f"--out must be a .png, .svg or .pdf, got {str(out)!r}")
    if arguments.out is None:
        check_own_folder(out.parent)
    options = _cluster_options(arguments)
    runs = {title: _load(run, arguments.layers, arguments.steps) for title, run in _titles(arguments.runs).items()}
    runs = {title: made_part(history)[0] for title, history in runs.items()}
    if arguments.figure not in FROM_HISTORY:  # the others show clusters
        runs = {title: _finite(title, history) for title, history in runs.items()}
    figure = draw(
        arguments.figure,
        runs,
        lambda history: cluster_layers(history, **options),
        lambda history: _clusters_by(history, arguments.by or "kind", options),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, out)
    say(f"figure: {out}")


def _finite(title: str, history: RWCHistory) -> RWCHistory:
    finite, notes = finite_part(history)
    for note in notes:
        say(f"{title}: {note}")
    return finite


def _titles(runs: list[Path]) -> dict[str, Path]:
    """The runs by the names of their folders. If two folders have the same name, by their paths."""
    names = {run.resolve().name: run for run in runs}
    return names if len(names) == len(runs) else {str(run): run for run in runs}


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
    """The layers and steps of a record that were asked for."""
    history = load_run(run).select(layers)
    return history if steps is None else history.select(steps=_row_slice(history, steps))


def _clusters_by(history: RWCHistory, by: str, options: dict[str, Any]) -> dict[str, LayerClusters | None]:
    return cluster_groups(history, group_layers(history.names, history.kinds, by), **options)


def analyze(
    run: Path,
    *,
    layers: str | None = None,
    steps: str | None = None,
    by: str | None = None,
    out: Path | None = None,
    **options: Any,
) -> Path:
    """Cluster the layers of the run, write the report to `out` or RUN/analysis, and print the main results.

    Returns:
        The path of the page.
    """
    history = _load(run, layers, steps)
    if out is None:
        check_own_folder(run / "analysis")
    finite, notes = finite_part(history)
    # Before anything is printed, because the options may be wrong.
    groups = _clusters_by(finite, by, options) if by is not None else {}
    clusters = cluster_layers(finite, **options)
    say(f"{len(history.names)} layers, {history.numel.sum():,} weights, {len(made_part(history)[0]):,} recorded steps")
    print_findings(history, check_health(history))
    for note in [*notes, *left_out_of_clusters(finite, clusters)]:
        say(note)
    per_epoch = RWCHistory.load(run / PER_EPOCH).select(layers) if (run / PER_EPOCH).exists() else None
    report = write_report(history, clusters, out or run / "analysis", per_epoch=per_epoch, groups=groups, run=run)
    _print_clusters(finite, clusters)
    for group, its_clusters in groups.items():
        say(f"\n{group}: {'too few layers to cluster' if its_clusters is None else ''}".rstrip())
        if its_clusters is not None:
            _print_clusters(finite, its_clusters)
    say(f"report: {report}")
    return report


def _print_clusters(history: RWCHistory, clusters: LayerClusters) -> None:
    sure = "" if np.isnan(clusters.stability) else f"; stability {clusters.stability:.2f}"
    say(f"{clusters.k} clusters ({clusters.k_reason}{sure}), by their median RWC:")
    for label in labels_of(clusters):
        members = clusters.rows[clusters.labels == label]
        kinds = Counter(history.kinds[i] for i in members)
        median = float(finite_median(history.rwc[:, members].ravel(), axis=0))
        say(
            f"  {'outliers' if label == OUTLIER else label}: {median:.2e}  {count(len(members), 'layer')} "
            f"({', '.join(f'{n} {kind}' for kind, n in kinds.items())}){_places([history.names[i] for i in members])}"
        )


def _places(names: list[str]) -> str:
    """Where the layers of a cluster are: one or two names, or the first and the last of more."""
    return f": {', '.join(names)}" if len(names) < 3 else f" from {names[0]} to {names[-1]}"


def _row_slice(history: RWCHistory, steps: str) -> slice:
    first, separator, last = steps.partition(":")
    try:
        start = int(history.steps.searchsorted(int(first or 0)))
        stop = int(history.steps.searchsorted(int(last), side="right")) if last else len(history)
    except ValueError:
        separator = ""
    if not separator:
        raise ValueError(f"--steps must be FIRST:LAST, two step numbers of which one may be left out; got {steps!r}")
    if start >= stop:
        raise ValueError(
            f"--steps {steps} has no recorded step: the record has steps {history.steps[0]:,} to {history.steps[-1]:,}"
        )
    return slice(start, stop)
