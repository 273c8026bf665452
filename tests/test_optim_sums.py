"""The sums of a step of weightscale_fast.optim against float64."""

import copy
import math

import pytest
import torch
from torch import nn

import weightscale_fast as wsf

from .oracle import TOLERANCE
from .test_optim import DTYPES, OPTIONS, SIZES, give_gradients, parameters_of, twins


def oracle(w, p):
    """[7] the sums of one parameter, in float64."""
    w, p = w.detach().double(), p.detach().double()
    delta = (w - p).abs()
    largest = delta.max() if len(delta) else torch.zeros((), dtype=torch.float64)
    moved = (w != p).sum().double()
    sums = [delta.sum(), p.abs().sum(), moved, delta.square().sum(), p.square().sum(), largest]
    return torch.stack([*sums, (delta / p.abs()).sum()])


def step_and_check(optimizer, *, l2=True, ratio=True, step=None):
    """Make a step, and hold its sums of every parameter against float64."""
    before = {parameter: parameter.detach().clone() for parameter in parameters_of(optimizer)}
    optimizer.request_sums(l2=l2, ratio=ratio)
    (step or optimizer.step)()
    seen = []
    for part in optimizer.step_sums:
        assert part.sums.dtype == torch.float64
        assert part.sums.shape == (7 if ratio else 6 if l2 else 3, len(part.parameters))
        for i, parameter in enumerate(part.parameters):
            expected = oracle(parameter.flatten(), before[parameter].flatten())[: len(part.sums)]
            torch.testing.assert_close(part.sums[:, i], expected, rtol=TOLERANCE, atol=0, equal_nan=True)
        seen += map(id, part.parameters)
    assert sorted(seen) == sorted(id(p) for p in parameters_of(optimizer) if p.grad is not None)
    return optimizer.step_sums


@pytest.mark.parametrize(("l2", "ratio"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("option", OPTIONS)
def test_every_step(option, dtype, l2, ratio):
    optimizer, _ = twins(option, SIZES, dtype)
    for _ in range(4):
        give_gradients(optimizer)
        step_and_check(optimizer, l2=l2, ratio=ratio)


@pytest.mark.parametrize("register_bytes", [16, 32, 64])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(dtype, register_bytes, monkeypatch):
    monkeypatch.setattr("weightscale_fast.optim.table.WIDEST", register_bytes)
    for option in ("SGD nesterov", "AdamW"):
        optimizer, _ = twins(option, [1, 63, 4_097], dtype)
        for _ in range(3):
            give_gradients(optimizer)
            step_and_check(optimizer)


@pytest.mark.parametrize("option", OPTIONS)
def test_asking_for_sums_changes_no_bit(option):
    asked, _ = twins(option, SIZES)
    other = copy.deepcopy(asked)
    for turn in range(4):
        give_gradients(asked, other)
        if turn != 2:
            asked.request_sums(ratio=turn % 2 == 0)
        asked.step(), other.step()
        assert (asked.step_sums is None) == (turn == 2)
        assert other.step_sums is None
        for a, b in zip(parameters_of(asked), parameters_of(other), strict=True):
            assert torch.equal(a, b)


def test_several_may_ask():
    optimizer, _ = twins("SGD", [10])
    plain, l2, ratio = {}, {"l2": True}, {"ratio": True}
    for asked, rows in (([ratio, plain], 7), ([l2, ratio], 7), ([plain, l2], 6), ([plain, plain], 3)):
        give_gradients(optimizer)
        for more in asked:
            optimizer.request_sums(**more)
        optimizer.step()
        assert len(optimizer.step_sums[0].sums) == rows


def test_steps_below_and_above_the_squares_of_float32():
    """A square of 1e-30 underflows in float32, and a square of 1e25 overflows."""
    parameters = [nn.Parameter(torch.full((1_000,), value)) for value in (1e-15, 1e25)]
    optimizer = wsf.optim.SGD(parameters, lr=1.0)
    for parameter in parameters:
        parameter.grad = parameter.detach() * 1e-5
    step_and_check(optimizer)


def test_a_difference_that_is_no_number():
    parameters = [nn.Parameter(torch.ones(100)) for _ in range(3)]
    optimizer = wsf.optim.SGD(parameters, lr=1.0)
    for parameter, value in zip(parameters, (math.nan, math.inf, 1.0), strict=True):
        parameter.grad = torch.zeros(100)
        parameter.grad[37] = value
    (part,) = step_and_check(optimizer)
    assert math.isnan(part.sums[5, 0])
    assert math.isinf(part.sums[5, 1])


def test_weights_of_16_bits_that_do_not_move():
    """The sums are of the weights as stored: most steps of this size round to nothing."""
    parameter = nn.Parameter(torch.ones(10_000, dtype=torch.bfloat16))
    optimizer = wsf.optim.SGD([parameter], lr=1e-3)
    parameter.grad = torch.ones_like(parameter)
    parameter.grad[:10] = 10
    (part,) = step_and_check(optimizer)
    assert part.sums[2, 0] == 10


def test_only_what_is_stepped_has_sums():
    optimizer, _ = twins("AdamW", [5, 6, 7])
    first, second, third = parameters_of(optimizer)
    for has_gradient in ([first, third], [second], [first, second, third], []):
        optimizer.zero_grad()
        for parameter in has_gradient:
            parameter.grad = torch.randn_like(parameter)
        optimizer.request_sums()
        optimizer.step()
        stepped = [parameter for part in optimizer.step_sums for parameter in part.parameters]
        assert list(map(id, stepped)) == list(map(id, has_gradient))


def test_a_step_that_raises_leaves_no_sums():
    optimizer, _ = twins("AdamW", [5])
    give_gradients(optimizer)
    step_and_check(optimizer)

    def closure():
        raise KeyError("the closure")

    optimizer.request_sums()
    with pytest.raises(KeyError, match="the closure"):
        optimizer.step(closure)
    assert optimizer.step_sums is None
    optimizer.step()
    assert optimizer.step_sums is None  # the request was for the step that raised
