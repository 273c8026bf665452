"""RWCCallback: the record of a Lightning training run."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WeightScaleError, check_one_of
from ..extras import import_extra
from ..health.finding import Finding
from ..health.tracked import summarize
from ..monitor import RWCMonitor
from ..record.baseline import BASELINES
from ..record.history import RWCHistory
from ..record.new_run import EXIST, local_path
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

    Accumulated batches make one row. Steps that a gradient scaler skips make no row. Checkpoints contain the state of
    the record, so after `trainer.fit(ckpt_path=...)` the record has no hole, no double row and no false first value.
    The trainer's loggers get the numbers of `summarize` every `log_every_n_steps` steps.

    Several processes record together, as described in `RWCMonitor`. `history()` is then a collective call until
    training ends. Afterwards only the first process has the record of a `run_dir`.

    With several optimizers (manual optimization, GANs), each optimizer has its own record, in `run_dir/optimizer_0` and
    so on. It has the layers that the optimizer trains, and a row for each of its steps. In a record of all optimizers,
    most values would be zero.

    Args:
        run_dir: a new folder for the record; None keeps the record in memory. If training continues from a checkpoint,
            the folder of that run. `Trainer(fast_dev_run=True)` writes no folder.
        exist: what to do if `run_dir` holds an earlier run and training starts anew, as for `RWCMonitor`: `"error"`,
            `"overwrite"`, or `"next"` to record to `run_dir-2` and so on. The monitors' `run_dir` tell the folder.
        every, layers, definition, baseline, on_finding: as for `RWCMonitor`.

    Raises:
        WeightScaleError: Lightning is not installed. When training starts, the errors of `RWCMonitor`.

    Example:
        `Trainer(callbacks=[RWCCallback("runs/first")])`, and after `fit` `weightscale analyze runs/first`
    """

    def __init__(
        self,
        run_dir: str | Path | None = None,
        *,
        exist: str = "error",
        every: int = 1,
        layers: LayerSelector = None,
        definition: str = "norm_ratio",
        baseline: str | None = None,
        on_finding: Callable[[Finding], object] | None = None,
    ) -> None:
        super().__init__()
        check_one_of("exist", exist, EXIST)
        self.monitors: list[RWCMonitor] = []  # one for each optimizer that trains layers; empty before training
        self._run_dir = None if run_dir is None else local_path(run_dir)
        self._exist = exist
        self._layers = layers
        self._options: dict[str, Any] = {"every": every, "definition": definition}  # they are part of state_key
        if baseline is not None:  # a checkpoint of the default has a key without it
            check_one_of("baseline", baseline, BASELINES)
            self._options["baseline"] = baseline
        self._on_finding = on_finding
        self._loaded: list[dict[str, Any]] = []  # the monitors' states in the checkpoint
        self._logged: list[int] = []  # for each monitor, the last step that was logged

    @property
    def state_key(self) -> str:
        """The key of this callback in a checkpoint. It differs for callbacks with other options."""
        layers = self._layers if isinstance(self._layers, str) else None  # a predicate has no lasting name
        return self._generate_state_key(**self._options, layers=layers)

    def history(self, optimizer: int = 0) -> RWCHistory:
        """Everything recorded so far. With several optimizers, the record of the one with this number.

        Raises:
            WeightScaleError: training has not started, or there are fewer optimizers that train layers.
        """
        if not 0 <= optimizer < len(self.monitors):
            raise WeightScaleError(
                f"optimizer must be the number of one of the {len(self.monitors)} recorded, counted from 0, got "
                f"{optimizer}; none is recorded before training starts"
            )
        return self.monitors[optimizer].history()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the state of a checkpoint that was loaded for testing. The next training does not continue from it."""
        self._loaded = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the monitors. The optimizers exist and a checkpoint is loaded by now."""
        chosen = _layers_by_optimizer(pl_module, trainer.optimizers, self._layers)
        monitors = []
        model = pl_module if trainer.model is None else trainer.model  # with its wrapper, which names the processes
        for i, (optimizer, layers) in enumerate(chosen):
            run_dir = None if trainer.fast_dev_run else self._run_dir  # type: ignore[attr-defined]
            if run_dir is not None and len(chosen) > 1:
                run_dir = run_dir / f"optimizer_{i}"
            monitor = start_monitor(
                model,
                optimizer,
                step=trainer.global_step,
                state=self._loaded[i] if i < len(self._loaded) else None,
                earlier=self.monitors[i] if i < len(self.monitors) else None,
                run_dir=run_dir,
                exist=self._exist,
                layers=layers,
                on_finding=self._on_finding,
                **self._options,
            )
            monitors.append(monitor)
        self.monitors, self._loaded = monitors, []
        self._logged = [monitor.step for monitor in monitors]
        self._interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Log a summary every `log_every_n_steps` steps."""
        if sum(monitor.step for monitor in self.monitors) - sum(self._logged) >= self._interval:
            self._log(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log a last summary and close the monitors."""
        self._log(trainer)
        for monitor in self.monitors:
            monitor.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write what was recorded up to the error."""
        for monitor in self.monitors:
            monitor.abandon()

    def state_dict(self) -> dict[str, Any]:
        """The records' part of a checkpoint. Without `run_dir` it contains the records themselves."""
        return {"monitors": [monitor.checkpoint_state() for monitor in self.monitors]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until training starts. At this moment the model may not be on its device yet."""
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
    """Each optimizer with the layers to record after its steps. With several optimizers, those that it trains."""
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
