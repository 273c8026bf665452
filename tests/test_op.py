"""The op's registration, and the choice of backend."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import weightscale_fast as wsf
from weightscale_fast.rwc.extension import load_error
from weightscale_fast.rwc.op import BACKENDS, choose_backend, load_backend

from .conftest import BACKENDS as TESTED
from .oracle import module_of, nudge

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["layer_sums", "layer_sums_triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sums", [3, 4])
@pytest.mark.parametrize("update", [True, False])
def test_opcheck(name, dtype, sums, update):
    assert load_error() is None
    assert load_backend("triton").refusal(CPU) is None  # interpreted: see conftest.py
    model = module_of(torch.randn(20, 1_000).to(dtype), torch.randn(3, 3).to(dtype), torch.randn(0, 3).to(dtype))
    prev = wsf.snapshot(model)
    nudge(model, 0.1)
    group = prev.plan_for(model)[0].groups[0]
    out = torch.zeros(5, sums, 3, dtype=torch.float64)
    cursor = torch.tensor([7])
    arguments = (group.chunks, group.layer_start, group.layer_row, group.prev, group.partial, out, cursor, update)
    torch.library.opcheck(getattr(torch.ops.weightscale_fast, name).default, arguments)


@pytest.mark.parametrize("name", ["layer_sums", "layer_sums_triton", "layer_sums_cuda"])
def test_fake_kernels_check_the_tables(name):
    stream = (0,) if name == "layer_sums_cuda" else ()
    packet = getattr(torch.ops.weightscale_fast, name).default

    def op(*arguments):
        return packet(*arguments, *stream)

    ints = {"dtype": torch.int64, "device": "meta"}
    chunks, starts, rows = torch.empty(3, 5, **ints), torch.empty(3, **ints), torch.empty(2, **ints)
    prev, partial, out = (torch.empty(shape, device="meta") for shape in ((9,), (4, 5), (1, 3, 2)))
    cursor = torch.zeros(1, **ints)
    assert op(chunks, starts, rows, prev, partial, out, cursor, True) is None
    with pytest.raises(RuntimeError, match="chunks must be"):
        op(chunks[:2], starts, rows, prev, partial, out, cursor, True)
    with pytest.raises(RuntimeError, match="layer_start must be"):
        op(chunks, starts[:2], rows, prev, partial, out, cursor, True)
    with pytest.raises(RuntimeError, match="out must be"):
        op(chunks, starts, rows, prev, partial, out[:, :2], cursor, True)


def test_kernel_refuses_tables_that_do_not_fit():
    model = module_of(torch.randn(3, 3))
    group = wsf.snapshot(model).plan_for(model)[0].groups[0]
    with pytest.raises(RuntimeError, match="tables do not fit each other"):
        torch.ops.weightscale_fast.layer_sums(
            group.chunks,
            group.layer_start[:1],
            group.layer_row,
            group.prev,
            group.partial,
            torch.zeros(1, 3, 1).double(),
            torch.zeros(1).long(),
            True,
        )


def test_automatic_choice_on_the_cpu_is_the_compiled_pass():
    assert choose_backend(CPU).__name__ == "weightscale_fast.rwc.cpu"


def test_environment_names_the_backend(monkeypatch):
    monkeypatch.setenv("WEIGHTSCALE_FAST_BACKEND", "torch")
    assert choose_backend(CPU).__name__ == "weightscale_fast.rwc.reference"
    assert choose_backend(CPU, "cpu").__name__ == "weightscale_fast.rwc.cpu"  # the argument comes first
    monkeypatch.setenv("WEIGHTSCALE_FAST_BACKEND", "gpu")
    with pytest.raises(ValueError, match="backend must be one of 'cpu', 'triton', 'cuda', 'torch', got 'gpu'"):
        choose_backend(CPU)


def test_a_named_backend_that_cannot_serve_the_device_says_why():
    with pytest.raises(wsf.WeightScaleError, match=r"backend 'cpu' cannot serve meta: it reads weights on the cpu"):
        choose_backend(torch.device("meta"), "cpu")
    assert choose_backend(torch.device("meta")).__name__ == "weightscale_fast.rwc.reference"


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
    """The package as it is installed where no compiler is: the same files without the binary."""
    script = """
import torch, weightscale_fast as wsf
from weightscale_fast.rwc.op import choose_backend
model = torch.nn.Linear(3, 3)
prev = wsf.snapshot(model)
assert choose_backend(torch.device("cpu")).__name__ == "weightscale_fast.rwc.reference"
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
    assert set(BACKENDS) == {*TESTED, "cuda"}  # that one runs on GPUs only: test_cuda_build.py, test_gpu.py
