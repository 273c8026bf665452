"""RWCCallback: the record of a Lightning training run."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WeightScaleError
from ..extras import import_extra
from ..health.finding import Finding
from ..health.tracked import summarize
from ..monitor import RWCMonitor
from ..record.history import RWCHistory
from ..weights.layers import LayerSelector, select_layers
from .resume import start_monitor

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from torch.optim import Optimizer
else:
    _only_old_name = find_spec("lightning") is None and find_spec("pytorch_lightning") is not None
    Callback = import_extra("pytorch_lightning" if _only_old_name else "lightning.pytorch", "integrations").Callback


class RWCCallback(Callback):
    """Record the relative weight change of every layer after each real step of the optimizer.

    Accumulated batches and steps that a gradient scaler skips leave no row. Checkpoints hold the state of the record,
    so that `trainer.fit(ckpt_path=...)` goes on with no hole, no double row and no false first value. The trainer's
    loggers get the eight numbers of `summarize` every `log_every_n_steps` steps.

    With several processes they share the counting, as `RWCMonitor` says; `history()` is then for all of them to call
    until training ends, and afterwards the first has the record of `run_dir`.

    With several optimizers (manual optimization, GANs) each has a record of its own, of the layers it trains and after
    its own steps, in `run_dir/optimizer_0` and so on: in one record of all, most values would be zeros.

    Args:
        run_dir: a new folder for the record; None keeps it in memory. Where training goes on from a checkpoint, that
            run's folder.
        every: as for `RWCMonitor`, and so are `layers`, `definition` and `on_finding`.

    Raises:
        WeightScaleError: Lightning is not installed; and when training starts, what `RWCMonitor` raises.

    Example:
        `Trainer(callbacks=[RWCCallback("runs/first")])`, and after `fit` `weightscale analyze runs/first`
    """

    def __init__(
        self,
        run_dir: str | Path | None = None,
        *,
        every: int = 1,
        layers: LayerSelector = None,
        definition: str = "norm_ratio",
        on_finding: Callable[[Finding], object] | None = None,
    ) -> None:
        super().__init__()
        self.monitors: list[RWCMonitor] = []  # one for each optimizer that trains layers, once training started
        self._run_dir = None if run_dir is None else Path(run_dir)
        self._layers = layers
        self._options: dict[str, Any] = {"every": every, "definition": definition}  # what tells two callbacks apart
        self._on_finding = on_finding
        self._loaded: list[dict[str, Any]] = []  # the monitors' states in the checkpoint
        self._logged: list[int] = []  # the last step of each monitor that the loggers know

    @property
    def state_key(self) -> str:
        """Tells several of these callbacks apart in one checkpoint, as one a step and one an epoch."""
        layers = self._layers if isinstance(self._layers, str) else None  # what else it may be has no lasting name
        return self._generate_state_key(**self._options, layers=layers)

    def history(self, optimizer: int = 0) -> RWCHistory:
        """Everything recorded so far; where there are several optimizers, of the one with this number.

        Raises:
            WeightScaleError: training has not started, or trains layers with fewer optimizers.
        """
        if not 0 <= optimizer < len(self.monitors):
            raise WeightScaleError(
                f"optimizer must be one of the {len(self.monitors)} recorded, got {optimizer}; none is before training"
            )
        return self.monitors[optimizer].history()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget what a checkpoint for testing brought: the next training does not go on from there."""
        self._loaded = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the snapshots: weights, checkpoint and optimizers are in place now."""
        chosen = _layers_by_optimizer(pl_module, trainer.optimizers, self._layers)
        monitors = []
        model = pl_module if trainer.model is None else trainer.model  # in its wrapper, which names the processes
        for i, (optimizer, layers) in enumerate(chosen):
            run_dir = self._run_dir if self._run_dir is None or len(chosen) == 1 else self._run_dir / f"optimizer_{i}"
            monitor = start_monitor(
                model,
                optimizer,
                step=trainer.global_step,
                state=self._loaded[i] if i < len(self._loaded) else None,
                earlier=self.monitors[i] if i < len(self.monitors) else None,
                run_dir=run_dir,
                layers=layers,
                on_finding=self._on_finding,
                **self._options,
            )
            monitors.append(monitor)
        self.monitors, self._loaded = monitors, []
        self._logged = [monitor.step for monitor in monitors]
        self._interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # it is set from elsewhere

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Sum up for the loggers, when it is time."""
        if sum(monitor.step for monitor in self.monitors) - sum(self._logged) >= self._interval:
            self._log(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is left."""
        self._log(trainer)
        for monitor in self.monitors:
            monitor.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what was recorded until then."""
        for monitor in self.monitors:
            monitor.abandon()

    def state_dict(self) -> dict[str, Any]:
        """The records' part of a checkpoint; without `run_dir`, the records themselves."""
        return {"monitors": [monitor.checkpoint_state() for monitor in self.monitors]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until training starts: here the model may not be where it will be trained."""
        self._loaded = state_dict["monitors"]

    def _log(self, trainer: Trainer) -> None:
        if not trainer.loggers:
            return
        for i, monitor in enumerate(self.monitors):
            history = monitor.recent(after=self._logged[i])
            if len(history):
                values = summarize(history, "rwc" if len(self.monitors) == 1 else f"rwc_optimizer_{i}")
                for logger in trainer.loggers:
                    logger.log_metrics(values, step=trainer.global_step)
                self._logged[i] = int(history.steps[-1])


def _layers_by_optimizer(
    module: LightningModule, optimizers: list[Optimizer], layers: LayerSelector
) -> list[tuple[Optimizer, LayerSelector]]:
    """The optimizers and which layers to record after each one's steps: those it trains, where there are several."""
    if len(optimizers) == 1:
        return [(optimizers[0], layers)]
    chosen = select_layers(module, layers)
    pairs: list[tuple[Optimizer, LayerSelector]] = []
    for optimizer in optimizers:
        trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        names = frozenset(name for name, parameter in chosen.items() if id(parameter) in trained)
        if names:
            pairs.append((optimizer, _named(names)))
    return pairs


def _named(names: frozenset[str]) -> LayerSelector:
    return lambda name, _: name in names
