"""Recording: what a monitor records with: the previous weights, the ring of rows, and where these go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from torch import nn

from ..distributed.process_group import Ranks, hint_of_others
from ..distributed.share_lookup import SharedSnapshot
from ..distributed.shares import agree
from ..errors import WeightScaleError
from ..functional import layer_sums
from ..graph_capture import is_capturing, keep_for_replays
from ..ops.backends import run_plan, warm_up
from ..ops.plan import sum_dtype
from ..weights.kinds import layer_kind
from ..weights.layers import LayerSelector
from ..weights.snapshot import Snapshot
from .history import RWCHistory
from .recorder import Recorder
from .ring import Ring, arrives_late
from .run_folder import Rows, RunFolder
from .shared_recorder import SharedRecorder


class Recording:
    """A record that grows by a row at a time, on one process or on several together.

    Args:
        model: the network; it is handed in anew at each row.
        every, layers, definition, settings, pipeline: as for `RWCMonitor`.
        ranks: the processes that record together, if several do.
        arguments: those of the monitor that all ranks must agree on, in words.

    Attributes:
        snapshot: the weights at the last row.
        ring: the rows that are still on the device.
        recorder: takes them out of it.
        meta: what the run folder says about the record.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int,
        layers: LayerSelector,
        definition: str,
        settings: Mapping[str, Any],
        pipeline: bool,
        ranks: Ranks | None,
        arguments: str,
    ) -> None:
        self._ranks = ranks
        self.snapshot: Snapshot
        if ranks is None:
            self.snapshot = Snapshot(model, layers=layers)
            numel = self.snapshot.numel
            kinds = tuple(layer_kind(model, name) for name in self.snapshot.names)
        else:
            shares = agree(model, layers, ranks, pipeline=pipeline, arguments=arguments)
            self.snapshot, numel, kinds = SharedSnapshot(model, shares), shares.numel, shares.kinds
        self._plan = plan = self.snapshot.plan_for(model)[0]
        self.meta: dict[str, Any] = {
            "names": list(self.snapshot.names),
            "numel": list(numel),
            "kinds": list(kinds),
            "definition": definition,
            "every": every,
            "settings": dict(settings),
            # A stage of a pipeline knows its own only.
            "dtypes": [] if pipeline else [str(w.dtype).removeprefix("torch.") for w in plan.prev],
        }
        sums = 4 if definition == "mean_ratio" else 3
        late = arrives_late(plan.device)
        if ranks is not None:
            late = any(ranks.gather(lambda: late))
        self.ring = Ring(sums, len(self.snapshot), device=plan.device, dtype=sum_dtype(plan.device), late=late)
        self.recorder = Recorder(self.ring, every) if ranks is None else SharedRecorder(self.ring, every, ranks)
        warm_up(plan, sums)

    def open(self, path: Path, *, resume: bool) -> int:
        """Begin the run folder, or go on with it; the last step that it has.

        Raises:
            WeightScaleError: it exists, cannot be written, or is another run's.
        """

        def begin() -> tuple[RunFolder | None, dict[str, Any], int]:
            if self._ranks is not None and self._ranks.rank != 0:
                return None, {}, 0
            try:
                run = RunFolder.begin(path, self.meta, resume=resume)
            except WeightScaleError as error:
                raise WeightScaleError(f"{error}{hint_of_others() if self._ranks is None else ''}") from error
            return run, run.meta, run.last_step()

        run, self.meta, step = begin() if self._ranks is None else self._ranks.gather(begin)[0]
        self.recorder.write_to(run if self._ranks is None or self._ranks.rank == 0 else None)
        self.recorder.resume_at(step)
        return step

    def add_row(self, model: nn.Module, when_elsewhere: Callable[[], None]) -> None:
        """Compare the weights with those of the last row; if some lie elsewhere than then, call `when_elsewhere`."""
        plan, cur = self.snapshot.plan_for(model)
        if plan is not self._plan:
            self._plan = plan
            when_elsewhere()
        if is_capturing(self.ring.rows.device):
            keep_for_replays(plan, self.ring)  # the plan holds the previous weights
        run_plan(plan, cur, self.ring.rows, self.ring.cursor, update=True)

    def history(self) -> RWCHistory:
        """Every row so far; see `RWCMonitor.history`."""
        return RWCHistory.from_rows(self.meta, self.recorder.rows())

    def recent(self, after: int) -> RWCHistory:
        """The newest rows; see `RWCMonitor.recent`."""
        return RWCHistory.from_rows(self.meta, self.recorder.recent(after))

    def state_dict(self, step: int) -> dict[str, Any]:
        """See `RWCMonitor.state_dict`."""
        return {
            "step": step,
            "every": self.meta["every"],
            "definition": self.meta["definition"],
            "names": list(self.snapshot.names),
            "weights": self.snapshot.state_dict(),
            "written": self.recorder.written,
            # Without a run folder. Bytes: a distributed checkpoint loads tensors only into tensors of their size.
            "rows": None if self.recorder.has_folder else self.recorder.rows().to_bytes(),
        }

    def checkpoint_state(self, step: int, model: nn.Module) -> dict[str, Any]:
        """See `RWCMonitor.checkpoint_state`."""
        state = self.state_dict(step)
        moved = bool((layer_sums(model, self.snapshot, update=False).moved > 0).any())
        if self._ranks is not None:
            moved = any(self._ranks.gather(lambda: moved))
        if not moved:
            return {**state, "weights": None}
        if self._ranks is not None:
            shares = self._ranks.gather(lambda: {name: weights.cpu() for name, weights in state["weights"].items()})
            state["weights"] = {name: weights for share in shares for name, weights in share.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any], model: nn.Module) -> None:
        """See `RWCMonitor.load_state_dict`."""
        for key in ("every", "definition"):
            if state[key] != self.meta[key]:
                raise ValueError(f"the state is of a monitor with {key}={state[key]!r}, this has {self.meta[key]!r}")
        if tuple(state["names"]) != tuple(self.snapshot.names):
            raise ValueError(_other_layers(state["names"], self.snapshot.names))
        rows = None if state["rows"] is None else Rows.from_bytes(state["rows"])
        if rows is None and not self.recorder.has_folder and state["step"]:
            raise ValueError("the state's rows are in its run folder: give run_dir and resume=True to go on with them")
        if state["weights"] is None:
            layer_sums(model, self.snapshot, update=True)
        else:
            self.snapshot.load_state_dict(state["weights"])
        self.recorder.restart(rows, state["step"])
        if rows is None:
            self.recorder.warn_if_behind(state["written"])


def _other_layers(state: Sequence[str], mine: Sequence[str]) -> str:
    pairs = enumerate(zip_longest(state, mine))
    place, (theirs, ours) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
    return f"the state is of a monitor of other layers: its layer {place} is {theirs!r}, here it is {ours!r}"
