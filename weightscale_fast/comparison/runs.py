"""compare: two runs, side by side."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..record.history import RWCHistory
from ..record.run_folder import RunFolder
from ..record.source import HistorySource, history_of
from ..text import count
from .align import Alignment, align_runs
from .difference import both_rwc, differing, find_first, first_rows, log2_ratio, relative_difference
from .growth import growth
from .result import Comparison
from .settings import given_differences

VISIBLE = 0.01  # the relative difference that counts as visible, if no tolerance is given


def compare(
    a: HistorySource,
    b: HistorySource,
    noise: HistorySource | Iterable[HistorySource] | None = None,
    *,
    layer_map: Mapping[str, str] | None = None,
    tolerance: float = 0.0,
    align: str = "auto",
) -> Comparison:
    """Say where two runs differ first, in which layers, and how the difference goes on.

    The sums of a row have the same bits for any number of threads. So equal training gives equal sums, and the first
    row that differs tells the step and the layers where the runs part. Whether the weights before that step differ
    already (`prev_l1`) or only what the step did (`delta_l1`) tells where to look.

    Runs of different `definition` are compared by the `norm_ratio`, which both have. Rows that span different numbers
    of steps are refused. With `baseline="last_row"` a row has all that moved since the row before, so a change of a
    weight between two steps shows in `delta_l1`. With `"before_step"` it shows in `prev_l1`.

    Args:
        a: a run: an `RWCHistory`, the path of a run folder, or a monitor.
        b: the other run.
        noise: repeats of A, one or several. How far they are from A is the noise floor. Without them it is the
            difference of A from one row to the next.
        layer_map: regular expressions and what replaces them in the layers' names of A, to make them those of B.
        tolerance: the relative difference of the sums up to which the runs are the same, 0 to 1. 0: the same bits.
        align: which rows belong together: those of one `"step"`, those after as many `"samples"`
            (`settings["batch_size"]`), or at one `"epoch"` (`settings["steps_per_epoch"]`). `"auto"` takes samples or
            epochs if both runs tell them and they differ.

    Raises:
        ValueError: the runs have no row, no common layer or no common step, or they cannot be compared; or an
            argument is wrong.
        TypeError: an argument is no run.
        WeightScaleError: there is no run folder at a path.

    Example:
        `print(compare("runs/before", "runs/after"))`
    """
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be a relative difference, 0 or more and below 1, got {tolerance!r}")
    one, other = _side(a, "A"), _side(b, "B")
    repeats = [history_of(each) for each in _several(noise)]
    pairs = align_runs(one.history, other.history, layer_map, align)
    return _compare(one, other, pairs, repeats, float(tolerance))


class _Side(NamedTuple):
    title: str
    history: RWCHistory
    versions: Mapping[str, str]


def _side(source: HistorySource, letter: str) -> _Side:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        title = f"{path.resolve().name or path} ({letter})"
        return _Side(title, RWCHistory.load(path), RunFolder.open(path).meta.get("versions", {}))
    return _Side(f"Run {letter}", history_of(source), {})


def _several(noise: HistorySource | Iterable[HistorySource] | None) -> list[HistorySource]:
    if noise is None:
        return []
    if isinstance(noise, Iterable) and not isinstance(noise, str):
        return list(noise)
    return [noise]


def _compare(one: _Side, other: _Side, pairs: Alignment, repeats: list[RWCHistory], tolerance: float) -> Comparison:
    a, b = one.history, other.history
    names = tuple(a.names[i] for i in pairs.layers_a)
    steps = a.steps[pairs.rows_a]
    sums = differing(a, b, pairs)
    bits = np.logical_or.reduce(list(sums.values()))
    relative = relative_difference(a, b, pairs)
    rwc_a, rwc_b = both_rwc(a, b, pairs)
    log2 = log2_ratio(rwc_a, rwc_b)
    visible = tolerance or VISIBLE
    rows = np.flatnonzero(bits.any(axis=1))
    return Comparison(
        title_a=one.title,
        title_b=other.title,
        names=names,
        numel=a.numel[pairs.layers_a],
        steps=steps,
        pairs=pairs,
        first=find_first(sums, relative, names, steps, b.steps[pairs.rows_b]),
        same_from=int(steps[rows[-1] + 1]) if rows.size and rows[-1] + 1 < len(steps) else None,
        tolerance=tolerance,
        visible=visible,
        relative=relative,
        bits=bits,
        rwc_a=rwc_a,
        rwc_b=rwc_b,
        log2=log2,
        growth=growth(a, pairs, log2, int(rows[0]) if rows.size else None, repeats),
        first_rows=first_rows(bits),
        beyond_rows=first_rows(relative > visible),
        given=given_differences(
            a, b, pairs, one.versions if other.versions else {}, other.versions if one.versions else {}
        ),
        notes=list(_notes(a, b, pairs)),
        horizon=a.horizon,
        unit=a.unit,
    )


def _notes(a: RWCHistory, b: RWCHistory, pairs: Alignment) -> Iterator[str]:
    """What to know about the comparison."""
    if pairs.by != "step":
        yield f"the rows are aligned by {pairs.by}, so their steps are of other batches: look at sizes, not at bits"
    if pairs.left_a or pairs.left_b:
        rows = count(len(pairs.rows_a), "row")
        yield f"compared: {rows} that both have; {pairs.left_a:,} of A and {pairs.left_b:,} of B have no partner"
    if a.definition != b.definition:
        yield f"A has definition={a.definition!r} and B {b.definition!r}, so the RWC is compared by norm_ratio"
    if a.baseline != b.baseline:
        yield (
            f"A has baseline={a.baseline!r} and B {b.baseline!r}: a change of weights between two steps shows in "
            "delta_l1 of the one, and in prev_l1 of the other"
        )
