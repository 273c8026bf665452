"""Small trainings in which a test plants a difference."""

import torch
from torch import nn

import weightscale_fast as wsf


class TinyTransformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, tokens):
        return self.head(self.block(self.embed(tokens)).mean(1))


def make_mlp():
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))


def make_cnn():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


NETWORKS = {"mlp": make_mlp, "cnn": make_cnn, "transformer": TinyTransformer}
LAYERS = {"mlp": "2.weight", "cnn": "2.weight", "transformer": "block.linear1.weight"}  # that a test changes
STEPS = 40


def batch(network, number):
    draw = torch.Generator().manual_seed(1000 + number)
    x = {
        "mlp": lambda: torch.randn(8, 12, generator=draw),
        "cnn": lambda: torch.randn(8, 1, 8, 8, generator=draw),
        "transformer": lambda: torch.randint(16, (8, 6), generator=draw),
    }[network]()
    return x, torch.randint(4, (8,), generator=draw)


def train(
    network,
    run_dir=None,
    *,
    inside=None,
    between=None,
    begin=None,
    order=lambda number: number,
    dtype=torch.float32,
    lr=0.05,
    steps=STEPS,
    settings=None,
    **recording,
):
    """Train, and return the history.

    Args:
        network: one of `NETWORKS`.
        run_dir: where to record; None for memory only.
        inside: called with the model and the step, after the optimizer has written and before the row is recorded.
        between: the same, after the row.
        begin: called with the model before the monitor sees it.
        order: the number of the batch of each step.
        dtype: of the weights.
        lr: the learning rate.
        steps: how many.
        settings: of the run.
        recording: further arguments of the monitor.
    """
    torch.manual_seed(0)
    model = NETWORKS[network]()
    if begin is not None:
        begin(model)
    model.to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    step = 0
    if inside is not None:  # before the monitor's hook
        optimizer.register_step_post_hook(lambda *_: inside(model, step))
    with wsf.RWCMonitor(model, optimizer, run_dir=run_dir, settings=settings, **recording) as monitor:
        for step in range(1, steps + 1):
            x, y = batch(network, order(step))
            loss = nn.functional.cross_entropy(model(x.to(dtype) if x.is_floating_point() else x).float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if between is not None:
                between(model, step)
        return monitor.history()


def nudge(layer, at, amount=None):
    """Changes the largest weight of a layer at a step: by one unit in the last place, or by `amount`."""

    def change(model, step=at):
        if step != at:
            return
        with torch.no_grad():
            weights = model.get_parameter(layer).view(-1)
            i = int(weights.abs().argmax())
            away = torch.nextafter(weights[i], weights[i].sign() * 1e9)
            weights[i] = away if amount is None else weights[i] + amount

    return change
