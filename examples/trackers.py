"""Trackers: eight numbers every ten steps, and a report at the end. This script sends them to TensorBoard.

To send them to another tracker, call `wandb.init()`, `trackio.init()` or `mlflow.start_run()` first, and pass `wandb`,
`trackio` or `mlflow` in place of `writer`.

    python examples/trackers.py [FOLDER]
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import weightscale_fast as wsf
from weightscale_fast.integrations.trackers import log_report, log_summary

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/trackers")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
inputs = torch.randn(256, 16)
targets = inputs[:, :4].prod(1, keepdim=True)

with SummaryWriter(folder / "tensorboard") as writer, wsf.RWCMonitor(model, optimizer) as monitor:
    for step in range(1, 101):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()
        if step % 10 == 0:
            log_summary(monitor.recent(after=step - 10), writer)

    history = monitor.history()
    page = wsf.write_report(history, wsf.cluster_layers(history), folder / "analysis")
    log_report(page, writer, step=100)

print(f"to look at it: tensorboard --logdir {folder / 'tensorboard'}")
