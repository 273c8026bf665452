"""make gpu-check where no GPU is: a clear end, and a dry run of what it would measure."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "bench" / "gpu_check.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_a_gpu_it_ends_at_once():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 1
    assert "gpu-check needs a GPU" in done.stderr
    assert "nothing was run" in done.stderr


def test_dry_run():
    done = subprocess.run([sys.executable, SCRIPT, "--dry-run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "foreach in place" in done.stdout
    assert "x ours" in done.stdout
    assert "us a step of 1,000 layers" in done.stdout
