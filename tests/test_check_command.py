"""`weightscale check`: an exit code, the findings in words, and as JSON."""

import json

import numpy as np
import pytest

import weightscale_fast as wsf
from weightscale_fast.cli import main
from weightscale_fast.record.observed import Cause, Observed

from .histories import make_history, noisy

NAMES = ["stem.weight", "fc.weight", "head.weight", "out.weight", "a.weight", "b.weight"]


@pytest.fixture
def run(tmp_path):
    """Saves a history as a run folder."""

    def save(rwc, **fields):
        make_history(rwc, names=NAMES, **fields).save(tmp_path / "run")
        return str(tmp_path / "run")

    return save


def test_of_a_healthy_run_it_is_0(run, capsys):
    assert main(["check", run(noisy(200, 6))]) == 0
    assert capsys.readouterr().out == "nothing found: no fault that the movement of the weights shows\n"


def test_of_a_fault_it_is_1(run, capsys):
    rwc = noisy(200, 6)
    rwc[:, 1] = 0
    observed = Observed(causes={"fc.weight": Cause("no_gradient", 32)})
    assert main(["check", run(rwc, observed=observed)]) == 1
    finding, advice = capsys.readouterr().out.splitlines()
    assert finding == (
        "! fc.weight still: not one weight moved over steps 1 to 64, because it had no gradient (grad was None)"
    )
    assert advice.startswith("  Check that forward() uses it")


def test_of_a_frozen_layer_it_is_0(run, capsys):
    rwc = noisy(200, 6)
    rwc[:, 1] = 0
    assert main(["check", run(rwc, observed=Observed(causes={"fc.weight": Cause("frozen", 2)}))]) == 0
    nothing, note, _ = capsys.readouterr().out.splitlines()
    assert nothing.startswith("nothing found")
    assert note.startswith("- fc.weight frozen")


def test_of_a_short_run_it_says_so(run, capsys):
    assert main(["check", run(noisy(20, 6))]) == 0
    assert "nothing found so far: no layer was not finite, and 64 rows are needed" in capsys.readouterr().out


def test_all_findings_are_printed(run, capsys):
    rwc = noisy(600, 6)
    for i in range(5):
        rwc[100 * i + 50 : 100 * i + 51] *= 1e4  # a spike each
    assert main(["check", run(rwc)]) == 1
    assert sum(line.startswith("!") for line in capsys.readouterr().out.splitlines()) >= 5


def test_json(run, capsys):
    rwc = noisy(200, 6)
    rwc[100, 2] = np.nan
    path = run(rwc)
    assert main(["check", path, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {key: found[key] for key in ("run", "first_step", "last_step", "rows", "enough_rows", "faults")} == {
        "run": path,
        "first_step": 1,
        "last_step": 200,
        "rows": 200,
        "enough_rows": True,
        "faults": 1,
    }
    (finding,) = found["findings"]
    assert (finding["kind"], finding["is_fault"], finding["layers"]) == ("not_finite", True, ["head.weight"])
    assert finding["value"] is None  # NaN is no JSON


def test_it_writes_nothing(run, tmp_path):
    path = run(noisy(200, 6))
    before = sorted(tmp_path.rglob("*"))
    main(["check", path])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("make", ["nothing", "empty", "file", "damaged"])
def test_of_what_is_no_run_it_is_2(make, tmp_path, run, capsys):
    path = tmp_path / "run"
    if make == "empty":
        path.mkdir()
    elif make == "file":
        path.write_text("x")
    elif make == "damaged":
        run(noisy(10, 6))
        (path / "observed.json").write_text("{")
    assert main(["check", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_findings_json_has_the_same(run, tmp_path):
    rwc = noisy(200, 6)
    rwc[:, 1] = 0
    rwc[:, 2] = 0
    observed = Observed(causes={"fc.weight": Cause("frozen", 2)})
    page = wsf.write_report(run(rwc, observed=observed))
    found = json.loads((page.parent / "findings.json").read_text())
    assert [(f["kind"], f["is_fault"], f["layers"]) for f in found] == [
        ("frozen", False, ["fc.weight"]),
        ("still", True, ["head.weight"]),
    ]
    html = page.read_text()
    assert html.index("What is wrong") < html.index("head.weight still") < html.index("Good to know")
    assert html.index("Good to know") < html.index("fc.weight frozen") < html.index("If you froze it")
    table = (page.parent / "findings.csv").read_text().splitlines()
    assert table[0].endswith("text,cause,advice")
    assert len(table) == 3
