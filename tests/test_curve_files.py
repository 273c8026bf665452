"""load_curves: the same curves from a run folder, an npz and a CSV; errors that say what the file should hold."""

import contextlib
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from weightscale_fast.analysis import cluster_layers, load_curves
from weightscale_fast.errors import WeightScaleError
from weightscale_fast.record.history import RWCHistory
from weightscale_fast.record.rows import Rows
from weightscale_fast.record.run_folder import RunFolder

NAMES = ("conv", "a,b", "fc")


def history(steps=5, definition="norm_ratio"):
    rng = np.random.default_rng(0)
    delta, prev, ratio = rng.random((3, steps, 3))
    delta[-1, 0], prev[-1, 1] = 0, 0
    return RWCHistory(
        names=NAMES,
        numel=np.array([4, 5, 6]),
        kinds=("conv", "conv", "linear"),
        steps=np.arange(1, steps + 1),
        delta_l1=delta,
        prev_l1=prev,
        moved=np.ones((steps, 3), dtype=np.int64),
        ratio_sum=ratio if definition == "mean_ratio" else None,
        definition=definition,
    )


@pytest.mark.parametrize("definition", ["norm_ratio", "mean_ratio"])
@pytest.mark.parametrize("steps", [5, 3])  # 3: as many as layers, so only the key says which way round
@pytest.mark.parametrize("kind", ["folder", "npz", "csv"])
def test_every_file_of_a_history_gives_its_curves(tmp_path, kind, steps, definition):
    record = history(steps, definition)
    path = tmp_path / f"curves.{kind}"
    {"folder": record.save, "npz": record.to_npz, "csv": record.to_csv}[kind](path)
    names, curves = load_curves(str(path))
    assert names == NAMES
    np.testing.assert_array_equal(curves, record.rwc.T)
    assert curves.dtype == np.float64
    assert curves.flags.c_contiguous


def test_shards_follow_each_other_and_overlaps_of_a_killed_resume_count_once(tmp_path):
    record = history(9)
    record.select(steps=slice(0, 4)).save(tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    for rows in (slice(0, 3), slice(3, 9)):
        part = record.select(steps=rows)
        run.append(Rows(part.steps, part.delta_l1, part.prev_l1, part.moved, None))
    np.testing.assert_array_equal(load_curves(tmp_path / "run").curves, record.rwc.T)


@pytest.mark.parametrize("turn", [False, True])
def test_npz_without_steps_is_read_by_its_shape(tmp_path, turn):
    curves = np.random.default_rng(0).random((3, 7), dtype=np.float32)
    np.savez(tmp_path / "c.npz", names=np.array(NAMES), rwc=curves.T if turn else curves)
    np.testing.assert_array_equal(load_curves(tmp_path / "c.npz").curves, curves)


def test_square_npz_without_steps_has_a_row_a_layer(tmp_path):
    curves = np.arange(9.0).reshape(3, 3)
    np.savez(tmp_path / "c.npz", names=np.array(NAMES), rwc=curves)
    np.testing.assert_array_equal(load_curves(tmp_path / "c.npz").curves, curves)


def test_clusters_from_a_path_and_from_what_it_holds_are_the_same(tmp_path):
    curves = np.random.default_rng(0).random((3, 7))
    np.savez(tmp_path / "c.npz", names=np.array(NAMES), rwc=curves)
    from_path = cluster_layers(tmp_path / "c.npz", n_init=2)
    from_loaded = cluster_layers(load_curves(tmp_path / "c.npz"), n_init=2)
    assert from_path.names == from_loaded.names == NAMES
    np.testing.assert_array_equal(from_path.curves, from_loaded.curves)
    np.testing.assert_array_equal(from_path.labels, cluster_layers(curves, n_init=2).labels)


# Bad files


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"rwc": np.ones((2, 3))}, "must hold names .* no array names, only rwc"),
        ({"names": np.array(["a", "b"])}, "no array rwc, only names"),
        ({"names": np.array(["a", "b"]), "rwc": np.ones((3, 4))}, r"2 names do not fit rwc of shape \[3, 4\]"),
        ({"names": np.array(["a", "b"]), "rwc": np.ones(2)}, r"rwc is float64 \[2\]"),
        ({"names": np.array(["a", "b"]), "rwc": np.array([["x"], ["y"]])}, "rwc is <U1"),
        ({"names": np.array(["a", "b"]), "rwc": np.ones((2, 0))}, r"rwc is float64 \[2, 0\]"),
        (
            {"names": np.array(["a", "b"]), "rwc": np.ones((3, 2)), "steps": np.arange(2)},
            r"steps is int64 \[2\], for 3",
        ),
        ({"names": np.array(["a", "b"]), "rwc": np.ones((3, 2)), "steps": np.array([1, 3, 2])}, "steps do not rise"),
        ({"names": np.array(["a", "b"]), "rwc": np.ones((2, 2)), "steps": np.array([1, np.nan])}, "steps do not rise"),
        ({"names": np.array(["a", 1], dtype=object), "rwc": np.ones((2, 3))}, "allow_pickle"),
    ],
)
def test_npz_of_another_layout(tmp_path, arrays, message):
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_curves(tmp_path / "c.npz")


@pytest.mark.parametrize("content", [b"", b"no zip file", b"PK\x03\x04 torn"])
def test_npz_that_is_none(tmp_path, content):
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(ValueError, match="c.npz must hold names"):
        load_curves(tmp_path / "c.npz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a table with the head step,<name>"),
        ("a,b\n1,2\n", "first line starts 'a,b'"),
        ("step\n1\n", "first line starts 'step'"),
        ("step,a,b\n", "it has no rows"),
        ("step,a,b\n1,0.5\n", "line 2 has 2 fields, the head 3"),
        ("step,a,b\n1,0.5,0.5\n1,0.5,0.5\n", "steps do not rise"),
        ("step,a,b\n1,0.5,0_5\n", "line 2: a number must have no underscore"),
        ("step,a,b\n1,0.5,0.5\n2,0.5,half\n", "line 3: could not convert string to float: 'half'"),
    ],
)
def test_csv_of_another_layout(tmp_path, text, message):
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_curves(tmp_path / "c.csv")


def test_paths_that_are_none_of_the_three(tmp_path):
    with pytest.raises(ValueError, match="there is no file .*c.npz"):
        load_curves(tmp_path / "c.npz")
    with pytest.raises(ValueError, match="a run folder, an .npz or a .csv file, got .*curves.txt"):
        load_curves(tmp_path / "curves.txt")
    with pytest.raises(WeightScaleError, match="no meta.json"):
        load_curves(tmp_path)


def test_duplicate_names_of_a_file_are_refused(tmp_path):
    (tmp_path / "c.csv").write_text("step,a,a\n1,0.5,0.5\n2,0.5,0.5\n")
    with pytest.raises(ValueError, match="names must differ, but a come more than once"):
        cluster_layers(tmp_path / "c.csv")


def test_a_run_without_rows_is_refused(tmp_path):
    history().select(steps=slice(0, 0)).save(tmp_path / "run")
    with pytest.raises(ValueError, match="at least 2 columns, got 0"):
        cluster_layers(tmp_path / "run")


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffstep,größe,fc\n1,0.5,0.25\n2,0.5,0.125\n",
        "step,größe,fc\n1,0.5,0.25\n\n2,0.5,0.125\n\n",
        "step,größe,fc,\r\n1,0.5,0.25,\r\n2,0.5,0.125,\r\n,,,\r\n",
    ],
    ids=["mark", "blank lines", "commas at the end"],
)
def test_csv_as_spreadsheets_write_it(tmp_path, text):
    path = tmp_path / "curves.csv"
    path.write_bytes(text.encode())
    names, curves = load_curves(path)
    assert names == ("größe", "fc")
    assert curves.tolist() == [[0.5, 0.5], [0.25, 0.125]]


def test_csv_is_utf8_in_any_locale(tmp_path):
    path = tmp_path / "curves.csv"
    path.write_text("step,größe,fc\n1,0.5,0.25\n", "utf-8")
    code = f"from weightscale_fast.analysis import load_curves; print(ascii(load_curves({str(path)!r}).names))"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == r"('gr\xf6\xdfe', 'fc')"


def test_npz_with_names_as_bytes(tmp_path):
    np.savez(tmp_path / "curves.npz", names=np.array([b"conv", b"fc"]), rwc=np.ones((2, 3)))
    assert load_curves(tmp_path / "curves.npz").names == ("conv", "fc")


def test_a_damaged_npz_is_a_value_error(tmp_path):
    """Each byte in turn is changed, and the file is cut at each byte."""
    path = tmp_path / "curves.npz"
    np.savez_compressed(path, names=np.array(["conv", "fc"]), rwc=np.random.default_rng(0).random((2, 3)))
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            with contextlib.suppress(ValueError):
                load_curves(path)


def test_a_csv_that_may_be_cut_is_told(tmp_path):
    """0.125 without its last letters is a number too."""
    path = tmp_path / "curves.csv"
    path.write_text("step,a,b\n1,0.5,0.25\n2,0.5,0.12")
    with pytest.warns(UserWarning, match=r"does not end with a new line, .* its last number is 0\.12"):
        load_curves(path)


def npy(shape, dtype, body):
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + body


@pytest.mark.parametrize(
    ("rwc", "message"),
    [
        (npy("(2, 3)", "<f8", bytes(80)), r"the entry of rwc is longer than its array float64 \[2, 3\]"),
        (npy("(3, 4", "<f8", b""), "must hold names"),  # a TokenError in numpy
        (npy("(2, 10**15)", "<f8", b""), "must hold names"),
    ],
)
def test_an_entry_that_does_not_fit_its_head(tmp_path, rwc, message):
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("names.npy", npy("(2,)", "|S1", b"ab"))
        archive.writestr("rwc.npy", rwc)
    with pytest.raises(ValueError, match=message) as caught:
        load_curves(tmp_path / "c.npz")
    assert "\n" not in str(caught.value)


def test_a_changed_head_does_not_hide_the_checksum(tmp_path):
    """numpy reads as much as the head says, and zipfile compares the checksum only at the end of the entry."""
    np.savez(tmp_path / "c.npz", names=np.array(["a"]), rwc=np.ones((1, 50_000)))
    whole = (tmp_path / "c.npz").read_bytes()
    (tmp_path / "c.npz").write_bytes(whole.replace(b"(1, 50000)", b"(1, 10000)"))
    with pytest.raises(ValueError, match="c.npz must hold names"):
        load_curves(tmp_path / "c.npz")


def test_a_damaged_lzma_archive_is_a_value_error(tmp_path):
    path = tmp_path / "c.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("names.npy", npy("(2,)", "|S1", b"ab"))
        archive.writestr("rwc.npy", npy("(2, 3)", "<f8", bytes(48)))
    whole = path.read_bytes()
    for place in range(40, len(whole) - 60, 3):
        path.write_bytes(whole[:place] + b"\xa5" + whole[place + 1 :])
        with contextlib.suppress(ValueError):
            load_curves(path)
