"""The documentation: it builds without a warning, its notebook and its code run, and it leaves nothing out."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import weightscale_fast as wsf
from weightscale_fast.figures.by_name import NAMES as FIGURES
from weightscale_fast.health.limits import KINDS

from .test_readme import without_numbers

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]+)?\)")


def run_script(source: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", source]
    result = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for path, anchor in LINK.findall(page.read_text()):
        if not path.startswith("https://"):
            target = page.parent / path if path else page
            assert target.exists(), path
            assert not anchor or anchor in anchors_of(target), path + anchor


def test_the_notebook_prints_what_is_stored_in_it(tmp_path):
    cells = json.loads((DOCS / "tutorial.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    lines = "\n".join("".join(cell["source"]) for cell in code).splitlines()
    printed = run_script("\n".join(line for line in lines if not line.startswith("%")), tmp_path)
    outputs = [output for cell in code for output in cell["outputs"]]
    stored = "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream")
    assert without_numbers(printed) == without_numbers(stored)
    assert [output for output in outputs if "image/png" in output.get("data", {})] != []


def test_the_code_about_recording_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "recording.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    run_script("\n".join(blocks), tmp_path)
    history = wsf.RWCHistory.load(tmp_path / "runs" / "recording")
    assert history.steps.tolist() == list(range(1, 103))  # the last two after the resume, by the last blocks
    assert history.flags[-2] == 2


def test_the_code_about_optimizers_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "optimizers.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    printed = run_script("\n".join(blocks), tmp_path)
    assert printed.startswith("(20, 2)\ntensor([")


def test_every_public_name_is_in_the_reference():
    listed = set(re.findall(r"^\.\. auto(?:class|function|exception):: (\w+)$", (DOCS / "api.md").read_text(), re.M))
    modules = {"weightscale_fast"} | {name for name in sys.modules if name.startswith("weightscale_fast.")}
    public = {
        name for name in vars(wsf) if not name.startswith("_") and f"weightscale_fast.{name}" not in modules
    }  # fmt: skip
    assert public - listed == set()


def test_every_figure_and_every_finding_is_explained():
    analysis, health = (DOCS / "analysis.md").read_text(), (DOCS / "health.md").read_text()
    assert [name for name in FIGURES if f"| `{name}` |" not in analysis] == []
    assert [kind for kind in KINDS if f"### {kind}\n" not in health] == []
    assert [kind for kind in KINDS if f"](findings/{kind}.png)" not in health] == ["replicas"]  # no record shows them


def test_the_pictures_of_findings_are_drawn_from_kept_runs(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="needs pip install 'weightscale_fast[plots]'")
    pytest.importorskip("sklearn", reason="needs pip install 'weightscale_fast[train]'")
    from bench.faults import pictures
    from bench.faults.judge import Job

    assert {*pictures.EXAMPLES, "replicas"} == set(KINDS)
    job = Job("regression", "not_in_optimizer", False)
    job.run(tmp_path)
    page = tmp_path / "health.md"
    page.write_text("### still\n\n> an old line\n> of two\n\nText.\n\n### frozen\n\n> another\n")
    monkeypatch.setattr(pictures, "DOCS", tmp_path)
    monkeypatch.setattr(pictures, "EXAMPLES", {"still": job.folder, "spike": job.folder})
    monkeypatch.setattr(sys, "argv", ["pictures", str(tmp_path)])
    assert pictures.main() == 1  # that run has no spike
    picture = (tmp_path / "findings" / "still.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert 5_000 < len(picture) < 60_000
    line = "2.weight still: not one weight moved over steps 1 to 64, because it is not in the optimizer"
    assert page.read_text() == f"### still\n\n> {line}\n\nText.\n\n### frozen\n\n> another\n"


def test_the_speeds_are_those_of_the_committed_result(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="needs pip install 'weightscale_fast[plots]'")
    monkeypatch.syspath_prepend(ROOT / "bench")
    import draw

    result = json.loads((ROOT / "bench" / "results" / "cpu.json").read_text())
    assert f"{draw.BEGIN}\n{draw.markdown(result)}\n{draw.END}" in (DOCS / "performance.md").read_text()
    for name in ("first.svg", "second.svg"):
        draw.draw(result, tmp_path / name)
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()


def test_a_table_replaces_the_one_between_its_marks(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    from page import replace_between

    page = tmp_path / "page.md"
    page.write_text("before\n<b>\nold\n<e>\nafter\n")
    replace_between("<b>", "<e>", "new", page)
    assert page.read_text() == "before\n<b>\nnew\n<e>\nafter\n"
    with pytest.raises(ValueError, match="must have the lines '<b>' and '<end>'"):
        replace_between("<b>", "<end>", "new", page)


def test_it_builds_without_a_warning(tmp_path):
    for package in ("sphinx", "furo", "myst_nb"):
        pytest.importorskip(package, reason="needs pip install 'weightscale_fast[docs]'")
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", "--keep-going", "-d", tmp_path / "trees"]
    result = subprocess.run([*command, DOCS, tmp_path / "html"], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "RWCMonitor" in (tmp_path / "html" / "api.html").read_text()
