"""A plain training loop that records every step and every epoch. A killed run can be resumed."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WeightScaleError
from ..extras import import_extra
from ..files import check_own_folder
from ..monitor import RWCMonitor
from ..record.new_run import has_rows
from ..record.run_folder import META
from .checkpoint import check_empty, check_steps, checkpoint_path, load_checkpoint, save_checkpoint
from .config import TrainConfig, check_same, recorded_config, same_workers
from .data import Loader, batches, load_images
from .meter import Meter
from .metrics import describe, is_over, read_metrics, write_metrics
from .models import create_model
from .stopwatch import Stopwatch

PER_EPOCH = "epochs"  # the folder inside a run that holds its per-epoch record
SHOWN_EVERY = 0.5  # seconds between two updates of the progress bar; each waits for the device


def train(
    config: TrainConfig,
    run_dir: str | Path,
    *,
    data_root: str | Path = "data",
    download: bool = False,
    workers: int | None = None,
    resume: bool = False,
    about: dict[str, Any] | None = None,
) -> Path:
    """Train a network. Record every step to `run_dir` and every epoch to `run_dir/epochs`.

    `metrics.jsonl` gets a line for each epoch: the loss, top-1 and top-5 accuracy on the training and the test images,
    images per second, seconds, and the share of the time that recording took. A loss that is not finite is written as
    null, and the run ends after its epoch. On the CPU, two runs with the same config and the same number of workers are
    equal bit for bit.

    Args:
        config: what to compute.
        run_dir: a new folder, or with `resume` the folder of an interrupted run.
        data_root: where the files of the papers' data sets are.
        download: download the files that are missing.
        workers: processes that load images; by default this process loads them. With `resume` the number must be the
            same as before, because each worker augments images with its own random numbers.
        resume: go on after the last whole epoch. Weights and record then equal those of a run that was never
            interrupted, on the CPU bit for bit.
        about: further settings to keep in the record, for example the preset that the run belongs to.

    Returns:
        `run_dir`.

    Raises:
        ValueError: a setting is wrong.
        WeightScaleError: the folder exists, or belongs to another run; a package or the data are missing.
    """
    config, run_dir = config.resolved(), Path(run_dir)
    if not resume and has_rows(run_dir):
        raise WeightScaleError(
            f"run folder {run_dir} exists: choose another name, or continue its training with --resume (resume=True)"
        )
    if resume and (run_dir / META).exists():
        check_same(config, recorded_config(run_dir), run_dir)
        workers = same_workers(workers, run_dir)
    check_own_folder(run_dir / PER_EPOCH)
    check_own_folder(checkpoint_path(run_dir).parent)
    data = load_images(config, data_root=data_root, download=download)
    workers = workers or 0
    training, test = batches(data, config, workers=workers)
    torch.manual_seed(config.seed)
    model = create_model(config.model, channels=data.channels, classes=data.classes).to(config.device)
    if config.precision == "bfloat16":
        model = model.to(memory_format=torch.channels_last)
    optimizer = _create_optimizer(config, model)

    settings = {
        **asdict(config),
        **(about or {}),
        "workers": workers,
        "classes": data.classes,
        "images": [len(training.dataset), len(test.dataset)],  # type: ignore[arg-type]
        "images_of": list(data.of),
        "steps_per_epoch": len(training),
    }
    options: dict[str, Any] = {"definition": config.definition, "settings": settings, "resume": resume}
    recording = Stopwatch(config.device)
    optimizer.register_step_post_hook(lambda *_: recording.__enter__())  # just before the monitor's
    with (
        RWCMonitor(model, optimizer, every=config.every, run_dir=run_dir, **options) as per_step,
        RWCMonitor(model, run_dir=run_dir / PER_EPOCH, **options) as per_epoch,
    ):
        optimizer.register_step_post_hook(lambda *_: recording.__exit__(None, None, None))  # just after it
        parts = {"model": model, "optimizer": optimizer, "per_step": per_step, "per_epoch": per_epoch}
        done = load_checkpoint(run_dir, parts, config.device, config.epochs) if resume else 0
        if done:
            check_steps(run_dir, done, (per_step.step, done * len(training)))
            check_steps(run_dir, done, (per_epoch.step * len(training), done * len(training)))
        if not done:
            check_empty(run_dir, per_step.step)
            save_checkpoint(run_dir, 0, parts)
        metrics = read_metrics(run_dir)[:done]
        for epoch in range(done + 1, config.epochs + 1):
            if metrics and is_over(config, metrics[-1]):
                break
            _seed_epoch(config.seed, epoch, training)
            seen = _train_epoch(config, epoch, model, optimizer, training, recording)
            line = {"epoch": epoch, "step": per_step.step, **seen}
            per_epoch.record()
            line |= _test(config, model, test)
            metrics.append(line)
            write_metrics(run_dir, metrics)
            save_checkpoint(run_dir, epoch, parts)
            import_extra("tqdm", "train").tqdm.write(describe(line))
    return run_dir


def _seed_epoch(seed: int, epoch: int, training: Loader) -> None:
    """Seed the random numbers of an epoch. They do not depend on earlier epochs, so a resumed run gets the same."""
    torch.manual_seed((seed << 20) + epoch)
    assert training.generator is not None
    training.generator.manual_seed((seed << 20) + epoch)


def _create_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    create: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    options = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    optimizer: torch.optim.Optimizer = create[config.optimizer](
        model.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True, **options
    )
    return optimizer


def _train_epoch(
    config: TrainConfig,
    epoch: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    training: Loader,
    recording: Stopwatch,
) -> dict[str, Any]:
    """Train for one epoch, with a progress bar. Returns its line of the metrics, without the test accuracies."""
    model.train()
    meter = Meter(config.device)
    recording.restart()
    bar = import_extra("tqdm", "train").tqdm(
        training, desc=f"epoch {epoch}/{config.epochs}", unit="step", leave=False, disable=None
    )
    start = shown = time.perf_counter()
    for images, labels in bar:
        images, labels = _to_device(config, images, labels)
        optimizer.zero_grad(set_to_none=True)
        with _autocast(config):
            scores = model(images)
            loss = nn.functional.cross_entropy(scores.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        meter.add(loss, scores, labels)
        if (now := time.perf_counter()) - shown > SHOWN_EVERY:
            shown, seconds, seen = now, now - start, meter.result()
            bar.set_postfix_str(
                f"loss {seen['loss']:.3f}, accuracy {seen['top1']:.1%}, {meter.images / seconds:,.0f} images/s, "
                f"recording {recording.seconds() / seconds:.1%}",
                refresh=False,
            )
    result = meter.result()
    seconds = time.perf_counter() - start
    return {
        "loss": result["loss"] if math.isfinite(result["loss"]) else None,  # JSON has no NaN
        "train_top1": result["top1"],
        "train_top5": result["top5"],
        "images_per_second": meter.images / seconds,
        "seconds": seconds,
        "recording_share": recording.seconds() / seconds,
    }


@torch.no_grad()
def _test(config: TrainConfig, model: nn.Module, batches: Loader) -> dict[str, Any]:
    model.eval()
    meter = Meter(config.device)
    for images, labels in batches:
        images, labels = _to_device(config, images, labels)
        with _autocast(config):
            scores = model(images)
            loss = nn.functional.cross_entropy(scores.float(), labels)
        meter.add(loss, scores, labels)
    result = meter.result()
    return {"test_top1": result["top1"], "test_top5": result["top5"]}


def _to_device(config: TrainConfig, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    layout = torch.channels_last if config.precision == "bfloat16" else torch.contiguous_format
    return images.to(config.device, memory_format=layout, non_blocking=True), labels.to(
        config.device, non_blocking=True
    )


def _autocast(config: TrainConfig) -> torch.autocast:
    return torch.autocast(torch.device(config.device).type, torch.bfloat16, enabled=config.precision == "bfloat16")
