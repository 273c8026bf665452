"""Lightning: one callback records every step, resumes from the checkpoint, and reports to the trainer's loggers.

python examples/lightning_callback.py [FOLDER]
"""

import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from weightscale_fast.integrations.lightning import RWCCallback


class Classifier(pl.LightningModule):
    """Says to which of two noisy clouds a point belongs."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))

    def training_step(self, batch, index):
        points, labels = batch
        return nn.functional.cross_entropy(self.net(points), labels)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def trainer(folder, callback, epochs):
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[callback],
        logger=CSVLogger(folder, name="logs"),
        log_every_n_steps=10,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/lightning")
torch.manual_seed(0)
labels = torch.randint(2, (512,))
points = torch.randn(512, 16) + labels[:, None]
batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(points, labels), batch_size=32)

first = trainer(folder, RWCCallback(folder / "rwc"), epochs=2)
first.fit(Classifier(), batches)
first.save_checkpoint(folder / "epoch_2.ckpt")

# Later, perhaps in another process: with the same folder, the record goes on from the checkpoint.
callback = RWCCallback(folder / "rwc")
trainer(folder, callback, epochs=4).fit(Classifier(), batches, ckpt_path=folder / "epoch_2.ckpt")

history = callback.history()
print(f"{len(history)} steps of {len(history.names)} layers; to explain them: weightscale analyze {folder / 'rwc'}")
