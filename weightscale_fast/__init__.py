"""See every layer of a network learn, at every optimizer step, for about the price of copying the weights."""

from . import figures as figures
from .analysis import LayerClusters as LayerClusters
from .analysis import cluster_layers as cluster_layers
from .errors import WeightScaleError as WeightScaleError
from .finding import Finding as Finding
from .health import check_health as check_health
from .history import RWCHistory as RWCHistory
from .masters import master_weights as master_weights
from .monitor import RWCMonitor as RWCMonitor
from .report import write_report as write_report
from .run_summary import RunSummary as RunSummary
from .snapshot import Snapshot as Snapshot
from .snapshot import snapshot as snapshot
from .sums import LayerSums as LayerSums
from .sums import fast_rwc as fast_rwc
from .sums import layer_sums as layer_sums
