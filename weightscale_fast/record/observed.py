"""Observed: what a monitor sees beside the weights: the optimizer, and why layers stood still.

    RUN/observed.json     the same in a run folder; it is replaced whenever it changes

Letters: S recorded steps, L layers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightScaleError
from ..files import atomic_write, read_file

OBSERVED = "observed.json"

# Why a layer did not move at a step.
CAUSES = (
    "frozen",  # requires_grad is False
    "not_in_optimizer",
    "other_tensors",  # not in the optimizer, which has tensors that are not in the model
    "zero_rate",
    "no_gradient",  # grad is None
    "zero_gradient",  # grad is 0
    "rounding",  # it has a gradient and a rate, so its step was lost to rounding
)


@dataclass(frozen=True)
class Cause:
    """Why a layer did not move.

    Args:
        why: one of `CAUSES`.
        step: the step at which it was so.
    """

    why: str
    step: int


@dataclass(frozen=True)
class Observed:
    """What a monitor saw beside the weights.

    Args:
        optimizer: the class of the watched optimizer; empty if there is none.
        since: the step after which it was watched.
        implied_step: [L] the RMS of a step in units of the learning rate that the optimizer implies, None where it
            implies none; empty if nothing is known.
        causes: why layers did not move, by the layer's name.
        gradient: the mean absolute gradient of the median layer when steps were found to be tiny; None if they were
            not.
        epsilon: the optimizer's `eps` at that moment; None if it has none.
        keeps_gradients: whether a step found the gradient tensors of the step before. So it is if they are never
            zeroed, and with `zero_grad(set_to_none=False)`. None if it is not known.
        parted_step: the first step after which the ranks' copies of the weights were not equal; None if they are.
        parted_layers: the layers that differed.
    """

    optimizer: str = ""
    since: int = 0
    implied_step: tuple[float | None, ...] = ()
    causes: Mapping[str, Cause] = field(default_factory=dict)
    gradient: float | None = None
    epsilon: float | None = None
    keeps_gradients: bool | None = None
    parted_step: int | None = None
    parted_layers: tuple[str, ...] = ()

    def go_back(self, step: int) -> Observed:
        """What was known at an earlier step."""
        causes = {name: cause for name, cause in self.causes.items() if cause.step <= step}
        if self.parted_step is not None and self.parted_step > step:
            return replace(self, causes=causes, parted_step=None, parted_layers=())
        return replace(self, causes=causes)

    def columns(self, layers: list[int]) -> Observed:
        """What is known of some of the layers."""
        return replace(self, implied_step=tuple(self.implied_step[i] for i in layers if self.implied_step))

    def implied(self, steps: NDArray[np.int64], layers: int) -> NDArray[np.float64]:
        """[S, L] `implied_step` of each row. NaN where it is not known, or the optimizer was not watched yet."""
        known = [np.nan if size is None else size for size in self.implied_step] or [np.nan] * layers
        return np.where((steps > self.since)[:, None], np.array(known, np.float64), np.nan)

    def write(self, folder: Path) -> None:
        """Write `observed.json`.

        Raises:
            OSError: the folder cannot be written.
        """
        with atomic_write(folder / OBSERVED) as file:
            file.write(json.dumps(asdict(self), indent=1, allow_nan=False).encode())

    @classmethod
    def read(cls, folder: Path, layers: int) -> Observed:
        """Read `observed.json`. A folder without it, as those of version 0.1, gives an empty one.

        Raises:
            WeightScaleError: the file is damaged.
        """
        path = folder / OBSERVED
        try:
            found = json.loads(read_file(path))
            return cls._parse(found, layers)
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise WeightScaleError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise WeightScaleError(
                f"{path} is damaged ({type(error).__name__}: {error}); move it away to load the rows without it"
            ) from error

    @classmethod
    def _parse(cls, found: Any, layers: int) -> Observed:
        if not isinstance(found, dict) or not isinstance(found.get("causes"), dict):
            raise ValueError("expected an object with causes")
        implied, causes = found["implied_step"], found["causes"]
        if not isinstance(implied, list) or len(implied) not in (0, layers):
            raise ValueError(f"expected implied_step of {layers} layers")
        if not isinstance(found["optimizer"], str) or not _is_step(found["since"]):
            raise ValueError("expected the name of an optimizer, and a step")
        for cause in causes.values():
            if cause.keys() != {"why", "step"} or cause["why"] not in CAUSES or not _is_step(cause["step"]):
                raise ValueError(f"expected a cause and a step, got {str(cause)[:60]}")
        for number in [*implied, found["gradient"], found["epsilon"]]:
            if number is not None and not (type(number) is float and math.isfinite(number) and number >= 0):
                raise ValueError(f"expected a number, 0 or more, or null, got {str(number)[:60]}")
        if found["keeps_gradients"] not in (None, True, False):
            raise ValueError("expected keeps_gradients to be true, false or null")
        parted_step, parted_layers = found["parted_step"], found["parted_layers"]
        if not (parted_step is None or _is_step(parted_step)) or not isinstance(parted_layers, list):
            raise ValueError("expected parted_step to be a step or null, and parted_layers a list")
        if not all(isinstance(name, str) for name in parted_layers) or (parted_step is None) != (not parted_layers):
            raise ValueError("expected the names of parted_layers")
        return cls(
            found["optimizer"],
            found["since"],
            tuple(implied),
            {name: Cause(**cause) for name, cause in causes.items()},
            found["gradient"],
            found["epsilon"],
            found["keeps_gradients"],
            parted_step,
            tuple(parted_layers),
        )


def _is_step(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**62
