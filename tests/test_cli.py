"""The command line, used and misused."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import weightscale_fast as wsf
from weightscale_fast.cli import build_parser, main, paper, training
from weightscale_fast.paper.presets import AS_CODED
from weightscale_fast.record.rows import SKIPPED

from .histories import make_history, noisy

TRAIN = ["--model", "resnet10t", "--data", "digits", "--batch-size", "256", "--image-size", "32"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", str(path), *TRAIN, "--epochs", "2"]) == 0
    return path


def test_train_says_what_comes_next(tmp_path, capsys):
    assert main(["train", str(tmp_path / "run"), *TRAIN, "--epochs", "1", "--every", "2"]) == 0
    assert f"weightscale analyze {tmp_path / 'run'}" in capsys.readouterr().out
    history = wsf.RWCHistory.load(tmp_path / "run")
    assert history.steps.tolist() == [2, 4, 6]
    assert history.settings["lr"] == 1e-3


def test_analyze(run, capsys):
    assert main(["analyze", str(run)]) == 0
    out = capsys.readouterr().out
    assert f"report: {run / 'analysis' / 'report.html'}" in out
    assert (run / "analysis" / "report.html").exists()
    assert (run / "analysis" / "labels.csv").exists()
    assert (run / "analysis" / "pca_map.png").exists()


def test_analyze_leaves_out_what_a_scaler_skipped(tmp_path, capsys):
    history = make_history(noisy(40, 12))
    history.flags[[3, 7]] = SKIPPED
    history.delta_l1[7] = history.moved[7] = 0  # one skipped step; row 3 holds several steps, of which one was skipped
    history.save(tmp_path / "scaled")
    assert main(["analyze", str(tmp_path / "scaled")]) == 0
    out = capsys.readouterr().out
    assert "left out 1 row of steps that a gradient scaler skipped" in out
    assert "39 recorded steps" in out


def test_analyze_says_what_is_wrong(tmp_path, capsys):
    rwc = noisy(300, 12)
    rwc[100:, 3] = 0
    make_history(rwc).save(tmp_path / "stopped")
    assert main(["analyze", str(tmp_path / "stopped")]) == 0
    assert "! blocks.0.3.se.conv_reduce.weight stopped: RWC 0.0e+00 over steps 113 to" in capsys.readouterr().out


def test_analyze_says_when_a_run_diverged(tmp_path, capsys):
    """The page shows the steps before that, and says so."""
    rwc = noisy(300, 12)
    rwc[200:] = np.nan
    make_history(rwc).save(tmp_path / "diverged")
    assert main(["analyze", str(tmp_path / "diverged")]) == 0
    said = capsys.readouterr()
    assert (
        "! blocks.0.0.se.conv_reduce.weight and 11 more layers not finite: NaN or infinite since step 201" in said.out
    )
    left_out = "ptimizer steps 201 to 300 are left out: 12 layers were not finite ("
    assert f"o{left_out}" in said.out
    page = (tmp_path / "diverged" / "analysis" / "report.html").read_text("utf-8")
    assert page.index("NaN or infinite since step 201") < page.index(f"O{left_out}") < page.index("<h2>Figures")
    assert main(["plot", str(tmp_path / "diverged"), "--figure", "clustered_curves"]) == 0
    assert left_out in capsys.readouterr().out


def test_analyze_flags(run):
    arguments = [
        "--k",
        "2",
        "--outliers",
        "log",
        "--space",
        "pca",
        "--layers",
        "layer",
        "--steps",
        "3:10",
        "--seed",
        "1",
    ]
    assert main(["analyze", str(run), *arguments]) == 0
    labels = (run / "analysis" / "labels.csv").read_text().splitlines()
    assert len(labels) - 1 == sum("layer" in name for name in wsf.RWCHistory.load(run).names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "many"], "--k must be a number or auto, got 'many'"),
        (["--k", "500"], "k must be at most"),
        (["--outliers", "some"], "outliers must be one of"),
        (["--space", "3d"], "space must be one of"),
        (["--scale", "big"], "scale must be one of"),
        (["--method", "guess"], "method must be one of"),
        (["--recipe", "cake"], "recipe must be None or one of"),
        (["--by", "(nothing)"], "no layer matches by="),
        (["--layers", "nothing"], "no layer matches"),
        (["--steps", "5"], "--steps must be FIRST:LAST"),
        (["--steps", "a:b"], "--steps must be FIRST:LAST"),
        (["--steps", "4:4"], "one step cannot be clustered"),
    ],
)
def test_analyze_misused(run, arguments, message, capsys):
    assert main(["analyze", str(run), *arguments]) == 2
    out, error = capsys.readouterr()
    assert message in error
    assert out == ""  # nothing was printed before the arguments were found wrong


@pytest.mark.parametrize("command", [["analyze"], ["plot", "--figure", "heat_map"], ["train"], ["demo", "--run"]])
def test_an_address_in_the_place_of_a_folder(command, capsys):
    with pytest.raises(SystemExit):
        main([*command, "s3://bucket/run"])
    assert "got the address 's3://bucket/run': record to a local folder" in capsys.readouterr().err


def test_analyze_by_groups(run, capsys):
    assert main(["analyze", str(run), "--by", r"layer(\d)", "--k", "2", "--recipe", "weightscale"]) == 0
    assert "\n4:\n2 clusters (asked for; stability" in capsys.readouterr().out
    page = (run / "analysis" / "report.html").read_text("utf-8")
    assert "<h3>4</h3>" in page
    assert "Recipe" in page


def test_analyze_with_hdbscan_on_a_log_scale(run, capsys):
    assert main(["analyze", str(run), "--method", "hdbscan", "--scale", "log"]) == 0
    assert "found by HDBSCAN" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["heat_map", "small_multiples", "pca_panels"])
def test_plot(run, name, capsys):
    assert main(["plot", str(run), "--figure", name, "--k", "2"]) == 0
    assert capsys.readouterr().out == f"figure: {run / 'analysis' / name}.png\n"
    assert (run / "analysis" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("name", "start"), [("maps.svg", b"<?xml"), ("maps.pdf", b"%PDF")])
def test_plot_several_runs_to_a_file(run, tmp_path, name, start):
    out = tmp_path / "deep" / name
    assert main(["plot", str(run), str(run / "epochs"), "--figure", "pca_panels", "--k", "2", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--figure", "pie"], "figure must be one of clustered_curves, group_panels"),
        (["--figure", "scree", "--out", "scree.gif"], "--out must be a .png, .svg or .pdf, got 'scree.gif'"),
        (["--figure", "group_panels", "--by", "kinds"], 'by must be "kind", "stage" or a regular expression'),
        (["more", "--figure", "scree"], "figure 'scree' shows one run, got 2"),
    ],
)
def test_plot_misused(run, arguments, message, capsys):
    assert main(["plot", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_plot_of_what_the_record_does_not_have(tmp_path, capsys):
    make_history(noisy(5, 3)).save(tmp_path / "run")
    assert main(["plot", str(tmp_path / "run"), "--figure", "step_sizes"]) == 2
    assert "history must have learning rates for this figure, got none: give the optimizer" in capsys.readouterr().err
    assert not (tmp_path / "run" / "analysis").exists()


def test_analyze_of_a_diverged_run_names_the_layer(tmp_path, capsys):
    rwc = np.ones((6, 3))
    rwc[4:, 1] = np.nan
    ones = np.ones((6, 3))
    wsf.RWCHistory(
        names=("a", "b", "c"),
        numel=np.array([4, 4, 4]),
        kinds=("linear",) * 3,
        steps=np.arange(1, 7),
        delta_l1=rwc,
        prev_l1=ones,
        moved=ones.astype(int),
    ).save(tmp_path / "run")
    assert main(["analyze", str(tmp_path / "run")]) == 0
    assert "optimizer steps 5 to 6 are left out: 1 layer was not finite (b)" in capsys.readouterr().out
    assert main(["analyze", str(tmp_path / "run"), "--steps", ":4", "--k", "1"]) == 0


def test_no_run(tmp_path, capsys):
    assert main(["analyze", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["b", "a"], "holds 2 runs: a, b; name one"),
        ([str(i) for i in range(9)], "holds 9 runs: 0, 1, 2, 3, 4, 5, 6, 7, ...; name one"),
    ],
)
@pytest.mark.parametrize("command", [["analyze"], ["plot", "--figure", "heat_map"]])
def test_a_folder_that_holds_runs_names_them(tmp_path, capsys, command, names, message):
    for name in [*names, ".hidden"]:
        make_history(noisy(2, 12)).save(tmp_path / name)
    assert main([*command, str(tmp_path)]) == 2
    assert f"{tmp_path} is not a run folder, but {message}" in capsys.readouterr().err


def test_a_run_without_a_row_says_when_there_will_be_one(tmp_path, capsys):
    model = torch.nn.Linear(3, 2)
    with wsf.RWCMonitor(model, run_dir=tmp_path / "run") as monitor:
        monitor.record()
        assert main(["analyze", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'run'} has no row on disk yet" in error
    assert "a monitor writes its rows after 256 of them, after a minute, at monitor.flush()" in error


def test_analyze_says_when_nothing_was_found(tmp_path, capsys):
    make_history(noisy(300, 12)).save(tmp_path / "healthy")
    assert main(["analyze", str(tmp_path / "healthy"), "--k", "1"]) == 0
    assert "nothing found: no fault that the movement of the weights shows" in capsys.readouterr().out


def test_a_cluster_of_one_or_two_layers_gives_their_names(tmp_path, capsys):
    """One or two names must not look like a range."""
    rwc = np.array([1.0, 1.0, 1.0, 100.0, 100.0, 10_000.0]) * noisy(40, 6)
    names = tuple(f"{i}.weight" for i in range(6))
    replace(make_history(rwc), names=names, kinds=("linear",) * 6).save(tmp_path / "run")
    assert main(["analyze", str(tmp_path / "run"), "--k", "3", "--scale", "log", "--outliers", "none"]) == 0
    out = capsys.readouterr().out
    assert "3 layers (3 linear) from 0.weight to 2.weight\n" in out
    assert "2 layers (2 linear): 3.weight, 4.weight\n" in out
    assert "1 layer (1 linear): 5.weight\n" in out


def test_train_into_a_run_that_exists(run, capsys):
    assert main(["train", str(run), *TRAIN]) == 2
    assert "exists: choose another name" in capsys.readouterr().err


def test_info_says_which_backends_work_and_why(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "cpu           works, chosen" in out
    assert "torch         works" in out


def test_ctrl_c_keeps_what_was_recorded(tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "weightscale_fast", "train", str(run), *TRAIN, "--epochs", "1000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
                assert process.poll() is None
                time.sleep(0.1)
            os.kill(process.pid, signal.SIGINT)
            error = process.communicate(timeout=300)[1]
        finally:
            process.kill()
    assert process.returncode == 130
    assert "weightscale train: stopped; what was recorded is kept in\n" in error
    assert f"\n  weightscale analyze {run}\n" in error
    assert error.endswith(f"\n  weightscale train {run} --resume\n")
    assert len(wsf.RWCHistory.load(run)) >= 6


def test_ctrl_c_says_what_is_kept_and_only_if_there_is_something(tmp_path, capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    monkeypatch.setattr(paper, "run_preset", interrupted)
    runs = {"train": ["train", str(tmp_path / "run")], "demo": ["demo", "--run", str(tmp_path / "run")]}
    runs["paper"] = ["paper", "alexnet-mnist", "--runs", str(tmp_path / "run")]
    for command, arguments in runs.items():
        assert main(arguments) == 130
        assert capsys.readouterr().err == f"\nweightscale {command}: stopped\n"
    (tmp_path / "run").mkdir()
    for command, arguments in runs.items():
        assert main(arguments) == 130
        error = capsys.readouterr().err
        assert f"weightscale {command}: stopped; what was recorded is kept in\n  {tmp_path / 'run'}\n" in error
        assert "--resume" in error


def test_a_missing_package_is_named_with_its_install_line(tmp_path):
    script = """
import sys
sys.modules["timm"] = None
from weightscale_fast.cli import main
sys.exit(main(["train", sys.argv[1], "--data", "digits"]))
"""
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "timm is not installed: run pip install 'weightscale_fast[train]'" in done.stderr


def test_without_a_command_the_help_names_them(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("demo", "train", "analyze", "plot", "paper", "info"))


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("demo", "writes a page about the run to RUN/analysis"),
        ("train", "records every step to the folder RUN"),
        ("analyze", "writes a page, figures and tables to RUN/analysis"),
        ("plot", "writes it to RUN/analysis/NAME.png"),
        ("paper", "--report writes one page of all runs under ROOT"),
        ("info", "It writes no file"),
    ],
)
def test_help_says_what_the_command_writes_and_shows_an_example(command, sentence, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert sentence in out
    assert f"example: weightscale {command}" in out


@pytest.mark.parametrize("command", ["demo", "train", "analyze", "plot", "paper", "info"])
def test_every_flag_has_a_help_text(command):
    (commands,) = (action for action in build_parser()._actions if action.dest == "command")
    flags = commands.choices[command]._actions
    assert [flag.dest for flag in flags if not flag.help or flag.help.startswith("(")] == []


def test_help_of_paper_lists_what_the_authors_coded(capsys):
    with pytest.raises(SystemExit):
        main(["paper", "--help"])
    out = capsys.readouterr().out
    assert all(f"\n  {name}" in out for name in AS_CODED)


def test_analyze_writes_to_the_folder_that_is_given(run, tmp_path, capsys):
    assert main(["analyze", str(run), "--out", str(tmp_path / "page")]) == 0
    assert f"report: {tmp_path / 'page' / 'report.html'}" in capsys.readouterr().out
    assert (tmp_path / "page" / "findings.csv").read_text().startswith("kind,layer,")


def test_a_folder_that_cannot_be_written_is_one_sentence(run, tmp_path, capsys):
    (tmp_path / "page").write_text("a file")
    assert main(["analyze", str(run), "--out", str(tmp_path / "page")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("weightscale analyze: ")
    assert str(tmp_path / "page") in error
    assert "Traceback" not in error


def test_a_reader_that_goes_away_ends_the_command_without_a_traceback():
    command = f"{sys.executable} -m weightscale_fast info | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 141
    assert done.stderr == "weightscale info: stopped, because the reader of its output went away\n"


def test_output_that_cannot_be_written_is_one_sentence():
    command = f"{sys.executable} -m weightscale_fast info > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("weightscale info: [Errno 28] No space left on device")
    assert done.stderr.count("\n") == 1


def test_a_full_disk_is_one_sentence_and_leaves_the_record(run, tmp_path):
    """A limit on the size of a file stands for a full disk. The first figure is larger than it."""
    script = """
import resource, sys
from weightscale_fast.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(main(["analyze", sys.argv[1], "--out", sys.argv[2]]))
"""
    before = {path: path.read_bytes() for path in run.glob("rwc/*")}
    command = [sys.executable, "-c", script, str(run), str(tmp_path / "page")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("weightscale analyze: [Errno 27] File too large")
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in run.glob("rwc/*")} == before
    assert not (tmp_path / "page" / "report.html").exists()
