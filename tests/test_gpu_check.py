"""make gpu-check where no GPU is: its parts run in real processes, and its measuring on the CPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "bench" / "gpu_check.py"


@pytest.fixture
def bench(monkeypatch):
    """The folder of gpu_check.py can be imported from."""
    monkeypatch.syspath_prepend(ROOT / "bench")


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_a_gpu_it_ends_at_once(tmp_path):
    done = run(SCRIPT, "--out", tmp_path)
    assert done.returncode == 1
    assert "gpu-check needs a GPU" in done.stderr
    assert "nothing was run" in done.stderr
    assert not list(tmp_path.iterdir())


def test_dry_run(tmp_path):
    done = run(SCRIPT, "--dry-run", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "foreach in p" in done.stdout
    (file,) = tmp_path.glob("*.json")
    parts = json.loads(file.read_text())["parts"]
    assert all(part["seconds"] > 0 and part["found"] and "failed" not in part for part in parts.values())
    assert [row["way"] for row in parts["tiny"]["found"]] == [
        "flat copy", "torch", "copy", "foreach", "foreach in place", "naive"
    ]  # fmt: skip
    assert all({"ms", "device_ms", "warm_ms", "host_us"} <= row.keys() for row in parts["tiny"]["found"])
    assert parts["tiny compiled"]["found"][1]["compiled"] == 1  # the verified program is the timed one
    assert {row["host"] for row in parts["host"]["found"]} == {"fast_rwc", "record"}


def test_dry_run_of_the_launch_settings(tmp_path):
    """Of two trials: each takes seconds to start."""
    script = "import gpu_check; gpu_check.TRIALS = ('stage 2', 'chunk'); gpu_check.main()"
    done = run("-c", script, "--dry-run", "--tune", "--out", tmp_path, PYTHONPATH=str(ROOT / "bench"))
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob("*-tune.json")
    parts = json.loads(file.read_text())["parts"]
    settings = [row["settings"] for part in parts.values() for row in part["found"]]
    assert {"stage_2_block": 2048, "stage_2_warps": 32} in settings
    assert {"chunk": 65536} in settings
    assert "tiny float32" in done.stdout


LAUNCHES = """
import json, sys
import torch, tune
import weightscale_fast as wsf
from weightscale_fast.ops import triton_kernels

class Watched:
    def __init__(self, kernel):
        self.kernel, self.seen = kernel, []
    def __getitem__(self, grid):
        def launch(*arguments, **options):
            self.seen.append([grid[0], options["BLOCK"], options["num_warps"], options.get("STAGES")])
            self.kernel[grid](*arguments, **options)
        return launch

for name in ("chunk_sums_kernel", "layer_sums_kernel"):
    setattr(triton_kernels, name, Watched(getattr(triton_kernels, name)))
for settings in json.loads(sys.argv[1]):
    tune.use(**settings)
    model = torch.nn.Linear(1024, 65, bias=False)
    wsf.layer_sums(model, wsf.snapshot(model), backend="triton")
print(json.dumps([triton_kernels.chunk_sums_kernel.seen, triton_kernels.layer_sums_kernel.seen]))
"""


def test_the_kernels_get_the_settings_that_are_tried():
    settings = [
        {"kilobytes": 8, "warps": 4},
        {"stage_2_block": 512, "stage_2_warps": 16},
        {"chunk": 32 * 1024, "stages": 3},
        {},
    ]
    environment = {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "bench")])}
    done = run("-c", LAUNCHES, json.dumps(settings), **environment)
    assert done.returncode == 0, done.stderr
    chunks, layers = json.loads(done.stdout)
    assert chunks == [[5, 2048, 4, 4], [5, 1024, 8, 4], [3, 1024, 8, 3], [5, 1024, 8, 4]]
    assert [launch[1:3] for launch in layers] == [[64, 1], [512, 16], [64, 1], [64, 1]]


# The process that has `tiny` on its command line kills itself when it has told its second result.
KILLED = """
import os, signal, sys
if "tiny" in sys.orig_argv:
    import json
    dumps, told = json.dumps, []
    def watched(row, **options):
        told.append(row)
        if len(told) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return dumps(row, **options)
    json.dumps = watched
"""


def test_a_failing_test_and_a_killed_benchmark_cost_only_themselves(bench, tmp_path, monkeypatch, capsys):
    from gpu_check import check, measure_part, summary
    from gpu_parts import Part

    (tmp_path / "test_wrong.py").write_text("def test_wrong():\n    assert 1 == 2\n")
    (tmp_path / "sitecustomize.py").write_text(KILLED)
    pytest_command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path / "test_wrong.py"))
    parts = [
        Part("tests", pytest_command, 120, read=summary),
        measure_part("killed", 120, "case", "tiny", "float32", "cpu", "torch", "copy", "naive"),
        Part("not there", ("/no/such/program",), 120),
        measure_part("2 GB copy", 120, "copy", "cpu"),
    ]
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SystemExit, match="not all went well") as end:
        check(parts, {"gpu": "none"}, folder=ROOT, out=tmp_path / "out", seconds=500, file="result.json")
    for name in ("tests", "killed", "not there"):
        assert f"{name}: " in str(end.value)
    outcomes = json.loads((tmp_path / "out" / "result.json").read_text())["parts"]
    assert list(outcomes) == [part.name for part in parts]
    assert outcomes["tests"]["failed"] == "exit code 1"
    assert "assert 1 == 2" in outcomes["tests"]["tail"]
    assert outcomes["killed"]["failed"] == "killed by SIGKILL"
    assert [row["way"] for row in outcomes["killed"]["found"]] == ["flat copy", "torch"]
    assert "No such file" in outcomes["not there"]["failed"]
    assert outcomes["2 GB copy"]["found"][0]["gb_per_s"] > 0
    assert "failed" not in outcomes["2 GB copy"]
    printed = capsys.readouterr().out
    assert f"{outcomes['2 GB copy']['seconds']:7.1f} s  done" in printed
    assert "assert 1 == 2" in (tmp_path / "out" / "logs" / "tests.log").read_text()


def test_what_is_measured_is_saved_after_each_part(bench, tmp_path):
    from gpu_parts import Part, run_parts

    saved = []
    parts = [Part(name, ("echo", json.dumps({"name": name})), 60) for name in ("a", "b")]
    run_parts(parts, folder=ROOT, logs=tmp_path, seconds=60, save=lambda outcomes: saved.append(list(outcomes)))
    assert saved == [["a"], ["a", "b"]]


def test_a_part_that_hangs_is_stopped_with_all_it_started(bench, tmp_path):
    from gpu_parts import Part, run_parts

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    endless = f"""echo '{{"a": 1}}'; sleep 1000 > {fifo} & wait"""
    parts = [Part("endless", ("sh", "-c", endless), 2), Part("next", ("echo", '{"b": 2}'), 60)]
    outcomes = run_parts(parts, folder=ROOT, logs=tmp_path, seconds=60, save=lambda _: None)
    assert outcomes["endless"]["failed"] == "stopped after 2 s"
    assert outcomes["endless"]["found"] == [{"a": 1}]
    assert outcomes["next"]["found"] == [{"b": 2}]
    assert os.read(reader, 1) == b""  # no process writes to it any more
    os.close(reader)


HANGS = """
import time

def test_wrong():
    assert 1 == 2

def test_hangs():
    time.sleep(1000)
"""


def test_a_test_that_hangs_does_not_hide_what_failed_before(bench, tmp_path):
    from gpu_parts import Part, run_parts

    (tmp_path / "test_hangs.py").write_text(HANGS)
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_hangs.py")
    outcomes = run_parts([Part("tests", command, 10)], folder=tmp_path, logs=tmp_path, seconds=60, save=lambda _: None)
    assert outcomes["tests"]["failed"] == "stopped after 10 s"
    assert "assert 1 == 2" in (tmp_path / "tests.log").read_text()
    assert "1 failed" in (tmp_path / "tests.log").read_text()


def test_the_budget_drops_the_last_parts_and_says_which(bench, tmp_path, capsys):
    from gpu_parts import Part, run_parts

    parts = [Part("long", ("sleep", "1000"), 30), Part("the last", ("echo",), 60)]
    outcomes = run_parts(parts, folder=ROOT, logs=tmp_path, seconds=1, save=lambda _: None)
    assert outcomes["long"]["failed"] == "stopped after 1 s: the 1 s of the whole run were over"
    assert outcomes["the last"]["failed"] == "not begun: 1 s were over"
    assert "the last" in capsys.readouterr().out


def test_a_way_that_fails_is_told_and_the_next_is_measured(tmp_path):
    done = run("bench/gpu_cases.py", "case", "tiny", "float32", "cpu", "cuda", "copy", PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["way"] for row in rows] == ["flat copy", "cuda", "copy"]
    assert "backend 'cuda' cannot serve cpu" in rows[1]["failed"]
    assert rows[2]["ms"] > 0


def test_a_skipped_test_is_a_failure(bench):
    from gpu_check import summary

    assert summary("...\n==== 41 passed, 3 deselected in 60.00s ====\n") == "41 passed, 3 deselected in 60.00s"
    for line in ("40 passed, 1 skipped in 60.00s", "41 deselected in 1.00s", ""):
        with pytest.raises(ValueError, match="every test marked gpu must run"):
            summary(line)


WITHOUT_MLXTEND = "import sys; sys.modules.update(mlxtend=None, cuml=None, lightning=None, transformers=None)"


def test_only_tests_that_need_a_gpu_are_collected_and_none_needs_mlxtend(bench, tmp_path):
    from gpu_check import TESTS

    (tmp_path / "sitecustomize.py").write_text(WITHOUT_MLXTEND)
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "WEIGHTSCALE_FAST_REQUIRE_GPU": "1"}
    done = run(*TESTS[1:], "--collect-only", "-qq", **environment)
    assert done.returncode == 0, done.stdout
    assert "error" not in done.stdout
    assert "deselected" not in done.stdout


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on the PATH")
def test_the_binary_for_one_gpu_stays_out_of_the_tree(bench, tmp_path):
    from gpu_check import build_part, copy_tree
    from gpu_parts import run_parts

    def binaries(folder):
        return {file.name: file.stat().st_mtime_ns for file in (folder / "weightscale_fast").glob("_C*")}

    before = binaries(ROOT)
    tree = tmp_path / "tree"
    tree.mkdir()
    copy_tree(tree)
    for file in (tree / "weightscale_fast").glob("_C*"):
        file.unlink()
    outcomes = run_parts([build_part((9, 0))], folder=tree, logs=tmp_path, seconds=500, save=lambda _: None)
    assert "failed" not in outcomes["build"], outcomes["build"]["tail"]
    assert binaries(ROOT) == before
    assert binaries(tree)
    assert "sm_90" in (tmp_path / "build.log").read_text()


STOPPED = """
import sys
import gpu_check
from gpu_parts import Part

out = sys.argv[1]
gpu_check.dry_parts = lambda: [
    Part("first", ("echo", '{"a": 1}'), 60),
    Part("second", ("sh", "-c", f"echo $$ > {out}/pid; sleep 1; kill -TERM $PPID; exec sleep 100"), 60),
]
sys.argv[1:] = ["--dry-run", "--out", out]
gpu_check.main()
"""


def test_a_stop_ends_the_part_that_runs(tmp_path):
    """What `timeout` sends reaches the part too, and what was measured is there."""
    done = run("-c", STOPPED, str(tmp_path), PYTHONPATH=str(ROOT / "bench"))
    assert done.returncode != 0
    assert "gpu-check: stopped" in done.stderr
    assert json.loads(next(tmp_path.glob("*.json")).read_text())["parts"]["first"]["found"] == [{"a": 1}]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_second_run_leaves_the_first_ones_results(tmp_path):
    (tmp_path / "h100-torch2.11.json").write_text("{}")
    (tmp_path / "h100-torch2.11-2.json").write_text("{}")
    script = f"import gpu_check, pathlib; print(gpu_check.free_name(pathlib.Path({str(tmp_path)!r}), 'h100-torch2.11'))"
    assert run("-c", script, PYTHONPATH=str(ROOT / "bench")).stdout.strip() == "h100-torch2.11-3.json"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--seconds", "0"], "--seconds must be above 0"), (["--out", __file__], "--out must be a folder")],
)
def test_wrong_arguments_are_a_sentence(arguments, message):
    done = run(SCRIPT, "--dry-run", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_table_of_the_docs_is_the_one_of_a_result_file(bench):
    from draw_gpu import markdown

    page = (ROOT / "docs" / "performance.md").read_text()
    name = page.partition("`bench/results/")[2].partition("`")[0]
    assert markdown(json.loads((ROOT / "bench" / "results" / name).read_text()), name) in page
