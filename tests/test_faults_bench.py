"""The benchmark of faults: a fault is found and named, a clean run is silent, and kept runs give the same verdict."""

import json

import pytest
import torch

from bench.faults.judge import FAULTS, Job, jobs, judge, work
from bench.faults.networks import HELD_OUT, TUNED_ON
from bench.faults.page import PAGE, RESULTS, with_table
from bench.faults.table import details, matrix, summary, summary_lines
from bench.faults.training import Outcome


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    names = (("dead_relu_in_mid_run", False), ("optimizer_of_a_copy", False), ("02_adam_one_cycle_accumulate", True))
    chosen = [Job("regression", name, clean) for name, clean in names]
    return folder, [(job, work(job, keep=folder)) for job in chosen]


def test_a_fault_is_found_and_named(kept):
    verdict = kept[1][0][1]
    assert verdict.found
    assert verdict.named
    assert "stopped/zero_gradient" in verdict.kinds.split(", ")
    assert verdict.last_loss > 0.6  # a sane run ends at 0.3
    assert verdict.fastest < 1e-5  # nothing can learn through that ReLU


def test_what_the_monitor_raises_counts_where_the_truth_says_so(kept):
    verdict = kept[1][1][1]
    assert (verdict.found, verdict.named, verdict.explained) == (True, True, True)
    job = Job("regression", "dead_relu", False)
    assert not judge(job, Outcome(raised="anything", warned=["anything"])).found


def test_a_clean_run_learns_and_is_silent(kept):
    verdict = kept[1][2][1]
    assert verdict.learnt
    assert not verdict.found, verdict.said


def test_a_kept_run_gives_the_same_verdict(kept):
    folder, pairs = kept
    for job, verdict in pairs:
        assert repr(work(job, again=folder)) == repr(verdict)  # a loss may be NaN


def test_the_tables_count_what_was_found(kept):
    verdicts = [verdict for _, verdict in kept[1]]
    numbers = summary(verdicts)["tuned on"]
    assert numbers["visible faults found"] == (2, 2)
    assert numbers["clean runs with a false alarm"] == (0, 1)
    assert summary(verdicts)["held out"]["visible faults found"] == (0, 0)
    text = "\n".join([*details(verdicts), *matrix(verdicts), *summary_lines(verdicts)])
    assert "dead_relu_in_mid_run: a ReLU dies in mid-run" in text
    assert "2 of 2 (100%)" in text


def test_there_are_as_many_runs_as_the_benchmark_promises():
    visible = [fault for fault in FAULTS.values() if fault.visible]
    assert len(visible) >= 36
    assert len(FAULTS) - len(visible) >= 7
    assert all(fault.kinds for fault in visible)
    clean = [job for job in jobs() if job.clean]
    assert sum(job.network in HELD_OUT for job in clean) >= 72
    assert sum(job.network in TUNED_ON for job in clean) >= 32
    assert len({job.folder for job in jobs()}) == len(list(jobs()))


def test_the_page_has_the_results_that_are_committed():
    page = PAGE.read_text()
    assert with_table(page) == page
    runs = json.loads(RESULTS.read_text())["runs"]
    assert {(run["job"]["network"], run["job"]["name"]) for run in runs} == {(job.network, job.name) for job in jobs()}
