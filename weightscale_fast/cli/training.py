"""`weightscale demo` and `weightscale train`: runs that record themselves."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..train import TrainConfig, train
from ..train.config import AUGMENTATIONS, OPTIMIZERS, PRECISIONS, recorded_config
from ..train.data import NAMES
from ..train.models import SMALL
from .analysis import analyze
from .commands import add_command, run_path

HELPS = {
    "model": f"a timm name, or one for images of 32 pixels: {', '.join(SMALL)}",
    "data": f"{', '.join(NAMES)}, or a folder with one folder of images for each class",
    "epochs": "passes over the training images",
    "batch_size": "images in one optimizer step",
    "optimizer": ", ".join(OPTIMIZERS),
    "lr": "learning rate, constant",
    "weight_decay": "of the optimizer",
    "momentum": "momentum of sgd",
    "image_size": "resize the images to this many pixels square",
    "augment": f"how to vary the training images: {', '.join(AUGMENTATIONS)}",
    "shuffle": "a new order of the images in every epoch",
    "limit": "take only this many training images, and the same share of the test images",
    "stop_at": "end training at this test accuracy, 0 to 1",
    "precision": f"{', '.join(PRECISIONS)}; auto is bfloat16 autocast and channels_last on a GPU",
    "definition": "norm_ratio, mean_ratio or l2_ratio",
    "every": "optimizer steps between two rows of the record",
    "seed": "seed of the first weights, of the order of the images, and of which images are held out",
    "device": "cpu, cuda, ...; auto is the GPU if there is one",
}
_KINDS: dict[str, Any] = {"str": str, "int": int, "int | None": int, "float": float, "float | None": float}


def add_commands(commands: Any) -> None:
    """Add `demo` and `train`."""
    demo = add_command(
        commands,
        "demo",
        "train ResNet-50 on 5,000 MNIST digits for three minutes, and explain it",
        "Trains ResNet-50 on 5,000 MNIST digits, which takes three minutes on two cores. It records every step to a "
        "run folder, and writes a page about the run to RUN/analysis. It needs no download.",
        "weightscale demo --run runs/demo",
    )
    demo.add_argument(
        "--run", type=run_path, metavar="RUN", help="folder of the run (default: runs/demo, or the next free name)"
    )
    demo.set_defaults(call=run_demo)

    train = add_command(
        commands,
        "train",
        "train a network, recording every step",
        "Trains a network on images. It records every step to the folder RUN and every epoch to RUN/epochs, and writes "
        "loss and accuracy to RUN/metrics.jsonl and a checkpoint to RUN/checkpoints after each epoch.",
        "weightscale train runs/first --model resnet10t --data digits --epochs 5",
    )
    train.add_argument(
        "run", type=run_path, metavar="RUN", help="folder of the run; a new one, unless --resume is given"
    )
    train.add_argument("--resume", action="store_true", help="go on with RUN after its last whole epoch")
    add_config_flags(train, [field.name for field in fields(TrainConfig)])
    add_loading_flags(train)
    train.set_defaults(call=run_train)


def add_config_flags(parser: argparse.ArgumentParser, names: list[str], default: str | None = None) -> None:
    """Add a flag for each of these fields of TrainConfig. A flag that is not given is not among the arguments."""
    for field in fields(TrainConfig):
        if field.name in names:
            options: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
            if field.type != "bool":
                options = {"type": _KINDS[str(field.type)], "metavar": field.name.rpartition("_")[2].upper()}
            text = f"{HELPS[field.name]} (default: {default or field.default})"
            flag = "--" + field.name.replace("_", "-")
            parser.add_argument(flag, default=argparse.SUPPRESS, help=text, **options)


def add_loading_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where images come from. They do not change what is computed."""
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="folder with the files of the data sets (default: data)",
    )
    parser.add_argument("--download", action="store_true", help="download the files that are missing")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that load images (default: 0)")


def given_config(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of TrainConfig that were given as flags."""
    names = {field.name for field in fields(TrainConfig)}
    return {name: value for name, value in vars(arguments).items() if name in names}


def run_demo(arguments: argparse.Namespace) -> None:
    """Train the demo's network and analyze it."""
    arguments.run = run = arguments.run or _free_name(Path("runs/demo"))
    config = TrainConfig()
    print(
        f"{config.model} on {config.data}, {config.optimizer} {config.lr}, {config.epochs} epochs; recording to {run}"
    )
    analyze(train(config, run))


def run_train(arguments: argparse.Namespace) -> None:
    """Train, and say how to analyze the run."""
    given = given_config(arguments)
    before = vars(recorded_config(arguments.run)) if arguments.resume else {}
    run = train(
        TrainConfig(**(before | given)),
        arguments.run,
        data_root=arguments.data_root,
        download=arguments.download,
        workers=arguments.workers,
        resume=arguments.resume,
    )
    print(f"recorded to {run}; now: weightscale analyze {run}")


def _free_name(path: Path) -> Path:
    """The path itself if nothing is there, else the first free one of path-2, path-3, ..."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
