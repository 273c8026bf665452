"""Resume: save the state of a record in a checkpoint, and restore it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from torch import nn

from ..functional import layer_sums
from .record import Record
from .rows import Rows

LARGEST_STEP = 2**53
PARTS: dict[str, tuple[type, ...]] = {
    "step": (int,),
    "every": (int,),
    "definition": (str,),
    "names": (list, tuple),
    "weights": (Mapping, type(None)),
    "written": (int,),
    "rows": (bytes, type(None)),
}
_MISSING = object()


def state_dict(record: Record) -> dict[str, Any]:
    """The state of a record; see `RWCMonitor.state_dict`. Flush the record first."""
    recorder = record.recorder
    return {
        "step": record.step,
        "every": record.meta["every"],
        "definition": record.meta["definition"],
        "names": list(record.snapshot.names),
        "weights": record.snapshot.state_dict(),
        "written": recorder.written,
        # With a run folder the rows are in it. Here they are bytes, because a distributed checkpoint loads a tensor
        # only into a tensor of the same size.
        "rows": None if recorder.has_folder else recorder.rows().to_bytes(),
    }


def checkpoint_state(record: Record, model: nn.Module) -> dict[str, Any]:
    """A state that every rank can load; see `RWCMonitor.checkpoint_state`. A collective call with several ranks."""
    state, ranks = state_dict(record), record.ranks
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
        ValueError: the state does not fit this record. Nothing is loaded in this case.
    """
    _check_whole(state)
    _check_fits(record, state)
    rows = None if state["rows"] is None else _rows_of(state, record.meta)
    if rows is None and not record.recorder.has_folder and state["step"]:
        raise ValueError("the state's rows are in its run folder: pass that folder as run_dir, and resume=True")
    if state["weights"] is None:
        layer_sums(model, record.snapshot, update=True)
    else:
        record.snapshot.load_state_dict(state["weights"])
    record.recorder.restart(rows, state["step"])
    record.step = state["step"]
    if rows is None:
        record.recorder.warn_if_behind(state["written"])


def _check_whole(state: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a part is missing, or is of another type. A checkpoint may be damaged, or a stranger's."""
    if not isinstance(state, Mapping):
        raise ValueError(f"a monitor's state must be what state_dict() returned, got {type(state).__name__}")
    for key, kinds in PARTS.items():
        value = state.get(key, _MISSING)
        if type(value) is bool or not isinstance(value, kinds):
            came = "nothing" if value is _MISSING else type(value).__name__
            wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"the state is damaged, or no monitor's: its {key!r} must be {wanted}, got {came}")
    for key in ("step", "written"):
        if not 0 <= state[key] < LARGEST_STEP:
            raise ValueError(f"the state is damaged: its {key!r} must be a step, 0 or more, got {state[key]}")


def _rows_of(state: Mapping[str, Any], meta: Mapping[str, Any]) -> Rows:
    """The record in the state.

    Raises:
        ValueError: it cannot be read, or is not a record of these layers that ends at the state's step.
    """
    try:
        rows = Rows.from_bytes(state["rows"])
    except Exception as error:  # whatever reads damaged bytes raises
        raise ValueError(f"the state is damaged: its rows cannot be read ({error})") from error
    n, L = len(rows.steps), len(meta["names"])
    sums = [rows.delta_l1, rows.prev_l1, rows.moved] + ([] if rows.ratio_sum is None else [rows.ratio_sum])
    fits = all(array.shape == (n, L) for array in sums) and rows.bits.shape == (n,)
    rising = np.diff(rows.steps, prepend=0).min(initial=1) > 0 and rows.steps.max(initial=0) <= state["step"]
    if not fits or not rising or (rows.ratio_sum is None) == (meta["definition"] == "mean_ratio"):
        raise ValueError(
            f"the state is damaged: its rows must be of {L} layers, with steps that rise to at most {state['step']}"
        )
    return rows


def _check_fits(record: Record, state: Mapping[str, Any]) -> None:
    for key in ("every", "definition"):
        if state[key] != record.meta[key]:
            raise ValueError(
                f"the state is of a monitor with {key}={state[key]!r}, this monitor has {record.meta[key]!r}"
            )
    if tuple(state["names"]) != tuple(record.snapshot.names):
        raise ValueError(_other_layers(state["names"], record.snapshot.names))


def _other_layers(state: Sequence[str], mine: Sequence[str]) -> str:
    pairs = enumerate(zip_longest(state, mine))
    place, (theirs, ours) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
    return f"the state is of a monitor of other layers: its layer {place} is {theirs!r}, here it is {ours!r}"
