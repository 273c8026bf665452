"""Histories with a given RWC, for the tests of code that reads histories."""

import numpy as np

from weightscale_fast.record.history import RWCHistory


def make_history(rwc, names=None, **fields):
    """A history with this RWC [S, L]."""
    rwc = np.asarray(rwc, dtype=np.float64)
    S, L = rwc.shape
    names = names or [f"blocks.{i // 5}.{i % 5}.se.conv_reduce.weight" for i in range(L)]
    given = {
        "names": tuple(names),
        "numel": np.full(L, 100),
        "kinds": ("conv", "linear") * (L // 2) + ("conv",) * (L % 2),
        "steps": np.arange(1, S + 1),
        "delta_l1": rwc,
        "prev_l1": np.ones((S, L)),
        "moved": np.where(rwc > 0, 75, 0),
    }
    return RWCHistory(**{**given, **fields})


def noisy(S, L, seed=0):
    """RWC [S, L] of layers at three levels, which falls with the steps."""
    rng = np.random.default_rng(seed)
    level = np.array([1e-3, 3e-3, 5e-3])[np.arange(L) % 3]
    return level * np.exp(rng.normal(0, 0.1, (S, L)) - np.arange(S)[:, None] / S)
