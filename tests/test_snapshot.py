"""snapshot, fast_rwc and layer_sums: normal use in a training loop, and mistakes."""

import copy
import pickle

import pytest
import torch
from torch import nn

import weightscale_fast as wsf

from .oracle import module_of, nudge


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def moved_by(model, factor):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    return model


def test_snapshot_describes_itself():
    prev = wsf.snapshot(network())
    assert prev.names == ("0.weight", "3.weight")
    assert prev.numel == (108, 32)
    assert len(prev) == 2
    assert prev.nbytes >= 140 * 4


def test_rwc_over_one_step_and_over_several():
    model = network()
    step, horizon = wsf.snapshot(model), wsf.snapshot(model)
    for _ in range(2):
        moved_by(model, 1.5)
        torch.testing.assert_close(wsf.fast_rwc(model, step), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(wsf.fast_rwc(model, horizon, update=False), torch.tensor([1.25, 1.25]))
    torch.testing.assert_close(wsf.fast_rwc(model, horizon), torch.tensor([1.25, 1.25]))
    assert wsf.fast_rwc(model, horizon).tolist() == [0, 0]


@pytest.mark.parametrize(
    "take",
    [
        copy.deepcopy,
        lambda model: {name: tensor.clone() for name, tensor in model.state_dict().items()},
        lambda model: {name: parameter.detach().clone() for name, parameter in model.named_parameters()},
        lambda model: {name: p.detach().clone() for name, p in model.named_parameters() if p.dim() > 1},
    ],
    ids=["module", "state_dict", "clones", "clones of the layers"],
)
def test_other_kinds_of_prev(take, backend):
    model = network()
    prev = take(model)
    moved_by(model, 1.5)
    torch.testing.assert_close(wsf.fast_rwc(model, prev, update=False, backend=backend), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(wsf.fast_rwc(model, prev, backend=backend), torch.tensor([0.5, 0.5]))
    assert wsf.fast_rwc(model, prev, backend=backend).tolist() == [0, 0]


@pytest.mark.parametrize("grad_mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_no_autograd_graph(grad_mode, backend):
    model = network()
    prev = wsf.snapshot(model)
    loss = model(torch.randn(2, 3, 4, 4)).sum()
    with grad_mode():
        rwc = wsf.fast_rwc(model, prev, backend=backend)
        sums = wsf.layer_sums(model, prev, ratio_sum=True, l2=True, backend=backend)
    assert not rwc.requires_grad
    assert not any(tensor.requires_grad for tensor in sums)
    loss.backward()  # raises if the weights that autograd saved were changed


def test_compiled_models():
    model = network().eval()
    compiled = torch.compile(model, backend="aot_eager")
    prev = wsf.snapshot(compiled)
    assert prev.names == ("0.weight", "3.weight")
    compiled(torch.randn(2, 3, 4, 4))
    moved_by(model, 2)
    torch.testing.assert_close(wsf.fast_rwc(compiled, prev), torch.ones(2))
    moved_by(model, 2)
    torch.testing.assert_close(wsf.fast_rwc(model, prev), torch.ones(2))


def test_inside_a_compiled_step():
    """The compiled graph ends before the pass, so the pass sees the weights that the graph has changed."""
    model = network()
    prev = wsf.snapshot(model)

    @torch.compile(backend="aot_eager")
    def step(factor):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(factor)
        return wsf.fast_rwc(model, prev) + 1

    for _ in range(3):
        torch.testing.assert_close(step(1.5), torch.tensor([1.5, 1.5]))


def test_state_dict_of_a_wrapped_model():
    model = network()
    parallel = nn.DataParallel(model)
    for wrapper in (torch.compile(model), parallel, torch.compile(parallel), nn.DataParallel(torch.compile(model))):
        prev = {name: tensor.clone() for name, tensor in wrapper.state_dict().items()}
        assert wsf.fast_rwc(wrapper, prev).tolist() == [0, 0]
        assert wsf.fast_rwc(model, prev).tolist() == [0, 0]


def test_snapshot_taken_in_inference_mode(backend):
    model = network()
    with torch.inference_mode():
        prev = wsf.snapshot(model)
    moved_by(model, 2)
    assert wsf.fast_rwc(model, prev, backend=backend).tolist() == [1, 1]
    prev.load_state_dict(prev.state_dict())


def test_pickle_and_deepcopy():
    model = network()
    prev = wsf.snapshot(model)
    wsf.fast_rwc(model, prev)
    for other in (pickle.loads(pickle.dumps(prev)), copy.deepcopy(prev)):
        moved = moved_by(copy.deepcopy(model), 2)
        assert wsf.fast_rwc(moved, other).tolist() == [1, 1]
        assert torch.equal(other.state_dict()["3.weight"], moved[3].weight)
    assert wsf.fast_rwc(model, prev).tolist() == [0, 0]


def test_state_dict_round_trip():
    model = network()
    prev, other = wsf.snapshot(model), wsf.snapshot(network())
    other.load_state_dict(prev.state_dict())
    assert wsf.fast_rwc(model, other).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"missing \['3.weight'\], extra \['x'\]"):
        other.load_state_dict({"0.weight": torch.zeros(4, 3, 3, 3), "x": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"missing \[\], extra \['x'\]"):
        other.load_state_dict({name: w + 1 for name, w in prev.state_dict().items()} | {"x": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"layer '3.weight' .*expected shape \[2, 16\], got \[2, 3\]"):
        other.load_state_dict({"0.weight": torch.zeros(4, 3, 3, 3), "3.weight": torch.zeros(2, 3)})
    assert wsf.fast_rwc(model, other).tolist() == [0, 0]  # the failed calls loaded nothing


class TestAParameterChangesBetweenSteps:
    def test_replaced_by_equal_shape(self, backend):
        model = network()
        prev = wsf.snapshot(model)
        wsf.fast_rwc(model, prev, backend=backend)
        model[3].weight = nn.Parameter(model[3].weight.detach() * 2)
        assert wsf.fast_rwc(model, prev, backend=backend).tolist() == [0, 1]
        model[0].weight.data = model[0].weight.data * 3
        assert wsf.fast_rwc(model, prev, backend=backend).tolist() == pytest.approx([2, 0])

    def test_module_replaced(self, backend):
        model = network()
        prev = wsf.snapshot(model)
        wsf.fast_rwc(model, prev, backend=backend)
        new = nn.Linear(16, 2)
        new.weight.data = model[3].weight.data * 2
        model[3] = new
        assert wsf.fast_rwc(model, prev, backend=backend).tolist() == [0, 1]

    def test_load_state_dict_with_assign(self, backend):
        model = network()
        prev = wsf.snapshot(model)
        wsf.fast_rwc(model, prev, backend=backend)
        model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()}, assign=True)
        assert wsf.fast_rwc(model, prev, backend=backend).tolist() == [1, 1]

    def test_memory_format_changed(self, backend):
        model = network()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        prev = wsf.snapshot(model)
        wsf.fast_rwc(model, prev, backend=backend)
        model.to(memory_format=torch.channels_last)
        assert wsf.fast_rwc(model, prev, backend=backend).tolist() == [0, 0]
        moved_by(model, 1.5)
        torch.testing.assert_close(wsf.fast_rwc(model, prev, backend=backend), torch.tensor([0.5, 0.5]))
        torch.testing.assert_close(prev.state_dict()["0.weight"], before["0.weight"] * 1.5)

    def test_resized(self, backend):
        model = network()
        prev = wsf.snapshot(model)
        wsf.fast_rwc(model, prev, backend=backend)
        model[3].weight.data = model[3].weight.data[:1]  # at the same address
        with pytest.raises(ValueError, match=r"layer '3.weight' .*expected shape \[2, 16\], got \[1, 16\].*take a new"):
            wsf.fast_rwc(model, prev, backend=backend)

    @pytest.mark.parametrize("size", [(20, 20), (20, 30)])
    def test_strides_at_the_same_address(self, size, backend):
        """The plan of the first call would read the weights in the wrong order."""
        model = module_of(torch.randn(size))
        prev = wsf.snapshot(model)
        wsf.fast_rwc(model, prev, backend=backend)
        before = model.w0.detach().clone()
        model.w0.data = model.w0.data.t()
        if size == (20, 20):
            rwc = (before.t() - before).abs().sum() / before.abs().sum()
            torch.testing.assert_close(wsf.fast_rwc(model, prev, backend=backend).squeeze(), rwc)
        else:
            with pytest.raises(ValueError, match=r"layer 'w0' .*expected shape \[20, 30\], got \[30, 20\]"):
                wsf.fast_rwc(model, prev, backend=backend)

    def test_every_second_row_at_the_same_address(self, backend):
        weights = torch.randn(20, 30)
        model = module_of(weights[:10])
        prev = wsf.snapshot(model)
        wsf.fast_rwc(model, prev, backend=backend)
        model.w0.data = weights[::2]
        rwc = (weights[::2] - weights[:10]).abs().sum() / weights[:10].abs().sum()
        torch.testing.assert_close(wsf.fast_rwc(model, prev, backend=backend).squeeze(), rwc)

    def test_dtype(self, backend):
        model = network()
        prev = wsf.snapshot(model)
        model.double()
        with pytest.raises(ValueError, match=r"layer '0.weight' .*dtype torch.float32, got torch.float64"):
            wsf.fast_rwc(model, prev, backend=backend)

    def test_dtype_at_the_same_address(self, backend):
        """An allocator may use an old address again, for numbers of another dtype."""
        model = network()
        prev = wsf.snapshot(model)
        wsf.fast_rwc(model, prev, backend=backend)
        model[3].weight.requires_grad_(False).data = model[3].weight.data.view(torch.int32)
        with pytest.raises(TypeError, match=r"layer '3.weight' must be one of float32"):
            wsf.fast_rwc(model, prev, backend=backend)

    def test_moved_to_another_device(self, backend):
        model = network()
        prev = wsf.snapshot(model)
        with pytest.raises(ValueError, match=r"layer '0.weight' is on the meta device"):
            wsf.fast_rwc(model.to("meta"), prev, backend=backend)

    @pytest.mark.parametrize(
        "gone", [lambda model: model.__delitem__(3), lambda model: setattr(model[3], "weight", None)]
    )
    def test_removed(self, gone, backend):
        model = network()
        prev = wsf.snapshot(model)
        wsf.fast_rwc(model, prev, backend=backend)
        last, weight = model[3], model[3].weight
        gone(model)
        for _ in range(2):
            with pytest.raises(wsf.WeightScaleError, match=r"Sequential has no parameter '3.weight'.*new snapshot"):
                wsf.fast_rwc(model, prev, backend=backend)
        model.add_module("3", last)  # a look-up that failed leaves nothing behind
        last.weight = weight
        assert wsf.fast_rwc(moved_by(model, 1.5), prev, backend=backend).tolist() == [0.5, 0.5]


class TestWrongArguments:
    def test_snapshot_of_another_model(self):
        with pytest.raises(wsf.WeightScaleError, match="Linear has no parameter '0.weight'"):
            wsf.fast_rwc(nn.Linear(2, 2), wsf.snapshot(network()))

    def test_snapshot_of_other_shapes(self):
        prev = wsf.snapshot(nn.Sequential(nn.Linear(3, 2)))
        with pytest.raises(ValueError, match=r"layer '0.weight' .*expected shape \[2, 3\], got \[4, 3\]"):
            wsf.fast_rwc(nn.Sequential(nn.Linear(3, 4)), prev)

    def test_names_of_a_dict(self):
        model = network()
        clones = {name: p.detach().clone() for name, p in model.named_parameters()}
        del clones["3.weight"]
        with pytest.raises(ValueError, match=r"lacks \['3.weight'\] and has nothing"):
            wsf.fast_rwc(model, clones)
        with pytest.raises(ValueError, match=r"lacks nothing and has \['extra'\]"):
            wsf.fast_rwc(model, {**model.state_dict(), "extra": torch.zeros(2, 2)})

    def test_what_is_no_tensor_in_a_dict_is_left_out(self):
        """A module may add what it likes to its `state_dict`, through `get_extra_state`."""
        model = network()
        clones = {name: p.detach().clone() for name, p in model.named_parameters()}
        assert wsf.fast_rwc(moved_by(model, 2), {**clones, "_extra_state": {"version": 1}}).tolist() == [1, 1]

    @pytest.mark.parametrize(
        ("value", "error", "message"),
        [
            (torch.zeros(2, 3), ValueError, r"expected shape \[2, 16\], got \[2, 3\]"),
            (torch.zeros(2, 16, dtype=torch.float64), ValueError, "dtype torch.float32, got torch.float64"),
            (torch.zeros(2, 16, device="meta"), ValueError, "meta device"),
            (torch.zeros(2, 16).numpy(), TypeError, "layer '3.weight' must be a tensor, got ndarray"),
        ],
    )
    def test_values_of_a_dict(self, value, error, message):
        model = network()
        prev = {name: p.detach().clone() for name, p in model.named_parameters()}
        with pytest.raises(error, match=message):
            wsf.fast_rwc(model, prev | {"3.weight": value})

    def test_prev_that_is_the_model_itself(self):
        model = network()
        for prev in (model, model.state_dict(), dict(model.named_parameters())):
            with pytest.raises(ValueError, match=r"prev shares memory with the model \(layer '0.weight'\).*clone"):
                wsf.fast_rwc(model, prev)

    def test_prev_of_another_type(self):
        with pytest.raises(TypeError, match="prev must be a Snapshot, a module or a dict of tensors by name, got list"):
            wsf.fast_rwc(network(), [1, 2])

    def test_model_of_another_type(self):
        with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got dict"):
            wsf.fast_rwc({}, wsf.snapshot(network()))

    def test_definition(self):
        model = network()
        known = "'norm_ratio', 'mean_ratio', 'l2_ratio'"
        with pytest.raises(ValueError, match=f"definition must be one of {known}, got 'l2'"):
            wsf.fast_rwc(model, wsf.snapshot(model), definition="l2")


def test_a_thousand_layers():
    model = module_of(*[torch.randn(3, 5) for _ in range(1_000)])
    prev = wsf.snapshot(model)
    nudge(model)
    fast = wsf.fast_rwc(model, prev, update=False, backend="cpu")
    torch.testing.assert_close(fast, wsf.fast_rwc(model, prev, backend="torch"))
    assert fast.shape == (1_000,)
