"""The scripts in examples/ run as they are, and write what they say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import weightscale_fast as wsf

ROOT = Path(__file__).parent.parent
RUNS = {  # for each script: the packages it needs, the folder of its record, and the number of steps
    "plain_torch": ([], ".", 80),
    "lightning_callback": (["lightning"], "rwc", 64),
    "transformers_trainer": (["transformers", "accelerate"], "rwc", 24),
    "accelerate_loop": (["accelerate"], "rwc", 32),
    "trackers": (["tensorboard"], None, 0),
}


def test_every_example_is_run():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_example(name, tmp_path):
    packages, record, steps = RUNS[name]
    for package in packages:
        pytest.importorskip(package, reason="needs pip install 'weightscale_fast[integrations]'")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "examples" / f"{name}.py", tmp_path / "run"]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert str(tmp_path / "run") in result.stdout
    if record is not None:
        history = wsf.RWCHistory.load(tmp_path / "run" / record)
        assert history.steps.tolist() == list(range(1, steps + 1))
    else:
        assert (tmp_path / "run" / "tensorboard" / "report.html").exists()
