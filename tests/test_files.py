"""Files are written completely or not at all."""

import csv
import os

import pytest

from weightscale_fast.files import atomic_write, write_csv


def test_file_has_its_name_only_when_it_is_complete(tmp_path):
    path = tmp_path / "report.html"
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_error_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "report.html"
    path.write_bytes(b"old")

    def write_half():
        with atomic_write(path) as file:
            file.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """If the machine fails after the renaming, the file must not be empty."""
    path = tmp_path / "report.html"
    flushed, sync = [], os.fsync

    def fsync(file):
        sync(file)
        flushed.append((os.fstat(file).st_ino, os.fstat(file).st_size, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_write(path) as file:
        file.write(b"new")
    assert flushed == [(path.stat().st_ino, 3, False)]


def test_table_is_read_back_as_it_was_written(tmp_path):
    path = tmp_path / "labels.csv"
    write_csv(path, ("name", "cluster"), [('a "b", c', 1), ("Größe\nfc", 2)])
    with open(path, newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["name", "cluster"], ['a "b", c', "1"], ["Größe\nfc", "2"]]


def test_row_that_raises_leaves_the_old_table(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_csv(path, ("number",), ([1 / number] for number in (1, 0)))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_signal_handler_that_writes_the_same_file(tmp_path):
    path = tmp_path / "report.html"
    with atomic_write(path) as file:
        file.write(b"one")
        with atomic_write(path) as other:
            other.write(b"two")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]
