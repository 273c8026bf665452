"""Run folders that somebody edited or a stranger made: one sentence for whatever is wrong, and nothing is loaded."""

import json
import os
import shutil

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.cli import main
from weightscale_fast.files import atomic_write

LAYERS = 3


def network():
    return nn.Sequential(*[nn.Linear(4, 4) for _ in range(LAYERS)])


@pytest.fixture
def run(tmp_path):
    """A run folder with 40 steps of three layers, in two shards."""
    model = network()
    with wsf.RWCMonitor(model, run_dir=tmp_path / "run") as monitor:
        for step in range(40):
            with torch.no_grad():
                for layer in model:
                    layer.weight.add_(0.01)
            monitor.record()
            if step == 20:
                monitor.flush()
    return tmp_path / "run"


def assert_refused(run, match):
    """Reading, resuming and reading in parts give one error of the package, of one line."""
    calls = (
        lambda: wsf.RWCHistory.load(run),
        lambda: wsf.cluster_layers(run),
        lambda: wsf.RWCMonitor(network(), run_dir=run, resume=True).history(),
    )
    for call in calls:
        with pytest.raises(wsf.WeightScaleError, match=match) as caught:
            call()
        assert "\n" not in str(caught.value)


META = {
    "names": [None, "abc", [1, 2, 3], ["a", "a", "a"], [["x"]] * 3, {}],
    "numel": [None, {}, [-1] * 3, [10**30] * 3, ["x"] * 3, [1.5] * 3, [float("nan")] * 3, [True] * 3, [16, 16]],
    "kinds": [None, "abc", [None] * 3, [1] * 3, [["a"]] * 3, ["linear"]],
    "dtypes": ["abc", [1] * 3, ["float32"], None],
    "definition": [None, 5, "l2", ["norm_ratio"]],
    "every": [None, 0, -3, "x", 1.5, True, 10**30],
    "settings": [None, [], "x"],
    "begun": [5, "yesterday", ["x"], None, ""],
    "versions": [5, ["x"], {"torch": 2}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in META.items() for value in values])
def test_wrong_values_in_meta_json(run, key, value):
    meta = json.loads((run / "meta.json").read_text())
    (run / "meta.json").write_text(json.dumps({**meta, key: value}))
    assert_refused(run, rf"meta.json is damaged: {key} must be")


@pytest.mark.parametrize("key", ["names", "numel", "kinds", "definition", "every", "settings"])
def test_missing_keys_in_meta_json(run, key):
    meta = json.loads((run / "meta.json").read_text())
    del meta[key]
    (run / "meta.json").write_text(json.dumps(meta))
    assert_refused(run, rf"meta.json is damaged: {key} must be")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b"[" * 100_000, b"[]", b'"x"', b'{"format": 1}'])
def test_meta_json_is_something_else(run, content):
    (run / "meta.json").write_bytes(content)
    assert_refused(run, "meta.json cannot be read|is not a run folder: expected format")


def test_meta_json_is_a_folder(run):
    (run / "meta.json").unlink()
    (run / "meta.json").mkdir()
    assert_refused(run, "meta.json cannot be read")


def first_shard(run):
    return sorted((run / "rwc").iterdir())[0]


def edit(run, change):
    arrays = safetensors.numpy.load_file(first_shard(run))
    arrays = change(arrays) or arrays
    first_shard(run).write_bytes(safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))


ARRAYS = {
    "delta_l1": (np.float32, np.int64),
    "prev_l1": (np.float16, np.bool_),
    "moved": (np.float64, np.int32, np.uint64),
    "step": (np.float64, np.int32, np.uint64),
    "flags": (np.float32, np.int64, np.bool_),
}


@pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name, dtypes in ARRAYS.items() for dtype in dtypes])
def test_an_array_of_another_dtype(run, name, dtype):
    edit(run, lambda arrays: arrays.update({name: arrays[name].astype(dtype)}))
    assert_refused(run, rf"does not belong to this run: .*got {name} .*move it away")


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays.update(step=arrays["step"][:, None]),
        lambda arrays: arrays.update(step=np.array(1)),
        lambda arrays: arrays.update(extra=np.zeros(3)),
        lambda arrays: {name: array for name, array in arrays.items() if name != "step"},
        lambda arrays: {name: array for name, array in arrays.items() if name != "moved"},
        lambda arrays: arrays.update(delta_l1=-arrays["delta_l1"]),
        lambda arrays: arrays.update(moved=arrays["moved"] - 1000),
        lambda arrays: arrays.update(step=arrays["step"][::-1]),
        lambda arrays: arrays.update(step=arrays["step"][[0, 2, 1, *range(3, len(arrays["step"]))]]),
        lambda arrays: arrays.update(step=arrays["step"][[0, 1, 1, *range(3, len(arrays["step"]))]]),
        lambda arrays: {name: array[:0] for name, array in arrays.items()},
        lambda arrays: arrays.update(step=arrays["step"] + 1),
    ],
)
def test_arrays_that_do_not_fit(run, change):
    edit(run, change)
    assert_refused(run, "does not belong to this run: .*move it away")


def of_dtype(dtype, size):
    header = f'{{"step":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,{size}]}}}}'.encode()
    return len(header).to_bytes(8, "little") + header + b"\0" * size


@pytest.mark.parametrize(
    "content",
    [
        b"",
        of_dtype("BF16", 2),
        of_dtype("F8_E4M3", 1),
        of_dtype("XX", 1),
        (2**63).to_bytes(8, "little") + b"{}",
        (200_000_000).to_bytes(8, "little") + b"{}",
    ],
)
def test_a_shard_that_is_no_shard(run, content):
    first_shard(run).write_bytes(content)
    assert_refused(run, "is damaged or not a safetensors file|does not belong to this run")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_a_shard_that_is_no_file(run, make):
    """Reading a pipe would never end."""
    shard = first_shard(run)
    shard.unlink()
    make(shard)
    assert_refused(run, "is damaged: it is not a file; move it away")


@pytest.mark.parametrize(
    "name", [f"part-1-{'9' * 200}.safetensors", "part-\u0661-\u0662.safetensors", "mine.safetensors"]
)
def test_a_file_of_another_name(run, name):
    shutil.copy(first_shard(run), run / "rwc" / name)
    assert_refused(run, "does not belong to this run: expected a name such as part-")


def test_other_files_beside_the_shards_are_no_shards(run):
    (run / "rwc" / ".part-1-2.safetensors.7.tmp").write_bytes(b"torn")
    (run / "rwc" / "part-000000041-000000050.safetensors.bad").write_bytes(b"torn")
    assert len(wsf.RWCHistory.load(run)) == 40


def test_no_folder_of_rows(run):
    shutil.rmtree(run / "rwc")
    for call in (wsf.RWCHistory.load, wsf.cluster_layers):
        with pytest.raises(wsf.WeightScaleError, match="rwc must be a folder of rows, but No such file"):
            call(run)
    (run / "rwc").write_text("")
    assert_refused(run, "rwc must be a folder of rows, but Not a directory")


@pytest.mark.parametrize("exist", ["error", "resume"])
def test_no_row_is_written_behind_a_link(run, tmp_path, exist):
    """A folder with rows, or without one, whose `rwc` leads elsewhere."""
    shutil.move(run / "rwc", tmp_path / "elsewhere")
    (run / "rwc").symlink_to(tmp_path / "elsewhere")
    if exist == "error":
        shutil.rmtree(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").mkdir()
    before = sorted((tmp_path / "elsewhere").iterdir())
    with pytest.raises(wsf.WeightScaleError, match="rwc is a link, and nothing is written through a link"):
        wsf.RWCMonitor(network(), run_dir=run, resume=exist == "resume")
    assert sorted((tmp_path / "elsewhere").iterdir()) == before


def test_meta_json_is_a_pipe(run):
    """Reading a pipe would never end."""
    (run / "meta.json").unlink()
    os.mkfifo(run / "meta.json")
    assert_refused(run, "meta.json cannot be read: it is not a file")


@pytest.mark.parametrize("make", ["link", "file"])
def test_nothing_is_written_where_analysis_is_no_folder(run, tmp_path, capsys, make):
    (tmp_path / "mine").mkdir()
    if make == "link":
        (run / "analysis").symlink_to(tmp_path / "mine")
    else:
        (run / "analysis").write_text("mine")
    for command in (["analyze"], ["plot", "--figure", "heat_map"]):
        assert main([command[0], str(run), *command[1:]]) == 2
        assert "analysis is " in capsys.readouterr().err
    with pytest.raises(wsf.WeightScaleError, match="analysis is "):
        wsf.write_report(run)
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_temporary_name_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with atomic_write(tmp_path / "table.csv"):
        (temporary,) = tmp_path.glob(".table.csv.*")
    _, number, _ = temporary.name.rsplit(".", 2)
    for later in range(1, 3):  # the number rises with each file
        name = temporary.name.replace(f".{number}.tmp", f".{int(number) + later}.tmp")
        (tmp_path / name).symlink_to(tmp_path / "mine")
    with atomic_write(tmp_path / "table.csv") as file:
        file.write(b"theirs")
    assert (tmp_path / "mine").read_text() == "mine"
    assert (tmp_path / "table.csv").read_text() == "theirs"
    assert len(list(tmp_path.glob(".table.csv.*"))) == 1  # the link for the next file; the other one is gone


def test_a_saved_history_has_the_types_of_a_shard(tmp_path):
    """A history that somebody made from other types can be saved and loaded."""
    history = wsf.RWCHistory(
        names=("a",),
        numel=np.array([4]),
        kinds=("linear",),
        steps=np.array([1, 2], np.int32),
        delta_l1=np.ones((2, 1), np.float32),
        prev_l1=np.ones((2, 1), np.float32),
        moved=np.ones((2, 1), np.int32),
    )
    history.save(tmp_path / "run")
    assert wsf.RWCHistory.load(tmp_path / "run").delta_l1.dtype == np.float64


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(run):
    for path in (run / "rwc", run / "meta.json", run):
        mode = path.stat().st_mode
        path.chmod(0)
        try:
            assert_refused(run, "Permission denied")
        finally:
            path.chmod(mode)
