"""What `prev` may be when it is a dict or a module: `fast_rwc` writes to it, so it must have memory of its own."""

import copy
import threading

import pytest
import torch
from torch import nn

import weightscale_fast as wsf

from .oracle import module_of


class Tied(nn.Module):
    """An embedding and a head, which may have the same weights."""

    def __init__(self, tied):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        if tied:
            self.head.weight = self.embedding.weight


def clones(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def scale(model, factor):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)


class TestPrevThatSharesItsMemory:
    def test_tied_weights_beside_untied_ones(self, backend):
        """The update of the first would change what the second is compared with."""
        prev, model = Tied(tied=True), Tied(tied=False)
        with torch.no_grad():
            model.embedding.weight.copy_(prev.embedding.weight * 2)
            model.head.weight.copy_(prev.head.weight * 3)
        with pytest.raises(ValueError, match=r"prev of layer 'head.weight' shares memory with prev of layer 'embe"):
            wsf.fast_rwc(model, prev, backend=backend)
        assert wsf.fast_rwc(model, prev, update=False, backend=backend).tolist() == pytest.approx([1, 2])

    def test_with_another_layer_of_the_model(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        before = model[1].weight.detach().clone()
        prev = {"0.weight": model[1].weight.data, "1.weight": before.clone()}
        with pytest.raises(ValueError, match=r"layer '0.weight' with the model's '1.weight'.*snapshot\(model\)"):
            wsf.fast_rwc(model, prev)
        assert torch.equal(model[1].weight, before)
        wsf.fast_rwc(model, prev, update=False)

    def test_with_a_buffer_of_the_model(self):
        model = nn.Linear(3, 3)
        model.register_buffer("average", torch.zeros(3, 3))
        with pytest.raises(ValueError, match="with the model's 'average'"):
            wsf.fast_rwc(model, {"weight": model.average})

    def test_a_part_of_it(self):
        flat = torch.randn(101)
        model = module_of(flat[:100].view(10, 10))
        with pytest.raises(ValueError, match="shares memory with the model"):
            wsf.fast_rwc(model, {"w0": flat[1:].view(10, 10)})

    def test_columns_of_one_tensor_share_nothing(self):
        whole = torch.randn(6, 8)
        model = module_of(torch.randn(6, 4), torch.randn(6, 4))
        wsf.fast_rwc(model, {"w0": whole[:, :4], "w1": whole[:, 4:]})
        assert torch.equal(whole, torch.cat([model.w0, model.w1], dim=1))
        with pytest.raises(ValueError, match="prev of layer 'w1' shares memory with prev of layer 'w0'"):
            wsf.fast_rwc(model, {"w0": whole[:, :4], "w1": whole[:, 3:7]})

    @pytest.mark.parametrize("prev", [torch.ones(1, 4).expand(3, 4), torch.ones(6).as_strided((3, 4), (1, 1))])
    def test_in_itself(self, prev):
        """Nothing is updated then, the other layers neither."""
        model = module_of(torch.randn(2, 2), torch.randn(3, 4))
        first = torch.zeros(2, 2)
        with pytest.raises(ValueError, match=r"layer 'w1' has several elements at one address.*update=False"):
            wsf.fast_rwc(model, {"w0": first, "w1": prev})
        assert not first.any()
        wsf.fast_rwc(model, {"w0": first, "w1": prev}, update=False)


class TestTwinsOfTiedWeights:
    """What `prev` has under the second name of tied weights is written to as well."""

    def model(self):
        model = nn.ModuleDict({"tied": Tied(tied=True), "other": nn.Linear(4, 5, bias=False)})
        return model, clones(model)

    def test_in_the_model(self):
        model, prev = self.model()
        before = model["other"].weight.detach().clone()
        prev["tied.head.weight"] = model["other"].weight.detach()
        with pytest.raises(ValueError, match=r"layer 'tied.head.weight' with the model's 'other.weight'"):
            wsf.fast_rwc(model, prev)
        assert torch.equal(model["other"].weight, before)
        wsf.fast_rwc(model, prev, update=False)

    def test_in_the_prev_of_another_layer(self):
        model, prev = self.model()
        prev["tied.head.weight"] = prev["other.weight"]
        with pytest.raises(ValueError, match=r"prev of layer '.*' shares memory with prev of layer '.*'"):
            wsf.fast_rwc(model, prev)

    def test_at_other_places_of_the_prev_of_its_own_layer(self):
        model = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)])
        model[1].weight = model[0].weight
        prev = {"0.weight": model[0].weight.detach().clone()}
        with pytest.raises(ValueError, match="prev of layer '1.weight' shares memory with prev of layer '0.weight'"):
            wsf.fast_rwc(model, prev | {"1.weight": prev["0.weight"].t()})

    def test_a_copy_with_the_same_ties_is_right(self):
        model = Tied(tied=True)
        model.register_buffer("turned", model.head.weight.detach().t())
        prev = copy.deepcopy(model)
        scale(model, 2)
        assert wsf.fast_rwc(model, prev).tolist() == [1]
        assert torch.equal(prev.turned, model.turned)


def test_another_default_device():
    """The checks of memory are made on the CPU."""
    model = nn.ParameterList([torch.ones(4, 4), torch.ones(4, 4)])
    whole = torch.ones(4, 16)
    prev = {"0": whole[:, ::4], "1": whole[:, 1::4]}
    scale(model, 2)
    torch.set_default_device("meta")
    try:
        assert wsf.fast_rwc(model, prev).tolist() == [1, 1]
    finally:
        torch.set_default_device(None)


def test_every_name_of_tied_weights_is_updated():
    """So that the dict is still right after the weights are untied."""
    model = Tied(tied=True)
    prev = clones(model)
    scale(model, 2)
    assert wsf.fast_rwc(model, prev).tolist() == [1]
    assert torch.equal(prev["head.weight"], model.head.weight)
    model.head.weight = nn.Parameter(model.head.weight * 3)
    assert wsf.fast_rwc(model, prev).tolist() == pytest.approx([0, 2])
    tied = Tied(tied=True)
    old = clones(tied)
    wsf.fast_rwc(tied, prev := clones(tied) | {"head.weight": torch.zeros(5, 4)}, update=False)
    assert not prev["head.weight"].any()
    assert torch.equal(prev["embedding.weight"], old["embedding.weight"])


def test_two_threads_with_one_snapshot_and_two_models():
    """A call that found the other's plan would compare the other's weights."""
    first = nn.Linear(16, 16)
    prev = wsf.snapshot(first)
    second = copy.deepcopy(first)
    scale(first, 1.5)
    scale(second, 3)
    found = {first: set(), second: set()}
    turn = threading.Barrier(2)

    def compare(model):
        for _ in range(300):
            turn.wait()
            found[model].add(wsf.fast_rwc(model, prev, update=False).item())

    threads = [threading.Thread(target=compare, args=(model,)) for model in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found[first], found[second]) == ({0.5}, {2.0})


def test_a_call_waits_for_the_thread_that_holds_the_snapshot():
    model = nn.Linear(4, 4)
    prev = wsf.snapshot(model)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (wsf.fast_rwc(model, prev), done.set()))
    with prev.lock:
        thread.start()
        assert not done.wait(0.05)
        wsf.fast_rwc(model, prev)  # the thread that holds it may go on
    thread.join()
    assert done.is_set()
