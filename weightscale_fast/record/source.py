"""history_of: the history behind what people have at hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol, TypeAlias

from .history import RWCHistory


class HasHistory(Protocol):
    """What `RWCMonitor` offers here."""

    def history(self) -> RWCHistory: ...


HistorySource: TypeAlias = "RWCHistory | HasHistory | str | os.PathLike[str]"


def history_of(source: HistorySource) -> RWCHistory:
    """The history itself, the one in the run folder at a path, or the one that a monitor has recorded so far.

    Raises:
        TypeError: it is none of these.
        WeightScaleError: there is no run folder at the path.
    """
    if isinstance(source, RWCHistory):
        return source
    if isinstance(source, (str, os.PathLike)):
        return RWCHistory.load(Path(source))
    if callable(getattr(source, "history", None)):
        return source.history()
    raise TypeError(
        f"history must be an RWCHistory, the path of a run folder or an RWCMonitor, got {type(source).__name__}"
    )
