"""A layer is found where it is now: wrapped, unwrapped, pruned, parametrized, scripted, or under another name."""

import pytest
import torch
import torch.nn.utils.parametrizations as reparametrize
import torch.nn.utils.prune as prune
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrize

import weightscale_fast as wsf
from weightscale_fast.distributed.share_lookup import ShareLookup
from weightscale_fast.distributed.shares import Shares


def network():
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 3)))


def scale(model, factor=1.5):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)


class Renamed(nn.Module):
    """A model whose own named_parameters() drops a part of the way."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def named_parameters(self, *args, **options):
        for name, parameter in super().named_parameters(*args, **options):
            yield name.removeprefix("net."), parameter


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: checkpoint_wrapper(network()),
        lambda: nn.Sequential(checkpoint_wrapper(network())),
        Renamed,
        lambda: torch.compile(checkpoint_wrapper(network()), backend="eager"),
        lambda: torch.jit.script(network()),
        lambda: nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Sequential(nn.Linear(4, 3)))),
        lambda: torch.jit.trace(network(), torch.randn(2, 4)),
        lambda: torch.fx.symbolic_trace(network()),
    ],
    ids=["checkpoint", "checkpoint inside", "own names", "compiled", "script", "script inside", "trace", "fx"],
)
def test_a_model_whose_names_are_not_plain_paths(make):
    model = make()
    monitor = wsf.RWCMonitor(model)
    for _ in range(2):
        scale(model)
        monitor.record()
    history = monitor.history()
    assert [name.rpartition("_checkpoint_wrapped_module.")[2] for name in history.names] == ["0.weight", "1.0.weight"]
    assert history.rwc.ravel().tolist() == pytest.approx([0.5] * 4)
    assert history.kinds == ("linear", "linear")


def compile_block(model):
    model[0] = torch.compile(model[0], backend="eager")


def checkpoint_block(model):
    model[1] = checkpoint_wrapper(model[1])


def prune_some(model):
    prune.l1_unstructured(model[0], "weight", 0.5)


def spectral_norm(model):
    reparametrize.spectral_norm(model[0])


@pytest.mark.parametrize("change", [compile_block, checkpoint_block, prune_some, spectral_norm])
def test_a_layer_renamed_between_two_steps_is_followed(change):
    model = network()
    prev = wsf.snapshot(model)
    scale(model)
    wsf.fast_rwc(model, prev)
    change(model)
    scale(model)
    assert wsf.fast_rwc(model, prev).tolist() == pytest.approx([0.5, 0.5])


def unwrap_block(model):
    model[0] = model[0]._orig_mod


@pytest.mark.parametrize(
    ("change", "back"),
    [
        (compile_block, unwrap_block),
        (prune_some, lambda model: prune.remove(model[0], "weight")),
        (
            spectral_norm,
            lambda model: parametrize.remove_parametrizations(model[0], "weight", leave_parametrized=False),
        ),
    ],
)
def test_and_back_again(change, back):
    """Also in a snapshot that was taken in between, under the other name."""
    model = network()
    before = wsf.snapshot(model)
    change(model)
    between = wsf.snapshot(model)
    assert between.names[0] != before.names[0]
    weight = before.state_dict()["0.weight"]
    back(model)
    rwc = ((model[0].weight - weight).abs().sum() / weight.abs().sum()).item()  # pruning leaves zeros behind
    assert wsf.fast_rwc(model, before).tolist() == pytest.approx([rwc, 0])
    assert wsf.fast_rwc(model, between).tolist() == pytest.approx([rwc, 0])
    scale(model)
    assert wsf.fast_rwc(model, between).tolist() == pytest.approx([0.5, 0.5])


def test_a_rank_follows_its_share_too():
    """A renamed parameter leaves None behind, and so does one that is set to None."""
    model = network()
    names = ("0.weight", "1.0.weight")
    lookup = ShareLookup(model, Shares(names, (16, 12), ("linear",) * 2, {names[0]: range(16)}, rank=0, size=2))
    lookup()
    prune_some(model)
    assert lookup()[0][0].data_ptr() == model[0].weight_orig.data_ptr()
    model[0].weight_orig = None
    with pytest.raises(wsf.WeightScaleError, match=r"no parameter '0.weight'.*the layer was removed"):
        lookup()
