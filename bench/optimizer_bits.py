"""Whether weightscale_fast.optim is torch.optim: 1,000 steps, with the same gradients for every optimizer.

    python bench/optimizer_bits.py                 # ResNet-18 and a small transformer, AdamW and SGD; about ten minutes
    python bench/optimizer_bits.py --steps 100 --networks transformer

The gradients are those of the network that ours trains. These optimizers take steps with them:

    ours        weightscale_fast.optim
    torch       torch.optim, fused
    exact       torch.optim in float64
    and three that are replaced in the middle, with their state_dict: ours by ours, ours by torch, torch by ours

The table has, in units in the last place: the largest difference of ours and torch, the largest error of each against
`exact` and the mean error, and the largest difference of ours to ours that was replaced. At each step the sums are held
against float64; the largest relative error is printed.
"""

from __future__ import annotations

import argparse

import timm
import torch
from torch import Tensor, nn

import weightscale_fast as wsf

ARGUMENTS = {"AdamW": {"lr": 1e-3}, "SGD": {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}}
TOLERANCE = 1e-6  # relative, of a sum


class Transformer(nn.Module):
    """Two blocks of width 64 over 32 tokens of 100."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(100, 64)
        block = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 100)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.tokens(tokens))).flatten(0, 1)


def network(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, a batch, and its labels."""
    if name == "resnet18":
        return timm.create_model(name, num_classes=10), torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    tokens = torch.randint(100, (8, 33))
    return Transformer(), tokens[:, :-1], tokens[:, 1:].flatten()


class Run:
    """Copies of the parameters and the optimizer that steps them."""

    def __init__(self, model: nn.Module, name: str, place: object, dtype: torch.dtype = torch.float32) -> None:
        self.name = name
        self.parameters = [nn.Parameter(p.detach().to(dtype, copy=True)) for p in model.parameters()]
        self.use(place)

    def use(self, place: object) -> None:
        """Step with the optimizer of `place` from now on."""
        arguments = ARGUMENTS[self.name] | {"fused": True}  # a state_dict brings `fused` along
        new: torch.optim.Optimizer = getattr(place, self.name)(self.parameters, **arguments)
        if hasattr(self, "optimizer"):
            new.load_state_dict(self.optimizer.state_dict())
        self.optimizer = new

    def step(self, gradients: list[Tensor]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        self.optimizer.step()


def error_of_sums(run: Run, before: list[Tensor]) -> float:
    """The largest relative error of a sum of the step just made."""
    worst = 0.0
    (part,) = run.optimizer.step_sums
    for i, (w, p) in enumerate(zip(run.parameters, before, strict=True)):
        w, p = w.detach().double(), p.double()
        delta = (w - p).abs()
        true = [delta.sum(), p.abs().sum(), (w != p).sum(), delta.square().sum(), p.square().sum(), delta.max()]
        for got, wanted in zip(part.sums[:, i].tolist(), map(float, true), strict=True):
            worst = max(worst, abs(got - wanted) / wanted if wanted else float(got != 0))
    return worst


def units(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """The differences in units in the last place of the float32 weights `a`."""
    parts = []
    for x, y in zip(a, b, strict=True):
        x = x.detach()
        unit = torch.nextafter(x.abs(), torch.tensor(torch.inf)) - x.abs()
        parts.append(((x.double() - y.detach().double()).abs() / unit.double()).flatten())
    return torch.cat(parts)


def compare(name: str, optimizer: str, steps: int) -> None:
    """Make the steps, check the sums at each, and print the row."""
    torch.manual_seed(0)
    model, batch, labels = network(name)
    start = {"ours": wsf.optim, "torch": torch.optim, "ours, ours": wsf.optim, "ours, torch": wsf.optim}
    runs = {way: Run(model, optimizer, place) for way, place in (start | {"torch, ours": torch.optim}).items()}
    exact = Run(model, optimizer, torch.optim, torch.float64)
    worst = 0.0
    for step in range(steps):
        if step == steps // 2:
            for way, place in (("ours, ours", wsf.optim), ("ours, torch", torch.optim), ("torch, ours", wsf.optim)):
                runs[way].use(place)
        for parameter, own in zip(model.parameters(), runs["ours"].parameters, strict=True):
            parameter.data = own.data
        loss = nn.functional.cross_entropy(model(batch), labels)
        gradients = list(torch.autograd.grad(loss, list(model.parameters())))
        before = [p.detach().clone() for p in runs["ours"].parameters]
        runs["ours"].optimizer.request_sums(l2=True)
        for run in (*runs.values(), exact):
            run.step(gradients)
        worst = max(worst, error_of_sums(runs["ours"], before))
    ours = runs["ours"].parameters
    errors = {way: units(run.parameters, exact.parameters) for way, run in runs.items()}
    shown = " | ".join(f"{error.max():.0f} / {error.mean():.3f}" for error in errors.values())
    to_torch, to_ours = units(ours, runs["torch"].parameters), units(ours, runs["ours, ours"].parameters)
    equal = float((to_torch == 0).double().mean())
    print(f"| {name} | {optimizer} | {to_torch.max():.0f} ({equal:.3%} equal) | {shown} | {to_ours.max():.0f} |")
    print(f"  largest relative error of a sum: {worst:.1e}", flush=True)
    assert worst < TOLERANCE, "the sums are wrong"
    assert to_ours.max() == 0, "a state_dict that ours loads from ours changes bits"


def main() -> None:
    """Compare every network with both optimizers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet18", "transformer"])
    parser.add_argument("--steps", type=int, default=1_000)
    options = parser.parse_args()
    print("| network | optimizer | ours - torch | ours | torch | ours, ours | ours, torch | torch, ours | replaced |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for name in options.networks:
        for optimizer in ARGUMENTS:
            compare(name, optimizer, options.steps)


if __name__ == "__main__":
    main()
