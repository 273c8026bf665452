"""Edits of a folder of `weightscale train` for damaged_files.py: checkpoints, settings and metrics of a stranger."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from damaged_curves import Runs
from damaged_runs import NOTHING, Edit, cut, edit_meta, flip, others

KEYS = (
    *("model", "data", "epochs", "batch_size", "optimizer", "lr", "weight_decay", "momentum", "image_size", "augment"),
    *(
        "shuffle",
        "limit",
        "stop_at",
        "precision",
        "definition",
        "every",
        "seed",
        "device",
        "workers",
        "steps_per_epoch",
    ),
)
MORE: dict[str, tuple[object, ...]] = {
    "model": ("hf-hub:someone/evil", "local-dir:/tmp/evil", "../../x", "a\0b", ""),
    "data": ("/etc", "http://x/y", "a\0b", ""),
    "device": ("cuda:7", "meta", "x;y", "cpu:3", ""),
    "seed": (2**43, 2**63, -(2**70)),
    "image_size": (10**7,),
    "workers": (10**6,),
    "lr": (float("nan"), float("inf"), -1e-3, "1e-3"),
}


def training_edits(outside: Path, rng: random.Random) -> Iterator[Edit]:
    """All edits of a run that can be resumed after its first epoch."""
    for key in KEYS:
        for value in (*NOTHING, *MORE.get(key, ())):
            yield (
                f"settings {key}",
                lambda run, key=key, value=value: edit_meta(run, lambda meta: meta["settings"].update({key: value})),
            )
    for place in ("checkpoints", "checkpoints/last.pt", "metrics.jsonl", "epochs", "rwc", ".lock"):
        for name, make in others(outside).items():
            yield f"{place} is {name}", lambda run, place=place, make=make: make(run / place)
    for text in (
        b"",
        b"\xff",
        b"[" * 100_000,
        b"{}\n",
        b"[]\n",
        b"5\n",
        b'{"loss": "x"}\n',
        b'{"loss": 1' + b"0" * 999,
    ):
        yield "metrics.jsonl is something else", lambda run, text=text: (run / "metrics.jsonl").write_bytes(text)
    for key in ("epoch", "loss", "train_top1", "test_top1", "step", "seconds"):
        for value in NOTHING:
            yield "metrics.jsonl has other values", lambda run, key=key, value=value: edit_line(run, key, value)
    for _ in range(40):
        end, place, byte = rng.random(), rng.random(), rng.randrange(256)
        yield "a checkpoint that is cut", lambda run, end=end: cut(last(run), end)
        yield "a checkpoint with another byte", lambda run, place=place, byte=byte: flip(last(run), place, byte)
    for state in (*NOTHING, torch.zeros(3), Runs()):
        yield "a checkpoint of something else", lambda run, state=state: torch.save(state, last(run))
    for name, change in checkpoint_changes():
        yield f"checkpoint: {name}", lambda run, change=change: edit_checkpoint(run, change)


def checkpoint_changes() -> Iterator[tuple[str, Callable[[dict[str, Any]], object]]]:
    """Changes of what a checkpoint holds."""
    for part in ("epoch", "model", "optimizer", "per_step", "per_epoch"):
        yield f"no {part}", lambda state, part=part: state.pop(part)
        for value in (*NOTHING, torch.zeros(3), 2, 0):
            yield f"{part} is something else", lambda state, part=part, value=value: state.update({part: value})
    for kind in ("per_step", "per_epoch"):
        for key in ("step", "every", "definition", "names", "weights", "written", "run", "rows"):
            for value in (*NOTHING, -200, 2**63, 3, b"x", torch.zeros(3)):
                yield f"{kind} {key}", lambda state, kind=kind, key=key, value=value: state[kind].update({key: value})
    for name, change in tensors().items():
        yield f"weights {name}", lambda state, change=change: first(state["model"], change)
        for key in ("step", "exp_avg", "exp_avg_sq"):
            yield (
                f"optimizer {key} {name}",
                lambda state, key=key, change=change: [
                    its.update({key: change(its[key])}) for its in state["optimizer"]["state"].values()
                ],
            )
        yield f"previous weights {name}", lambda state, change=change: first(state["per_step"]["weights"], change)
    for key in ("step", "exp_avg", "exp_avg_sq"):
        yield f"optimizer without {key}", lambda state, key=key: state["optimizer"]["state"][0].pop(key)
    for value in NOTHING:
        yield "optimizer state", lambda state, value=value: state["optimizer"].update(state=value)
        yield "optimizer state of a weight", lambda state, value=value: state["optimizer"]["state"].update({0: value})
        yield "optimizer groups", lambda state, value=value: state["optimizer"].update(param_groups=value)
        for key in (
            "lr",
            "betas",
            "eps",
            "weight_decay",
            "params",
            "fused",
            "foreach",
            "capturable",
            "amsgrad",
            "maximize",
        ):
            yield (
                f"optimizer {key}",
                lambda state, key=key, value=value: state["optimizer"]["param_groups"][0].update({key: value}),
            )
    for key in (10**6, -1, "x", 2.5):
        yield "optimizer state of no weight", lambda state, key=key: state["optimizer"]["state"].update({key: {}})


def tensors() -> dict[str, Callable[[Any], object]]:
    """What may be in the place of a tensor."""
    return {
        "of 1 number": lambda t: t.reshape(-1)[:1].clone(),
        "of no number": lambda t: t.reshape(-1)[:0].clone(),
        "of 1 number, expanded": lambda t: torch.zeros(1).expand(t.shape),
        "in another order": lambda t: t.t().contiguous().t() if t.ndim == 2 else t,
        "with one dimension more": lambda t: t[None],
        "of float64": lambda t: t.double(),
        "of int8": lambda t: t.to(torch.int8),
        "of complex numbers": lambda t: t.to(torch.complex64),
        "sparse": lambda t: t.to_sparse(),
        "on no device": lambda t: t.to("meta"),
        "missing": lambda t: None,
        "a number": lambda t: 2**70,
        "a text": lambda t: "x",
    }


def first(tensors_of: dict[str, Any], change: Callable[[Any], object]) -> None:
    """Change the first tensor."""
    name = next(iter(tensors_of))
    tensors_of[name] = change(tensors_of[name])


def last(run: Path) -> Path:
    """The checkpoint."""
    return run / "checkpoints" / "last.pt"


def edit_checkpoint(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of the checkpoint."""
    state = torch.load(last(run), weights_only=True)
    change(state)
    torch.save(state, last(run))


def edit_line(run: Path, key: str, value: object) -> None:
    """Change the first line of the metrics."""
    line = {**json.loads((run / "metrics.jsonl").read_text().splitlines()[0]), key: value}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def make_training(run: Path) -> None:
    """Train a tiny network for an epoch of two, and stop as a killed process does."""
    import weightscale_fast.train.loop as loop

    saved = loop.save_checkpoint

    def save(run_dir: Path, epoch: int, parts: dict[str, Any]) -> None:
        saved(run_dir, epoch, parts)
        if epoch == 1:
            os._exit(0)

    loop.save_checkpoint = save
    settings: dict[str, Any] = {
        "model": "test_efficientnet",
        "data": "digits",
        "image_size": 32,
        "batch_size": 8,
        "limit": 16,
    }
    loop.train(loop.TrainConfig(**settings, epochs=2, device="cpu"), run)
