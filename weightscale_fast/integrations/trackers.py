"""Log summaries and figures to TensorBoard, Weights & Biases, Trackio and MLflow."""

from __future__ import annotations

import shutil
import time
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..errors import WeightScaleError
from ..extras import import_extra
from ..health.tracked import summarize
from ..record.history import RWCHistory

FIGURES = ("clustered_curves", "heat_map")  # the two figures of the report that say most without its text
EXTRA = "integrations"


@runtime_checkable
class Tracker(Protocol):
    """An object to log to. Any object with these three methods is a tracker."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by name, at an optimizer step."""

    def image(self, name: str, png: Path, step: int) -> None:
        """Log a PNG file."""

    def page(self, html: Path) -> None:
        """Log a self-contained HTML page."""


def log_summary(history: RWCHistory, tracker: Any, step: int | None = None, *, prefix: str = "rwc") -> None:
    """Log the eight numbers of `summarize`.

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


def tracker_for(target: Any) -> Tracker:
    """The `Tracker` that logs to `target`. `log_summary` lists what `target` may be."""
    if isinstance(target, Tracker):
        return target
    if hasattr(target, "add_scalar"):
        return _TensorBoard(target)
    is_module = isinstance(target, ModuleType)
    package = (target.__name__ if is_module else type(target).__module__).partition(".")[0]
    if package == "wandb":
        return _WandB(_started(target.run if is_module else target, "wandb.init()"))
    if package == "trackio":
        return _Trackio(target)
    if package == "mlflow":
        run = _started(target.active_run() if is_module else target, "mlflow.start_run()")
        return _MLflow(import_extra("mlflow", EXTRA).MlflowClient(), run.info.run_id)
    if isinstance(target, tuple) and len(target) == 2 and hasattr(target[0], "log_batch"):
        return _MLflow(*target)
    if hasattr(target, "experiment"):  # a Lightning logger; MLflow's is a client, which serves many runs
        experiment = target.experiment
        return tracker_for((experiment, target.run_id) if hasattr(experiment, "log_batch") else experiment)
    raise TypeError(
        "tracker must be a TensorBoard SummaryWriter, wandb, trackio, mlflow, a run of one of these, a Lightning "
        f"logger of one of these, or an object with scalars, image and page; got {type(target).__name__}"
    )


def _started(run: Any, how: str) -> Any:
    if run is None:
        raise WeightScaleError(f"no run is active to log to: call {how} first")
    return run


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, name: str, png: Path, step: int) -> None:
        with import_extra("PIL.Image", "plots").open(png) as image:
            self._writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def page(self, html: Path) -> None:
        shutil.copy(html, self._writer.log_dir)  # TensorBoard shows no pages


class _WandB:
    """The steps are the metric `rwc/step`. W&B's own step only rises, so W&B would drop values at earlier steps."""

    def __init__(self, run: Any) -> None:
        self._run = run
        run.define_metric("rwc*", step_metric="rwc/step")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for prefix in {name.partition("/")[0] for name in values if not name.startswith("rwc")}:
            self._run.define_metric(f"{prefix}*", step_metric="rwc/step")
        self._run.log({**values, "rwc/step": step})

    def image(self, name: str, png: Path, step: int) -> None:
        self._run.log({name: import_extra("wandb", EXTRA).Image(str(png)), "rwc/step": step})

    def page(self, html: Path) -> None:
        self._run.log({"rwc/report": import_extra("wandb", EXTRA).Html(str(html), inject=False)})


class _Trackio:
    def __init__(self, run: Any) -> None:
        self._run = run  # or the module, whose functions log to its current run

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def image(self, name: str, png: Path, step: int) -> None:
        self._run.log({name: import_extra("trackio", EXTRA).Image(png)}, step=step)

    def page(self, html: Path) -> None:
        self._run.log_artifact(html, type="report")


class _MLflow:
    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self._run_id = client, run_id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        metric, now = import_extra("mlflow.entities", EXTRA).Metric, int(time.time() * 1000)
        self._client.log_batch(self._run_id, [metric(name, value, now, step) for name, value in values.items()])

    def image(self, name: str, png: Path, step: int) -> None:
        self._client.log_artifact(self._run_id, str(png), "rwc")

    def page(self, html: Path) -> None:
        self._client.log_artifact(self._run_id, str(html), "rwc")
