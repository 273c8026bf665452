"""Read thousands of damaged files as a user would, and count what comes of it. A fault makes the exit code 1.

    python bench/damaged_files.py            # about ten minutes on one core
    python bench/damaged_files.py SEED       # the same with other random damage

Curve files go through `load_curves` and `cluster_layers`, run folders through `RWCHistory.load`, `load_curves`,
`RWCMonitor(resume=True)` and `weightscale analyze`, folders of a training through `weightscale train --resume`. Each
folder is read in a child process, because a stranger's file may end the process. The outcomes:

- read: as it was before the damage or, where the damage is a change of the content, as an independent reading has it
- told: read, with a warning
- refused: `ValueError` or `WeightScaleError` of one line, or exit code 2 of the command line
- FAULT: any other exception, a crash, more than 20 seconds of work, other numbers, or a file written outside of the
  folder
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked child has no threads

import contextlib
import hashlib
import importlib
import io
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from damaged_curves import damaged, good_curves
from damaged_outcomes import SECONDS, Count, in_child, outcome_of
from damaged_runs import TEMPORARY, edits
from damaged_training import make_training, training_edits
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.analysis import load_curves
from weightscale_fast.cli import main as command

ANALYSES = 12  # one of so many folders that can be read is analyzed, and each whose edit is about the analysis
TRAININGS = 300  # of the edits of a training, which are three times as many
# What a child would otherwise import anew.
IMPORTED = (
    *("timm", "torchvision.models", "torchvision.transforms.v2", "torch._dynamo", "tqdm", "PIL.Image"),
    *("matplotlib.pyplot", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg"),
    *("sklearn.cluster", "sklearn.decomposition", "sklearn.datasets", "sklearn.metrics"),
)
SLOW = ("analysis", "settings", "names of a stranger", TEMPORARY)


def read_curves(path: Path, content: bytes, kind: str, clusters: bool) -> str | None:
    """Load the curves and compare them with what the file holds."""
    names, curves = load_curves(path)
    if path.suffix == ".csv":
        right = plain_table(content)
    elif "changed" in kind or "cut" in kind or "part" in kind:
        right = good_curves()
    else:  # the content was made so
        right = curves
    if curves.shape != right.shape or not np.array_equal(curves, right, equal_nan=True):
        return f"other numbers: {curves.shape} of {right.shape}"
    if clusters and len(names) > 1:
        wsf.cluster_layers(path, k=1, n_init=1, k_max=2)
    return None


def plain_table(content: bytes) -> np.ndarray:
    """[L, T] the numbers of a table, read in the plainest way."""
    lines = [
        line.rstrip(",") for line in content.decode("utf-8-sig").replace("\r", "\n").split("\n") if line.strip(",")
    ]
    rows = [[float(field) for field in line.replace('"', "").split(",")] for line in lines[1:]]
    return np.array([row[1:] for row in rows]).T


def try_curves(count: Count, folder: Path, rng: random.Random, seed: int) -> int:
    """Every damaged curve file."""
    number = 0
    for number, (kind, suffix, content) in enumerate(damaged(rng), start=1):
        path = folder / f"curves{suffix}"
        path.write_bytes(content)
        begun = time.process_time()
        outcome = outcome_of(partial(read_curves, path, content, kind, clusters=number % 10 == 0))
        if time.process_time() - begun > SECONDS:
            outcome = f"FAULT it takes more than {SECONDS} seconds"
        count.add(f"curves {kind}", outcome, f"seed {seed}, curve file {number}")
    return number


def run_command(*arguments: object) -> str | None:
    """Run a command. Exit code 2 with one line on stderr is an error like WeightScaleError."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()) as output:
        code = command([str(argument) for argument in arguments])
    said = "\n".join(line for line in errors.getvalue().splitlines() if line.startswith("weightscale"))
    if "\x1b]" in output.getvalue() + errors.getvalue():
        return "escape sequences on the terminal"
    if code == 2 and said:
        raise wsf.WeightScaleError(said)
    return f"exit code {code}: {said}" if code else None


def listing(folder: Path, but: Path) -> dict[str, str]:
    """Every file, folder and link in a folder with a hash of what it holds; one folder in it is left out."""
    found = {}
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(root, name) != but]
        for name in folders + files:
            path = Path(root, name)
            content = os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
            found[str(path)] = hashlib.sha256(content).hexdigest()
    return found


def layers() -> nn.Sequential:
    """The network of the recorded run."""
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)])


def record(run: Path) -> None:
    """A run of 40 steps in two shards."""
    model = layers()
    with wsf.RWCMonitor(model, run_dir=run) as monitor, torch.no_grad():
        for step in range(40):
            for i, layer in enumerate(model):
                layer.weight.mul_(1 + 1e-3 * (i + 1) * torch.rand(()))
            monitor.record()
            if step == 20:
                monitor.flush()


def go_on(run: Path) -> None:
    """Resume the recording by a step."""
    model = layers()
    with wsf.RWCMonitor(model, run_dir=run, resume=True) as monitor:
        monitor.record()


def try_folders(count: Count, scratch: Path, rng: random.Random, seed: int) -> tuple[int, int]:
    """Every edited folder. Returns their number, and how many readings wrote outside of it."""
    outside = scratch / "outside"
    good, training = scratch / "good", scratch / "good-training"
    record(good)
    in_child(lambda: make_training(training))
    if not (training / "checkpoints/last.pt").exists():
        sys.exit("the training that is to be damaged did not work")
    good_rows = {"good": wsf.RWCHistory.load(good), "training": wsf.RWCHistory.load(training)}
    assert len(good_rows["good"]) == 40
    number = written = 0
    readers: dict[str, Callable[[Path], object]] = {
        "load": lambda run: wsf.RWCHistory.load(run) and None,
        "load_curves": lambda run: load_curves(run) and None,
        "analyze": lambda run: run_command("analyze", run),
        "resume": go_on,
    }
    train = {"train --resume": lambda run: run_command("train", run, "--resume")}
    for source, all_edits, calls in (
        (good, edits(outside, rng), readers),
        (training, rng.sample(list(training_edits(outside, rng)), TRAININGS), train),
    ):
        for name, edit in all_edits:
            number += 1
            can_be_read = False
            for reader, call in calls.items():
                if reader == "analyze" and can_be_read and number % ANALYSES and not any(word in name for word in SLOW):
                    continue
                shutil.rmtree(scratch / "case", ignore_errors=True)
                shutil.rmtree(outside, ignore_errors=True)
                (outside / "folder").mkdir(parents=True)
                (outside / "file").write_text("mine")
                run = scratch / "case" / "run"
                shutil.copytree(source, run)
                late = edit if TEMPORARY in name else None
                if late is None:
                    edit(run)
                before = listing(scratch, but=run)
                outcome = in_child(lambda call=call, run=run, late=late: (late and late(run), call(run))[1])
                changed = before.items() ^ listing(scratch, but=run).items()
                if changed:
                    written += 1
                    outcome = f"FAULT written outside: {sorted(Path(path).name for path, _ in changed)[:4]}; {outcome}"
                can_be_read = can_be_read or outcome.startswith("read")
                kind = f"{'training' if train is calls else 'run'}: {reader}"
                count.add(kind, outcome, f"seed {seed}, folder {number} ({name}), {reader}")
    return number, written


def main() -> None:
    """Try everything and print the table."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    torch.set_num_threads(1)
    os.environ["TQDM_DISABLE"] = "1"
    for name in IMPORTED:
        importlib.import_module(name)

    count, rng, start = Count(), random.Random(seed), time.monotonic()
    with tempfile.TemporaryDirectory() as name, np.errstate(all="ignore"):
        files = try_curves(count, Path(name), rng, seed)
        print(f"{files:,} curve files in {time.monotonic() - start:.0f} s", flush=True)
        folders, written = try_folders(count, Path(name).resolve(), rng, seed)
    count.show()
    print(f"\nseed {seed}: {files:,} damaged curve files, {folders:,} edited folders; {time.monotonic() - start:.0f} s")
    print(f"readings that wrote outside of the folder: {written}; kinds of faults: {len(count.faults)}")
    sys.exit(1 if count.faults else 0)


if __name__ == "__main__":
    main()
