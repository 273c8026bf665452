"""The op's registration, and the choice of backend."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import weightscale_fast as wsf
from weightscale_fast.ops.backends import BACKENDS, choose_backend, load_backend, run_elsewhere, warn_of_slow_backend
from weightscale_fast.ops.extension import load_error
from weightscale_fast.ops.plan import build_plan

from .conftest import BACKENDS as TESTED
from .oracle import module_of, nudge

CPU = torch.device("cpu")


# The arguments of each op after `update`: the chunks of the largest layer, and the stream.
LAUNCH = {"layer_sums": (), "layer_sums_triton": (1,), "layer_sums_cuda": (1, 0)}


@pytest.mark.parametrize("name", ["layer_sums", "layer_sums_triton", "layer_sums_cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sums", [3, 4])
@pytest.mark.parametrize("update", [True, False])
def test_opcheck(name, dtype, sums, update):
    assert load_error() is None
    assert load_backend("triton").refusal(CPU) is None  # interpreted: see conftest.py
    if name == "layer_sums_cuda" and load_backend("cuda_on_cpu").refusal(CPU):
        pytest.skip("nvcc is not on the PATH, so CUDA's headers are not here")
    model = module_of(torch.randn(20, 1_000).to(dtype), torch.randn(3, 3).to(dtype), torch.randn(0, 3).to(dtype))
    prev = wsf.snapshot(model)
    nudge(model, 0.1)
    group = prev.plan_for(model)[0].groups[0]
    out = torch.zeros(5, sums, 3, dtype=torch.float64)
    cursor = torch.tensor([7])
    op = getattr(torch.ops.weightscale_fast, name).default
    for rwc in (torch.zeros(3), torch.zeros(0)):
        torch.library.opcheck(op, (*group.tables, out, rwc, cursor, update, *LAUNCH[name]))


@pytest.mark.parametrize("name", LAUNCH)
def test_fake_kernels_check_the_tables(name):
    packet = getattr(torch.ops.weightscale_fast, name).default

    def op(chunks, starts, out, rwc):
        return packet(chunks, starts, rows, prev, partial, out, rwc, cursor, True, *LAUNCH[name])

    ints = {"dtype": torch.int64, "device": "meta"}
    chunks, starts, rows = torch.empty(3, 5, **ints), torch.empty(3, **ints), torch.empty(2, **ints)
    prev, partial, out = (torch.empty(shape, device="meta") for shape in ((9,), (4, 5), (1, 3, 2)))
    rwc, cursor = torch.empty(2, device="meta"), torch.zeros(1, **ints)
    assert op(chunks, starts, out, rwc) is None
    assert op(chunks, starts, out, rwc[:0]) is None
    with pytest.raises(RuntimeError, match="chunks must be"):
        op(chunks[:2], starts, out, rwc)
    with pytest.raises(RuntimeError, match="layer_start must be"):
        op(chunks, starts[:2], out, rwc)
    with pytest.raises(RuntimeError, match="out must be"):
        op(chunks, starts, out[:, :2], rwc)
    with pytest.raises(RuntimeError, match="rwc must be"):
        op(chunks, starts, out, rwc[:1])


def small_group():
    model = module_of(torch.randn(3, 3), torch.randn(2, 2))
    return wsf.snapshot(model).plan_for(model)[0].groups[0]


@pytest.mark.parametrize("name", ["layer_sums", "layer_sums_cuda"])
def test_kernels_refuse_tables_that_do_not_fit(name):
    if name == "layer_sums_cuda" and load_backend("cuda_on_cpu").refusal(CPU):
        pytest.skip("nvcc is not on the PATH, so CUDA's headers are not here")
    assert load_error() is None
    group, op = small_group(), getattr(torch.ops.weightscale_fast, name).default
    chunks, starts, *others = group.tables
    row = torch.zeros(1, 3, 2, dtype=torch.float64), torch.zeros(2), torch.zeros(1, dtype=torch.int64), True
    with pytest.raises(RuntimeError, match="tables do not fit each other"):
        op(chunks, starts[:1], *others, *row, *LAUNCH[name])
    with pytest.raises(RuntimeError, match="tables do not fit each other"):
        op(chunks, starts, *others, row[0], torch.zeros(1), *row[2:], *LAUNCH[name])
    with pytest.raises(RuntimeError, match="must be contiguous"):
        op(chunks.T.contiguous().T, starts, *others, *row, *LAUNCH[name])


class CountedCalls(TorchDispatchMode):
    """Counts the operators that are called."""

    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += 1
        return operator(*args, **(kwargs or {}))


def calls_to_bring_over(layers):
    """Bring the sums of every second of 2 * `layers` layers from another device, check them, count the operators."""
    cur = [torch.randn(3, 4) for _ in range(2 * layers)]
    before = [torch.zeros(3, 4) for _ in cur]
    plan, mine = build_plan(cur, before), list(range(0, 2 * layers, 2))
    group = dataclasses.replace(build_plan(cur[::2], before[::2]).groups[0], layers=mine, layer_row=torch.tensor(mine))
    out = torch.full((3, 3, 2 * layers), -1.0, dtype=torch.float64)
    with CountedCalls() as calls:
        run_elsewhere(choose_backend(CPU, "cpu"), plan, group, cur, out, torch.tensor([4]), True)
    torch.testing.assert_close(out[1, 0, mine], torch.stack([w.double().abs().sum() for w in cur[::2]]))
    out[1, :, mine] = -1
    assert (out == -1).all()
    return calls.count


def test_sums_of_another_device_come_in_as_many_calls_for_any_number_of_layers():
    """A model on several GPUs: the sums of another device come in one copy, to the right row and columns."""
    assert calls_to_bring_over(layers=40) == calls_to_bring_over(layers=2)


def test_a_gpu_that_gets_the_torch_backend_is_a_warning_with_the_reasons():
    with pytest.warns(UserWarning, match=r"weights on cuda are read by the 'torch' backend.*triton: a trial failed"):
        warn_of_slow_backend(torch.device("cuda"), {"triton": "a trial failed", "cuda": "no nvcc"})


def test_a_monitor_has_run_what_it_will_record_with(monkeypatch):
    """A CUDA graph cannot capture a first launch, so warm_up uses the dtype, the sums and the update of a real step."""
    seen = []
    cpu = load_backend("cpu")
    run = cpu.run

    def spy(plan, group, cur, out, rwc, cursor, update):
        seen.append((group.prev.dtype, out.shape[1], update, group.most_chunks))
        run(plan, group, cur, out, rwc, cursor, update)

    monkeypatch.setattr(cpu, "run", spy)
    model = module_of(torch.randn(200, 200), torch.randn(3, 3).bfloat16())
    monitor = wsf.RWCMonitor(model, definition="mean_ratio")
    warmed = set(seen)
    seen.clear()
    monitor.record()
    assert set(seen) <= warmed


def test_automatic_choice_on_the_cpu_is_the_compiled_pass():
    assert choose_backend(CPU).__name__ == "weightscale_fast.ops.cpu"


def test_environment_names_the_backend(monkeypatch):
    monkeypatch.setenv("WEIGHTSCALE_FAST_BACKEND", "torch")
    assert choose_backend(CPU).__name__ == "weightscale_fast.ops.reference"
    assert choose_backend(CPU, "cpu").__name__ == "weightscale_fast.ops.cpu"  # the argument wins
    monkeypatch.setenv("WEIGHTSCALE_FAST_BACKEND", "gpu")
    with pytest.raises(ValueError, match="backend must be one of 'cpu', 'triton', 'cuda', 'torch'.*, got 'gpu'"):
        choose_backend(CPU)


def test_a_named_backend_that_cannot_serve_the_device_says_why():
    with pytest.raises(wsf.WeightScaleError, match=r"backend 'cpu' cannot serve meta: it reads weights on the cpu"):
        choose_backend(torch.device("meta"), "cpu")
    assert choose_backend(torch.device("meta")).__name__ == "weightscale_fast.ops.reference"


def test_gpu_backends_refuse_the_cpu_with_the_reason(monkeypatch):
    with pytest.raises(
        wsf.WeightScaleError, match="backend 'cuda' cannot serve cpu: it reads weights on an NVIDIA GPU"
    ):
        choose_backend(CPU, "cuda")
    monkeypatch.delenv("TRITON_INTERPRET")
    assert "it runs on GPUs, these weights are on cpu" in load_backend("triton").refusal(CPU)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert load_backend("triton").refusal(CPU) == "Triton is not installed"


def test_without_the_extension_the_torch_backend_serves(tmp_path):
    """The package as installed without a compiler: the same files without the binary."""
    script = """
import torch, weightscale_fast as wsf
from weightscale_fast.ops.backends import choose_backend
model = torch.nn.Linear(3, 3)
prev = wsf.snapshot(model)
assert choose_backend(torch.device("cpu")).__name__ == "weightscale_fast.ops.reference"
assert wsf.fast_rwc(model, prev).tolist() == [0]
try:
    wsf.fast_rwc(model, prev, backend="cpu")
except wsf.WeightScaleError as error:
    assert "extension was not built" in str(error), error
else:
    raise SystemExit("no error")
"""
    package = tmp_path / "weightscale_fast"
    source = wsf.__path__[0]
    for path in Path(source).rglob("*.py"):
        target = package / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_backend_is_tested_here():
    assert set(BACKENDS) == {*TESTED, "cuda"}  # cuda runs on GPUs only: test_cuda_build.py, test_gpu.py
