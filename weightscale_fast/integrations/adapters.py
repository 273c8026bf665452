"""What a tracker is, and how numbers, pictures, pages and alerts reach TensorBoard, W&B, Trackio and MLflow."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ..errors import WeightScaleError
from ..extras import import_extra

EXTRA = "integrations"
MOST_TAG = 5000  # letters of a tag of MLflow


@runtime_checkable
class Tracker(Protocol):
    """An object to log to. Any object with these three methods is a tracker.

    For `log_finding` it needs a fourth, `alert(title, text, step)`.
    """

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by name, at an optimizer step."""

    def image(self, name: str, png: Path, step: int) -> None:
        """Log a PNG file."""

    def page(self, html: Path) -> None:
        """Log a self-contained HTML page."""


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

    def alert(self, title: str, text: str, step: int) -> None:
        self._writer.add_text(title, text, step)


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

    def alert(self, title: str, text: str, step: int) -> None:
        self._run.alert(title=title, text=f"{text} (step {step:,})")


class _Trackio:
    def __init__(self, run: Any) -> None:
        self._run = run  # or the module, whose functions log to its current run

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def image(self, name: str, png: Path, step: int) -> None:
        self._run.log({name: import_extra("trackio", EXTRA).Image(png)}, step=step)

    def page(self, html: Path) -> None:
        self._run.log_artifact(html, type="report")

    def alert(self, title: str, text: str, step: int) -> None:
        self._run.alert(title=title, text=f"{text} (step {step:,})")


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

    def alert(self, title: str, text: str, step: int) -> None:
        self._client.set_tag(self._run_id, title.replace("/", "."), f"{text} (step {step:,})"[:MOST_TAG])
