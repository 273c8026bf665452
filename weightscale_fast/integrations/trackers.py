"""Log summaries, findings and figures to TensorBoard, Weights & Biases, Trackio and MLflow."""

from __future__ import annotations

import warnings
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any

from ..health.finding import Finding
from ..health.tracked import summarize
from ..record.history import RWCHistory
from .adapters import Tracker, tracker_for

__all__ = ["Tracker", "log_finding", "log_report", "log_summary", "tracker_for"]
FIGURES = ("clustered_curves", "heat_map")  # the two figures of the report that say most without its text


def log_summary(history: RWCHistory, tracker: Any, step: int | None = None, *, prefix: str = "rwc") -> None:
    """Log the numbers of `summarize`.

    Args:
        history: the steps to sum up, such as `RWCMonitor.recent` returns. With several processes all must call
            `recent`, but one process may log alone. If the history is empty, nothing is logged.
        tracker: a TensorBoard `SummaryWriter`; `wandb` or a run of it; `trackio`; `mlflow`, a run of it or
            `(client, run_id)`; a Lightning logger of one of these; or any `Tracker`.
        step: the step to log at. By default the last step of the history.
        prefix: the first part of the names. Two monitors that log to one tracker need one each, such as
            `"rwc_generator"` and `"rwc_critic"`. A warning tells if they have the same.

    Raises:
        TypeError: `tracker` is none of these.
        WeightScaleError: no run of the tracker is active.

    Example:
        `log_summary(monitor.recent(after=monitor.step - 50), writer)`
    """
    tracker = tracker_for(tracker)
    if len(history):
        step, values = int(history.steps[-1]) if step is None else step, summarize(history, prefix)
        _warn_if_mixed(tracker, prefix, history, f"{step} {values}")
        tracker.scalars(values, step)


# {tracker: {prefix: the layers that were logged last, and their step and numbers; None after a warning}}
_logged: weakref.WeakKeyDictionary[Any, dict[str, tuple[object, str] | None]] = weakref.WeakKeyDictionary()


def _warn_if_mixed(tracker: Tracker, prefix: str, history: RWCHistory, numbers: str) -> None:
    """Warn once if the numbers of two monitors go to one tracker under the same names."""
    target = getattr(tracker, "_writer", getattr(tracker, "_run", tracker))
    if isinstance(target, ModuleType):  # its run may have changed
        return
    try:
        logged = _logged.setdefault(target, {})
    except TypeError:  # it cannot be held weakly
        return
    layers = history.names, history.numel.tolist()
    before = logged.get(prefix, (layers, ""))
    if before is None:
        return
    logged[prefix] = layers, numbers
    same_step = before[1].partition(" ")[0] == numbers.partition(" ")[0]
    if before[0] != layers or (same_step and before[1] != numbers):
        logged[prefix] = None
        warnings.warn(
            f"two different records are logged to this tracker as {prefix!r}, so their numbers are mixed: give each "
            "monitor a prefix of its own, such as prefix='rwc_generator'",
            stacklevel=3,
        )


def log_finding(finding: Finding, tracker: Any, *, prefix: str = "rwc") -> None:
    """Tell a tracker what is wrong: an alert of W&B or Trackio, a tag of MLflow, or a text of TensorBoard.

    Args:
        finding: what `RWCMonitor(on_finding=...)` is called with, or one of `check_health`.
        tracker: as for `log_summary`. An object of your own needs `alert(title, text, step)`.
        prefix: the first part of the title, which is `rwc/stopped` for a finding of the kind `"stopped"`.

    Raises:
        TypeError, WeightScaleError: as for `log_summary`.

    Example:
        `RWCMonitor(model, optimizer, on_finding=lambda finding: log_finding(finding, wandb))`
    """
    if not isinstance(finding, Finding):
        raise TypeError(f"finding must be a Finding, as check_health returns, got {type(finding).__name__}")
    tracker = tracker_for(tracker)
    if not hasattr(tracker, "alert"):
        raise TypeError(
            f"tracker must have a method alert(title, text, step) to be told of findings, got {type(tracker).__name__}"
        )
    text = f"{finding}. {finding.advice}" if finding.advice else str(finding)
    tracker.alert(f"{prefix}/{finding.kind}", text, finding.last)


def log_report(page: str | Path, tracker: Any, step: int = 0) -> None:
    """Log a report and two of its figures, the clustered curves and the heat map.

    Args:
        page: the path of `report.html`. `write_report` returns it, and `weightscale analyze` prints it. The figures are
            in the same folder.
        tracker: as for `log_summary`.
        step: the step to log the figures at.

    Raises:
        FileNotFoundError: the page or its figures are not there.
        TypeError, WeightScaleError: as for `log_summary`.

    Example:
        `log_report(wsf.write_report(history, wsf.cluster_layers(history), "runs/first/analysis"), wandb.run)`
    """
    page = Path(page).absolute()
    images = {f"rwc/{name}": page.with_name(f"{name}.png") for name in FIGURES}
    for path in (page, *images.values()):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there: give the report.html that write_report returned")
    tracker = tracker_for(tracker)
    for name, png in images.items():
        tracker.image(name, png, step)
    tracker.page(page)
