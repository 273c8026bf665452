"""A plain PyTorch loop: a few lines record every step, cluster the layers, and write a report.

python examples/plain_torch.py [FOLDER]
"""

import sys
from pathlib import Path

import torch
from torch import nn

import weightscale_fast as wsf

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/plain_torch")
torch.manual_seed(0)
images = torch.randn(512, 1, 12, 12)
labels = (images[:, 0, :6].sum((1, 2)) > images[:, 0, 6:].sum((1, 2))).long()  # is the upper half brighter?

model = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(8, 16, 3, padding=1, stride=2),
    nn.ReLU(),
    nn.Conv2d(16, 16, 3, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(16 * 36, 32),
    nn.ReLU(),
    nn.Linear(32, 2),
)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

with wsf.RWCMonitor(model, optimizer, run_dir=folder, settings={"lr": 1e-3}) as monitor:
    for _ in range(5):
        for batch in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()  # recorded

history = monitor.history()
clusters = wsf.cluster_layers(history)
page = wsf.write_report(history, clusters, folder / "analysis")
for name, cluster, level in zip(clusters.names, clusters.labels, history.rwc.mean(axis=0), strict=True):
    print(f"cluster {cluster}: {name} moves by {level:.2%} a step")
print(f"{len(history)} steps, loss {loss:.3f}; report: {page}")
