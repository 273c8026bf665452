"""The answer of a comparison in words: one sentence, then the details."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..text import count, listing
from .settings import plain

if TYPE_CHECKING:
    from .difference import First
    from .growth import Growth
    from .result import Comparison

ACCURACY = 1e-6  # of a sum, relative
MOST_GIVEN = 8  # lines of what was given differently
MOST_LETTERS = 60  # of a value in such a line; the page and the JSON have all


def answer(comparison: Comparison) -> list[str]:
    """The sentence, without a capital and a full stop, and then the details, a line each."""
    if comparison.first is None:
        return [_same_bits(comparison), *_left_out(comparison)]
    sentence = _first(comparison, comparison.first)
    details = [*_cause(comparison, comparison.first), *_course(comparison)]
    if comparison.same:
        details.insert(0, f"in bits, {sentence}")
        layer = comparison.names[int(comparison.relative.max(axis=0).argmax())]
        sentence = (
            f"the same within {comparison.tolerance:.3g}: the largest relative difference is "
            f"{comparison.relative.max():.2g}, in {layer}"
        )
    return [sentence, *details, *_left_out(comparison)]


def given_lines(comparison: Comparison) -> Iterator[str]:
    """What the runs were given differently, the first of it."""
    given = comparison.given
    for what, a, b, _ in given[:MOST_GIVEN]:
        yield f"given differently: {what}: {_short(a)} in A, {_short(b)} in B"
    if len(given) > MOST_GIVEN:
        yield f"and {len(given) - MOST_GIVEN} more given differently, which the page and the JSON list"


def _same_bits(comparison: Comparison) -> str:
    rows, layers = count(len(comparison.steps), "row"), count(len(comparison.names), "layer")
    common = "" if comparison.pairs.is_whole else " that both have"
    return f"the same bits: every sum is equal, in all {rows} of all {layers}{common}"


def _first(comparison: Comparison, first: First) -> str:
    """For example `"the runs differ first at step 12, in fc.weight: it moved by another amount (delta_l1), ..."`."""
    at = f"{_unit(comparison)} {first.step:,}"
    if first.step_b != first.step:
        at += f" of A ({first.step_b:,} of B)"
    horizon, one = comparison.horizon, len(first.layers) == 1
    it, its = ("it", "its") if one else ("they", "their")
    sums = ", ".join(first.shown_by)
    if not first.before:
        what = f"another number of {its} weights moved" if sums == "moved" else f"{it} moved by another amount"
        what += f" ({sums}), from weights with equal sums"
    elif _may_be_adding(comparison, first):
        largest = comparison.relative[0].max()
        what = f"by up to about {largest:.1g}, as equal weights do if another kind of processor or backend adds them"
    elif first.last_equal is None and _is_start(comparison, first):
        what = f"{it} began with other weights ({sums})"
    else:
        before = "before the step" if horizon == 1 else f"{horizon:,} steps before"
        what = f"{its} weights {before} are not equal ({sums})"
    already = "already " if first.last_equal is None and not _is_start(comparison, first) else ""
    most = "" if one else f", most in {first.most}"
    return f"the runs differ first {already}at {at}, in {_some(first.layers, len(comparison.names))}{most}: {what}"


def _is_start(comparison: Comparison, first: First) -> bool:
    """Whether the row is the first of both runs, so that the weights before it are the initial ones."""
    return first.step == first.step_b == comparison.horizon


def _may_be_adding(comparison: Comparison, first: First) -> bool:
    """Whether the first row differs as it does if the weights are equal and their sums are added in another order.

    Then the sums of the weights of most layers differ from the first row on, by less than their accuracy.
    """
    most = 2 * len(first.layers) > len(comparison.names) > 1
    return first.before and first.last_equal is None and most and bool(comparison.relative[0].max() <= ACCURACY)


def _some(layers: Sequence[str], L: int) -> str:
    """The one layer, or how many there are, and which if these are not all L."""
    if len(layers) == 1:
        return layers[0]
    number = count(len(layers), "layer")
    return f"all {number}" if len(layers) == L else f"{number} ({listing(layers)})"


def _cause(comparison: Comparison, first: First) -> Iterator[str]:
    """What was different at that row, as far as the record tells."""
    if first.last_equal is None and not _is_start(comparison, first):
        yield "no row before it is in both records, so the difference may be older"
    if _may_be_adding(comparison, first) and comparison.tolerance < ACCURACY:
        yield f"to look past the order of additions, give a tolerance of {ACCURACY:g}"
    rates = [each for each in comparison.given if each.step is not None and each.step <= first.step]
    for what, a, b, _ in rates:
        yield f"the {what.partition(' from')[0]} differs there: {plain(a)} in A, {plain(b)} in B"
    if not first.before and not rates and len(first.layers) == len(comparison.names) > 1:
        yield "all layers at once: another batch, loss, random number or optimizer"


def _course(comparison: Comparison) -> Iterator[str]:
    """How it went on: who leads, who follows, how large it became."""
    growth, unit, beyond = comparison.growth, _unit(comparison), comparison.beyond_step
    if comparison.same_from is not None:
        yield f"from {unit} {comparison.same_from:,} on, all rows have the same bits again"
    if beyond is None:
        yield f"no layer's weights or movement ever differ by more than {comparison.visible:.2g} (relative)"
    else:
        leaders = _some(comparison.leaders, len(comparison.names))
        yield f"the difference passes {comparison.visible:.2g} at {unit} {beyond:,}, first in {leaders}"
        yield from _followers(comparison)
    sizes = [f"{ratio(growth.size[row])} at {unit} {comparison.steps[row]:,}" for row in growth.shown_rows]
    yield f"RWC of the median layer, relative difference: {', '.join(sizes)}, {ratio(growth.late_size)} at the end"
    yield _noise(growth, unit)


def _followers(comparison: Comparison) -> Iterator[str]:
    rows = comparison.beyond_rows
    later = [i for i in comparison.order if rows[i] > rows[comparison.order[0]]]
    never = int((rows < 0).sum())
    parts = []
    if later:
        last = later[-1]
        step = f"{_unit(comparison)} {comparison.step_at(rows[last]):,}"
        parts.append(f"{count(len(later), 'layer')} after it, the last {comparison.names[last]} at {step}")
    if never:
        parts.append(f"{count(never, 'layer')} never")
    if parts:
        yield "then " + "; ".join(parts)


def _noise(growth: Growth, unit: str) -> str:
    whose = f"A against {count(growth.repeats, 'repeat')}" if growth.repeats else "A from one row to the next"
    if math.isnan(growth.late_floor):
        return f"noise, {whose}: not known at the end"
    if growth.repeats and growth.late_floor == 0:
        return f"noise, {whose}: none, they have the same RWC"
    reached = "never reached" if growth.reached is None else f"reached at {unit} {growth.reached:,}"
    return f"noise, {whose}: {ratio(growth.late_floor)} at the end, {reached}"


def ratio(log2: float) -> str:
    """A |log2| as a relative difference, or as a factor if it is large.

    Example:
        >>> ratio(1.0), ratio(1e-6), ratio(0.0), ratio(math.inf)
        ('a factor of 2', '6.9e-07', '0', 'infinite')
    """
    if log2 == math.inf:
        return "infinite"
    if log2 < 0.3:
        return f"{math.expm1(log2 * math.log(2)):.2g}"
    return f"a factor of {2**log2:.3g}"


def _left_out(comparison: Comparison) -> Iterator[str]:
    """What was not compared, and what to know about the rest."""
    pairs = comparison.pairs
    yield from comparison.notes
    for title, layers in (
        ("only in A", pairs.only_a),
        ("only in B", pairs.only_b),
        ("of another size in B, and not compared", pairs.resized),
    ):
        if layers:
            yield f"{title}: {_some(layers, 0)}"


def _short(value: object) -> str:
    text = plain(value)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}..."


def _unit(comparison: Comparison) -> str:
    return comparison.unit.rpartition(" ")[2]
