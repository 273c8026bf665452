"""Which parameters are layers, and the kind of each layer."""

from collections import Counter

import pytest
import torch
import torch.nn.utils.prune as prune
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.weights.kinds import layer_kind
from weightscale_fast.weights.layers import select_layers, unwrap


def small_model():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))


def test_the_default_selects_parameters_of_more_than_one_dimension():
    assert list(select_layers(small_model())) == ["0.weight", "3.weight"]


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (r"^0\.", ["0.weight", "0.bias"]),
        (lambda name, parameter: parameter.numel() == 2, ["3.bias"]),
        ("all", ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]),
    ],
)
def test_layers_selects_fewer_or_more(layers, names):
    assert list(select_layers(small_model(), layers)) == names


def test_tied_weights_count_once_under_the_first_name():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 4), "head": nn.Linear(4, 5, bias=False)})
    model["head"].weight = model["embed"].weight
    assert list(select_layers(model)) == ["embed.weight"]
    model["head"].weight = nn.Parameter(model["embed"].weight.data)  # another Parameter with the same memory
    assert list(select_layers(model)) == ["embed.weight"]


def test_frozen_weights_are_layers():
    assert list(select_layers(small_model().requires_grad_(False))) == ["0.weight", "3.weight"]


def test_wrappers_are_ignored():
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
def test_complex_integer_and_sparse_weights_are_refused(weights, message):
    model = nn.Module()
    model.register_parameter("w", nn.Parameter(weights, requires_grad=False))
    with pytest.raises(TypeError, match=f"layer 'w' .*{message}.*leave the layer out"):
        select_layers(model)


def test_weights_without_data_are_refused():
    with pytest.raises(ValueError, match="layer 'weight' is on the meta device"):
        select_layers(nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match="layer 'weight' is not initialised"):
        select_layers(nn.LazyLinear(2))


def test_tensor_subclasses_are_refused():
    class Wrapped(torch.Tensor):
        """As a quantized tensor: it has no memory of its own, and does the operations itself."""

        @staticmethod
        def __new__(cls):
            return torch.Tensor._make_wrapper_subclass(cls, (2, 2))

        @classmethod
        def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
            return cls() if operation is torch.ops.aten.detach.default else NotImplemented

    model = nn.Module()
    model.w = nn.Parameter(Wrapped())
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


def kinds_of(model):
    """The kind of every layer, by name. The model may be on the meta device."""
    return {name: layer_kind(model, name) for name, weights in model.named_parameters() if weights.dim() > 1}


def test_kinds_by_modules_and_shapes():
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
    assert all(name.split(".")[0] == kind for name, kind in kinds_of(model).items())
    assert layer_kind(nn.MultiheadAttention(4, 2), "in_proj_weight") == "attention"


BLOCK = {"pointwise": 32, "depthwise": 32, "pointwise_linear": 30, "squeeze_excite": 64}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("efficientnet_b4", {**BLOCK, "conv": 2, "linear": 1}),  # conv: the stem and the 1x1 head
        ("resnet50", {"conv": 17, "pointwise": 36, "linear": 1}),
        (
            "mobilenetv3_large_100",
            {"conv": 2, "depthwise": 15, "pointwise": 16, "pointwise_linear": 14, "squeeze_excite": 16, "linear": 1},
        ),
        ("convnext_tiny", {"conv": 4, "depthwise": 18, "linear": 37}),
        ("vit_base_patch16_224", {"embedding": 2, "conv": 1, "attention": 24, "linear": 25}),
    ],
)
def test_kinds_of_timm_models(name, counts):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        kinds = kinds_of(timm.create_model(name))
    assert Counter(kinds.values()) == counts


def test_kinds_of_efficientnet_agree_with_timms_names():
    with torch.device("meta"):
        kinds = kinds_of(pytest.importorskip("timm").create_model("efficientnet_b4"))
    words = {"depthwise": "conv_dw", "pointwise": "conv_pw", "pointwise_linear": "conv_pwl", "squeeze_excite": "se"}
    for kind, word in words.items():
        assert {name for name in kinds if word in name.split(".")} == {name for name in kinds if kinds[name] == kind}
    assert [name for name in kinds if kinds[name] in ("conv", "linear")] == [
        "conv_stem.weight",
        "conv_head.weight",
        "classifier.weight",
    ]


def test_squeeze_and_excite_is_recognized_by_its_class():
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        kinds = kinds_of(torchvision.models.efficientnet_b0(weights=None))
    assert Counter(kinds.values())["squeeze_excite"] == 32


class Conv1D(nn.Module):
    """GPT-2's own matrix product, with a transposed weight."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))


def gpt2(blocks=2, width=8):
    def block():
        attn = nn.ModuleDict({"c_attn": Conv1D(width, 3 * width), "c_proj": Conv1D(width, width)})
        mlp = nn.ModuleDict({"c_fc": Conv1D(width, 4 * width), "c_proj": Conv1D(4 * width, width)})
        return nn.ModuleDict({"ln_1": nn.LayerNorm(width), "attn": attn, "mlp": mlp})

    h = nn.ModuleList(block() for _ in range(blocks))
    body = nn.ModuleDict({"wte": nn.Embedding(16, width), "wpe": nn.Embedding(4, width), "h": h})
    return nn.ModuleDict({"transformer": body})


def test_kinds_of_gpt2():
    block = {"attn.c_attn": "attention", "attn.c_proj": "attention", "mlp.c_fc": "linear", "mlp.c_proj": "linear"}
    expected = {"transformer.wte.weight": "embedding", "transformer.wpe.weight": "embedding"}
    expected |= {f"transformer.h.{i}.{name}.weight": kind for i in range(2) for name, kind in block.items()}
    assert kinds_of(gpt2()) == expected


@pytest.mark.parametrize("around", ["self_attn", "attention", "SelfAttention", "encoder_attn"])
@pytest.mark.parametrize("name", ["q_proj", "k_proj", "o_proj", "out_proj", "qkv", "query", "to_out"])
def test_projections_of_an_attention(around, name):
    inside = nn.ModuleDict({name: nn.Linear(2, 2), "mlp": nn.Linear(2, 2)})
    model = nn.ModuleDict({around: inside, "proj": nn.Linear(2, 2)})
    assert list(kinds_of(model).values()) == ["attention", "linear", "linear"]


def test_custom_modules_of_unknown_shape_are_other():
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(2, 3, 4))
    model.bias = None
    assert layer_kind(model, "weight") == "other"


class TestBiasesAndScalesOfSeveralDimensions:
    def test_a_norm_over_several_dimensions(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm([4, 8, 8]), nn.Flatten(), nn.Linear(256, 2))
        assert list(select_layers(model)) == ["0.weight", "3.weight"]
        assert "1.weight" in select_layers(model, "all")
        assert list(select_layers(model, r"^1\.")) == ["1.weight", "1.bias"]

    @pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm])
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_the_magnitudes_of_weight_norm(self, norm):
        model = nn.Sequential(norm(nn.Conv1d(4, 8, 3)), norm(nn.Linear(4, 2)))
        chosen = select_layers(model)
        assert [weights.shape for weights in chosen.values()] == [(8, 4, 3), (2, 4)]
        assert [layer_kind(model, name) for name in chosen] == ["conv", "linear"]

    def test_biases(self):
        model = nn.Module()
        for key in ("experts", "experts_bias", "bias", "relative_position_bias_table"):
            model.register_parameter(key, nn.Parameter(torch.zeros(2, 3)))
        model.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        names = ["experts", "relative_position_bias_table", "attention.in_proj_weight", "attention.out_proj.weight"]
        assert list(select_layers(model)) == names

    def test_the_kind_of_a_parametrized_or_pruned_weight_is_that_of_its_module(self):
        model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Linear(3, 3), nn.Linear(3, 3))
        nn.utils.parametrizations.spectral_norm(model[0])
        nn.utils.parametrizations.orthogonal(model[1])
        prune.l1_unstructured(model[2], "weight", 0.5)
        assert [layer_kind(model, name) for name in select_layers(model)] == ["depthwise", "linear", "linear"]


class TestParameterSubclasses:
    class Manifold(nn.Parameter):
        """As geoopt's: ordinary memory, and PyTorch's own operations."""

        def __new__(cls, data):
            return torch.Tensor._make_subclass(cls, data, True)

    def test_with_ordinary_memory(self):
        model = nn.Module()
        model.w = self.Manifold(torch.ones(4, 4))
        prev = wsf.snapshot(model)
        model.w.data.mul_(1.5)
        assert wsf.fast_rwc(model, prev).tolist() == [0.5]

    def test_quantized(self):
        """bitsandbytes may store 4-bit numbers in memory that says bfloat16."""
        model = nn.Module()
        model.w = self.Manifold(torch.ones(4, 4, dtype=torch.bfloat16))
        model.w.quant_state = "packed"
        with pytest.raises(TypeError, match="layer 'w' is a Manifold, whose memory may not hold plain weights"):
            select_layers(model)

    def test_weights_with_the_opposite_sign(self):
        model = nn.Module()
        model.w = nn.Parameter(torch._neg_view(torch.ones(2, 2)))
        with pytest.raises(TypeError, match="layer 'w' is stored with the opposite sign"):
            select_layers(model)
