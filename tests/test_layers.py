"""Which parameters are layers, and what they are."""

import pytest
import torch
from torch import nn

from weightscale_fast.layers import layer_kind, select_layers, unwrap


def small_model():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))


def test_the_rule_takes_parameters_of_more_than_one_dimension():
    assert list(select_layers(small_model())) == ["0.weight", "3.weight"]


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (r"^0\.", ["0.weight", "0.bias"]),
        (lambda name, parameter: parameter.numel() == 2, ["3.bias"]),
        ("all", ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]),
    ],
)
def test_layers_narrow_and_widen_it(layers, names):
    assert list(select_layers(small_model(), layers)) == names


def test_tied_weights_count_once_under_the_first_name():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    assert list(select_layers(model)) == ["embed.weight"]
    model["head"].weight = nn.Parameter(model["embed"].weight.data)  # another Parameter over the same storage
    assert list(select_layers(model)) == ["embed.weight"]


def test_frozen_weights_are_layers():
    assert list(select_layers(small_model().requires_grad_(False))) == ["0.weight", "3.weight"]


def test_wrappers_are_looked_through():
    model = small_model()
    assert unwrap(nn.DataParallel(model)) is model
    assert unwrap(torch.compile(model)) is model
    assert list(select_layers(torch.compile(model))) == ["0.weight", "3.weight"]


def test_no_layer_matches():
    with pytest.raises(ValueError, match=r"no layer of BatchNorm1d matches.*its 2 parameters are weight, bias"):
        select_layers(nn.BatchNorm1d(3))
    with pytest.raises(ValueError, match="it has no parameters"):
        select_layers(nn.ReLU())
    with pytest.raises(ValueError, match=r"layers='conv9'"):
        select_layers(small_model(), "conv9")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.zeros(2, 2, dtype=torch.complex64), "one of float32, float64, bfloat16, float16, got torch.complex64"),
        (torch.zeros(2, 2, dtype=torch.int32), "got torch.int32"),
        (torch.zeros(2, 2).to_sparse(), "must be dense, got layout torch.sparse_coo"),
    ],
)
def test_weights_that_are_not_plain_numbers(weights, message):
    model = nn.Module()
    model.register_parameter("w", nn.Parameter(weights, requires_grad=False))
    with pytest.raises(TypeError, match=f"layer 'w' .*{message}.*leave the layer out"):
        select_layers(model)


def test_weights_without_data():
    with pytest.raises(ValueError, match="layer 'weight' is on the meta device"):
        select_layers(nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match="layer 'weight' is not initialised"):
        select_layers(nn.LazyLinear(2))


def test_tensor_subclasses_are_refused():
    class Wrapped(torch.Tensor):
        pass

    model = nn.Module()
    model.w = nn.Parameter(torch.zeros(2, 2).as_subclass(Wrapped))
    with pytest.raises(TypeError, match="layer 'w' is a Wrapped"):
        select_layers(model)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("not a model",), TypeError, "model must be a torch.nn.Module, got str"),
        ((nn.Linear(2, 2), "("), ValueError, "is not a regular expression"),
        ((nn.Linear(2, 2), 3), TypeError, "layers must be None"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        select_layers(*arguments)


def test_kinds():
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 8, 3),
            "depthwise": nn.Conv2d(8, 8, 3, groups=8),
            "pointwise": nn.Conv2d(8, 8, 1),
            "linear": nn.Linear(2, 2),
            "embedding": nn.Embedding(2, 2),
            "attention": nn.MultiheadAttention(4, 2),
            "other": nn.GRU(2, 2),
        }
    )
    kinds = {name: layer_kind(model, name) for name in select_layers(model)}
    assert {name.split(".")[0]: kind for name, kind in kinds.items() if "out_proj" not in name} == {
        name: name for name in model
    }
    assert kinds["attention.out_proj.weight"] == "linear"
