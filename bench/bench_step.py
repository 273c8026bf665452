"""What recording every step adds to a real training step: ResNet-18, batch 128, Adam."""

import pytest
import timm
import torch
from torch import nn

import weightscale_fast as wsf

BATCH = 128


@pytest.mark.parametrize("pixels", [32, 224])
@pytest.mark.parametrize("part", ["training step", "record"])
def bench_step(benchmark, part, pixels):
    """The two parts by themselves: what lies between two steps is nothing but the record."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    size = pixels if part == "training step" else 32  # the images do not matter to the record
    images, labels = torch.randn(BATCH, 3, size, size), torch.randint(0, 10, (BATCH,))
    monitor = wsf.RWCMonitor(model)

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    for _ in range(2):  # in the first step timm's zero-initialised scales hold some layers still
        step()
        monitor.record()
    assert (monitor.history().rwc[1] > 0).all()
    benchmark.group = f"ResNet-18, batch {BATCH}, {pixels} x {pixels}"
    benchmark.extra_info.update(case=benchmark.group, rival=part)
    timed, rounds = (monitor.record, 50) if part == "record" else (step, 5 if pixels < 224 else 2)
    benchmark.pedantic(timed, rounds=rounds, warmup_rounds=1)
