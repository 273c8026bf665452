"""A plain training loop that records every step and every epoch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..extras import import_extra
from ..monitor import RWCMonitor
from .data import load_images, split_and_batch
from .models import create_model

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
PER_EPOCH = "epochs"  # the folder inside a run that holds its per-epoch record


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run; kept in its record."""

    model: str = "resnet50"  # a timm name
    data: str = "mnist-5k"  # see load_images
    epochs: int = 5
    batch_size: int = 64
    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9  # of sgd
    image_size: int | None = None
    definition: str = "norm_ratio"
    every: int = 1
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(map(repr, OPTIMIZERS))}, got {self.optimizer!r}")
        if self.epochs < 1:
            raise ValueError(f"epochs must be 1 or more, got {self.epochs}")


def train(config: TrainConfig, run_dir: str | Path) -> Path:
    """Train, recording to `run_dir` at every step and to `run_dir/epochs` at every epoch.

    `metrics.jsonl` gets a line an epoch: loss, accuracies, seconds, and the share of them that recording took.

    Raises:
        ValueError: a wrong setting.
        WeightScaleError: the folder exists, or a package is missing.
    """
    data = load_images(config.data, image_size=config.image_size)
    training, validation = split_and_batch(data, config.batch_size, config.seed)
    torch.manual_seed(config.seed)
    model = create_model(config.model, channels=data.channels, classes=data.classes).to(config.device)
    optimizer = _create_optimizer(config, model)
    progress = import_extra("tqdm", "train").tqdm

    run_dir = Path(run_dir)
    settings = {**asdict(config), "images": data.count, "classes": data.classes, "steps_per_epoch": len(training)}
    with (
        RWCMonitor(
            model, every=config.every, definition=config.definition, run_dir=run_dir, settings=settings
        ) as per_step,
        RWCMonitor(model, definition=config.definition, run_dir=run_dir / PER_EPOCH, settings=settings) as per_epoch,
        open(run_dir / "metrics.jsonl", "a") as metrics,
    ):
        for epoch in range(1, config.epochs + 1):
            start, recording = time.perf_counter(), 0.0
            losses, correct, seen = torch.zeros((), device=config.device), torch.zeros((), device=config.device), 0
            bar = progress(training, desc=f"epoch {epoch}/{config.epochs}", unit="step", leave=False)
            for images, labels in bar:
                images, labels = images.to(config.device), labels.to(config.device)
                optimizer.zero_grad(set_to_none=True)
                scores = model(images)
                loss = nn.functional.cross_entropy(scores, labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                before = time.perf_counter()
                per_step.record()
                recording += time.perf_counter() - before
                losses += loss.detach() * len(labels)
                correct += (scores.detach().argmax(1) == labels).sum()
                seen += len(labels)
                bar.set_postfix(
                    loss=f"{losses.item() / seen:.3f}", accuracy=f"{correct.item() / seen:.1%}", refresh=False
                )
            per_epoch.record()
            seconds = time.perf_counter() - start
            line = {
                "epoch": epoch,
                "step": per_step.step,
                "loss": losses.item() / seen,
                "accuracy": correct.item() / seen,
                "validation_accuracy": _accuracy(model, validation, config.device),
                "seconds": seconds,
                "recording_share": recording / seconds,
            }
            metrics.write(json.dumps(line) + "\n")
            metrics.flush()
            progress.write(
                f"epoch {epoch}: loss {line['loss']:.3f}, accuracy {line['accuracy']:.1%}, on held-out images "
                f"{line['validation_accuracy']:.1%}, {seconds:.0f} s, of them {line['recording_share']:.1%} recording"
            )
    return run_dir


def _create_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    create: Callable[..., torch.optim.Optimizer] = OPTIMIZERS[config.optimizer]
    arguments = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    return create(model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True, **arguments)


@torch.no_grad()
def _accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: str) -> float:
    model.eval()
    correct = total = 0
    for images, labels in batches:
        correct += int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
        total += len(labels)
    model.train()
    return correct / total
