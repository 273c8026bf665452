# ruff: noqa: E501
"""The faults that mutants.py puts into what is built on the pass: the previous weights, the record, health, analysis.

Each names its file, and the tests that must see it.
"""

from __future__ import annotations

from mutant_list import Mutant

W, R, H, A = (f"weightscale_fast/{folder}" for folder in ("weights", "record", "health", "analysis"))
SNAPSHOT, RECENT, MONITOR, FOLDER, WRITER = (
    f"tests/test_{name}.py" for name in ("snapshot", "trackers", "monitor", "run_folder", "one_writer")
)
HEALTH, HEALTHY = "tests/test_health.py::TestCheck", "tests/test_health.py::TestNotFinite"

RECORD = [
    Mutant("a state with more layers is loaded", "if missing or extra:\n            raise ValueError(\n                \"the state has other", "if missing:\n            raise ValueError(\n                \"the state has other",
           file=f"{W}/snapshot.py", tests=f"{SNAPSHOT}::test_state_dict_round_trip"),
    Mutant("no name inside module._orig_mod.", '.removeprefix("module.").removeprefix("_orig_mod.")', '.removeprefix("module.")',
           file="weightscale_fast/functional.py", tests=f"{SNAPSHOT}::test_state_dict_of_a_wrapped_model"),
    Mutant("entries of prev that are no tensors count", "for name, tensor in prev.items() if isinstance(tensor, Tensor)}", "for name, tensor in prev.items()}",
           file="weightscale_fast/functional.py", tests=f"{SNAPSHOT}::TestWrongArguments"),
    Mutant("recent rows from before a resume", "self.recorded - len(self.rows), self.first)", "self.recorded - len(self.rows))",
           file=f"{R}/ring.py", tests=f"{RECENT}::TestRecent"),
    Mutant("a ring of inference mode", "with torch.inference_mode(False):  # so that any", "with torch.no_grad():  # so that any",
           file=f"{R}/ring.py", tests=MONITOR),
    Mutant("each row leaves the ring after the first minute", '"""Begin to count the next rows. The first `recorded` rows have been taken."""\n        self._last = time.monotonic()\n\n    def due(self, recorded: int) -> bool:\n        """Whether rows should leave the ring now: whenever half',
           '"""Begin to count the next rows. The first `recorded` rows have been taken."""\n\n    def due(self, recorded: int) -> bool:\n        """Whether rows should leave the ring now: whenever half',
           file=f"{R}/row_sum.py", tests="tests/test_ring.py"),
    Mutant("a shard for each row after the first minute", "self._last = time.monotonic(), rows", "self._last = begun, rows",
           file=f"{R}/run_folder.py", tests=f"{FOLDER}::test_each_shard_takes_rows_for_a_minute"),
    Mutant("a forked child closes its parent's record", "if os.getpid() != self._process:  # this is a forked child, and the rows belong", "if False:  # this is a forked child, and the rows belong",
           file=f"{R}/row_store.py", tests=WRITER),
    Mutant("the disk is full again without a word", "        self._held = _Held([], self._held.until)\n        self._warned = False", "        self._held = _Held([], self._held.until)",
           file=f"{R}/row_store.py", tests=WRITER),
    Mutant("behind by one row without a word", "        if last < written:", "        if last + 1 < written:",
           file=f"{R}/row_store.py", tests=MONITOR),
    Mutant("recent rows from the next one on", "self._ring.newest(after // self._every)", "self._ring.newest(-(-after // self._every))",
           file=f"{R}/row_store.py", tests=f"{RECENT}::TestRecent"),
    Mutant("rows stay where a state without rows is loaded", "self._held = _Held([rows] if len(rows.steps) else [], self._held.until)", "self._held = _Held([rows] if len(rows.steps) else [held], self._held.until)",
           file=f"{R}/row_store.py", tests=MONITOR),
    Mutant("first row of a run counts as resumed", "(numbers == self._resumed) & (numbers > 0)", "(numbers == self._resumed)",
           file=f"{R}/row_store.py", tests=MONITOR),
    Mutant("a shard is deleted before its short copy is written", "                rows = read_shard(shard, self.meta)\n                self._write(rows.where(rows.steps <= step))\n        for shard in reversed(later):\n            os.unlink(shard)",
           "                rows = read_shard(shard, self.meta)\n                os.unlink(shard)\n                self._write(rows.where(rows.steps <= step))\n        for shard in reversed(later):\n            shard.unlink(missing_ok=True)",
           file=f"{R}/run_folder.py", tests="tests/test_states.py"),
    Mutant("the first shard is deleted first", "for shard in reversed(later):", "for shard in later:",
           file=f"{R}/run_folder.py", tests="tests/test_states.py"),
    Mutant("steps that fall", "if n and (rows.steps[0] < 1 or np.any(np.diff(rows.steps) <= 0)):", "if n and rows.steps[0] < 1:",
           file=f"{R}/rows.py", tests="tests/test_damaged_runs.py::test_arrays_that_do_not_fit"),
    Mutant("a resume with another width", "if weights != my_weights:", "if False:",
           file=f"{R}/run_meta.py", tests=MONITOR),
    Mutant("half a file stays", "        temporary.unlink(missing_ok=True)\n        raise", "        raise",
           file="weightscale_fast/files.py", tests="tests/test_files.py"),
    Mutant("half a folder stays", "        shutil.rmtree(temporary, ignore_errors=True)\n", "",
           file=f"{R}/new_run.py", tests="tests/test_run_places.py"),
    Mutant("a file is renamed before it is on the disk", "            os.fsync(file.fileno())\n", "",
           file="weightscale_fast/files.py", tests="tests/test_files.py"),
    Mutant("NaN counts as a step that was missed", 'bool((sums.delta_l1 > 0).any()) else ""', 'bool((sums.moved > 0).any()) else ""',
           file=f"{R}/optimizer_hook.py", tests=MONITOR),
    Mutant("an optimizer of nothing is told again and again", "        if not self._warned:\n            warnings.warn(", "        if True:\n            warnings.warn(",
           file=f"{R}/optimizer_hook.py", tests=MONITOR),
    Mutant("a short last block of columns is lost", "for start in range(0, curves.shape[1], BLOCK_COLUMNS):", "for start in range(0, max(curves.shape[1] - 7, 1), BLOCK_COLUMNS):",
           file=f"{A}/reduce.py", tests="tests/test_reduce.py"),
    Mutant("near points are the same", "SAME = 1e-6", "SAME = 1e-4",
           file=f"{A}/knee.py", tests="tests/test_cluster.py::test_distinct_points_are_counted_up_to_rounding"),
    Mutant("runaway after five blocks", '"runaway": 6, "stopped": 3', '"runaway": 5, "stopped": 3',
           file=f"{H}/limits.py", tests=HEALTH),
    Mutant("stopped after two blocks", '"stopped": 3, "stuck": 3', '"stopped": 2, "stuck": 3',
           file=f"{H}/limits.py", tests=HEALTH),
    Mutant("stuck after two blocks", '"stuck": 3, "still": 4', '"stuck": 2, "still": 4',
           file=f"{H}/limits.py", tests=HEALTH),
    Mutant("still after three blocks", '"still": 4}', '"still": 3}',
           file=f"{H}/limits.py", tests=HEALTH),
    Mutant("broken once, broken for good", "self._well = np.minimum(well, self._block)", "self._well = np.minimum(well, self._well)",
           file=f"{H}/broken.py", tests=HEALTHY),
    Mutant("what breaks a step later is a second finding", "np.flatnonzero(onset < min(row + self._block, len(steps)))", "np.flatnonzero(onset <= row)",
           file=f"{H}/broken.py", tests=HEALTHY),
    Mutant("stuck is called stopped too", 'badness["stopped"] = np.where(badness["stuck"] > 1, 0.0, badness["stopped"])', "pass",
           file=f"{H}/check.py", tests=HEALTH),
    Mutant("blocks of two rows", "FEWEST_ROWS = 4", "FEWEST_ROWS = 2",
           file=f"{H}/limits.py", tests=HEALTH),
    Mutant("three layers share a finding", "if len(names) > NAMED:", "if len(names) >= NAMED:",
           file=f"{H}/check.py", tests=HEALTH),
]  # fmt: skip
