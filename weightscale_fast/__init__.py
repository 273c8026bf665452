"""See every layer of a network learn, at every optimizer step, for about the price of copying the weights."""

from . import figures as figures
from .analysis import LayerClusters as LayerClusters
from .analysis import cluster_layers as cluster_layers
from .errors import WeightScaleError as WeightScaleError
from .functional import LayerSums as LayerSums
from .functional import fast_rwc as fast_rwc
from .functional import layer_sums as layer_sums
from .health.check import check_health as check_health
from .health.finding import Finding as Finding
from .health.summary import RunSummary as RunSummary
from .monitor import RWCMonitor as RWCMonitor
from .record.history import RWCHistory as RWCHistory
from .report.write import write_report as write_report
from .weights.masters import master_weights as master_weights
from .weights.snapshot import Snapshot as Snapshot
from .weights.snapshot import snapshot as snapshot
