"""See every layer of a network learn, at every optimizer step, for about the price of copying the weights.

Measure:
    snapshot: a copy of every layer's weights, as a `Snapshot`.
    fast_rwc: the relative weight change of every layer since the snapshot, and the snapshot brought up to date.
    layer_sums: the sums behind it, as `LayerSums`.

Record a training run:
    RWCMonitor: records every optimizer step.
    RWCHistory: what was recorded; `RWCHistory.load(run_dir)` reads a run folder.
    master_weights: records the float32 master weights of a 16-bit model.

Optimizers that record:
    optim: SGD, Adam and AdamW, which measure the change of every weight as they write it.

Check its health:
    check_health: the findings of a history, each a `Finding`: what is wrong, since when, and why.
    RunSummary: what `RWCMonitor.summary()` returns.
    assert_learns: for a test of a training loop, raises if a layer does not move, and says why.

Explain it:
    cluster_layers: layers that behave alike, as `LayerClusters`.
    group_layers, cluster_groups: layers by kind, by stage or by name; and each group clustered by itself.
    load_curves: the curves of a run folder or of a file.
    figures: the figures of the papers, and more.
    write_report: one HTML page of a run.

Compare two runs:
    compare: where they differ first, in which layers, and how it goes on, as a `Comparison`.

What is named here is public, and so are `figures`, `integrations` and `optim`. All other modules may change at any
time.
Errors of this package are `WeightScaleError`, `ValueError` or `TypeError`.
"""

from . import figures, optim
from .analysis import LayerClusters, cluster_layers, load_curves
from .analysis.groups import cluster_groups, group_layers
from .comparison import Comparison, compare
from .errors import WeightScaleError
from .functional import LayerSums, fast_rwc, layer_sums
from .health.check import check_health
from .health.finding import Finding
from .health.learns import assert_learns
from .health.summary import RunSummary
from .monitor import RWCMonitor
from .record.history import RWCHistory
from .report.write import write_report
from .weights.masters import master_weights
from .weights.snapshot import Snapshot, snapshot

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Finding",
    "LayerClusters",
    "LayerSums",
    "RWCHistory",
    "RWCMonitor",
    "RunSummary",
    "Snapshot",
    "WeightScaleError",
    "assert_learns",
    "check_health",
    "cluster_groups",
    "cluster_layers",
    "compare",
    "fast_rwc",
    "figures",
    "group_layers",
    "layer_sums",
    "load_curves",
    "master_weights",
    "optim",
    "snapshot",
    "write_report",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
