"""Accelerate: a monitor of the prepared model and optimizer. Accelerate's checkpoints hold its state.

python examples/accelerate_loop.py [FOLDER]
accelerate launch examples/accelerate_loop.py [FOLDER]    with several processes
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.integrations.accelerate import RWCState

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/accelerate")
torch.manual_seed(0)
accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
points = torch.randn(512, 16)
data = torch.utils.data.TensorDataset(points, points.square().mean(1, keepdim=True))
batches = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)

model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
with wsf.RWCMonitor(model, optimizer, run_dir=folder / "rwc") as monitor:
    accelerator.register_for_checkpointing(RWCState(monitor))  # save_state and load_state now include it
    for epoch in range(3):
        for inputs, targets in batches:
            with accelerator.accumulate(model):
                loss = nn.functional.mse_loss(model(inputs), targets)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
        accelerator.save_state(folder / f"epoch_{epoch + 1}")

    accelerator.load_state(folder / "epoch_2")  # as after a crash: the rows of epoch 3 are dropped
    assert monitor.step == 2 * len(batches) // 2

accelerator.print(f"{len(monitor.history())} steps; to explain them: weightscale analyze {folder / 'rwc'}")
