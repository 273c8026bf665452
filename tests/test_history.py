"""RWCHistory: derived values, selection, files."""

import csv

import numpy as np
import pytest

import weightscale_fast as wsf
from weightscale_fast.record.rows import RESUMED, SKIPPED

from .histories import make_history, noisy


def history(**changes):
    values = {
        "names": ("conv", "fc", "head"),
        "numel": np.array([9, 4, 0]),
        "kinds": ("conv", "linear", "linear"),
        "steps": np.array([1, 2]),
        "delta_l1": np.array([[1.0, 0.0, 0.0], [2.0, 1.0, 0.0]]),
        "prev_l1": np.array([[4.0, 0.0, 0.0], [4.0, 0.0, 0.0]]),
        "moved": np.array([[9, 0, 0], [3, 4, 0]]),
        "settings": {"lr": 0.1},
    }
    return wsf.RWCHistory(**(values | changes))


def test_rwc_is_eq_1():
    assert history().rwc.tolist() == [[0.25, 0, 0], [0.5, np.inf, 0]]


def test_rwc_by_mean_ratio():
    ratio_sum = np.array([[4.5, 1.0, 0.0], [np.inf, np.nan, 0.0]])
    rwc = history(definition="mean_ratio", ratio_sum=ratio_sum).rwc
    np.testing.assert_array_equal(rwc, [[0.5, 0.25, 0], [np.inf, np.nan, 0]])


def test_moved_fraction():
    np.testing.assert_allclose(history().moved_fraction, [[1, 0, 0], [1 / 3, 1, 0]])


def test_select():
    part = history().select(layers="^fc|head", steps=slice(-1, None))
    assert part.names == ("fc", "head")
    assert part.kinds == ("linear", "linear")
    assert part.steps.tolist() == [2]
    assert part.moved.tolist() == [[4, 0]]
    assert history().select(layers=lambda name: name == "conv").numel.tolist() == [9]
    with pytest.raises(ValueError, match="no layer matches layers='x'; the record has conv, fc, head"):
        history().select(layers="x")


def test_flags():
    assert history().flags.tolist() == [0, 0]
    flagged = history(flags=np.array([SKIPPED | RESUMED, RESUMED], dtype=np.uint8))
    assert flagged.skipped.tolist() == [True, False]
    kept = flagged.select(steps=~flagged.skipped)
    assert (kept.steps.tolist(), kept.flags.tolist(), kept.rwc.tolist()) == ([2], [RESUMED], [[0.5, np.inf, 0]])
    assert len(flagged.select(layers="conv").flags) == 2


@pytest.mark.parametrize("definition", ["norm_ratio", "mean_ratio"])
def test_save_and_load(tmp_path, definition):
    ratio_sum = np.ones((2, 3)) if definition == "mean_ratio" else None
    saved = history(definition=definition, ratio_sum=ratio_sum, every=5, flags=np.array([0, 3], dtype=np.uint8))
    saved.save(tmp_path / "run")
    loaded = wsf.RWCHistory.load(tmp_path / "run")
    for name in ("names", "kinds", "definition", "every", "settings"):
        assert getattr(loaded, name) == getattr(saved, name)
    for name in ("numel", "steps", "delta_l1", "prev_l1", "moved", "rwc", "flags"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
    with pytest.raises(wsf.WeightScaleError, match=r"run exists and holds the rows of a run: choose another folder$"):
        saved.save(tmp_path / "run")


def test_an_empty_history_saves_and_loads(tmp_path):
    nothing = history().select(steps=slice(0, 0))
    nothing.save(tmp_path / "run")
    assert wsf.RWCHistory.load(tmp_path / "run").rwc.shape == (0, 3)


def test_npz(tmp_path):
    history().to_npz(tmp_path / "history.npz")
    with np.load(tmp_path / "history.npz") as arrays:
        assert arrays["names"].tolist() == ["conv", "fc", "head"]
        np.testing.assert_array_equal(arrays["rwc"], history().rwc)
        assert {"numel", "kinds", "steps", "delta_l1", "prev_l1", "moved", "flags"} < set(arrays.files)


def test_csv(tmp_path):
    history().to_csv(tmp_path / "rwc.csv")
    with open(tmp_path / "rwc.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["step", "conv", "fc", "head"]
    np.testing.assert_array_equal(np.array(rows[1:], dtype=float)[:, 1:], history().rwc)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moved": np.zeros((2, 2))}, r"moved must be \[steps, layers\] = \[2, 3\], got \[2, 2\]"),
        ({"numel": np.array([1])}, "names, numel and kinds must be as long as each other, got 3, 1, 3"),
        ({"steps": np.array([2, 1])}, "steps must rise from row to row"),
        ({"flags": np.zeros(3, np.uint8)}, r"flags must be \[steps\] = \[2\], got \[3\]"),
        ({"definition": "l2"}, "definition must be one of"),
        ({"definition": "mean_ratio"}, 'definition="mean_ratio" needs ratio_sum'),
    ],
)
def test_parts_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        history(**changes)


def test_a_layer_by_its_name():
    record = make_history(noisy(4, 3), names=["a", "b", "c"])
    np.testing.assert_array_equal(record["b"], record.rwc[:, 1])
    with pytest.raises(KeyError, match="no layer 'd'; the record has a, b, c"):
        record["d"]
    with pytest.raises(TypeError, match="indexed by a layer's name, got int"):
        record[0]


def test_a_history_is_itself_and_prints_on_one_line():
    record = make_history(noisy(40, 3))
    assert record == record
    assert record != make_history(noisy(40, 3))
    assert len({record, record}) == 1
    assert repr(record) == "RWCHistory(3 layers, 300 weights, 40 rows: optimizer steps 1 to 40)"
    assert repr(record.select(steps=slice(0, 0))) == "RWCHistory(3 layers, 300 weights, 0 rows)"


def test_to_dataframe():
    record = make_history(noisy(4, 2), names=["a", "b"])
    table = record.to_dataframe()
    assert (table.index.name, table.columns.tolist(), table.index.tolist()) == ("step", ["a", "b"], [1, 2, 3, 4])
    np.testing.assert_array_equal(table.to_numpy(), record.rwc)
