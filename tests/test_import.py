"""What `import weightscale_fast` costs: nothing but torch, numpy and safetensors."""

import subprocess
import sys

import pytest

HEAVY = ("triton", "sklearn", "scipy", "matplotlib", "timm", "torchvision", "cuml", "tqdm", "torch._dynamo")
HEAVY += ("lightning", "pytorch_lightning", "transformers", "accelerate", "tensorboard", "wandb", "trackio", "mlflow")
SCRIPT = """
import sys, torch
before = set(sys.modules)
{action}
print([name for name in {heavy!r} if name in set(sys.modules) - before])
"""


def imported_by(action: str) -> str:
    script = SCRIPT.format(action=action, heavy=HEAVY)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_import_is_light():
    assert imported_by("import weightscale_fast, weightscale_fast.cli, weightscale_fast.analysis") == "[]"


def test_the_pass_is_light_too():
    assert (
        imported_by(
            "import weightscale_fast as wsf; model = torch.nn.Linear(2, 2); wsf.fast_rwc(model, wsf.snapshot(model))"
        )
        == "[]"
    )


def test_the_test_above_can_fail():
    assert imported_by("import sklearn") != "[]"


def test_trackers_are_imported_when_they_are_used():
    assert imported_by("import weightscale_fast.health.tracked, weightscale_fast.integrations.trackers") == "[]"


WITHOUT = """
import sys
class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, *where):
        return None if name.partition(".")[0] in {packages!r} else self.finder.find_spec(name, *where)
sys.meta_path[:] = map(Without, sys.meta_path)
import weightscale_fast.integrations.{module}
"""


@pytest.mark.parametrize("package", ["lightning", "transformers"])
def test_a_missing_framework_is_an_error_with_its_install_line(package):
    script = WITHOUT.format(packages=("pytorch_lightning", package), module=package)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert f"{package} is not installed: run pip install 'weightscale_fast[integrations]'" in result.stderr
