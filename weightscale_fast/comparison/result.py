"""Comparison: where two runs differ, by how much, and how it went on.

Letters: S common rows, L common layers.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..record.history import FloatArray, IntArray
from .align import Alignment
from .difference import BoolArray, First
from .growth import Growth
from .sentences import answer, given_lines
from .settings import GivenDifference, plain


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Where two runs differ. `print(comparison)` shows the answer: one sentence, then the details.

    Args:
        title_a: what the first run is called.
        title_b: what the second run is called.
        names: the names of the L layers that both runs have, as A has them.
        numel: [L] their weights.
        steps: [S] the steps of the rows that both runs have, in A.
        pairs: which rows and layers were compared, and which have no partner.
        first: the first row and layers that differ in bits; None if nothing differs.
        same_from: the first step of A from which on all rows have the same bits again; None if there is none.
        tolerance: the largest relative difference that counts as the same, as it was asked for; 0 for the same bits.
        visible: the relative difference of `beyond` and `leaders`: the tolerance, or 0.01.
        relative: [S, L] the relative difference of `prev_l1` or `delta_l1`, whichever is larger: 0 to 1.
        bits: [S, L] whether any sum differs.
        rwc_a: [S, L] the RWC of A.
        rwc_b: [S, L] the RWC of B.
        log2: [S, L] log2(RWC of A / RWC of B).
        growth: how the difference goes on.
        first_rows: [L] the first row at which each layer differs in bits; -1 for never.
        beyond_rows: [L] the first row at which each layer differs by more than `visible`; -1 for never.
        given: what the runs were given differently.
        notes: what to know about the comparison, a sentence each.
        horizon: the optimizer steps that a row spans.
        unit: what the steps count.

    Example:
        >>> from weightscale_fast import RWCHistory, compare
        >>> one, two = np.ones((3, 2)), np.ones((3, 2), np.int64)
        >>> a = RWCHistory(("conv", "fc"), np.array([9, 4]), ("conv", "linear"), np.arange(1, 4), one, one, two)
        >>> b = RWCHistory(("conv", "fc"), np.array([9, 4]), ("conv", "linear"), np.arange(1, 4), one.copy(), one, two)
        >>> compare(a, b)
        Comparison(the same bits: every sum is equal, in all 3 rows of all 2 layers)
        >>> b.delta_l1[1, 1] = 1.5
        >>> compare(a, b).first.step, compare(a, b).first.layers
        (2, ('fc',))
    """

    title_a: str
    title_b: str
    names: tuple[str, ...]
    numel: IntArray
    steps: IntArray
    pairs: Alignment
    first: First | None
    same_from: int | None
    tolerance: float
    visible: float
    relative: FloatArray
    bits: BoolArray
    rwc_a: FloatArray
    rwc_b: FloatArray
    log2: FloatArray
    growth: Growth
    first_rows: IntArray
    beyond_rows: IntArray
    given: list[GivenDifference]
    notes: list[str]
    horizon: int
    unit: str

    @property
    def same_bits(self) -> bool:
        """Whether all sums of all common rows and layers have the same bits."""
        return self.first is None

    @property
    def same(self) -> bool:
        """Whether the runs are the same within the tolerance."""
        return self.same_bits or bool(self.relative.max() <= self.tolerance > 0)

    @property
    def beyond_step(self) -> int | None:
        """The first step of A at which a layer differs by more than `visible`; None if none ever does."""
        rows = self.beyond_rows[self.beyond_rows >= 0]
        return int(self.steps[rows.min()]) if rows.size else None

    @property
    def leaders(self) -> tuple[str, ...]:
        """The layers that differ by more than `visible` first."""
        return tuple(self.names[i] for i in self.order if self.beyond_rows[i] == self.beyond_rows[self.order[0]] >= 0)

    @property
    def order(self) -> IntArray:
        """[L] the layers, those first that lead: by their first visible difference, then by the first one in bits."""
        never = len(self.steps)
        beyond, first = (np.where(rows < 0, never, rows) for rows in (self.beyond_rows, self.first_rows))
        return np.lexsort((first, beyond))

    def step_at(self, row: int) -> int | None:
        """The step of A at a row of `first_rows` or `beyond_rows`; None for -1."""
        return int(self.steps[row]) if row >= 0 else None

    def __repr__(self) -> str:
        return f"Comparison({answer(self)[0]})"

    def __str__(self) -> str:
        first, *details = answer(self)
        lines = [f"  {line}" for line in [*details, *given_lines(self)]]
        return "\n".join([f"{first[:1].upper()}{first[1:]}.", *lines])

    def to_json(self) -> str:
        """The comparison as JSON. A number that is not finite is null."""
        first = self.first
        return json.dumps(
            {
                "answer": answer(self)[0],
                "same_bits": self.same_bits,
                "same": self.same,
                "tolerance": self.tolerance,
                "rows": len(self.steps),
                "first_step": int(self.steps[0]),
                "last_step": int(self.steps[-1]),
                "aligned_by": self.pairs.by,
                "first_difference": None
                if first is None
                else {
                    "step": first.step,
                    "step_b": first.step_b,
                    "layers": list(first.layers),
                    "most_in": first.most,
                    "shown_by": list(first.shown_by),
                    "before_the_step": first.before,
                    "last_equal_step": first.last_equal,
                },
                "same_from_step": self.same_from,
                "visible_difference": {
                    "more_than": self.visible,
                    "step": self.beyond_step,
                    "layers": list(self.leaders),
                },
                "largest_relative_difference": float(self.relative.max()),
                "growth": {
                    "steps": [int(self.steps[row]) for row in self.growth.shown_rows],
                    "median_abs_log2": [_number(float(self.growth.size[row])) for row in self.growth.shown_rows],
                    "at_the_end": _number(self.growth.late_size),
                    "noise_at_the_end": _number(self.growth.late_floor),
                    "noise_of_repeats": self.growth.repeats,
                    "reached_noise_at_step": self.growth.reached,
                },
                "layers": [
                    {
                        "name": self.names[i],
                        "first_different_step": self.step_at(self.first_rows[i]),
                        "first_visible_step": self.step_at(self.beyond_rows[i]),
                        "largest_relative_difference": float(self.relative[:, i].max()),
                    }
                    for i in self.order
                ],
                "only_in_a": list(self.pairs.only_a),
                "only_in_b": list(self.pairs.only_b),
                "of_another_size": list(self.pairs.resized),
                "given_differently": [
                    {"what": each.what, "a": plain(each.a), "b": plain(each.b)} for each in self.given
                ],
                "notes": self.notes,
            },
            indent=1,
            allow_nan=False,
        )

    def write_page(self, path: str | Path) -> Path:
        """Write one HTML page that needs no other file: the answer, a map of layers and steps, curves and tables.

        Raises:
            WeightScaleError: matplotlib is not installed.
            OSError: the file cannot be written.
        """
        from .page import write_page  # needs matplotlib

        return write_page(self, Path(path))


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
