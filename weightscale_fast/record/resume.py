"""Resume: save the state of a record in a checkpoint, and restore it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from torch import nn

from ..functional import layer_sums
from .record import Record
from .rows import Rows


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
    _check_fits(record, state)
    rows = None if state["rows"] is None else Rows.from_bytes(state["rows"])
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
