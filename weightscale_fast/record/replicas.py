"""Replicas: finds the first row at which the ranks' copies of the weights are not equal.

Each rank counts a share of the weights. So if the copies part, the rows mix different networks, and nothing in them
shows it. Two checks tell:

- After each row a few weights of up to 64 layers are copied on the device. With more layers these take turns.
- Whenever rows leave the ring, after at most 256 rows, all weights are read.

Both make checksums of the stored bits. A row has one number for all its layers. The ranks' numbers travel with the rows
in the same all-reduce, and add up to 0 if all copies are equal. Only if they do not, the ranks exchange the checksums
of the layers, once.

Letters: R rows of the ring, n rows, T turns, W words of 16 bits in a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..distributed.bits import Checksums, multipliers, words
from ..distributed.process_group import Ranks
from ..distributed.share_lookup import ShareLookup
from ..distributed.twins import Twin, differing, find_twins
from ..graph_capture import is_capturing
from ..text import count, listing
from ..weights.dtensor import local_part
from .host_copy import HostCopy

SAMPLED = 64  # layers in a row, so that its cost does not grow with the number of layers
RUN = 16  # words of a layer: neighbours in memory, because strided ones take longer
WHERE = 0.618  # of the layer. The first weights may be special, such as those of a padding token
HALF_WORD = 2**32  # a sum over all ranks must be exact in float64, so a checksum is sent as two numbers
STREAM = 1 << 40  # words: apart from all places in a layer
Checked = dict[int, tuple[tuple[int, ...], int]]  # {place of a layer: (the ranks that hold it, checksum)}


class Parted(NamedTuple):
    """The ranks' copies of the weights are not equal.

    Args:
        step: the first recorded step after which a difference was seen.
        equal: the last one before it after which the same check saw none. If no check was before it, the step at which
            the record began.
        exact: whether there is no recorded step between these two.
        layers: the layers that differ, in network order.
        ranks: the ranks whose copy is not that of the first rank which holds the layer.
    """

    step: int
    equal: int
    exact: bool
    layers: tuple[str, ...]
    ranks: tuple[int, ...]

    def __str__(self) -> str:
        when = f"since step {self.step}"
        if not self.exact:
            when += f", or since an earlier one after step {self.equal}"
        differ = "differs" if len(self.layers) == 1 else "differ"
        return (
            f"the ranks' copies of the weights are not equal {when}: {count(len(self.layers), 'layer')} {differ} "
            f"({listing(self.layers)}), on rank {listing(list(map(str, self.ranks)))} against the first rank. "
            "Each rank counts its share of the weights, so rows from there on mix different networks. Call the model "
            "through its DistributedDataParallel wrapper, not model.module, and after no_sync() too; load or change "
            "weights on every rank, or broadcast them after that; give every rank the same optimizer with the same "
            "state. If copies part on purpose, as with local SGD, record a row only where they are averaged, with "
            "every="
        )


class _Started(NamedTuple):
    """Checks of rows that are on their way to the host."""

    first: int
    n: int
    numbers: HostCopy  # [n] int64 of the rows; and what `Checksums.of` needs


class Replicas:
    """Compares the ranks' copies of the weights. `numbers` and `judge` belong to a collective call.

    Args:
        lookup: finds the weights.
        names: of all layers of the model.
        every: steps between two rows.
        rows: R.
        device: of the weights.

    Attributes:
        parted: what was found; None until then. After that nothing is compared any more.
    """

    def __init__(
        self, ranks: Ranks, lookup: ShareLookup, names: tuple[str, ...], *, every: int, rows: int, device: torch.device
    ) -> None:
        self._ranks, self._lookup, self._names, self._every, self._device = ranks, lookup, names, every, device
        twins = find_twins(lookup, ranks, device)
        self.total = twins.total
        self._turns = max(1, -(-twins.total // SAMPLED))
        self._twins = twins.mine
        self._of_turn = [[twin for twin in twins.mine if twin.place % self._turns == t] for t in range(self._turns)]
        self._lengths = [sum(min(twin.words, RUN) for twin in of_turn) for of_turn in self._of_turn]
        factors = np.zeros((self._turns, max(self._lengths)), np.int64)
        for of_turn, row, length in zip(self._of_turn, factors, self._lengths, strict=True):
            if of_turn:
                row[:length] = np.concatenate([_sample_factors(twin) * twin.factor for twin in of_turn])
        with torch.inference_mode(False):  # so that any mode may write to them
            self._samples = torch.zeros(rows, max(self._lengths), dtype=torch.int16, device=device)  # [R, W]
        self._factors = torch.from_numpy(factors).to(device)  # [T, W]
        self._views: list[list[Tensor] | None] = [None] * self._turns  # where the sampled words of each turn are
        self._checksums = Checksums(self._weights(), [twin.holders for twin in self._twins]) if self._twins else None
        self.restart(0)

    def restart(self, row: int) -> None:
        """The next row is number `row`, and what was known of the rows counts no more."""
        self._first = row
        self._all_equal = row  # rows until the last one after which all weights were read
        self._in_all: tuple[int, NDArray[np.int64]] | None = None  # that row, and the checksums of the layers
        self._started: _Started | None = None
        self.parted: Parted | None = None

    def find_anew(self) -> None:
        """Some weights have another address than at the last row."""
        self._views = [None] * self._turns

    def look(self, row: int) -> None:
        """Copy the sampled weights of this row. It waits for nothing."""
        turn = row % self._turns
        if self.parted is not None or not self._of_turn[turn] or is_capturing(self._device):
            return
        views = self._views[turn]
        if views is None:
            views = self._views[turn] = [_run(words(w, torch.int16)) for w in self._weights(self._of_turn[turn])]
        torch.cat(views, out=self._samples[row % len(self._samples), : self._lengths[turn]])

    def start(self, first: int, end: int) -> None:
        """Begin to check the rows from `first` to `end`, and all weights, right after the last of these rows."""
        if self.parted is None and self._checksums is not None and first < end and not is_capturing(self._device):
            all_weights = self._checksums.start(self._weights())
            self._started = _Started(first, end - first, HostCopy(self._of_rows(first, end - first), all_weights))

    def numbers(self, first: int, n: int) -> NDArray[np.float64]:
        """[2, n] what this rank sends for these rows. The sum over all ranks is 0, modulo 2^64, if they are equal.

        If `start` was called for these rows, it waits at most for the end of that. Then the number of the last row is
        of all weights too.
        """
        self._in_all = None
        started, self._started = self._started, None
        if self.parted is not None or self._checksums is None:
            return np.zeros((2, n))
        if started is None or (started.first, started.n) != (first, n):
            numbers = self._of_rows(first, n).cpu().numpy()
        else:
            started.numbers.wait()
            copied, of_all = started.numbers.tensors
            numbers, checksums = copied.numpy(), self._checksums.of(of_all)
            self._in_all = first + n - 1, checksums
            factors = np.array([twin.factor for twin in self._twins])
            places = np.array([twin.place for twin in self._twins])
            products = checksums * factors * multipliers(STREAM, int(places.max()) + 1)[places]
            numbers[-1:] += products.sum(keepdims=True)  # of one element, because NumPy warns if a scalar overflows
        parts = numbers.view(np.uint64) // HALF_WORD, numbers.view(np.uint64) % HALF_WORD
        return np.stack(parts).astype(np.float64)

    def judge(self, first: int, totals: NDArray[np.float64]) -> None:
        """Look at the sums [2, n] over all ranks. If one is not 0, find the layers. This is then a collective call."""
        high, low = totals.astype(np.uint64)
        (bad,) = np.nonzero(high * np.uint64(HALF_WORD) + low)
        n = totals.shape[1]
        if self.parted is not None:
            return
        if len(bad):
            self._find_layers(first + int(bad[0]), first + n)
        elif self._in_all is not None:
            self._all_equal = first + n

    def _find_layers(self, row: int, end: int) -> None:
        """Compare the layers at the first row that differs. If layers take turns, the next rows have the other ones."""
        rows = range(row, min(row + self._turns, end))
        of_all = {} if self._in_all is None else self._of_all(self._in_all[1])
        everyone = self._ranks.all_gather(lambda: (self._of_samples(rows), of_all), "compare its copy of the weights")
        places, ranks = differing([in_samples for in_samples, _ in everyone])
        equal = max(row - self._turns + 1, self._first)
        if not places:
            row, equal = end - 1, self._all_equal
            places, ranks = differing([in_all for _, in_all in everyone])
        layers = tuple(self._names[place] for place in places)
        self.parted = Parted((row + 1) * self._every, equal * self._every, equal == row, layers, tuple(ranks))

    def _weights(self, twins: tuple[Twin, ...] | list[Twin] | None = None) -> list[Tensor]:
        names, parameters = self._lookup.names, self._lookup.parameters()
        chosen = self._twins if twins is None else twins
        return [local_part(names[twin.number], parameters[twin.number]) for twin in chosen]

    def _of_rows(self, first: int, n: int) -> Tensor:
        """[n] one number of each row."""
        numbers = torch.arange(first, first + n, device=self._device)
        samples = self._samples[numbers % len(self._samples)].to(torch.int64)  # [n, W]
        return (samples * self._factors[numbers % self._turns]).sum(1)

    def _of_samples(self, rows: range) -> Checked:
        """The checksums of the layers that these rows sampled."""
        found: Checked = {}
        for row in rows:
            samples = self._samples[row % len(self._samples)].cpu().numpy().astype(np.int64)
            start = 0
            for twin in self._of_turn[row % self._turns]:
                factors = _sample_factors(twin)
                part = samples[start : start + len(factors)]
                found[twin.place] = twin.holders, int((part * factors).sum())
                start += len(factors)
        return found

    def _of_all(self, checksums: NDArray[np.int64]) -> Checked:
        return {twin.place: (twin.holders, int(sum_)) for twin, sum_ in zip(self._twins, checksums, strict=True)}


def _run(bits: Tensor) -> Tensor:
    """The words of a layer that are sampled."""
    start = max(min(int(len(bits) * WHERE), len(bits) - RUN), 0)
    return bits[start : start + RUN]


def _sample_factors(twin: Twin) -> NDArray[np.int64]:
    return multipliers(twin.place * RUN, min(twin.words, RUN))
