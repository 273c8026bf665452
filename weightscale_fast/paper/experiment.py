"""Run a preset. Each seed gets a run folder.

ROOT/<network>-<data>/seed-<seed>/    a run folder like those of `weightscale train`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import WeightScaleError
from ..record.run_folder import META, RunFolder
from ..train.config import same_workers
from ..train.loop import train
from .presets import Preset, as_coded


def run_preset(
    preset: Preset,
    root: str | Path,
    *,
    seeds: int | None = None,
    options: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    data_root: str | Path = "data",
    download: bool = False,
    workers: int | None = None,
    resume: bool = False,
) -> Path:
    """Train a preset once for each of its seeds.

    Args:
        preset: the experiment.
        root: where to put the folder of the runs.
        seeds: how many of the paper's seeds to use; None uses all of them.
        options: names in `AS_CODED`: what the authors' code did differently from their text.
        changes: settings that differ from the paper's, by their name in `TrainConfig`. The record keeps them.
        data_root, download, workers: see `train`.
        resume: go on where an earlier call was interrupted, with its changes and its number of workers.

    Returns:
        The folder with a run folder for each seed.

    Raises:
        ValueError: a setting is wrong.
        WeightScaleError: the data are missing, or the folder exists.
    """
    if seeds is not None and not 1 <= seeds <= len(preset.seeds):
        raise ValueError(f"seeds must be 1 to {len(preset.seeds)}, the seeds of the paper; got {seeds}")
    options = sorted(set(options))
    coded = as_coded(preset.config, options)
    config = replace(coded, **(changes or {}))
    folder = Path(root) / "-".join([config.model.removesuffix("-small"), Path(config.data).name, *options])
    if folder.exists() and any(folder.iterdir()) and not resume:
        raise WeightScaleError(f"{folder} exists: go on with it by --resume (resume=True), or choose another root")
    first = folder / f"seed-{preset.seeds[0]}"
    if (first / META).exists():
        config = replace(coded, **(RunFolder.open(first).meta["settings"]["changed"] | (changes or {})))
        workers = same_workers(workers, first)  # also for the seeds that have not begun
    changed = {
        name: value for name, value in vars(config).items() if name != "device" and value != getattr(coded, name)
    }
    if config.epochs < 2:
        raise ValueError(f"epochs must be 2 or more, for curves from epoch to epoch; got {config.epochs}")
    about = {"preset": preset.name, "paper": preset.paper, "as_coded": options, "changed": changed}
    for seed in preset.seeds[:seeds]:
        train(
            replace(config, seed=seed),
            folder / f"seed-{seed}",
            data_root=data_root,
            download=download,
            workers=workers,
            resume=resume,
            about=about,
        )
    return folder
