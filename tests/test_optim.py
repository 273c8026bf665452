"""weightscale_fast.optim against torch.optim: the same weights and the same states, for every argument."""

import copy

import pytest
import torch
from torch import nn

import weightscale_fast as wsf

# Around a register, a block of registers and a chunk; and the last is many chunks.
SIZES = [0, 1, 15, 16, 17, 63, 64, 65, 4_095, 4_096, 4_097, 16_384, 16_385, 100_000]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
OPTIONS = {
    "SGD": ("SGD", {"lr": 0.1}),
    "SGD decay": ("SGD", {"lr": 0.1, "weight_decay": 0.01}),
    "SGD momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "SGD dampening": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    "SGD nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "SGD maximize": ("SGD", {"lr": 0.1, "momentum": 0.9, "maximize": True, "weight_decay": 0.01}),
    "Adam": ("Adam", {}),
    "Adam decay": ("Adam", {"weight_decay": 0.01, "eps": 1e-3}),
    "Adam betas": ("Adam", {"betas": (0.3, 0.5)}),
    "Adam decoupled": ("Adam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "AdamW": ("AdamW", {}),
    "AdamW no decay": ("AdamW", {"weight_decay": 0.0, "eps": 0.0}),
    "AdamW amsgrad": ("AdamW", {"amsgrad": True}),
    "AdamW maximize": ("AdamW", {"maximize": True, "weight_decay": 0.1}),
}
STEPS = 6


def twins(option, sizes, dtype=torch.float32, **more):
    """Equal parameters, and an optimizer of this package and torch's for them."""
    name, arguments = OPTIONS[option]
    ours = [nn.Parameter(torch.randn(n).to(dtype)) for n in sizes]
    theirs = copy.deepcopy(ours)
    return getattr(wsf.optim, name)(ours, **arguments), getattr(torch.optim, name)(theirs, **arguments, **more)


def give_gradients(*optimizers, scale=1.0):
    """New random gradients, the same for all optimizers."""
    for parameters in zip(*(parameters_of(optimizer) for optimizer in optimizers), strict=True):
        gradient = (torch.randn(parameters[0].shape) * scale).to(parameters[0].dtype)
        for parameter in parameters:
            parameter.grad = torch.empty_like(parameter).copy_(gradient)


def parameters_of(optimizer):
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def tensors_of(optimizer):
    """Parameters and states, in order."""
    return [
        [parameter.detach(), *(value for _, value in sorted(optimizer.state[parameter].items()) if value is not None)]
        for parameter in parameters_of(optimizer)
    ]


def check_equal(ours, theirs, rtol=0.0, atol=0.0):
    for mine, other in zip(tensors_of(ours), tensors_of(theirs), strict=True):
        for a, b in zip(mine, other, strict=True):
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def torch_moves(option, dtype):
    """Whether torch's fused step is one: before 2.14, SGD left most 16-bit weights as they were (pytorch#191763)."""
    if dtype in (torch.float32, torch.float64) or not option.startswith("SGD"):
        return True
    weights = torch.zeros(256, dtype=dtype, requires_grad=True)
    weights.grad = torch.ones(256, dtype=dtype)
    torch.optim.SGD([weights], lr=1.0, fused=True).step()
    return bool((weights == -1).all())


same_bits = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="torch uses no fused multiply-add here"
)


@same_bits
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("option", OPTIONS)
def test_the_bits_are_those_of_torch_fused(option, dtype):
    """Of tensors that fill whole registers."""
    if not torch_moves(option, dtype):
        pytest.skip("torch's fused SGD does not move 16-bit weights here")
    ours, theirs = twins(option, [64, 4_096, 100_032], dtype, fused=True)
    for _ in range(STEPS):
        give_gradients(ours, theirs)
        ours.step(), theirs.step()
    check_equal(ours, theirs)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_size(option):
    """torch rounds the last few weights of a tensor, which fill no register, in another order."""
    ours, theirs = twins(option, SIZES, fused=True)
    for _ in range(STEPS):
        give_gradients(ours, theirs)
        ours.step(), theirs.step()
    check_equal(ours, theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("variant", ["foreach", "for-loop"])
@pytest.mark.parametrize("option", OPTIONS)
def test_torch_without_fused_does_the_same(option, variant):
    ours, theirs = twins(option, [1_000, 33], torch.float64, foreach=variant == "foreach")
    for _ in range(STEPS):
        give_gradients(ours, theirs)
        ours.step(), theirs.step()
    check_equal(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("register_bytes", [16, 32, 64])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("option", OPTIONS)
def test_every_instruction_set(option, dtype, register_bytes, monkeypatch):
    """Those that this processor has. 16-bit weights may round to another neighbour, a sixteenth of them at most."""
    monkeypatch.setattr("weightscale_fast.optim.table.WIDEST", register_bytes)
    ours, theirs = twins(option, [1, 63, 4_097], dtype, fused=torch_moves(option, dtype))
    for _ in range(STEPS):
        give_gradients(ours, theirs)
        ours.step(), theirs.step()
    for mine, other in zip(tensors_of(ours), tensors_of(theirs), strict=True):
        for a, b in zip(mine, other, strict=True):
            ulp = torch.finfo(dtype).eps
            torch.testing.assert_close(a, b, rtol=16 * ulp, atol=16 * ulp)


@pytest.mark.parametrize("option", ["SGD nesterov", "AdamW amsgrad"])
def test_the_number_of_threads_changes_no_bit(option):
    results = []
    threads = torch.get_num_threads()
    for number in (1, 2, 5):
        torch.manual_seed(1)
        ours, _ = twins(option, SIZES)
        torch.set_num_threads(number)
        sums = []
        for _ in range(3):
            give_gradients(ours)
            ours.request_sums(ratio=True)
            ours.step()
            sums.append(ours.step_sums[0].sums)
        torch.set_num_threads(threads)
        results.append([torch.stack(sums), *(tensor for tensors in tensors_of(ours) for tensor in tensors)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.mark.parametrize("offset", [1, 3, 7])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_views_at_odd_addresses_touch_no_neighbour(dtype, offset):
    flat, gradients = torch.randn(9_000).to(dtype), torch.randn(9_000).to(dtype)
    spans = [slice(offset, offset + 4_099), slice(offset + 4_100, offset + 4_101), slice(offset + 4_110, 8_999)]
    ours = [nn.Parameter(flat[span]) for span in spans]
    theirs = [nn.Parameter(flat[span].clone()) for span in spans]
    between = torch.ones(9_000, dtype=torch.bool)
    for span, *pair in zip(spans, ours, theirs, strict=True):
        between[span] = False
        for parameter in pair:
            parameter.grad = gradients[span]
    before = flat.clone()
    wsf.optim.AdamW(ours).step()
    torch.optim.AdamW(theirs, fused=True).step()
    assert torch.equal(flat[between], before[between])
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("option", OPTIONS)
def test_special_values(option):
    """NaN, infinities, zeros and the smallest and largest numbers become what they become in torch."""
    nan, inf = float("nan"), float("inf")
    values = torch.tensor([0.0, -0.0, 1.0, -2.0, nan, inf, -inf, 1e-42, 3e38, -3e38])
    weights, gradients = torch.cartesian_prod(values, values).T
    ours, theirs = twins(option, [len(weights)], fused=True)
    for optimizer in (ours, theirs):
        parameters_of(optimizer)[0].data.copy_(weights)
    for sign in (1, -1, 1):
        for optimizer in (ours, theirs):
            parameters_of(optimizer)[0].grad = gradients * sign
        ours.step(), theirs.step()
    for a, b in zip(tensors_of(ours)[0], tensors_of(theirs)[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0, equal_nan=True)
