"""Resume: save the state of a record in a checkpoint, and restore it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from ..errors import WeightScaleError
from ..functional import layer_sums
from .record import Record
from .rows import Rows
from .run_meta import MOST, run_id, sums_of

T = TypeVar("T")
PARTS = ("step", "every", "definition", "names", "weights", "written", "rows")


def state_dict(record: Record) -> dict[str, Any]:
    """The state of a record; see `RWCMonitor.state_dict`. Flush the record first."""
    _check_not_inside(record, "state_dict")
    return record.within(lambda: _state(record))


def _state(record: Record) -> dict[str, Any]:
    store, every = record.store, record.meta["every"]
    return {
        "step": record.step,
        "every": every,
        "definition": record.meta["definition"],
        "baseline": record.baseline.name,
        "l2": record.meta.get("l2", False),
        "names": list(record.snapshot.names),
        # No row after the state compares with weights of today if each compares with those before its own step.
        "weights": record.snapshot.state_dict() if record.baseline.name == "last_row" else None,
        # The last step that the folder must have. A full disk may hold rows back; then the resumed run says so.
        "written": record.step // every * every if store.has_folder else 0,
        "last_row": store.last_row(record.step // every * every) if store.has_folder else None,
        "run": run_id(record.meta),  # which run's folder has the rows; None in memory
        # With a run folder the rows are in it. Here they are bytes, because a distributed checkpoint loads a tensor
        # only into a tensor of the same size.
        "rows": None if store.has_folder else store.rows().to_bytes(),
    }


def _check_not_inside(record: Record, call: str) -> None:
    """Raise if a signal handler makes this call in the middle of a step: the step is then recorded in part only."""
    if record.is_inside():
        raise WeightScaleError(
            f"a signal handler called {call}() in the middle of a step or of another call of the monitor: set a flag "
            f"in the handler, and call {call}() after the step"
        )


def warn_of_unrecorded_step(record: Record, model: nn.Module) -> None:
    """Where the loop calls `record()`: warn if the weights moved since the last row, so a step may have no row yet.

    With `every` above 1 that is known only at the steps that have a row.
    """
    if record.between_rows:
        return
    try:
        change = layer_sums(model, record.snapshot, update=False).delta_l1
    except (TypeError, ValueError, WeightScaleError):  # the model was changed; the next row says so
        return
    if bool((change > 0).any()):  # NaN is never equal to itself, and has not moved
        warnings.warn(
            f"the weights moved since step {record.step} was recorded, and a state is saved now. If the next optimizer "
            "step was made already, a resumed run counts it and the one after it as one: call record() first",
            stacklevel=3,
        )


def checkpoint_state(record: Record, model: nn.Module) -> dict[str, Any]:
    """A state that every rank can load; see `RWCMonitor.checkpoint_state`. A collective call with several ranks."""
    state, ranks = state_dict(record), record.ranks
    if state["weights"] is None:
        return state
    moved = bool((layer_sums(model, record.snapshot, update=False).moved > 0).any())
    if ranks is not None:
        moved = any(ranks.all_gather(lambda: moved))
    if not moved:
        return {**state, "weights": None}
    if ranks is not None:
        shares = ranks.all_gather(lambda: {name: weights.cpu() for name, weights in state["weights"].items()})
        state["weights"] = {name: weights for share in shares for name, weights in share.items()}
    return state


def load_state_dict(record: Record, state: Mapping[str, Any], model: nn.Module) -> None:
    """Go back to the moment of the state; see `RWCMonitor.load_state_dict`.

    Raises:
        ValueError: the state is damaged or does not fit this record. Nothing is loaded in this case.
        WeightScaleError: the later rows in the run folder cannot be deleted, or another rank cannot load its state. The
            monitor stays as it was.
    """
    _check_not_inside(record, "load_state_dict")
    record.within(lambda: _load(record, state, model))


def _load(record: Record, state: Mapping[str, Any], model: nn.Module) -> None:
    store = record.store

    def check() -> tuple[int, Rows | None]:
        step, rows = _checked(record, state)
        if record.baseline.name == "before_step":
            return step, rows
        if state["weights"] is None:
            layer_sums(model, record.snapshot, update=False)  # it raises if the model does not fit
        else:
            record.snapshot.check_state_dict(state["weights"])
        return step, rows

    step, rows = _on_all_ranks(record, check)
    # The folder first, because the disk may be full. The ranks that do not write to it wait for the one that does.
    _on_all_ranks(record, lambda: None if store.is_elsewhere else store.restart(rows, step))
    if store.is_elsewhere:
        store.restart(rows, step)
    record.step = step
    if record.baseline.name == "last_row":
        _load_weights(record, state["weights"], model)
    if rows is None:
        record.store.warn_if_behind(int(state["written"]), state.get("last_row"))


def _load_weights(record: Record, weights: Mapping[str, Tensor] | None, model: nn.Module) -> None:
    if weights is None:
        layer_sums(model, record.snapshot, update=True)
    else:
        record.snapshot.load_state_dict(weights)


def _on_all_ranks(record: Record, call: Callable[[], T]) -> T:
    """Make a call on each rank; if it raises on one, raise on all. The call of a closed monitor is not collective."""
    if record.ranks is None or record.store.closed:
        return call()
    if record.store.is_alone:
        raise WeightScaleError(
            "on_finding is called on rank 0 alone, but load_state_dict must be called on every rank: keep the finding, "
            "and call it on every rank after the step"
        )
    made: list[T] = []
    record.ranks.all_gather(lambda: made.append(call()), "load its state")
    return made[0]


def _checked(record: Record, state: Mapping[str, Any]) -> tuple[int, Rows | None]:
    """The state's step, and its rows if they replace the record's. Raises ValueError unless the whole state fits."""
    _check_parts(state)
    older = {"l2": False, "baseline": "last_row"}  # older states have neither
    for key in ("every", "definition", "l2", "baseline"):
        theirs, mine = {**older, **state}[key], record.meta.get(key, older.get(key))
        if theirs != mine:
            raise ValueError(
                f"the state is of a monitor with {key}={theirs!r}, this monitor has {mine!r}: make the monitor with "
                f"{key}={theirs!r} to go on with it"
            )
    if tuple(state["names"]) != tuple(record.snapshot.names):
        raise ValueError(_other_layers(state["names"], record.snapshot.names))
    step, store = int(state["step"]), record.store
    other_run = (
        "the state is of another run than the one in run_dir, whose rows it would delete: pass the folder of the "
        "run that is resumed, or one without rows"
    )
    if state["rows"] is not None:
        rows = _rows(record, state["rows"], step)
        if not store.written:
            return step, rows
        mine = store.rows()
        if not len(rows.steps) or mine.where(mine.steps <= step).to_bytes() != rows.to_bytes():
            raise ValueError(other_run)
        return step, None  # the folder has these rows
    if not store.has_folder and step:
        raise ValueError("the state's rows are in its run folder: pass that folder as run_dir, and resume=True")
    run = state.get("run")
    if store.written and run is not None and run != run_id(record.meta):
        raise ValueError(other_run)
    return step, None


def _check_parts(state: Mapping[str, Any]) -> None:
    what = "the state must be what a monitor's state_dict() returned"
    if not isinstance(state, Mapping):
        raise ValueError(f"{what}, got {type(state).__name__}")
    missing = [part for part in PARTS if part not in state]
    if missing:
        raise ValueError(f"{what}, but it has no {' and no '.join(map(repr, missing))}")
    for part in ("step", "written"):
        number = state[part]
        if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or not 0 <= number < MOST:
            raise ValueError(f"{what}, but its {part} is no whole number of steps, 0 or more: {str(number)[:60]!r}")
    fits = {
        "names": isinstance(state["names"], (list, tuple)) and all(isinstance(name, str) for name in state["names"]),
        "weights": state["weights"] is None
        or (isinstance(state["weights"], Mapping) and all(isinstance(w, Tensor) for w in state["weights"].values())),
        "rows": state["rows"] is None or isinstance(state["rows"], bytes),
    }
    for part, fit in fits.items():
        if not fit:
            raise ValueError(f"{what}, but its {part} have another type: {type(state[part]).__name__}")


def _rows(record: Record, data: bytes, step: int) -> Rows:
    """The rows of a state of this step."""
    every = record.meta["every"]
    try:
        rows = Rows.from_bytes(data, len(record.snapshot.names), sums_of(record.meta))
        if len(rows.steps) and (rows.steps[-1] > step or np.any(rows.steps % every)):
            raise ValueError(f"its rows end at step {rows.steps[-1]}, and it is of step {step} with every={every}")
    except ValueError as error:
        raise ValueError(f"the state does not fit this monitor, or is damaged: {error}") from error
    return rows


def _other_layers(state: Sequence[str], mine: Sequence[str]) -> str:
    pairs = enumerate(zip_longest(state, mine))
    place, (theirs, ours) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
    return f"the state is of a monitor of other layers: its layer {place} is {theirs!r}, here it is {ours!r}"
