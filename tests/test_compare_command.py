"""`weightscale compare`: an exit code, the answer in words, JSON, and a page."""

import json

import pytest
import torch

import weightscale_fast as wsf
from weightscale_fast.cli import main

from .histories import make_history, noisy

NAMES = ["conv.weight", "fc.weight", "head.weight"]


@pytest.fixture
def folders(tmp_path):
    a, b = noisy(60, 3), noisy(60, 3)
    b[29:] *= 1.2
    for name, rwc in (("one", a), ("same", a), ("other", b)):
        make_history(rwc, names=NAMES, settings={"<b>": name}).save(tmp_path / name)
    return {name: str(tmp_path / name) for name in ("one", "same", "other")}


def test_the_exit_code(folders, capsys):
    one, same, other = folders.values()
    assert main(["compare", one, same]) == 0
    assert capsys.readouterr().out.startswith("The same bits: every sum is equal, in all 60 rows of all 3 layers.")
    assert main(["compare", one, other, "--noise", same]) == 1
    assert capsys.readouterr().out.startswith("The runs differ first at step 30, in all 3 layers, most in")
    assert main(["compare", one, other, "--tolerance", "0.3"]) == 0


def test_json_of_the_command(folders, capsys):
    assert main(["compare", folders["one"], folders["other"], "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["first_difference"]["step"] == 30
    assert found["first_difference"]["layers"] == NAMES
    assert found["visible_difference"] == {"more_than": 0.01, "step": 30, "layers": NAMES}
    assert found["given_differently"] == [{"what": "settings: <b>", "a": "one", "b": "other"}]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--map", "conv"], "--map must be OLD=NEW"),
        (["--map", "conv=x", "--map", "fc=x"], "several layers of A become x.weight"),
        (["--out", "page.txt"], "--out must be a .html"),
        (["--out", "nowhere/page.html"], "--out must be in a folder that exists"),
    ],
)
def test_wrong_flags(folders, capsys, more, message):
    assert main(["compare", folders["one"], folders["same"], *more]) == 2
    assert message in capsys.readouterr().err


def test_no_run_is_2(folders, tmp_path, capsys):
    assert main(["compare", folders["one"], str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def test_versions_are_compared(folders, tmp_path):
    meta = tmp_path / "same" / "meta.json"
    meta.write_text(meta.read_text().replace(f'"torch": "{torch.__version__}"', '"torch": "1.0"'))
    comparison = wsf.compare(folders["one"], folders["same"])
    assert comparison.same_bits
    assert f"given differently: versions: torch: {torch.__version__} in A, 1.0 in B" in str(comparison)


def test_the_page(folders, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="needs pip install 'weightscale_fast[plots]'")
    pages = [tmp_path / "first.html", tmp_path / "second.html"]
    for page in pages:
        assert main(["compare", folders["one"], folders["other"], "--out", str(page)]) == 1
    assert pages[0].read_bytes() == pages[1].read_bytes()
    text = pages[0].read_text()
    assert "<h1>one (A) against other (B)</h1>" in text
    assert '<p class="answer">The runs differ first at step 30, in all 3 layers' in text
    assert text.count("<figure") == 3
    assert "settings: &lt;b&gt;" in text
    assert "<b>" not in text


def test_the_page_of_equal_runs(folders, tmp_path):
    pytest.importorskip("matplotlib", reason="needs pip install 'weightscale_fast[plots]'")
    page = wsf.compare(folders["one"], folders["one"]).write_page(tmp_path / "page.html")
    assert "Nothing that the records hold" in page.read_text()
