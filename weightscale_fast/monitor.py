"""RWCMonitor: records every layer's relative weight change as a model trains."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .definitions import check_definition
from .eager import always_eager
from .errors import WeightScaleError
from .history import RWCHistory
from .kinds import layer_kind
from .layers import LayerSelector
from .recorder import Recorder
from .ring import Ring, is_capturing
from .run_folder import Rows, RunFolder
from .rwc.op import choose_backend, run_plan
from .rwc.plan import sum_dtype
from .snapshot import Snapshot


class RWCMonitor:
    """Record the relative weight change of every layer, in memory or to a run folder.

    Args:
        model: the network.
        optimizer: records by itself after each of its steps, once under gradient accumulation. A step that a gradient
            scaler skips is no step, but for fused optimizers, which are called all the same: it is then a row of 0.
            Without an optimizer, call `record()` where a step ends.
        every: steps between two rows. A row compares with the weights that many steps before, so `every` is the horizon
            too: with the number of steps of an epoch it gives the papers' per-epoch curves.
        layers: which weights are layers, as for `snapshot`.
        definition: `"norm_ratio"` or `"mean_ratio"`, what `history().rwc` will be.
        run_dir: a new folder for the record. Closed shards of it load whatever happens to this process; memory and time
            a step then do not grow with the run.
        settings: anything that JSON can hold about the run (model, data, seed, hyper-parameters); kept in the record.
        resume: go on with an existing `run_dir` after its last row; `load_state_dict` takes it back to a checkpoint.

    Raises:
        ValueError, TypeError: a wrong argument, or no layer in the model.
        WeightScaleError: the run folder exists, cannot be written, or is another run's.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with RWCMonitor(model, optimizer) as monitor:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         model(torch.ones(2, 4)).square().sum().backward()
        ...         optimizer.step()
        >>> history = monitor.history()
        >>> history.steps, history.rwc.shape
        (array([1, 2, 3]), (3, 2))
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        every: int = 1,
        layers: LayerSelector = None,
        definition: str = "norm_ratio",
        run_dir: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        check_definition(definition)
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a whole number of steps, 1 or more, got {every!r}")
        if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer or None, got {type(optimizer).__name__}")
        self.model = model
        self.step = 0
        self._snapshot = Snapshot(model, layers=layers)
        plan, _ = self._snapshot.plan_for(model)
        self._meta: dict[str, Any] = {
            "names": list(self._snapshot.names),
            "numel": list(self._snapshot.numel),
            "kinds": [layer_kind(model, name) for name in self._snapshot.names],
            "definition": definition,
            "every": every,
            "settings": dict(settings or {}),
        }
        sums = 4 if definition == "mean_ratio" else 3
        self._ring = Ring(sums, len(self._snapshot), device=plan.device, dtype=sum_dtype(plan.device))
        self._recorder = Recorder(self._ring, every)
        for group in plan.groups:
            choose_backend(group.device)  # its first use may compile, which a CUDA graph could not hold
        if run_dir is not None:
            self._recorder.write_to(self._open_run(Path(run_dir), resume))
        elif resume:
            raise ValueError("resume=True needs run_dir, the folder of the run to go on with")
        # Rows still in the ring reach the folder even when nobody calls close(): at garbage collection or at exit.
        self._close_recorder = weakref.finalize(self, self._recorder.close)
        self._hook = optimizer.register_step_post_hook(lambda *_: self._after_step()) if optimizer else None

    def _open_run(self, path: Path, resume: bool) -> RunFolder:
        if not resume or not path.exists() or not any(path.iterdir()):
            return RunFolder.create(path, self._meta)
        run = RunFolder.open(path)
        for key in ("names", "numel", "definition", "every"):
            if run.meta[key] != self._meta[key]:
                raise WeightScaleError(
                    f"run folder {path} is of another run: its {key} differ from this monitor's; choose another name"
                )
        self._meta = run.meta
        self.step = run.last_step()
        self._ring.restart(self.step // run.meta["every"])
        return run

    def record(self) -> None:
        """One step is done: compare the weights with those `every` steps ago, if it is time.

        Raises:
            WeightScaleError: the monitor is closed, or watches an optimizer and so records by itself.
        """
        if self._hook is not None:
            raise WeightScaleError(
                "this monitor records after each optimizer.step() by itself: drop the call, or the optimizer argument"
            )
        if not self._close_recorder.alive:
            raise WeightScaleError("the monitor is closed: make a new one to record on")
        self._after_step()

    @always_eager
    def _after_step(self) -> None:
        every = self._meta["every"]
        capturing = is_capturing(self._ring.rows.device)
        if capturing and every > 1:
            raise WeightScaleError(f"a CUDA graph records at each replay, so that every must be 1 in it, got {every}")
        step = self.step + (not capturing)
        if step % every == 0 or capturing:
            plan, cur = self._snapshot.plan_for(self.model)
            run_plan(plan, cur, self._ring.rows, self._ring.cursor, update=True)
            self._recorder.commit()
        self.step = step  # last: a step whose record failed does not count, so that rows and steps stay together

    def history(self) -> RWCHistory:
        """Everything recorded so far."""
        self.flush()
        return RWCHistory.from_rows(self._meta, self._recorder.rows())

    def flush(self) -> None:
        """Bring every recorded row to the run folder now; this waits for the device.

        Only where a CUDA graph holds `record()` is it needed: at least once in 512 replays, of which the host knows
        nothing.
        """
        self._recorder.flush()
        self.step = max(self.step, self._recorder.step)

    def close(self) -> None:
        """Flush and stop recording; `history()` stays."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self._close_recorder()

    def __enter__(self) -> RWCMonitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs so that a resumed run has no hole, no double row and no false first value.

        It holds the previous weights, as large as the model's layers; without a run folder, the record too.
        """
        self.flush()
        rows = None if self._recorder.has_folder else self._recorder.rows()._asdict()
        tensors = {key: torch.from_numpy(array) for key, array in (rows or {}).items() if array is not None}
        return {
            "step": self.step,
            "every": self._meta["every"],
            "definition": self._meta["definition"],
            "weights": self._snapshot.state_dict(),
            "rows": tensors,  # without a run folder
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go back to the moment of `state_dict()`: later rows are dropped, in the run folder too.

        Raises:
            ValueError: the state is of other layers, another definition or another `every`, or of a monitor with a run
                folder while this one has none.
        """
        for key in ("every", "definition"):
            if state_dict[key] != self._meta[key]:
                raise ValueError(
                    f"the state is of a monitor with {key}={state_dict[key]!r}, this has {self._meta[key]!r}"
                )
        rows = {key: tensor.cpu().numpy() for key, tensor in state_dict["rows"].items()}
        if not rows and not self._recorder.has_folder and state_dict["step"]:
            raise ValueError("the state's rows are in its run folder: give run_dir and resume=True to go on with them")
        self._snapshot.load_state_dict(state_dict["weights"])
        self._recorder.restart(
            Rows(ratio_sum=rows.pop("ratio_sum", None), **rows) if rows else None, state_dict["step"]
        )
        self.step = state_dict["step"]
