"""The state of weightscale_fast.optim: it can be exchanged with torch.optim in mid-run, and follows every change."""

import copy
import pickle

import pytest
import torch
from torch import nn

import weightscale_fast as wsf

from .test_optim import OPTIONS, check_equal, give_gradients, parameters_of, tensors_of, twins
from .test_optim_sums import step_and_check

SIZES = [33, 4_096, 1]


@pytest.mark.parametrize("option", OPTIONS)
def test_the_state_dict_is_that_of_torch(option):
    ours, theirs = twins(option, SIZES, fused=True)
    for _ in range(2):
        mine, other = ours.state_dict(), theirs.state_dict()
        assert mine["state"].keys() == other["state"].keys()
        for a, b in zip(mine["state"].values(), other["state"].values(), strict=True):
            assert a.keys() == b.keys()
            assert all((a[k].shape, a[k].dtype, a[k].device) == (b[k].shape, b[k].dtype, b[k].device) for k in a)
        for a, b in zip(mine["param_groups"], other["param_groups"], strict=True):
            assert a | {"fused": True} == b
        give_gradients(ours, theirs)
        ours.step(), theirs.step()


@pytest.mark.parametrize("option", OPTIONS)
def test_ours_to_ours_in_mid_run_changes_no_bit(option):
    stays, _ = twins(option, SIZES)
    moves = copy.deepcopy(stays)
    for turn in range(6):
        if turn == 3:
            state, name = moves.state_dict(), type(moves).__name__
            moves = getattr(wsf.optim, name)(parameters_of(moves))
            moves.load_state_dict(pickle.loads(pickle.dumps(state)))
        give_gradients(stays, moves)
        stays.step(), moves.step()
    check_equal(stays, moves)


@pytest.mark.parametrize("first", ["ours", "torch"])
@pytest.mark.parametrize("option", OPTIONS)
def test_between_ours_and_torch_in_mid_run(option, first):
    ours, theirs = twins(option, [64, 4_096], torch.float64, fused=True)
    name, arguments = OPTIONS[option]
    moves = copy.deepcopy(ours if first == "ours" else theirs)
    for turn in range(6):
        if turn == 3:
            place = torch.optim if first == "ours" else wsf.optim
            new = getattr(place, name)(parameters_of(moves), **arguments, fused=True)
            new.load_state_dict(moves.state_dict())
            moves = new
        give_gradients(ours, theirs, moves)
        ours.step(), theirs.step(), moves.step()
    check_equal(moves, theirs, rtol=1e-13, atol=1e-15)
    check_equal(moves, ours, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("option", OPTIONS)
def test_copies_and_pickles_go_on(option):
    ours, _ = twins(option, SIZES)
    give_gradients(ours)
    step_and_check(ours)
    copied = copy.deepcopy(ours)
    pickled = pickle.loads(pickle.dumps(ours))
    assert pickled.step_sums is None
    give_gradients(ours, copied, pickled)
    for optimizer in (ours, copied, pickled):
        step_and_check(optimizer)
    check_equal(ours, copied)
    check_equal(ours, pickled)


@pytest.mark.parametrize("option", ["SGD nesterov", "AdamW amsgrad"])
def test_a_loop_that_changes_everything(option):
    """Rates at every step, gradients that come and go, a group that is added, states that are replaced."""
    ours, theirs = twins(option, SIZES, torch.float64, fused=True)
    for turn in range(12):
        give_gradients(ours, theirs)
        for optimizer in (ours, theirs):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (1 + turn)
                group["weight_decay"] = 0.01 * turn
            if turn % 3 == 1 and not (turn == 1 and option.startswith("SGD")):
                parameters_of(optimizer)[turn % 2].grad = None
            if turn == 4:
                torch.manual_seed(4)
                optimizer.add_param_group({"params": [nn.Parameter(torch.randn(70).double())], "lr": 1e-3})
                if option.startswith("SGD"):  # torch's fused SGD needs the buffers of all or of none
                    parameter = parameters_of(optimizer)[-1]
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            if turn == 7:
                for state in optimizer.state.values():
                    for key in state:
                        state[key] = state[key].clone()
            if turn == 8:
                for parameter in parameters_of(optimizer):
                    parameter.data = parameter.data.clone()
            if turn == 9:
                optimizer.param_groups.reverse()
        give = [p.grad is not None for p in parameters_of(theirs)]
        step_and_check(ours)
        theirs.step()
        assert give == [p.grad is not None for p in parameters_of(ours)]
    check_equal(ours, theirs, rtol=1e-12, atol=1e-14)


def test_a_gradient_that_comes_late_fills_its_buffer_as_in_torch():
    """Its first momentum is the gradient, without dampening."""
    ours, theirs = twins("SGD dampening", SIZES, torch.float64, foreach=False)
    for turn in range(4):
        give_gradients(ours, theirs)
        for optimizer in (ours, theirs):
            if turn < 2:
                parameters_of(optimizer)[1].grad = None
        ours.step(), theirs.step()
    check_equal(ours, theirs, rtol=1e-13, atol=1e-15)


def test_a_rate_that_is_a_tensor():
    ours, theirs = twins("AdamW", SIZES, fused=True)
    for turn in range(3):
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = torch.tensor(0.01 / (turn + 1))
        give_gradients(ours, theirs)
        step_and_check(ours)
        theirs.step()
    check_equal(ours, theirs, rtol=1e-6, atol=1e-7)


def test_gradients_to_none_and_gradients_to_zero():
    ours, theirs = twins("AdamW", [64], fused=True)
    for turn in range(6):
        for optimizer in (ours, theirs):
            optimizer.zero_grad(set_to_none=turn % 2 == 0)
            (parameters_of(optimizer)[0].square().sum() * (turn + 1)).backward()
            optimizer.step()
    check_equal(ours, theirs, rtol=1e-6, atol=1e-7)


def test_a_closure_is_called_once_with_gradients_on():
    ours, theirs = twins("SGD momentum", [64], torch.float64)
    for optimizer in (ours, theirs):
        calls = []

        def closure(optimizer=optimizer, calls=calls):
            calls.append(torch.is_grad_enabled())
            optimizer.zero_grad()
            loss = parameters_of(optimizer)[0].square().sum()
            loss.backward()
            return loss

        for _ in range(3):
            loss = optimizer.step(closure)
            assert loss.requires_grad
        assert calls == [True] * 3
    check_equal(ours, theirs, rtol=1e-14, atol=0)


def test_the_default_dtype_is_that_of_the_step_number():
    try:
        torch.set_default_dtype(torch.float64)
        ours, theirs = twins("AdamW", [64], torch.float32)
        for _ in range(3):
            give_gradients(ours, theirs)
            ours.step(), theirs.step()
    finally:
        torch.set_default_dtype(torch.float32)
    step = ours.state[parameters_of(ours)[0]]["step"]
    assert (step.dtype, step.item()) == (torch.float64, 3)
    check_equal(ours, theirs, rtol=1e-5, atol=1e-6)


def test_autograd_notices_that_the_weights_changed():
    """A graph that needs the old weights must not be computed with the new ones."""
    ours, _ = twins("SGD", [64])
    (parameter,) = parameters_of(ours)
    loss = parameter.square().sum()
    give_gradients(ours)
    ours.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_every_state_is_there_after_the_first_step():
    ours, _ = twins("AdamW amsgrad", [64])
    give_gradients(ours)
    ours.step()
    assert len(tensors_of(ours)[0]) == 5
