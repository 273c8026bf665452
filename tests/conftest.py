"""Fixtures shared by all tests."""

import os

import pytest
import torch

if not torch.cuda.is_available():  # before anything imports triton: its kernels then run, interpreted, on the CPU
    os.environ["TRITON_INTERPRET"] = "1"

BACKENDS = ("cpu", "torch", "triton")


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend in turn; a missing one fails, for here all of them must work."""
    return request.param


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
