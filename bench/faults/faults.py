"""The faults, written anew from their descriptions: what each changes in a training, and what a detector should say.

Sources: "C1" are AutoTrainer, DeepFD, DeepLocalize and UMLAUT; TheDeepChecker and TrainCheck are named, with the name
that TrainCheck gives the case; "common" are mistakes that forums and issue trackers are full of.

Whether a fault is visible was decided by what it does, and not by what a detector finds: whatever changes how weights
move at all is visible. invisible.py has the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .networks import Network
from .training import Training

Alter = Callable[[Training], object]


@dataclass(frozen=True)
class Fault:
    """A fault.

    Args:
        name: of the fault.
        text: one line for a person.
        source: where it comes from.
        alter: changes a training that would be sane.
        kinds: of findings that name it rightly. "raised" and "warning" if the monitor itself says so.
        causes: that explain it rightly; empty if weights cannot show the cause.
        visible: whether it changes how weights move.
        applies: whether a network can have it.
        note: whether it is rightly reported by a note, which is no fault.
    """

    name: str
    text: str
    source: str
    alter: Alter
    kinds: frozenset[str]
    causes: frozenset[str] = frozenset()
    visible: bool = True
    applies: Callable[[Network], bool] = lambda network: True
    note: bool = False


class Faults(dict[str, Fault]):
    """Faults by name."""

    def add(
        self,
        text: str,
        source: str,
        kinds: str = "",
        causes: str = "",
        *,
        visible: bool = True,
        applies: Callable[[Network], bool] = lambda network: True,
        note: bool = False,
    ) -> Callable[[Alter], Alter]:
        """Add the function below as a fault."""

        def added(alter: Alter) -> Alter:
            name = getattr(alter, "__name__", "")
            self[name] = Fault(
                name, text, source, alter, frozenset(kinds.split()), frozenset(causes.split()), visible, applies, note
            )
            return alter

        return added
