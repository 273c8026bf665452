"""The kind of a layer, from the types, shapes and names of its modules. Some names are timm's."""

from __future__ import annotations

import re

from torch import Tensor, nn

from .layers import unwrap
from .paths import PARAMETRIZATIONS, TRANSPARENT, find_parameters

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)  # in the name or the class of a module
# The names of projections inside an attention module. Their type does not matter.
_PROJECTION = re.compile(
    r"w?(qkv|kv|[qkvo])|(qkv|kv|[qkvo]|in|out|c)_proj|proj|query|key|value|query_key_value|dense|c_attn|to_(qkv|kv|[qkv]|out)",
    re.IGNORECASE,
)
_SQUEEZE_EXCITE = re.compile(r"SqueezeExcit|^(Effective)?SE(Module|Layer|Block)?$")  # a class name
_LEARNED_INPUT = re.compile(r"(^|_)(embed|embedding|token)s?$")  # a parameter without its own module
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def layer_kind(model: nn.Module, name: str) -> str:
    """Return the kind of the layer `name`.

    - `attention`: a projection of an attention module (`qkv`, `q_proj`, `c_attn`, `proj`, ...; all of
      `nn.MultiheadAttention`)
    - `squeeze_excite`: inside a squeeze-and-excite module
    - `depthwise`: a convolution with one group per channel
    - `pointwise_linear`: a 1x1 convolution that timm calls `conv_pwl`, a projection without an activation after it
    - `pointwise`: any other 1x1 convolution, except timm's `conv_head`, which is not part of a block
    - `conv`: any other convolution, including stems and timm's `conv_head`
    - `embedding`: a table of vectors, including learned positions and tokens
    - `linear`: a matrix product; also a custom module with a matrix `weight` and a `bias` as long as one of its sides
    - `other`: anything else

    The weights are not read, so the model may be on the meta device.

    Raises:
        AttributeError: the model has no such parameter.

    Example:
        >>> layer_kind(nn.Sequential(nn.Conv2d(8, 8, 3, groups=8)), "0.weight")
        'depthwise'
    """
    (place,) = find_parameters(unwrap(model), [name])
    if place is None:
        raise AttributeError(f"{type(unwrap(model)).__name__} has no parameter {name!r}")
    modules, path, parameter = place
    if PARAMETRIZATIONS in path:  # the module that owns the parametrization has the kind
        depth = path.index(PARAMETRIZATIONS)
        modules, path, parameter = modules[: depth + 1], path[:depth], path[depth + 1]
    parameter = parameter.removesuffix("_orig").removesuffix("_v")  # of pruning, and of the older weight_norm
    owner, words = modules[-1], [part for part in path if not part.isdigit() and part not in TRANSPARENT]
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
    """Whether an unknown module is like GPT-2's Conv1D: a matrix `weight`, and a `bias` as long as one of its sides."""
    weight, bias = getattr(owner, "weight", None), getattr(owner, "bias", None)
    return (
        parameter == "weight"
        and isinstance(weight, Tensor)
        and isinstance(bias, Tensor)
        and weight.dim() == 2
        and bias.dim() == 1
        and len(bias) in weight.shape
    )
