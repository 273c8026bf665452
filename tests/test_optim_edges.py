"""weightscale_fast.optim where the kernel cannot serve, where others call or change it, and where it must refuse."""

import copy
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import weightscale_fast as wsf

from .test_optim import OPTIONS, check_equal, give_gradients, parameters_of, twins
from .test_optim_sums import step_and_check


def served(optimizer):
    """How many parameters a kernel stepped last, and how many torch."""
    return sum(len(table.parameters) for table in optimizer._plan.tables), sum(map(len, optimizer._plan.rest))


def adamw_of(*weights):
    """An AdamW of this package for these very tensors, and torch's for copies in the same layout."""
    ours = [nn.Parameter(w) for w in weights]
    theirs = [nn.Parameter(w.detach().clone(memory_format=torch.preserve_format)) for w in weights]
    return wsf.optim.AdamW(ours, weight_decay=0.1), torch.optim.AdamW(theirs, weight_decay=0.1)


@pytest.mark.parametrize("option", OPTIONS)
def test_torch_steps_where_no_kernel_does(option, monkeypatch):
    monkeypatch.setenv("WEIGHTSCALE_FAST_BACKEND", "torch")
    ours, theirs = twins(option, [0, 1, 33, 20_000])
    for _ in range(3):
        give_gradients(ours, theirs)
        step_and_check(ours)
        theirs.step()
        assert served(ours) == (0, 4)
    check_equal(ours, theirs)
    ours.step()
    assert ours.step_sums is None


def test_the_copy_lives_only_during_the_step(monkeypatch):
    monkeypatch.setenv("WEIGHTSCALE_FAST_BACKEND", "torch")
    copies = []
    copy_to_arenas = wsf.optim.torch_step.copy_to_arenas

    def spy(weights):
        arenas, views = copy_to_arenas(weights)
        copies.extend(torch.multiprocessing.reductions.StorageWeakRef(arena.untyped_storage()) for arena in arenas)
        return arenas, views

    monkeypatch.setattr(wsf.optim.torch_step, "copy_to_arenas", spy)
    ours, _ = twins("AdamW", [1_000])
    give_gradients(ours)
    ours.step()
    assert not copies
    ours.request_sums()
    ours.step()
    assert len(copies) == 1
    assert copies[0].expired()


def test_channels_last_is_served_and_other_orders_are_right():
    image = torch.randn(8, 4, 3, 3)
    last = image.to(memory_format=torch.channels_last)
    ours, theirs = adamw_of(last.clone(), image.clone(), torch.randn(6, 8)[:, :5], torch.randn(7, 5).T)
    for turn in range(3):
        give_gradients(ours, theirs)
        if turn == 2:  # a gradient in another order than the weights
            for optimizer in (ours, theirs):
                parameter = parameters_of(optimizer)[1]
                parameter.grad = parameter.grad.to(memory_format=torch.channels_last)
        step_and_check(ours)
        theirs.step()
        assert served(ours) == ((3, 1) if turn < 2 else (2, 2))
    check_equal(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_parameters_that_share_memory_are_stepped_one_after_the_other(name):
    memory = torch.randn(300_000, dtype=torch.float64)
    other = memory.clone()

    def parts(of):
        return [nn.Parameter(of[:200_000]), nn.Parameter(of[100_000:]), nn.Parameter(of[:10]), nn.Parameter(of[5:5])]

    ours, theirs = getattr(wsf.optim, name)(parts(memory), 0.1), getattr(torch.optim, name)(parts(other), 0.1)
    for _ in range(2):
        give_gradients(ours, theirs)
        ours.step(), theirs.step()
    assert served(ours)[1] >= 3
    torch.testing.assert_close(memory, other, rtol=1e-13, atol=1e-13)


def test_a_memory_order_that_changes_at_the_same_address():
    ours, theirs = adamw_of(torch.randn(40, 30), torch.randn(64))
    for turn in range(4):
        if turn == 2:
            for optimizer in (ours, theirs):
                first = parameters_of(optimizer)[0]
                first.grad = None
                first.data = first.data.view(30, 40)
                state = optimizer.state[first]
                state.update({k: v.view(30, 40) for k, v in state.items() if k != "step"})
        give_gradients(ours, theirs)
        step_and_check(ours)
        theirs.step()
    check_equal(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fused", [True, None])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_a_gradient_scaler(option, fused, backend, monkeypatch):
    """Some gradients are infinite, also the very first. torch's unfused optimizer is not called for them at all."""
    monkeypatch.setenv("WEIGHTSCALE_FAST_BACKEND", backend)
    if backend == "torch" and fused and "momentum" in OPTIONS[option][1]:
        pytest.skip("torch's fused SGD leaves a momentum that it never filled when the first gradients are infinite")
    name, arguments = OPTIONS[option]
    _, theirs = twins(option, [64, 4_096])
    ours = getattr(wsf.optim, name)(copy.deepcopy(parameters_of(theirs)), **arguments, fused=fused)
    scalers = [torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=100) for _ in range(2)]
    for scaler in scalers:
        scaler.scale(torch.zeros(1))
    for infinite in (True, False, False, True, False):
        give_gradients(ours, theirs, scale=8.0)
        if infinite:
            for optimizer in (ours, theirs):
                parameters_of(optimizer)[1].grad[7] = float("inf")
        called = fused or not infinite
        if called:
            step_and_check(ours, step=lambda: scalers[0].step(ours))
            moved = torch.cat([part.sums for part in ours.step_sums], dim=1)[[0, 2, 3, 5]]
            assert (moved == 0).all() == infinite
        else:
            scalers[0].step(ours)
        scalers[1].step(theirs)
        if not infinite:  # the gradients are unscaled in place
            for a, b in zip(parameters_of(ours), parameters_of(theirs), strict=True):
                torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=0)
        for scaler in scalers:
            scaler.update(8.0)
        for a, b in zip(parameters_of(ours), parameters_of(theirs), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    check_equal(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_scaler_leaves_unscaling_to_the_step_as_in_torch():
    parameter = nn.Parameter(torch.ones(3))
    for fused in (None, False, True):
        for cls in ("SGD", "Adam", "AdamW"):
            ours, theirs = (getattr(place, cls)([parameter], fused=fused) for place in (wsf.optim, torch.optim))
            wanted = getattr(theirs, "_step_supports_amp_scaling", False)
            assert getattr(ours, "_step_supports_amp_scaling", False) == wanted


def test_hooks_and_schedulers_see_one_step():
    for backend_rest in (torch.randn(6, 8)[:, :5], torch.randn(5)):
        torch.optim.AdamW([nn.Parameter(torch.ones(1))])  # torch now wraps the step of its class
        ours = wsf.optim.AdamW([nn.Parameter(backend_rest)], lr=1.0)
        calls = []
        ours.register_step_pre_hook(lambda *_, calls=calls: calls.append("before"))
        ours.register_step_post_hook(lambda *_, calls=calls: calls.append("after"))
        scheduler = torch.optim.lr_scheduler.ExponentialLR(ours, 0.5)
        give_gradients(ours)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours.step()
            scheduler.step()
        assert calls == ["before", "after"]
        assert ours.param_groups[0]["lr"] == 0.5


def test_a_subclass_that_calls_super():
    class Clipped(wsf.optim.SGD):
        def step(self, closure=None):
            nn.utils.clip_grad_value_(parameters_of(self), 0.1)
            return super().step(closure)

    optimizer = Clipped([nn.Parameter(torch.zeros(5))], lr=1.0)
    parameters_of(optimizer)[0].grad = torch.ones(5)
    step_and_check(optimizer)
    assert torch.equal(parameters_of(optimizer)[0].detach(), torch.full((5,), -0.1))


def test_a_compiled_step_is_the_same_step():
    ours, theirs = twins("AdamW", [64], torch.float64)
    compiled = torch.compile(ours.step, backend="eager")
    for _ in range(3):
        give_gradients(ours, theirs)
        step_and_check(ours, step=compiled)
        theirs.step()
    check_equal(ours, theirs, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("cls", ["SGD", "Adam", "AdamW"])
def test_differentiable_is_refused(cls):
    parameter = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=rf"differentiable must be False, got True: use torch.optim.{cls}"):
        getattr(wsf.optim, cls)([parameter], differentiable=True)
    ours = getattr(wsf.optim, cls)([parameter])
    ours.load_state_dict(getattr(torch.optim, cls)([parameter], differentiable=True).state_dict())
    parameter.grad = torch.ones(3)
    with pytest.raises(ValueError, match="differentiable must be False"):
        ours.step()
    assert torch.equal(parameter.detach(), torch.ones(3))


@pytest.mark.parametrize("cls", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("bad", ["complex", "sparse"])
def test_complex_and_sparse_are_refused_before_anything_moves(cls, bad):
    good = nn.Parameter(torch.ones(3))
    other = nn.Parameter(torch.ones(3, dtype=torch.complex64 if bad == "complex" else torch.float32))
    ours = getattr(wsf.optim, cls)([good, other])
    good.grad = torch.ones(3)
    other.grad = torch.ones_like(other) if bad == "complex" else torch.ones(3).to_sparse()
    match = "view_as_real" if bad == "complex" else "sparse=False"
    with pytest.raises(TypeError, match=match):
        ours.step()
    assert torch.equal(good.detach(), torch.ones(3))


def test_a_gradient_that_becomes_sparse_is_refused():
    table = nn.Embedding(5, 3)
    ours = wsf.optim.SGD(table.parameters(), lr=0.1)
    for sparse in (False, True):
        table.sparse = sparse
        ours.zero_grad()
        table(torch.tensor([1, 2])).sum().backward()
        if not sparse:
            ours.step()
    with pytest.raises(TypeError, match="needs dense gradients, got one of layout torch.sparse_coo"):
        ours.step()


def test_the_arguments_are_those_of_torch():
    import inspect

    for cls in ("SGD", "Adam", "AdamW"):
        ours, theirs = getattr(wsf.optim, cls), getattr(torch.optim, cls)
        assert inspect.signature(ours) == inspect.signature(theirs)
        assert issubclass(ours, theirs)


def test_the_import_loads_no_compiler():
    source = "import sys, weightscale_fast as wsf; wsf.optim.AdamW; print('torch._dynamo' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


def test_weights_that_are_transposed_in_place():
    """Their address stays, and their memory order does not."""
    weights = [nn.Parameter(torch.arange(36.0).view(6, 6).clone()) for _ in range(2)]
    pair = [place.SGD([w], lr=0.1, momentum=0.9) for place, w in zip((wsf.optim, torch.optim), weights, strict=True)]
    gradient = torch.randn(6, 6)
    for turn in range(4):
        if turn == 2:
            for w in weights:
                w.data = w.data.t()
        for optimizer, w in zip(pair, weights, strict=True):
            if w.grad is None:
                w.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(*weights)


def test_a_gradient_whose_sign_is_a_flag():
    (weights,) = parameters_of(twins("SGD nesterov", [64])[0])
    optimizer = wsf.optim.SGD([weights], lr=0.1)
    weights.grad = torch.ones(64)
    optimizer.step()
    before = weights.detach().clone()
    weights.grad = torch._neg_view(torch.ones(64))
    optimizer.step()
    torch.testing.assert_close(weights.detach(), before + 0.1)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_another_default_device(name):
    weights = nn.Parameter(torch.ones(64))
    optimizer = getattr(wsf.optim, name)([weights], lr=0.1)
    weights.grad = torch.ones(64)
    with torch.device("meta"):
        optimizer.step()
    assert (weights < 1).all()


def test_a_group_that_is_refused_is_not_added():
    optimizer = wsf.optim.SGD([nn.Parameter(torch.ones(4))], lr=0.1)
    with pytest.raises(ValueError, match="differentiable must be False"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(4))], "differentiable": True})
    assert len(optimizer.param_groups) == 1
