"""Fixtures shared by all tests."""

import os

import pytest
import torch

if not torch.cuda.is_available():  # before anything imports triton: its kernels then run, interpreted, on the CPU
    os.environ["TRITON_INTERPRET"] = "1"

from . import cuda_on_cpu

cuda_on_cpu.install()
BACKENDS = ("cpu", "torch", "triton", cuda_on_cpu.NAME)
TURNS = {"": "0", " backwards": "1", " seed 7": "7"}  # in which the threads of a block run in cuda_on_cpu


def pytest_runtest_setup(item):
    """Skip tests marked `gpu` where there is no GPU, unless make gpu-check demands them.

    It is one line that skips them all, so that the summary counts them in one line.
    """
    if "gpu" in item.keywords and not torch.cuda.is_available() and not os.environ.get("WEIGHTSCALE_FAST_REQUIRE_GPU"):
        pytest.skip("needs a GPU: make gpu-check")


@pytest.fixture(params=[*BACKENDS[:-1], *(cuda_on_cpu.NAME + turns for turns in TURNS)])
def backend(request, monkeypatch):
    """Each backend in turn; a missing one fails, for here all of them must work."""
    name, _, _ = request.param.partition(" ")
    if name == cuda_on_cpu.NAME:
        if cuda_on_cpu.toolkit() is None and not os.environ.get("CI"):
            pytest.skip("nvcc is not on the PATH, so CUDA's headers are not here")
        monkeypatch.setenv("WSF_TURNS", TURNS[request.param.removeprefix(name)])
    return name


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
