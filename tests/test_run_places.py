"""Run folders as people have them: empty folders, links, `~`, addresses, and the second start of a script."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.record.new_run import local_path


def record(run_dir, count=2, **options):
    """A closed monitor that recorded `count` steps."""
    model = nn.Linear(3, 2)
    with wsf.RWCMonitor(model, run_dir=run_dir, **options) as monitor:
        for _ in range(count):
            with torch.no_grad():
                model.weight.add_(0.1)
            monitor.record()
    return monitor


class TestPlaces:
    def test_an_empty_folder_stays_the_same_folder(self, tmp_path):
        """Renaming another folder over it would fail for a mounted volume, and would change its mode."""
        folder = tmp_path / "empty"
        folder.mkdir()
        (folder / "lost+found").mkdir()  # as in a new volume
        (folder / ".keep").write_text("")
        folder.chmod(0o2770)
        before = folder.stat()
        record(folder)
        assert (folder.stat().st_ino, folder.stat().st_mode) == (before.st_ino, before.st_mode)
        assert len(wsf.RWCHistory.load(folder)) == 2

    def test_a_link_stays_a_link(self, tmp_path):
        (tmp_path / "there").mkdir()
        for name in ("there", "nowhere"):
            link = tmp_path / f"to-{name}"
            link.symlink_to(tmp_path / name)
            record(link)
            assert link.is_symlink()
            assert len(wsf.RWCHistory.load(tmp_path / name)) == 2

    def test_the_working_directory(self, tmp_path):
        script = """
import weightscale_fast as wsf
from torch import nn
with wsf.RWCMonitor(nn.Linear(2, 2), run_dir=".") as monitor:
    monitor.record()
open("model.pt", "w").close()
assert len(wsf.RWCHistory.load(".")) == 1
"""
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)

    def test_the_home_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert record("~/runs/first").run_dir == tmp_path / "runs" / "first"
        assert len(wsf.RWCHistory.load("~/runs/first")) == 2

    def test_a_folder_below_folders_that_do_not_exist(self, tmp_path):
        assert record(str(tmp_path / "a" / ".." / "b" / "c") + "/").run_dir == tmp_path / "b" / "c"
        assert os.listdir(tmp_path) == ["b"]

    @pytest.mark.parametrize("address", ["s3://bucket/run", "file:///tmp/run", "gs:/bucket/run", "a\0b"])
    def test_addresses_are_refused(self, address, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for call in (lambda: record(address), lambda: wsf.RWCHistory.load(address)):
            with pytest.raises(
                ValueError, match=r"a run folder must be (a folder of this machine|the path of a folder)"
            ):
                call()
        assert not list(tmp_path.iterdir())

    def test_a_path_with_a_colon_is_no_address(self):
        assert local_path("/runs/lr:0.1").name == "lr:0.1"

    def test_a_folder_of_something_else_is_refused_and_stays(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        for exist in ("error", "overwrite"):
            with pytest.raises(wsf.WeightScaleError, match=r"is not empty, and holds no run: it has notes.txt"):
                record(tmp_path, exist=exist)
        (tmp_path / "meta.json").write_text('{"format": "of another program"}')
        for exist in ("error", "overwrite"):
            with pytest.raises(wsf.WeightScaleError, match="is not a run folder: expected format"):
                record(tmp_path, exist=exist)
        assert sorted(os.listdir(tmp_path)) == ["meta.json", "notes.txt"]

    def test_a_file_is_refused(self, tmp_path):
        (tmp_path / "run").write_text("mine")
        for options in ({}, {"resume": True}, {"exist": "overwrite"}):
            with pytest.raises(
                wsf.WeightScaleError, match="run folder .*run exists and is a file: choose another name"
            ):
                record(tmp_path / "run", **options)
        with pytest.raises(wsf.WeightScaleError, match="is a file, and not a run folder"):
            wsf.RWCHistory.load(tmp_path / "run")
        assert (tmp_path / "run").read_text() == "mine"

    def test_a_lock_file_that_is_a_link_is_not_written_through(self, tmp_path):
        (tmp_path / "mine").write_text("mine")
        record(tmp_path / "run")
        (tmp_path / "run" / ".lock").unlink()
        (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine")
        with pytest.raises(wsf.WeightScaleError, match="cannot be written"):
            record(tmp_path / "run", resume=True)
        assert (tmp_path / "mine").read_text() == "mine"


class TestTheSecondStart:
    def test_a_run_without_a_row_never_blocks(self, tmp_path):
        """The first batch of the first start failed on a bug."""
        record(tmp_path / "run", count=0, settings={"lr": 1})
        for options in ({}, {"exist": "overwrite"}, {"exist": "next"}, {"resume": True}):
            assert record(tmp_path / "run", count=0, settings={"lr": 2}, **options).run_dir == tmp_path / "run"
        record(tmp_path / "run")
        assert wsf.RWCHistory.load(tmp_path / "run").settings == {}

    def test_a_full_disk_leaves_no_part_of_a_folder(self, tmp_path):
        """A limit of the operating system lets the process write files of at most 100 bytes: no meta.json."""
        resource = pytest.importorskip("resource")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            with pytest.raises(wsf.WeightScaleError, match="run cannot be written"):
                wsf.RWCMonitor(nn.Linear(2, 2), run_dir=tmp_path / "run")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list(tmp_path.iterdir()) == []
        wsf.RWCMonitor(nn.Linear(2, 2), run_dir=tmp_path / "run").close()

    def test_what_a_killed_start_left_never_blocks(self, tmp_path):
        (tmp_path / "run" / "rwc").mkdir(parents=True)
        (tmp_path / "run" / ".lock").write_text("1 host\n")
        record(tmp_path / "run")
        assert len(wsf.RWCHistory.load(tmp_path / "run")) == 2

    def test_error_names_the_ways_out(self, tmp_path):
        record(tmp_path / "run")
        with pytest.raises(wsf.WeightScaleError, match=r'exist="next" .*exist="overwrite" .*resume=True'):
            record(tmp_path / "run")

    def test_next(self, tmp_path):
        folders = [record(tmp_path / "run", exist="next").run_dir.name for _ in range(3)]
        assert folders == ["run", "run-2", "run-3"]
        assert all(len(wsf.RWCHistory.load(tmp_path / name)) == 2 for name in folders)

    def test_overwrite_deletes_what_a_run_holds_and_nothing_else(self, tmp_path):
        run, outside = tmp_path / "run", tmp_path / "outside"
        record(run, count=300)
        (run / "notes.txt").write_text("mine")
        outside.mkdir()
        (outside / "report.html").write_text("mine")
        (run / "analysis").symlink_to(outside)
        record(run, count=1, exist="overwrite", settings={"lr": 2})
        history = wsf.RWCHistory.load(run)
        assert (len(history), history.settings) == (1, {"lr": 2})
        assert sorted(name for name in os.listdir(run) if name != ".lock") == ["meta.json", "notes.txt", "rwc"]
        assert (outside / "report.html").read_text() == "mine"

    def test_wrong_arguments(self, tmp_path):
        with pytest.raises(ValueError, match="exist must be one of 'error', 'overwrite', 'next', got 'yes'"):
            record(tmp_path / "run", exist="yes")
        with pytest.raises(
            ValueError, match="resume=True continues the run in run_dir, so it cannot go with exist='next'"
        ):
            record(tmp_path / "run", exist="next", resume=True)

    def test_in_memory_there_is_no_folder(self):
        assert record(None).run_dir is None


def lose_the_rows(run):
    shutil.rmtree(run / "rwc")


def put_a_folder_for_the_meta_file(run):
    (run / "meta.json").unlink()
    (run / "meta.json").mkdir()


@pytest.mark.parametrize("damage", [lose_the_rows, put_a_folder_for_the_meta_file])
@pytest.mark.filterwarnings("ignore:.*(cannot|could not) be written")
def test_a_folder_that_is_damaged_meanwhile_hides_no_row_in_memory(tmp_path, damage):
    monitor = wsf.RWCMonitor(nn.Linear(2, 2), run_dir=tmp_path / "run")
    for _ in range(3):
        monitor.record()
    monitor.flush()
    damage(tmp_path / "run")
    monitor.record()
    for _ in range(2):
        with pytest.warns(UserWarning, match="(was deleted|cannot be read).*only the rows that are still in memory"):
            assert monitor.history().steps.tolist() == [4]
        assert monitor.state_dict()["step"] == 4
        monitor.close()


def test_the_root_has_no_next_folder():
    with pytest.raises(wsf.WeightScaleError, match="run folder / has no name, so there is no next one"):
        wsf.RWCMonitor(nn.Linear(2, 2), run_dir="/", exist="next")
