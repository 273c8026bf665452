"""A run that goes back to a checkpoint and on, and then to a checkpoint of the branch that it left."""

import copy

import pytest
import torch
from torch import nn

import weightscale_fast as wsf


@pytest.mark.parametrize("every", [1, 2])
def test_rows_of_another_branch_are_told(tmp_path, every):
    """The folder had rows for each of these steps, but not those that led to the checkpoint."""
    model = nn.Linear(2, 2, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    monitor = wsf.RWCMonitor(model, optimizer, every=every, run_dir=tmp_path / "run")

    def train(steps, by):
        for _ in range(steps):
            model.weight.grad = torch.full_like(model.weight, float(by))
            optimizer.step()

    def save():
        return copy.deepcopy(model.state_dict()), monitor.state_dict()

    def load(saved):
        model.load_state_dict(saved[0])
        monitor.load_state_dict(saved[1])

    train(4, 1)
    early = save()
    train(5, 2)
    late = save()
    load(late)  # to and fro on one branch is right
    train(3, 3)
    load(late)
    load(early)
    train(5, 2)  # the same steps again: the rows are equal
    monitor.flush()
    load(late)
    load(early)
    train(9, 5)
    monitor.flush()
    with pytest.warns(UserWarning, match=f"the row of step {9 // every * every} .* is not the one"):
        load(late)
    del late[1]["last_row"]  # as in a state of an earlier version
    load(late)
    monitor.close()
