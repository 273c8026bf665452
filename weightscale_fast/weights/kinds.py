"""What a layer is: its kind, from the modules' types and shapes, and from timm's names where they say more."""

from __future__ import annotations

import re

from torch import Tensor, nn

from .layers import unwrap

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)  # in the name or the class of a module
# The names of the projections inside an attention module, whatever type they have.
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
