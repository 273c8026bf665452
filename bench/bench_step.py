"""The time that recording adds to a real training step: ResNet-18, batch 128, Adam."""

import pytest
import timm
import torch
from torch import nn

import weightscale_fast as wsf

BATCH = 128


@pytest.mark.parametrize("pixels", [32, 224])
@pytest.mark.parametrize("part", ["training step", "record"])
def bench_step(benchmark, part, pixels):
    """The two parts are timed separately, because recording adds nothing to a step but the call of `record`."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    size = pixels if part == "training step" else 32  # a record does not depend on the size of the images
    images, labels = torch.randn(BATCH, 3, size, size), torch.randint(0, 10, (BATCH,))
    monitor = wsf.RWCMonitor(model)

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    for _ in range(2):  # timm sets some scales to 0 at first, so in the first step some layers do not move
        step()
        monitor.record()
    assert (monitor.history().rwc[1] > 0).all()
    benchmark.group = f"ResNet-18, batch {BATCH}, {pixels} x {pixels}"
    benchmark.extra_info.update(case=benchmark.group, rival=part)
    timed, rounds = (monitor.record, 50) if part == "record" else (step, 5 if pixels < 224 else 2)
    benchmark.pedantic(timed, rounds=rounds, warmup_rounds=1)
