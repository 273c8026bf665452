"""What is delivered: the public names, the source distribution, and the extras."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import weightscale_fast as wsf
from weightscale_fast.record.history import RWCHistory

ROOT = Path(__file__).parents[1]
HIDE = """
import sys
class Hide:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, *where):
        return None if name.partition(".")[0] in {hidden!r} else self.finder.find_spec(name, *where)
sys.meta_path[:] = map(Hide, sys.meta_path)
sys.argv = ["weightscale", *{arguments!r}]
from weightscale_fast.cli import main
sys.exit(main())
"""


def test_every_public_name_is_there_and_told():
    assert all(hasattr(wsf, name) for name in wsf.__all__)
    assert [name for name in wsf.__all__ if not re.search(rf"\b{name}\b", wsf.__doc__)] == []


def test_dir_shows_what_is_public_and_no_more():
    assert dir(wsf) == sorted([*wsf.__all__, "__version__"])


def repository_files():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git repository, so nothing says which files belong to the project")
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listing.splitlines() if (ROOT / name).exists()}


@pytest.mark.parametrize("variable", ["WEIGHTSCALE_FAST_CUDA=0", "WEIGHTSCALE_FAST_NO_EXT=1"])
def test_the_sdist_is_the_whole_repository_whoever_builds_it(variable, tmp_path):
    files = repository_files()
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for built in ("weightscale_fast/_C.abi3.so", "tests/__pycache__/x.pyc", "docs/_build/index.html", ".venv/x.py"):
        (tmp_path / built).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / built).touch()
    script = "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    environment = {**os.environ, **dict([variable.split("=")])}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, check=True)
    (archive,) = (tmp_path / "dist").iterdir()
    assert archive.name == f"weightscale_fast-{wsf.__version__}.tar.gz"
    with tarfile.open(archive) as sdist:
        inside = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    assert {name for name in inside if ".egg-info/" not in name} - {"PKG-INFO", "setup.cfg"} == files


def distributions(extra):
    """The distributions that `pip install 'weightscale_fast[<extra>]'` brings, as far as they are installed here."""
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    requirements = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"][extra]]
    found = {"weightscale_fast"}
    while wanted:
        requirement = requirements.Requirement(wanted.pop())
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            wanted += importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def test_the_extra_analysis_is_enough_for_weightscale_analyze(tmp_path):
    brought = distributions("analysis")
    hidden = {
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not brought & {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners}
    } - {"weightscale_fast"}
    assert {"timm", "torchvision", "tqdm"} <= hidden
    S, L = 20, 6
    rwc = np.random.default_rng(0).random((S, L)) + np.arange(L)
    RWCHistory(
        names=tuple(f"blocks.{i}.weight" for i in range(L)),
        numel=np.full(L, 100),
        kinds=("linear",) * L,
        steps=np.arange(1, S + 1),
        delta_l1=rwc,
        prev_l1=np.ones((S, L)),
        moved=np.full((S, L), 75),
    ).save(tmp_path)
    script = HIDE.format(hidden=hidden, arguments=["analyze", str(tmp_path)])
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "analysis" / "report.html").exists()
