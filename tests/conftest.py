"""Fixtures shared by all tests."""

import os

import pytest
import torch

if not torch.cuda.is_available():  # before anything imports triton: its kernels then run, interpreted, on the CPU
    os.environ["TRITON_INTERPRET"] = "1"

BACKENDS = ("cpu", "torch", "triton")


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` are skipped where there is none, unless make gpu-check demands them."""
    if not torch.cuda.is_available() and not os.environ.get("WEIGHTSCALE_FAST_REQUIRE_GPU"):
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a GPU: make gpu-check"))


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend in turn; a missing one fails, for here all of them must work."""
    return request.param


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
