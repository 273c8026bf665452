"""The averaged analysis of a preset's runs: one report of the mean curves, and how far the seeds lie apart.

ROOT/<network>-<data>/analysis/    report.html and its files; blocks.png, blocks.svg; spread.csv
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from ..analysis import LayerClusters, cluster_layers
from ..analysis.groups import cluster_groups, group_layers
from ..extras import import_extra
from ..figures.save import DPI, svg_of
from ..figures.style import rwc_unit
from ..report.write import write_report
from .block_curves import BlockRuns, block_curves
from .blocks import blocks_of
from .seeds import SeedRuns


def summarize(folder: str | Path) -> Path:
    """Analyze the mean over the seeds of the runs in `folder`; of EfficientNet, each primitive apart too.

    `spread.csv` has for each layer its cluster and its RWC, the mean over the epochs: mean and standard deviation over
    the seeds.

    Returns:
        The path of the report.

    Raises:
        WeightScaleError: no run with a whole epoch, or scikit-learn or matplotlib is missing.

    Example:
        `summarize(run_preset(find_preset("resnet18-fashion-mnist"), "runs/paper"))`
    """
    runs = SeedRuns.load(folder)
    mean = runs.mean()
    clusters = cluster_layers(mean)
    primitives = runs.network.startswith("efficientnet")
    groups = cluster_groups(mean, group_layers(mean.names, mean.kinds, "kind")) if primitives else {}
    analysis = runs.folder / "analysis"
    report = write_report(mean, clusters, analysis, groups=groups)
    figure = block_curves({f"{runs.network} on {runs.data}": block_runs(runs)}, ylabel=rwc_unit(runs.histories[0]))
    (analysis / "blocks.svg").write_bytes(svg_of(figure, DPI))
    figure.savefig(analysis / "blocks.png", dpi=DPI)
    _write_spread(analysis / "spread.csv", runs, clusters)
    return report


def block_runs(runs: SeedRuns) -> BlockRuns:
    """The runs and the parts of their network, as `block_curves` takes them."""
    history = runs.histories[0]
    return BlockRuns(runs.rwc, blocks_of(runs.network, history.names, history.kinds))


def agreement(runs: SeedRuns, clusters: LayerClusters) -> float:
    """How alike the seeds' clusters are: the mean adjusted Rand index of the runs, each clustered by itself into k.

    1 where every seed groups the layers the same way, 0 for chance; NaN for a single seed.
    """
    metrics = import_extra("sklearn.metrics", "analysis")
    labels = [cluster_layers(history, k=clusters.k).labels for history in runs.histories]
    pairs = [metrics.adjusted_rand_score(one, other) for i, one in enumerate(labels) for other in labels[:i]]
    return float(np.mean(pairs)) if pairs else float("nan")


def _write_spread(path: Path, runs: SeedRuns, clusters: LayerClusters) -> None:
    history = runs.histories[0]
    levels = np.ma.masked_invalid(runs.rwc).mean(axis=1)  # [R, L]
    label_of = dict(zip(clusters.rows.tolist(), clusters.labels.tolist(), strict=True))
    columns = (history.names, history.kinds, levels.mean(axis=0).tolist(), levels.std(axis=0).tolist())
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("name", "kind", "cluster", "mean_rwc", f"standard_deviation_over_{len(levels)}_seeds"))
        for i, (name, kind, level, deviation) in enumerate(zip(*columns, strict=True)):
            writer.writerow((name, kind, label_of.get(i, ""), level, deviation))
