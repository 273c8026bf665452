"""compare of a resumed run with one that was not interrupted: equal, or the first step and layers that are not."""

import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.cli import main

from .compared_runs import NETWORKS, batch

BREAK, END = 20, 30


def go(run_dir, first, last, checkpoint=None, batch_of=lambda step: step, forget=()):
    """Train from step `first` to `last`, from a checkpoint if there is one, and return the next checkpoint."""
    torch.manual_seed(0)
    model = NETWORKS["mlp"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    resume = checkpoint is not None
    if resume:
        model.load_state_dict(checkpoint["model"])
        if "optimizer" not in forget:
            optimizer.load_state_dict(checkpoint["optimizer"])
    with wsf.RWCMonitor(model, optimizer, run_dir=run_dir, resume=resume) as monitor:
        if resume:
            monitor.load_state_dict(checkpoint["monitor"])
        for step in range(first, last + 1):
            x, y = batch("mlp", batch_of(step))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        monitor.flush()
        parts = {"model": model, "optimizer": optimizer, "monitor": monitor}
        return {name: part.state_dict() for name, part in parts.items()}


@pytest.fixture
def compare_resumed(tmp_path):
    def compare(**fault):
        go(tmp_path / "unbroken", 1, END)
        go(tmp_path / "resumed", BREAK + 1, END, go(tmp_path / "resumed", 1, BREAK), **fault)
        return wsf.compare(tmp_path / "unbroken", tmp_path / "resumed")

    return compare


def test_a_resume_that_restores_everything(compare_resumed, tmp_path):
    comparison = compare_resumed()
    assert comparison.same_bits
    assert len(comparison.steps) == END
    assert main(["compare", str(tmp_path / "unbroken"), str(tmp_path / "resumed")]) == 0


def test_a_resume_that_begins_the_data_again(compare_resumed):
    comparison = compare_resumed(batch_of=lambda step: step - BREAK)
    assert (comparison.first.step, comparison.first.layers) == (BREAK + 1, comparison.names)
    assert not comparison.first.before
    assert "all layers at once: another batch, loss, random number or optimizer" in str(comparison)


def test_a_resume_without_the_optimizer(compare_resumed):
    first = compare_resumed(forget=("optimizer",)).first
    assert (first.step, first.last_equal, first.before) == (BREAK + 1, BREAK, False)
