"""Fixtures shared by all tests."""

import pytest
import torch

BACKENDS = ("cpu", "torch")


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend in turn; a missing one fails, for here all of them must work."""
    return request.param


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
