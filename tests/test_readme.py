"""README: what it shows runs, prints what it says, and leads somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
OUTPUTS = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
SHELL_LINES = re.findall(r"(?:^    |`)(weightscale [^`#\n]+)", README, re.MULTILINE)
TAKES_MINUTES = ("demo", "paper", "train")


def without_numbers(text: str) -> str:
    """The text with each number as #, for another processor rounds differently."""
    return re.sub(r"\d[\d.,e+-]*", "#", text)


def run(command: list[str], folder: Path, code: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == code, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where README's Python has run, each block by itself; printed.txt is what they printed."""
    folder = tmp_path_factory.mktemp("readme")
    printed = [run([sys.executable, "-c", block], folder) for block in PYTHON_BLOCKS]
    (folder / "printed.txt").write_text("".join(printed))
    return folder


def test_it_is_short():
    assert len(README.splitlines()) <= 120


def test_every_python_block_runs_as_pasted_and_prints_what_is_shown(folder):
    assert without_numbers((folder / "printed.txt").read_text()) == without_numbers(OUTPUTS[0])


@pytest.mark.parametrize("line", sorted({line.strip() for line in SHELL_LINES}))
def test_every_command_runs(line, folder):
    words = shlex.split(line)[1:]
    if words[0] in TAKES_MINUTES:
        words.append("--help")
    code = int(words[0] == "check")  # the run has a fault
    printed = run([sys.executable, "-m", "weightscale_fast", *words], folder, code)
    if line == "weightscale analyze runs/first":
        assert without_numbers(printed) == without_numbers(OUTPUTS[1])


def test_every_extra_and_every_make_rule_exists():
    extras = {extra for names in re.findall(r"\.\[([\w,]+)\]", README) for extra in names.split(",")}
    rules = set(re.findall(r"^    make (\w+)", README, re.MULTILINE))
    project, makefile = (ROOT / "pyproject.toml").read_text(), (ROOT / "Makefile").read_text()
    assert extras
    assert [extra for extra in extras if not re.search(rf"^{extra} = \[", project, re.MULTILINE)] == []
    assert rules == {"demo", "test"}
    assert [rule for rule in rules if not re.search(rf"^{rule}:", makefile, re.MULTILINE)] == []
