"""What the papers claim, and whether it holds in a run: with the number that decides, or why there is none.

Letters: R runs (seeds), E epochs, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .blocks import blocks_of
from .seeds import FloatArray, SeedRuns

STANDS_FOR = {"mnist-5k": "mnist"}  # a smaller set of the same images
EASY = ("cifar10", "mnist", "fashion-mnist")  # arXiv 2011.06735 calls these the easier tasks, and not CIFAR-100
LAYERWISE = ("resnet18", "vgg19_bn", "alexnet")
WEIGHTSCALE = ("resnet50", "efficientnet_b4")

Runs = Mapping[tuple[str, str], SeedRuns]  # by network and data set
ANSWERS = ("holds", "does not hold", "not comparable", "not run")


@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds in a run.

    Args:
        claim: the claim.
        network, data: the network and the data set of the run.
        number: the ratio of the mean curves over the seeds, which the papers compare; NaN if there is none.
        seeds: [R] the ratio of each seed.
        obstacle: why there is no number although the experiment was run.
    """

    claim: Claim
    network: str
    data: str
    number: float = float("nan")
    seeds: FloatArray = field(default_factory=lambda: np.array([]))
    obstacle: str = ""

    @property
    def agreeing(self) -> int:
        """The number of seeds whose own ratio agrees with the claim."""
        return int(self.claim.agrees(self.seeds).sum())

    @property
    def answer(self) -> str:
        """One of `ANSWERS`."""
        if self.obstacle:
            return "not comparable"
        if np.isnan(self.number):
            return "not run"
        return "holds" if self.claim.agrees(np.array(self.number)) else "does not hold"


@dataclass(frozen=True)
class Claim:
    """A statement of a paper about a run, as a ratio and the side of 1 on which it must lie.

    Args:
        paper: a key of `PAPERS`.
        text: the claim in a sentence.
        networks, data: the runs that it is about. If a claim compares two data sets, `data` is the first one.
        measure: what `number` computes, in words.
        number: a function from the run to [R], one ratio for each seed. If a claim compares two data sets, it takes
            both runs.
        above: True if the claim is that the ratio is above 1, False if it is that the ratio is 1 or below.
        against: the second data set, if the claim compares two.
    """

    paper: str
    text: str
    networks: tuple[str, ...]
    data: tuple[str, ...]
    measure: str
    number: Callable[..., FloatArray]
    above: bool
    against: str | None = None

    @property
    def expected(self) -> str:
        """The side of 1 that the claim says, in words."""
        return "above 1" if self.above else "1 or below"

    def agrees(self, number: FloatArray) -> NDArray[np.bool_]:
        """Whether each number lies on the side of 1 that the claim says."""
        return np.asarray(number > 1 if self.above else number <= 1)

    def verdicts(self, runs: Runs) -> Iterator[Verdict]:
        """A verdict for each network and data set that the claim is about."""
        for network in self.networks:
            for data in self.data:
                keys = [(network, data)] if self.against is None else [(network, data), (network, self.against)]
                known = [runs[key] for key in keys if key in runs]
                verdict = Verdict(self, network, data)
                yield self._answered(verdict, known) if len(known) == len(keys) else verdict

    def _answered(self, verdict: Verdict, runs: list[SeedRuns]) -> Verdict:
        work = [f"{run.settings['steps_per_epoch']} steps in each of {len(run.histories[0])} epochs" for run in runs]
        if len(set(work)) > 1:  # in an epoch of more steps the weights move further
            return replace(verdict, obstacle=f"{work[0]}, and on {runs[1].data} {work[1]}")
        with np.errstate(divide="ignore", invalid="ignore"):
            number = float(self.number(*(run.averaged() for run in runs))[0])
            seeds = self.number(*runs)
        if not np.isfinite(number):
            return replace(verdict, obstacle="some of these layers did not move")
        return replace(verdict, number=number, seeds=seeds)


def by_network_and_data(runs: list[SeedRuns]) -> dict[tuple[str, str], SeedRuns]:
    """The runs by network and by the paper's data set. A run on the whole data set is preferred to one on a part."""
    found: dict[tuple[str, str], SeedRuns] = {}
    for run in sorted(runs, key=lambda run: run.data in STANDS_FOR):
        found.setdefault((run.network, STANDS_FOR.get(run.data, run.data)), run)
    return found


def level(run: SeedRuns, rows: NDArray[np.int64] | None = None) -> FloatArray:
    """[R] how fast layers change: the median over the epochs of the mean RWC of these layers, by default of all."""
    finite = np.ma.masked_invalid(run.rwc if rows is None else run.rwc[:, :, rows])
    return np.asarray(np.nanmedian(finite.mean(axis=2).filled(np.nan), axis=1))


def _block_levels(run: SeedRuns) -> list[FloatArray]:
    history = run.histories[0]
    return [level(run, rows) for rows in blocks_of(run.network, history.names, history.kinds).values()]


def _last_to_first(run: SeedRuns) -> FloatArray:
    blocks = _block_levels(run)
    return np.asarray(blocks[-1] / blocks[0])


def _last_to_one_before(run: SeedRuns) -> FloatArray:
    blocks = _block_levels(run)
    return blocks[-1] / blocks[-2]


def _least_rise(run: SeedRuns) -> FloatArray:
    blocks = _block_levels(run)
    rises = [after / before for before, after in pairwise(blocks)]
    return np.asarray(np.min(rises, axis=0))


def _level_to_other(run: SeedRuns, other: SeedRuns) -> FloatArray:
    return level(run) / level(other.averaged())


def _last_to_first_to_other(run: SeedRuns, other: SeedRuns) -> FloatArray:
    return _last_to_first(run) / _last_to_first(other.averaged())


def _primitive(run: SeedRuns, kind: str) -> NDArray[np.int64]:
    return np.array([i for i, its in enumerate(run.histories[0].kinds) if its == kind])


def _depthwise_to_least(run: SeedRuns) -> FloatArray:
    others = [level(run, _primitive(run, kind)) for kind in ("pointwise", "pointwise_linear", "squeeze_excite")]
    return np.asarray(level(run, _primitive(run, "depthwise")) / np.min(others, axis=0))


def _late_pointwise(run: SeedRuns) -> FloatArray:
    rows = _primitive(run, "pointwise")
    third = len(rows) // 3
    return level(run, rows[-third:]) / level(run, rows[:third])


CLAIMS = (
    Claim(
        "layerwise",
        "Later layers change more than earlier ones.",
        LAYERWISE,
        (*EASY, "cifar100"),
        "last block / first block",
        _last_to_first,
        above=True,
    ),
    Claim(
        "layerwise",
        "On the easier tasks the last block changes no more than the one before it.",
        LAYERWISE,
        EASY,
        "last block / the one before",
        _last_to_one_before,
        above=False,
    ),
    Claim(
        "layerwise",
        "On CIFAR-100 each block changes more than the one before it.",
        LAYERWISE,
        ("cifar100",),
        "smallest rise from a block to the next",
        _least_rise,
        above=True,
    ),
    Claim(
        "layerwise",
        "A network changes less on MNIST than on FashionMNIST.",
        LAYERWISE,
        ("mnist",),
        "all layers on MNIST / on FashionMNIST",
        _level_to_other,
        above=False,
        against="fashion-mnist",
    ),
    Claim(
        "weightscale",
        "The harder task recruits the later layers: CIFAR-100 more than CIFAR-10.",
        WEIGHTSCALE,
        ("cifar100",),
        "(last block / first block) on CIFAR-100 / on CIFAR-10",
        _last_to_first_to_other,
        above=True,
        against="cifar10",
    ),
    Claim(
        "weightscale",
        "On CIFAR-10 the depthwise convolutions of EfficientNet-B4 change least of its primitives.",
        ("efficientnet_b4",),
        ("cifar10",),
        "depthwise / the least of the others",
        _depthwise_to_least,
        above=False,
    ),
    Claim(
        "weightscale",
        "On CIFAR-100 the later pointwise convolutions of EfficientNet-B4 change more than the earlier ones.",
        ("efficientnet_b4",),
        ("cifar100",),
        "pointwise, last third / first third",
        _late_pointwise,
        above=True,
    ),
)
