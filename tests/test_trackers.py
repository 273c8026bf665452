"""Summaries and reports in trackers, checked by reading back what each of them wrote."""

import json
import sqlite3
import struct
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.health.finding import Finding
from weightscale_fast.health.tracked import summarize
from weightscale_fast.integrations.trackers import log_finding, log_report, log_summary, tracker_for

from .histories import make_history, noisy

NUMBERS = ["min", "q25", "median", "q75", "max", "moved_fraction", "layers_still", "layers_not_finite"]
NAMES = [f"rwc/{name}" for name in NUMBERS]
FINDING = Finding("still", "fc.weight", 1, 64, 0.0, cause="no_gradient")
TEXT = f"{FINDING}. {FINDING.advice}"
EXTRA = "needs pip install 'weightscale_fast[integrations]'"


@pytest.fixture(scope="module")
def history():
    return make_history(noisy(20, 6), names=[f"layer{i}.weight" for i in range(6)])


@pytest.fixture(scope="module")
def page(history, tmp_path_factory):
    return wsf.write_report(history, wsf.cluster_layers(history, k=2, n_init=2), tmp_path_factory.mktemp("analysis"))


@pytest.fixture
def parts(history):
    """The history as two logs of ten steps."""
    return [history.select(steps=slice(start, start + 10)) for start in (0, 10)]


class TestSummary:
    def test_is_eight_numbers(self, history):
        numbers = summarize(history)
        levels = np.median(history.rwc, axis=0)
        assert list(numbers) == NAMES
        assert numbers["rwc/median"] == pytest.approx(np.median(levels))
        assert (numbers["rwc/min"], numbers["rwc/max"]) == (levels.min(), levels.max())

    def test_tells_of_still_and_broken_layers(self, history):
        delta, moved = history.delta_l1.copy(), history.moved.copy()
        moved[:, 0] = delta[:, 0] = 0
        delta[5, 1] = np.nan
        delta[5, 2] = np.inf
        numbers = summarize(replace(history, delta_l1=delta, moved=moved))
        assert numbers["rwc/layers_still"] == 1
        assert numbers["rwc/layers_not_finite"] == 2
        assert numbers["rwc/min"] > 0  # of the layers that moved
        assert np.isfinite(numbers["rwc/max"])

    def test_a_layer_that_begins_at_zero_is_finite(self, history):
        """LoRA's B: its first RWC is infinite, its weights never are. Trackers, summary and check say the same."""
        prev = history.prev_l1.copy()
        prev[0, 3] = 0
        zero_start = replace(history, prev_l1=prev)
        assert np.isinf(zero_start.rwc[0, 3])
        numbers, summary = summarize(zero_start), wsf.RunSummary.of(zero_start)
        assert numbers["rwc/layers_not_finite"] == 0
        assert len(summary.levels) == len(history.names)
        assert numbers["rwc/median"] == pytest.approx(summary.median)
        assert np.isfinite(numbers["rwc/max"])
        assert not [finding for finding in wsf.check_health(zero_start) if finding.kind == "not_finite"]

    def test_of_nothing_finite_is_nan(self, history):
        broken = replace(history, delta_l1=np.full_like(history.delta_l1, np.nan))
        assert np.isnan(summarize(broken)["rwc/median"])
        assert summarize(broken)["rwc/layers_not_finite"] == 6

    def test_of_no_rows(self, history):
        with pytest.raises(ValueError, match="the history has no rows"):
            summarize(history.select(steps=slice(0, 0)))


class TestRecent:
    @pytest.fixture
    def monitor(self):
        model = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = wsf.RWCMonitor(model, optimizer)
        monitor.steps = lambda count: [self.step(model, optimizer) for _ in range(count)]
        return monitor

    def step(self, model, optimizer):
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()

    @pytest.mark.parametrize("count", [7, 600])
    def test_equals_the_history(self, monitor, count):
        monitor.steps(count)
        rows, history = monitor.recent(after=count - 5), monitor.history()
        assert rows.steps.tolist() == list(range(count - 4, count + 1))
        assert np.array_equal(rows.rwc, history.rwc[-5:])

    def test_has_no_rows_from_before_a_resume(self):
        """Neither what the memory of a new ring holds, nor what an old one has dropped."""
        model = torch.nn.Linear(3, 2)
        monitor, other = wsf.RWCMonitor(model), wsf.RWCMonitor(model)
        for _ in range(3):
            monitor.record()
        state = monitor.state_dict()
        for resumed in (other, monitor):
            resumed.load_state_dict(state)
            assert len(resumed.recent(after=0)) == 0
            resumed.record()
            assert resumed.recent(after=0).steps.tolist() == [4]

    def test_goes_back_512_rows(self, monitor):
        monitor.steps(600)
        assert monitor.recent(after=0).steps.tolist() == list(range(89, 601))

    def test_of_nothing_new_is_empty(self, monitor):
        assert len(monitor.recent(after=0)) == 0
        monitor.steps(3)
        assert len(monitor.recent(after=3)) == 0

    def test_after_a_step_between_two_rows(self):
        monitor = wsf.RWCMonitor(nn.Linear(3, 2), every=3)
        for _ in range(9):
            monitor.record()
        for after, steps in ((0, [3, 6, 9]), (2, [3, 6, 9]), (3, [6, 9]), (4, [6, 9]), (8, [9]), (9, [])):
            assert monitor.recent(after=after).steps.tolist() == steps

    def test_writes_no_shard(self, tmp_path):
        model = nn.Linear(3, 2)
        monitor = wsf.RWCMonitor(model, every=2, definition="mean_ratio", run_dir=tmp_path / "run")
        for _ in range(4):
            monitor.record()
        assert monitor.recent(after=2).steps.tolist() == [4]
        assert list((tmp_path / "run" / "rwc").iterdir()) == []


def log_all(parts, page, target):
    for part in parts:
        log_summary(part, target)
    log_report(page, target, step=20)
    log_finding(FINDING, target)


def test_tensorboard(parts, page, tmp_path):
    pytest.importorskip("tensorboard", reason=EXTRA)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        log_all(parts, page, writer)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == NAMES
    for name in NAMES:
        logged = [(event.step, event.value) for event in events.Scalars(name)]
        assert logged == [(int(part.steps[-1]), pytest.approx(summarize(part)[name])) for part in parts]
    assert events.Tags()["images"] == ["rwc/clustered_curves", "rwc/heat_map"]
    (image,) = events.Images("rwc/heat_map")
    assert image.step == 20
    assert image.width > 500
    assert (tmp_path / "report.html").read_bytes() == page.read_bytes()
    (text,) = events.Tensors("rwc/still/text_summary")
    assert (text.step, text.tensor_proto.string_val[0].decode()) == (64, TEXT)


def wandb_records(path):
    """The records of an offline run: 32 KiB blocks of [crc, length, type] and data, a record in one or more pieces."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            yield Record.FromString(whole)
            whole = b""
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768


@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb", "ignore::ResourceWarning")  # of its service's socket
def test_wandb_offline(parts, page, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason=EXTRA)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(wsf.WeightScaleError, match=r"no run is active to log to: call wandb.init\(\) first"):
        tracker_for(wandb)
    with wandb.init(project="test", dir=tmp_path, settings=wandb.Settings(silent=True)) as run:
        run.log({"loss": 1.0}, step=500)  # W&B's own step is far ahead, as with a second optimizer
        log_all(parts, page, wandb)
    wandb.teardown()  # waits for its service, which may write the file only after finish has returned
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows = [
        {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        for record in wandb_records(file)
        if record.WhichOneof("record_type") == "history"
    ]
    logged = [row for row in rows if "rwc/median" in row]
    assert [int(row["rwc/step"]) for row in logged] == [10, 20]
    for name in NAMES:
        assert [float(row[name]) for row in logged] == pytest.approx([summarize(part)[name] for part in parts])
    media = file.parent / "files" / "media"
    assert len(list(media.glob("images/rwc/*.png"))) == 2
    (html,) = media.glob("html/rwc/*.html")
    assert html.read_bytes() == page.read_bytes()
    (alert,) = [record.alert for record in wandb_records(file) if record.WhichOneof("record_type") == "alert"]
    assert (alert.title, alert.text) == ("rwc/still", f"{TEXT} (step 64)")


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
@pytest.mark.parametrize("start", ["module", "client"])
def test_mlflow_local(parts, page, tmp_path, monkeypatch, start):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.chdir(tmp_path)  # its artifacts lie there
    mlflow = pytest.importorskip("mlflow", reason=EXTRA)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    client = mlflow.MlflowClient()
    if start == "module":
        with pytest.raises(wsf.WeightScaleError, match=r"call mlflow.start_run\(\) first"):
            tracker_for(mlflow)
        with mlflow.start_run() as run:
            log_all(parts, page, mlflow)
    else:
        run = client.create_run("0")
        log_all(parts, page, (client, run.info.run_id))
    run_id = run.info.run_id
    for name in NAMES:
        logged = [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]
        assert logged == [(int(part.steps[-1]), pytest.approx(summarize(part)[name])) for part in parts]
    artifacts = [file.path for file in client.list_artifacts(run_id, "rwc")]
    assert artifacts == ["rwc/clustered_curves.png", "rwc/heat_map.png", "rwc/report.html"]
    copy = client.download_artifacts(run_id, "rwc/report.html", tmp_path)
    assert Path(copy).read_bytes() == page.read_bytes()
    assert client.get_run(run_id).data.tags["rwc.still"] == f"{TEXT} (step 64)"


def test_trackio(parts, page, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read when it is imported
    trackio = pytest.importorskip("trackio", reason=EXTRA)
    trackio.init(project="test", name="run")
    log_all(parts, page, trackio)
    trackio.finish()
    with closing(sqlite3.connect(tmp_path / "test.db")) as database:
        rows = [(step, json.loads(text)) for step, text in database.execute("select step, metrics from metrics")]
    for name in NAMES:
        logged = [(step, values[name]) for step, values in rows if name in values]
        assert logged == [(int(part.steps[-1]), pytest.approx(summarize(part)[name])) for part in parts]
    for name in ("rwc/clustered_curves", "rwc/heat_map"):
        ((step, image),) = [(step, values[name]) for step, values in rows if name in values]
        assert step == 20
        png = (tmp_path / "media" / image["file_path"]).read_bytes()
        assert png.startswith(b"\x89PNG")
    with closing(sqlite3.connect(tmp_path / "test.db")) as database:
        assert database.execute("select title, text from alerts").fetchall() == [("rwc/still", f"{TEXT} (step 64)")]
    kept = [path.read_bytes() for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
    assert page.read_bytes() in kept


def test_a_lightning_logger(parts, page, tmp_path):
    loggers = pytest.importorskip("lightning.pytorch.loggers", reason=EXTRA)
    logger = loggers.TensorBoardLogger(tmp_path)
    log_all(parts, page, logger)
    logger.finalize("success")
    assert (tmp_path / "lightning_logs" / "version_0" / "report.html").exists()


def test_a_tracker_of_ones_own(parts, page):
    class Mine:
        calls = ()

        def scalars(self, values, step):
            self.calls += ((len(values), step),)

        def image(self, name, png, step):
            self.calls += ((name, step),)

        def page(self, html):
            self.calls += ((html.name,),)

    class WithAlerts(Mine):
        def alert(self, title, text, step):
            self.calls += ((title, text, step),)

    with pytest.raises(TypeError, match=r"must have a method alert\(title, text, step\) .* got Mine"):
        log_finding(FINDING, Mine())
    mine = WithAlerts()
    log_all(parts, page, mine)
    figures = (("rwc/clustered_curves", 20), ("rwc/heat_map", 20))
    assert mine.calls == ((8, 10), (8, 20), *figures, ("report.html",), ("rwc/still", TEXT, 64))
    log_summary(parts[0].select(steps=slice(0, 0)), mine)
    assert len(mine.calls) == 6


def test_two_monitors_log_under_their_own_names(parts):
    class Own:
        def __init__(self):
            self.names = []

        def scalars(self, values, step):
            self.names += values

        def image(self, name, png, step): ...

        def page(self, html): ...

    tracker = Own()
    log_summary(parts[0], tracker, prefix="generator")
    log_summary(parts[0], tracker)
    assert len(set(tracker.names)) == 16
    assert {name.partition("/")[0] for name in tracker.names} == {"generator", "rwc"}


class Own:
    """A tracker that a user wrote."""

    def __init__(self):
        self.logged = []

    def scalars(self, values, step):
        self.logged.append((step, values))

    def image(self, name, png, step):
        pass

    def page(self, html):
        pass


@pytest.mark.parametrize("other", ["of the same layers", "of other layers"])
def test_two_monitors_under_the_same_names_are_told(parts, other):
    second = parts[0]
    if other == "of the same layers":
        second = replace(second, delta_l1=second.delta_l1 * 2)
    else:
        second = replace(second.select("layer[01]"), steps=second.steps * 5)
    tracker = Own()
    log_summary(parts[0], tracker)
    with pytest.warns(UserWarning, match="two different records are logged to this tracker as 'rwc'.*prefix") as told:
        log_summary(second, tracker)
    assert told[0].filename == __file__
    log_summary(parts[0], tracker)  # it is told once
    log_summary(second, tracker)
    assert len(tracker.logged) == 4


def test_one_monitor_is_not_told(parts):
    """Also if it logs a step twice, goes back to a checkpoint, or begins again with another tracker."""
    broken = replace(parts[1], delta_l1=np.full_like(parts[1].delta_l1, np.nan))
    tracker = Own()
    for part in (parts[0], parts[0], parts[1], parts[0], broken, broken):
        log_summary(part, tracker)
    log_summary(parts[0].select("layer0"), tracker, prefix="first layer")
    log_summary(parts[0].select("layer0"), Own())


def test_what_is_no_tracker():
    with pytest.raises(TypeError, match=r"tracker must be a TensorBoard SummaryWriter.*; got str"):
        tracker_for("tensorboard")


def test_a_report_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"report.html is not there: give the report.html that write_report"):
        log_report(tmp_path / "report.html", "anything")
