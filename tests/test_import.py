"""What `import weightscale_fast` costs: nothing but torch, numpy and safetensors."""

import subprocess
import sys

HEAVY = ("triton", "sklearn", "scipy", "matplotlib", "timm", "torchvision", "cuml", "tqdm", "torch._dynamo")
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
