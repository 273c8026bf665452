"""The L2 sums and the largest change in the record, on the disk, in checkpoints, and in what reads them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast import figures
from weightscale_fast.analysis.usable import finite_part
from weightscale_fast.health.tracked import summarize
from weightscale_fast.ops.sums import DELTA_MAX, DELTA_SQ, PREV_SQ
from weightscale_fast.paper.seeds import mean_history
from weightscale_fast.record import ring
from weightscale_fast.record.row_sum import RankSum
from weightscale_fast.record.rows import Part

from .histories import make_history, noisy
from .oracle import TOLERANCE, oracle_of

FIELDS = ("delta_l2", "prev_l2", "delta_max")


def network():
    model = nn.Sequential(nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 3))
    model[2].to(torch.bfloat16)
    return model


def weights_of(model):
    return [p.detach().clone() for p in model.parameters() if p.dim() > 1]


def move(model):
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + 1e-2 * torch.randn_like(p))


def record(model, monitor, steps=4):
    """Record steps. Returns the float64 sums [steps, 7, L]."""
    expected = []
    for _ in range(steps):
        before = weights_of(model)
        move(model)
        monitor.record()
        expected.append(oracle_of(weights_of(model), before))
    return torch.stack(expected).numpy()


def check(history, expected):
    np.testing.assert_allclose(history.delta_l2, np.sqrt(expected[:, DELTA_SQ]), rtol=TOLERANCE)
    np.testing.assert_allclose(history.prev_l2, np.sqrt(expected[:, PREV_SQ]), rtol=TOLERANCE)
    np.testing.assert_allclose(history.delta_max, expected[:, DELTA_MAX], rtol=TOLERANCE)
    rms = np.sqrt(expected[:, DELTA_SQ] / history.numel)
    np.testing.assert_allclose(history.rms_step, rms, rtol=TOLERANCE)


def with_l2(history, **changes):
    """The same history with L2 columns that fit its RWC."""
    columns = {"delta_l2": 2 * history.rwc, "prev_l2": np.full(history.rwc.shape, 2.0), "delta_max": history.rwc / 10}
    return replace(history, **{**columns, **changes})


class TestMonitor:
    @pytest.mark.parametrize("definition", ["norm_ratio", "mean_ratio", "l2_ratio"])
    def test_every_row_is_that_of_float64(self, definition, tmp_path):
        model = network()
        with wsf.RWCMonitor(model, definition=definition, l2=True, run_dir=tmp_path / "run") as monitor:
            expected = record(model, monitor)
            check(monitor.recent(after=0), expected)
        check(monitor.history(), expected)
        check(wsf.RWCHistory.load(tmp_path / "run"), expected)
        assert (monitor.history().ratio_sum is not None) == (definition == "mean_ratio")

    def test_l2_ratio_records_its_sums(self):
        model = network()
        prev, monitor = wsf.snapshot(model), wsf.RWCMonitor(model, definition="l2_ratio")
        expected = record(model, monitor, 1)
        check(monitor.history(), expected)
        rwc = wsf.fast_rwc(model, prev, definition="l2_ratio")
        np.testing.assert_allclose(monitor.history().rwc[0], rwc, rtol=1e-6)
        np.testing.assert_allclose(rwc, np.sqrt(expected[0, DELTA_SQ] / expected[0, PREV_SQ]), rtol=1e-6)

    def test_nothing_is_recorded_that_nobody_wants(self):
        model = network()
        monitor = wsf.RWCMonitor(model)
        record(model, monitor, 1)
        assert all(getattr(monitor.history(), name) is None for name in FIELDS)
        assert monitor._record._ring.rows.shape[1] == 3
        with pytest.raises(wsf.WeightScaleError, match=r"no delta_l2: record with RWCMonitor\(l2=True\)"):
            _ = monitor.history().rms_step

    def test_l2_is_true_or_false(self):
        with pytest.raises(TypeError, match="l2 must be True or False, got 1"):
            wsf.RWCMonitor(network(), l2=1)

    def test_the_other_sums_and_the_findings_do_not_change(self):
        histories = []
        for l2 in (False, True):
            torch.manual_seed(0)
            model = network()
            monitor = wsf.RWCMonitor(model, l2=l2)
            record(model, monitor, 40)
            with torch.no_grad():
                model[0].weight[0, 0] = torch.nan
            monitor.record()
            histories.append(monitor.history())
        plain, more = histories
        for name in ("delta_l1", "prev_l1", "moved", "rwc"):
            np.testing.assert_array_equal(getattr(plain, name), getattr(more, name))
        assert wsf.check_health(plain)
        assert list(map(str, wsf.check_health(plain))) == list(map(str, wsf.check_health(more)))
        assert np.isnan([getattr(more, name)[-1, 0] for name in ("delta_l2", "delta_max")]).all()

    @pytest.mark.parametrize("sums", [3, 4, 6, 7])
    def test_a_ring_takes_no_more_memory(self, sums):
        rows = ring._rows_for(sums, 10_000)
        assert rows * sums * 10_000 * 8 <= ring.RING_BYTES < 2 * rows * sums * 10_000 * 8


class TestRunFolder:
    @pytest.fixture
    def older(self, tmp_path):
        """A folder as version 0.1 wrote it: meta.json does not say whether there are L2 sums."""
        model = network()
        with wsf.RWCMonitor(model, run_dir=tmp_path / "run") as monitor:
            record(model, monitor)
        meta = json.loads((tmp_path / "run" / "meta.json").read_text())
        assert meta.pop("l2") is False
        (tmp_path / "run" / "meta.json").write_text(json.dumps(meta))
        return tmp_path / "run", model

    def test_an_older_run_is_loaded_and_goes_on(self, older):
        run_dir, model = older
        assert wsf.RWCHistory.load(run_dir).delta_l2 is None
        with wsf.RWCMonitor(model, run_dir=run_dir, resume=True) as monitor:
            state = monitor.state_dict()
            record(model, monitor)
            monitor.load_state_dict(state)
            record(model, monitor)
        assert wsf.RWCHistory.load(run_dir).steps.tolist() == list(range(1, 9))

    @pytest.mark.parametrize("options", [{"l2": True}, {"definition": "l2_ratio"}], ids=str)
    def test_a_run_without_l2_goes_on_without_it(self, older, options):
        run_dir, model = older
        key = next(iter(options))
        with pytest.raises(
            wsf.WeightScaleError, match=f"belongs to another run: it has {key}=.*, and this monitor has"
        ):
            wsf.RWCMonitor(model, run_dir=run_dir, resume=True, **options)

    def test_a_run_with_l2_goes_on(self, tmp_path):
        model, parts = network(), []
        for _ in range(2):
            with wsf.RWCMonitor(model, l2=True, run_dir=tmp_path / "run", resume=True) as monitor:
                parts.append(record(model, monitor))
        check(wsf.RWCHistory.load(tmp_path / "run"), np.concatenate(parts))
        with pytest.raises(wsf.WeightScaleError, match="it has l2=True, and this monitor has False"):
            wsf.RWCMonitor(model, run_dir=tmp_path / "run", resume=True)

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"l2": "yes"}, "l2 must be true or false, got 'yes'"),
            ({"definition": "l2_ratio"}, "needs l2, which is false"),
        ],
    )
    def test_a_damaged_meta_json(self, older, change, problem):
        run_dir, _ = older
        meta = json.loads((run_dir / "meta.json").read_text())
        (run_dir / "meta.json").write_text(json.dumps({**meta, **change}))
        with pytest.raises(wsf.WeightScaleError, match=f"meta.json is damaged: .*{problem}"):
            wsf.RWCHistory.load(run_dir)

    def test_columns_that_meta_json_does_not_tell_of(self, older):
        run_dir, _ = older
        meta = json.loads((run_dir / "meta.json").read_text())
        (run_dir / "meta.json").write_text(json.dumps({**meta, "l2": True}))
        with pytest.raises(wsf.WeightScaleError, match=r"does not belong to this run: expected delta_l1, delta_l2, "):
            wsf.RWCHistory.load(run_dir)


class TestState:
    def test_in_memory(self):
        model = network()
        monitor = wsf.RWCMonitor(model, l2=True)
        expected = record(model, monitor)
        state = monitor.state_dict()
        record(model, monitor)
        again = wsf.RWCMonitor(model, l2=True)
        again.load_state_dict(state)
        check(again.history(), expected)

    def test_a_state_with_other_sums(self):
        model = network()
        plain, more = wsf.RWCMonitor(model), wsf.RWCMonitor(model, l2=True)
        with pytest.raises(ValueError, match="the state is of a monitor with l2=False, this monitor has True"):
            more.load_state_dict(plain.state_dict())
        with pytest.raises(ValueError, match="the state is of a monitor with l2=True, this monitor has False"):
            plain.load_state_dict(more.state_dict())

    def test_an_older_state(self):
        model = network()
        monitor = wsf.RWCMonitor(model)
        record(model, monitor)
        state = monitor.state_dict()
        del state["l2"]
        again = wsf.RWCMonitor(model)
        again.load_state_dict(state)
        assert len(again.history()) == 4
        with pytest.raises(ValueError, match="with l2=False, this monitor has True"):
            wsf.RWCMonitor(model, l2=True).load_state_dict(state)


class OtherRank:
    """Stands for two ranks that add up: this one, and one that sends what it was given."""

    size, rank = 2, 0

    def __init__(self, sums):
        self.sums = sums

    def all_reduce(self, numbers, *, largest=False):
        n, K, L = self.sums.shape
        other = np.zeros_like(numbers)
        if largest:
            other[:n] = np.nan_to_num(self.sums[:, DELTA_MAX], nan=0.0, posinf=np.inf)
            return np.maximum(numbers, other)
        other[3:5] = numbers[1:3]
        other[5 : 5 + n * K * L] = self.sums.ravel()
        return numbers + other


class TestSeveralRanks:
    def test_the_largest_change_is_that_of_all_ranks(self):
        """And it is NaN if that of one rank is, whichever rank that is."""
        mine = np.ones((3, 6, 2))
        theirs = np.full((3, 6, 2), 2.0)
        for sums, row in ((mine, 1), (theirs, 2)):
            sums[row, 0, 0] = sums[row, 3, 0] = sums[row, DELTA_MAX, 0] = np.nan
        (total,) = RankSum(OtherRank(theirs), 1, 8).add([Part(0, mine, np.zeros(3))])
        np.testing.assert_array_equal(total.sums[:, DELTA_MAX], [[2, 2], [np.nan, 2], [np.nan, 2]])
        np.testing.assert_array_equal(total.sums[:, DELTA_SQ], [[3, 3], [np.nan, 3], [np.nan, 3]])

    def test_without_l2_there_is_one_all_reduce(self):
        class Counting(OtherRank):
            calls = 0

            def all_reduce(self, numbers, *, largest=False):
                self.calls += 1
                return super().all_reduce(numbers, largest=largest)

        ranks = Counting(np.ones((3, 4, 2)))
        (total,) = RankSum(ranks, 1, 8).add([Part(0, np.ones((3, 4, 2)), np.zeros(3))])
        assert ranks.calls == 1
        assert (total.sums == 2).all()


class TestHistory:
    def test_rwc_by_l2_ratio(self):
        history = with_l2(make_history(noisy(3, 4)), definition="l2_ratio")
        np.testing.assert_allclose(history.rwc, noisy(3, 4))
        zero = replace(history, prev_l2=np.zeros((3, 4)))
        assert np.isinf(zero.rwc).all()
        assert (replace(zero, delta_l2=np.zeros((3, 4))).rwc == 0).all()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"definition": "l2_ratio"},
                "definition='l2_ratio' needs delta_l2, prev_l2 and delta_max, got no delta_l2",
            ),
            ({"delta_l2": np.ones((3, 4))}, "they go together: .*, got no prev_l2 and no delta_max"),
            (
                {name: np.ones((3, 3)) for name in FIELDS},
                r"delta_l2 must be \[steps, layers\] = \[3, 4\], got \[3, 3\]",
            ),
        ],
    )
    def test_parts_that_do_not_fit(self, changes, message):
        with pytest.raises(ValueError, match=message):
            replace(make_history(noisy(3, 4)), **changes)

    @pytest.mark.parametrize("definition", ["norm_ratio", "l2_ratio"])
    def test_save_and_load(self, tmp_path, definition):
        history = with_l2(make_history(noisy(3, 4)), definition=definition)
        history.save(tmp_path / "run")
        loaded = wsf.RWCHistory.load(tmp_path / "run")
        for name in (*FIELDS, "rwc", "rms_step"):
            np.testing.assert_array_equal(getattr(loaded, name), getattr(history, name))

    def test_select_and_npz(self, tmp_path):
        history = with_l2(make_history(noisy(3, 4), names=["a", "b", "c", "d"]))
        part = history.select("b|d", slice(1, None))
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(part, name), getattr(history, name)[1:, [1, 3]])
        part.to_npz(tmp_path / "part.npz")
        with np.load(tmp_path / "part.npz") as file:
            assert all(np.array_equal(file[name], getattr(part, name)) for name in FIELDS)
        make_history(noisy(3, 4)).to_npz(tmp_path / "plain.npz")
        with np.load(tmp_path / "plain.npz") as file:
            assert not set(FIELDS) & set(file.files)


def test_what_is_not_finite_is_left_out():
    history = with_l2(make_history(noisy(20, 4)))
    history.delta_l2[7, 1] = np.inf
    kept, (note,) = finite_part(history)
    assert len(kept) == 19
    assert "optimizer step 8 is left out" in note


def test_trackers_get_two_more_numbers():
    history = with_l2(make_history(noisy(20, 4)))
    plain, more = summarize(replace(history, **dict.fromkeys(FIELDS))), summarize(history)
    assert len(plain) == 8
    assert more.keys() - plain.keys() == {"rwc/rms_step", "rwc/delta_max"}
    assert {name: more[name] for name in plain} == plain
    assert more["rwc/delta_max"] == history.delta_max.max()
    assert more["rwc/rms_step"] == pytest.approx(np.sqrt(np.mean(history.rms_step**2)))


def test_figures_and_the_report_name_the_formula(tmp_path):
    history = with_l2(make_history(noisy(20, 6)), definition="l2_ratio")
    ax = figures.rwc_curves(history)
    assert ax.get_ylabel() == "RWC, ‖Δw‖₂ / ‖w‖₂ per step"
    assert [line for line in ax.lines if "rule of thumb" in line.get_label()]  # it is a rule for a ratio of norms
    page = wsf.write_report(history, wsf.cluster_layers(history, k=2, n_init=1), tmp_path / "analysis")
    assert "l2_ratio: L2 norm of w - w_prev / L2 norm of w_prev" in page.read_text()


def test_the_mean_over_seeds():
    one, other = (with_l2(make_history(noisy(5, 4, seed)), definition="l2_ratio") for seed in (0, 1))
    other = replace(other, delta_l2=3 * other.delta_l2, prev_l2=3 * other.prev_l2)
    mean = mean_history([one, other])
    np.testing.assert_allclose(mean.rwc, (one.rwc + other.rwc) / 2)
    np.testing.assert_allclose(mean.prev_l2, 4.0)
    without = replace(other, definition="norm_ratio", **dict.fromkeys(FIELDS))
    assert mean_history([replace(one, definition="norm_ratio"), without]).delta_l2 is None
