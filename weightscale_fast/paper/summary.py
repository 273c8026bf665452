"""The analysis of a preset's runs: one report about the mean curves, and how much the seeds differ.

ROOT/<network>-<data>/analysis/    report.html and its files; blocks.png, blocks.svg; spread.csv
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..analysis import LayerClusters, cluster_layers
from ..analysis.groups import cluster_groups, group_layers
from ..extras import import_extra
from ..figures.save import save_figure
from ..figures.style import rwc_unit
from ..files import write_csv
from ..report.write import write_report
from .block_curves import BlockRuns, block_curves
from .blocks import blocks_of
from .seeds import SeedRuns


def summarize(folder: str | Path) -> Path:
    """Analyze the mean over the seeds of the runs in `folder`. For EfficientNet, also cluster each primitive by itself.

    `spread.csv` has the cluster of each layer, and the mean and standard deviation over the seeds of its RWC, which is
    the mean over the epochs.

    Returns:
        The path of the report.

    Raises:
        WeightScaleError: no run has a whole epoch, or scikit-learn or matplotlib is missing.

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
    save_figure(figure, analysis / "blocks.svg", analysis / "blocks.png")
    _write_spread(analysis / "spread.csv", runs, clusters)
    return report


def block_runs(runs: SeedRuns) -> BlockRuns:
    """The runs and the parts of their network, for `block_curves`."""
    history = runs.histories[0]
    return BlockRuns(runs.rwc, blocks_of(runs.network, history.names, history.kinds))


def agreement(runs: SeedRuns, clusters: LayerClusters) -> float:
    """How much the seeds' clusters agree: the mean adjusted Rand index of the runs, each clustered by itself into k.

    It is 1 if every seed groups the layers in the same way, about 0 for random groups, and NaN for a single seed.
    """
    metrics = import_extra("sklearn.metrics", "analysis")
    labels = [cluster_layers(history, k=clusters.k).labels for history in runs.histories]
    pairs = [metrics.adjusted_rand_score(one, other) for i, one in enumerate(labels) for other in labels[:i]]
    return float(np.mean(pairs)) if pairs else float("nan")


def _write_spread(path: Path, runs: SeedRuns, clusters: LayerClusters) -> None:
    history = runs.histories[0]
    levels = np.ma.masked_invalid(runs.rwc).mean(axis=1)  # [R, L]
    label_of = dict(zip(clusters.rows.tolist(), clusters.labels.tolist(), strict=True))
    labels = [label_of.get(i, "") for i in range(len(history.names))]
    rows = zip(
        history.names, history.kinds, labels, levels.mean(axis=0).tolist(), levels.std(axis=0).tolist(), strict=True
    )
    header = ("name", "kind", "cluster", "mean_rwc", f"standard_deviation_over_{len(levels)}_seeds")
    write_csv(path, header, rows)
