"""`weightscale info`: which backends and packages work here."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata
from typing import Any

import torch

from ..ops.backends import BACKENDS, choose_backend, load_backend
from .commands import add_command

PACKAGES = ("torch", "triton", "numpy", "safetensors", "scikit-learn", "matplotlib", "timm", "torchvision")


def add_commands(commands: Any) -> None:
    """Add `info`."""
    info = add_command(
        commands,
        "info",
        "which backends and packages work here, and why the others do not",
        "Prints the versions of this package and of those it can use, and for each backend of each device whether it "
        "works or why it does not. It writes no file.",
        "weightscale info",
    )
    info.set_defaults(call=run_info)


def run_info(arguments: argparse.Namespace) -> None:
    """Print the versions, and for each backend that it works or why it does not."""
    print(f"weightscale_fast {metadata.version('weightscale_fast')}, Python {platform.python_version()}")
    for package in PACKAGES:
        try:
            print(f"  {package:<14}{metadata.version(package)}")
        except metadata.PackageNotFoundError:
            print(f"  {package:<14}not installed")
    devices = [torch.device("cpu")]
    if torch.accelerator.is_available():
        devices.append(torch.device(torch.accelerator.current_accelerator().type))  # type: ignore[union-attr]
    for device in devices:
        chosen = choose_backend(device)
        print(f"backends for weights on {device}:")
        for name in BACKENDS:
            backend = load_backend(name)
            print(f"  {name:<14}{backend.refusal(device) or 'works'}{', chosen' if backend is chosen else ''}")
