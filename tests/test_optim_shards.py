"""weightscale_fast.optim on DTensors: the kernel steps the local shards of FSDP2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")

SCRIPT = """
import copy, sys
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
import weightscale_fast as wsf
from tests.test_optim_sums import oracle

torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
torch.manual_seed(0)
mesh = torch.distributed.init_device_mesh("cpu", (1,))
whole = nn.Sequential(nn.Linear(17, 33), nn.Linear(33, 5))
model = fully_shard(copy.deepcopy(whole), mesh=mesh)
for name, arguments in (("AdamW", {"lr": 0.01}), ("SGD", {"lr": 0.01, "momentum": 0.9})):
    ours = getattr(wsf.optim, name)(model.parameters(), **arguments)
    theirs = getattr(torch.optim, name)(whole.parameters(), **arguments)
    for _ in range(3):
        batch = torch.randn(8, 17)
        for network, optimizer in ((model, ours), (whole, theirs)):
            optimizer.zero_grad()
            network(batch).square().mean().backward()
        before = [p.to_local().detach().clone() for p in model.parameters()]
        ours.request_sums(ratio=True)
        ours.step(), theirs.step()
        (part,) = ours.step_sums
        assert list(map(id, part.parameters)) == list(map(id, model.parameters()))
        for i, (p, prev) in enumerate(zip(model.parameters(), before, strict=True)):
            expected = oracle(p.to_local().flatten(), prev.flatten())
            torch.testing.assert_close(part.sums[:, i], expected, rtol=1e-6, atol=0)
    assert [len(table.parameters) for table in ours._plan.tables] == [4]
    for p, q in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(p.full_tensor(), q, rtol=1e-5, atol=1e-6)
    state = ours.state[next(model.parameters())]
    assert isinstance(next(value for key, value in state.items() if key != "step"), torch.distributed.tensor.DTensor)
torch.distributed.destroy_process_group()
print("done")
"""


def test_the_shards_of_fsdp2(tmp_path):
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "store")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout == "done\n", done.stderr
