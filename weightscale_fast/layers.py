"""Which weights are layers: their names, kinds, and where to find them again at the next step."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .errors import WeightScaleError

LayerSelector = str | Callable[[str, nn.Parameter], bool] | None
FLOATING_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside the wrappers of `torch.compile`, DataParallel and DistributedDataParallel."""
    while True:
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def select_layers(model: nn.Module, layers: LayerSelector = None) -> dict[str, nn.Parameter]:
    """The parameters that count as layers, by name, in `named_parameters()` order.

    Args:
        model: any module; wrappers of `torch.compile` and data parallelism are looked through.
        layers: None for the authors' rule, every parameter of more than one dimension (no biases, no norm scales); a
            regular expression searched in the name; a predicate `(name, parameter) -> bool`; or `"all"`.

    Storage that two parameters share counts once, under its first name.

    Raises:
        TypeError: `model` is no module, or a chosen weight is complex, integer, sparse or a tensor subclass.
        ValueError: nothing matches, or a chosen weight has no data.

    Example:
        >>> list(select_layers(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))))
        ['0.weight', '2.weight']
        >>> list(select_layers(nn.Linear(3, 2), "all"))
        ['weight', 'bias']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    keep = _predicate(layers)
    chosen: dict[str, nn.Parameter] = {}
    seen: set[tuple[torch.device, int, int]] = set()
    for name, parameter in unwrap(model).named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ValueError(f"layer {name!r} is not initialised yet: run the model once before the snapshot")
        if not keep(name, parameter):
            continue
        check_weights(name, parameter)
        storage = (parameter.device, parameter.data_ptr(), parameter.numel())
        if parameter.numel() and storage in seen:
            continue
        seen.add(storage)
        chosen[name] = parameter
    if not chosen:
        names = [name for name, _ in unwrap(model).named_parameters()]
        found = f"its {len(names)} parameters are {', '.join(names[:5])}, ..." if names else "it has no parameters"
        raise ValueError(
            f"no layer of {type(model).__name__} matches layers={layers!r}: {found} "
            '(the default takes parameters of more than one dimension; layers="all" takes every one)'
        )
    return chosen


def _predicate(layers: LayerSelector) -> Callable[[str, nn.Parameter], bool]:
    if layers is None:
        return lambda name, parameter: parameter.dim() > 1
    if layers == "all":
        return lambda name, parameter: True
    if isinstance(layers, str):
        try:
            pattern = re.compile(layers)
        except re.error as error:
            raise ValueError(f"layers={layers!r} is not a regular expression: {error}") from error
        return lambda name, parameter: pattern.search(name) is not None
    if callable(layers):
        return layers
    raise TypeError(f'layers must be None, "all", a regular expression or a predicate, got {type(layers).__name__}')


def check_weights(name: str, weights: Tensor) -> None:
    """Raise `TypeError` or `ValueError`, naming the layer, unless the pass can read these weights."""
    advice = "leave the layer out with layers="
    if weights.layout != torch.strided:
        raise TypeError(f"layer {name!r} must be dense, got layout {weights.layout}; {advice}")
    if weights.dtype not in FLOATING_DTYPES:
        wanted = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATING_DTYPES)
        raise TypeError(f"layer {name!r} must be one of {wanted}, got {weights.dtype}; {advice}")
    if type(weights) not in (Tensor, nn.Parameter) and not type(weights).__module__.startswith("torch.nn."):
        raise TypeError(f"layer {name!r} is a {type(weights).__name__}, whose memory is not plain weights; {advice}")
    if weights.device.type == "meta":
        raise ValueError(f"layer {name!r} is on the meta device and has no data: materialise the model first")


# Inside a module of attention, by its name or its class, these are its projections, whatever they are made of.
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_PROJECTION = re.compile(
    r"w?(qkv|kv|[qkvo])|(qkv|kv|[qkvo]|in|out|c)_proj|proj|query|key|value|query_key_value|dense|c_attn|to_(qkv|kv|[qkv]|out)",
    re.IGNORECASE,
)
_SQUEEZE_EXCITE = re.compile(r"SqueezeExcit|^(Effective)?SE(Module|Layer|Block)?$")  # a class
_LEARNED_INPUT = re.compile(r"(^|_)(embed|embedding|token)s?$")  # a parameter of no module of its own
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def layer_kind(model: nn.Module, name: str) -> str:
    """What the layer called `name` is, by its modules and its shape, and by timm's names where they say more.

    - `attention`: a projection of an attention module (`qkv`, `q_proj`, `c_attn`, `proj`, ...; all of
      `nn.MultiheadAttention`)
    - `squeeze_excite`: inside a squeeze-and-excite module
    - `depthwise`: a convolution with a group for each channel
    - `pointwise_linear`: a 1x1 convolution that timm calls `conv_pwl`, the projection without an activation after it
    - `pointwise`: any other 1x1 convolution but timm's `conv_head`, which is no primitive of a block and thus a `conv`
    - `conv`: any other convolution, stems among them
    - `embedding`: a table of vectors, learned positions and tokens among them
    - `linear`: a matrix product, own modules that have a matrix `weight` and a `bias` of one of its sides among them
    - `other`: what none of these rules knows

    Weights are not read, so the model may be on the meta device.

    Raises:
        AttributeError: the model has no such module.

    Example:
        >>> layer_kind(nn.Sequential(nn.Conv2d(8, 8, 3, groups=8)), "0.weight")
        'depthwise'
    """
    *path, parameter = name.split(".")
    modules = [unwrap(model)]
    for part in path:
        modules.append(modules[-1].get_submodule(part))
    owner, words = modules[-1], [part for part in path if not part.isdigit()]
    called = words[-1] if words else ""
    around = [*words[:-1], *(type(module).__name__ for module in modules[1:-1])]
    if any(isinstance(module, nn.MultiheadAttention) for module in modules):
        return "attention"
    if _PROJECTION.fullmatch(called) and any(map(_ATTENTION.search, around)):
        return "attention"
    if "se" in words[:-1] or any(map(_SQUEEZE_EXCITE.search, around)):
        return "squeeze_excite"
    if isinstance(owner, _CONVOLUTIONS):
        return _convolution_kind(owner, called)
    if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)) or _LEARNED_INPUT.search(parameter):
        return "embedding"
    if isinstance(owner, (nn.Linear, nn.Bilinear)) or _is_matrix_product(owner, parameter):
        return "linear"
    return "other"


def _convolution_kind(owner: nn.modules.conv._ConvNd, called: str) -> str:
    if owner.groups == owner.in_channels > 1:
        return "depthwise"
    if set(owner.kernel_size) != {1} or called == "conv_head":
        return "conv"
    return "pointwise_linear" if called == "conv_pwl" else "pointwise"


def _is_matrix_product(owner: nn.Module, parameter: str) -> bool:
    """Whether an unknown module looks like GPT-2's Conv1D: a matrix `weight`, and a `bias` of one of its sides."""
    weight, bias = getattr(owner, "weight", None), getattr(owner, "bias", None)
    return (
        parameter == "weight"
        and isinstance(weight, Tensor)
        and isinstance(bias, Tensor)
        and weight.dim() == 2
        and bias.dim() == 1
        and len(bias) in weight.shape
    )


Fingerprint = tuple[list[int], list[int], list[torch.dtype]]


def fingerprint(weights: list[Tensor]) -> Fingerprint:
    """Address, size and dtype of each: a change of any is a change that a plan must follow or refuse."""
    return list(map(Tensor.data_ptr, weights)), list(map(Tensor.numel, weights)), [w.dtype for w in weights]


class LayerLookup:
    """Finds the current parameters of named layers in a model, as cheaply as that can be done right.

    A parameter, or a whole submodule, may be replaced between two steps; so each call follows every name through the
    modules' own tables, which costs about 40 ns a layer.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        self.model = model
        self._names = names
        self._walk()

    def __call__(self) -> tuple[list[Tensor], Fingerprint]:
        """The parameters in the order of the names, and what of them a plan depends on.

        Raises:
            WeightScaleError: the model no longer has one of them.
        """
        if [table.get(key) for table, key in self._edges] != self._children:
            self._walk()
        try:
            found: list[Tensor] = [table[key] for table, key in self._slots]  # type: ignore[misc]
            return found, fingerprint(found)
        except (KeyError, TypeError):  # removed, or set to None
            self._walk()
            raise

    def _walk(self) -> None:
        root = unwrap(self.model)
        edges: dict[tuple[int, str], tuple[dict[str, nn.Module | None], str, nn.Module]] = {}
        self._slots: list[tuple[dict[str, nn.Parameter | None], str]] = []
        for name in self._names:
            *path, key = name.split(".")
            module = root
            for part in path:
                child = module._modules.get(part)
                if child is None:
                    raise self._missing(name)
                edges[id(module), part] = (module._modules, part, child)
                module = child
            if module._parameters.get(key) is None:
                raise self._missing(name)
            self._slots.append((module._parameters, key))
        self._edges = [(table, key) for table, key, _ in edges.values()]
        self._children: list[nn.Module | None] = [child for *_, child in edges.values()]

    def _missing(self, name: str) -> WeightScaleError:
        return WeightScaleError(
            f"{type(unwrap(self.model)).__name__} has no parameter {name!r}: this is another model than the one "
            "the snapshot was taken of, or the layer was removed; take a new snapshot"
        )
