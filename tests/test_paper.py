"""The papers' experiments: their settings against a table typed in from the papers, their runs, claims and page."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch

import weightscale_fast as wsf
from weightscale_fast import WeightScaleError
from weightscale_fast.analysis.groups import group_layers
from weightscale_fast.cli import main
from weightscale_fast.paper.block_curves import BlockRuns, block_curves
from weightscale_fast.paper.blocks import blocks_of
from weightscale_fast.paper.claims import CLAIMS, by_network_and_data
from weightscale_fast.paper.experiment import run_preset
from weightscale_fast.paper.page import write_page
from weightscale_fast.paper.presets import AS_CODED, PRESETS, as_coded, find_preset
from weightscale_fast.paper.results import load_runs, table
from weightscale_fast.paper.seeds import SeedRuns, mean_history
from weightscale_fast.paper.summary import summarize
from weightscale_fast.record.history import RWCHistory
from weightscale_fast.train import datasets, loop
from weightscale_fast.train.metrics import read_metrics, write_metrics
from weightscale_fast.train.models import create_model
from weightscale_fast.weights.kinds import layer_kind

from .histories import make_history, noisy

# Typed in from the papers: optimizer, learning rate, momentum, weight decay, epochs, batch, pixels, seeds. The
# augmentation is that of the authors' code.
FROM_THE_PAPERS = """
resnet50-cifar10          adam  0.001  -    0     25  128   32  1
resnet50-cifar100         adam  0.001  -    0     25  128   32  1
resnet50-svhn             adam  0.001  -    0     25  128   32  1
efficientnet_b4-cifar10   adam  0.001  -    0     25  128  224  1
efficientnet_b4-cifar100  adam  0.001  -    0     25  128  224  1
efficientnet_b4-svhn      adam  0.001  -    0     25  128  224  1
resnet18-cifar10          sgd   0.1    0.9  1e-4 150  128   32  5
resnet18-cifar100         sgd   0.1    0.9  1e-4 150  128   32  5
resnet18-mnist            sgd   0.1    0.9  1e-4 150  128   32  5
resnet18-fashion-mnist    sgd   0.1    0.9  1e-4 150  128   32  5
vgg19_bn-cifar10          sgd   0.05   0.9  5e-4 150  128   32  5
vgg19_bn-cifar100         sgd   0.05   0.9  5e-4 150  128   32  5
vgg19_bn-mnist            sgd   0.05   0.9  5e-4 150  128   32  5
vgg19_bn-fashion-mnist    sgd   0.05   0.9  5e-4 150  128   32  5
alexnet-cifar10           sgd   0.001  0.9  1e-4 150  128   32  5
alexnet-cifar100          sgd   0.01   0.9  1e-4 150  128   32  5
alexnet-mnist             sgd   0.1    0.9  1e-4 150  128   32  5
alexnet-fashion-mnist     sgd   0.1    0.9  1e-4 150  128   32  5
"""
ROWS = [line.split() for line in FROM_THE_PAPERS.split("\n") if line]


def test_there_are_18_presets():
    assert [row[0] for row in ROWS] == list(PRESETS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_settings_are_the_papers(row):
    name, optimizer, lr, momentum, decay, epochs, batch, pixels, seeds = row
    preset = find_preset(name)
    config = preset.config
    assert (config.optimizer, config.lr, config.weight_decay) == (optimizer, float(lr), float(decay))
    assert momentum == "-" or config.momentum == float(momentum)
    assert (config.epochs, config.batch_size, config.image_size) == (int(epochs), int(batch), int(pixels))
    assert len(preset.seeds) == int(seeds)
    assert f"{preset.network}-{config.data}" == name
    assert config.augment == ("crop_flip" if preset.paper == "layerwise" and "cifar" in name else "flip")
    assert (config.definition, config.shuffle, config.stop_at, config.limit) == ("norm_ratio", True, None, None)
    assert ("32" in preset.note) == (preset.network == "efficientnet_b4")  # the paper's two batch sizes


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_without_its_data_says_what_to_do(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "not installed")
    assert main(["paper", name, "--data-root", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert "--download" in error
    assert "MD5" in error
    assert " bytes" in error
    assert not (tmp_path / "runs").exists()


def test_what_the_authors_coded():
    config = find_preset("resnet50-cifar10").config
    coded = as_coded(config, list(AS_CODED))
    assert (coded.model, coded.shuffle, coded.stop_at, coded.definition) == (
        "resnet34-small",
        False,
        0.94,
        "mean_ratio",
    )
    assert as_coded(config, []) == config
    with pytest.raises(ValueError, match="as_coded must be one of 'resnet34'"):
        as_coded(config, ["adam"])
    with pytest.raises(ValueError, match="'resnet34' is for the presets of ResNet-50, got 'alexnet-small'"):
        as_coded(find_preset("alexnet-mnist").config, ["resnet34"])


def test_list(capsys):
    assert main(["paper", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in PRESETS)
    assert "its text says 32" in out
    assert "32 x 32, cropped and flipped, 5 seeds" in out
    assert "by ImageNet's" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet18-imagenet"], "preset must be one of 'resnet50-cifar10', .*, got 'resnet18-imagenet'"),
        ([], "paper needs the NAME of an experiment, --list to see them"),
        (["alexnet-mnist", "--epochs", "1"], "epochs must be 2 or more, for curves from epoch to epoch; got 1"),
        (["alexnet-mnist", "--seeds", "6"], "seeds must be 1 to 5, the seeds of the paper; got 6"),
        (["--report", "nowhere"], "nowhere holds no runs of presets to show: make some with weightscale paper NAME"),
    ],
)
def test_wrong_arguments(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["paper", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """AlexNet on digits with the settings of two presets: two data sets, two seeds, three epochs."""
    root = tmp_path_factory.mktemp("paper")
    for name, data in (("alexnet-mnist", "mnist-5k"), ("alexnet-fashion-mnist", "digits")):
        arguments = ["--data", data, "--limit", "384", "--epochs", "3", "--seeds", "2", "--batch-size", "64"]
        assert main(["paper", name, "--runs", str(root), *arguments]) == 0
    return root


def copy_run(source, run, epochs):
    """Copy a run as it was after this many epochs."""
    RWCHistory.load(source).save(run)
    RWCHistory.load(source / "epochs").select(steps=slice(0, epochs)).save(run / "epochs")
    write_metrics(run, read_metrics(source)[:epochs])


def test_seeds_are_runs_of_their_own(root):
    runs = SeedRuns.load(root / "alexnet-mnist-5k")
    assert [history.settings["seed"] for history in runs.histories] == [0, 42]
    assert runs.rwc.shape == (2, 3, 8)
    assert not np.array_equal(runs.rwc[0], runs.rwc[1])
    assert np.allclose(runs.mean().rwc, runs.rwc.mean(axis=0), rtol=1e-12)
    assert runs.settings["preset"] == "alexnet-mnist"
    assert runs.settings["changed"]["limit"] == 384
    assert runs.settings["images"] == [384, 43]
    assert len(wsf.RWCHistory.load(root / "alexnet-mnist-5k" / "seed-42")) == 18  # the record of every step


def test_the_averaged_analysis(root):
    analysis = root / "alexnet-mnist-5k" / "analysis"
    page = (analysis / "report.html").read_text()
    assert "Epochs recorded" in page
    assert (analysis / "blocks.png").exists()
    header, *rows = (analysis / "spread.csv").read_text().splitlines()
    assert header == "name,kind,cluster,mean_rwc,standard_deviation_over_2_seeds"
    assert len(rows) == 8
    levels = SeedRuns.load(root / "alexnet-mnist-5k").rwc.mean(axis=1)
    assert float(rows[0].split(",")[3]) == pytest.approx(levels[:, 0].mean())
    assert float(rows[0].split(",")[4]) == pytest.approx(levels[:, 0].std())


def test_resuming_what_is_finished_prints_its_row_again(root, capsys):
    before = SeedRuns.load(root / "alexnet-mnist-5k").rwc
    arguments = ["--data", "mnist-5k", "--limit", "384", "--epochs", "3", "--seeds", "2", "--batch-size", "64"]
    assert main(["paper", "alexnet-mnist", "--runs", str(root), *arguments, "--resume"]) == 0
    out = capsys.readouterr().out
    pattern = (
        r"alexnet on mnist-5k, 384 of 4,500 images, 3 epochs, 2 seeds: train top-1 [\d.]+% ± [\d.]+, train top-5 .*, "
        r"test top-1 .*, test top-5 .* \(the paper: 98.5%\)"
    )
    assert re.search(pattern, out), out
    assert np.array_equal(SeedRuns.load(root / "alexnet-mnist-5k").rwc, before)


def test_the_page_of_all_runs(root, capsys):
    assert main(["paper", "--report", str(root)]) == 0
    assert str(root / "paper.html") in capsys.readouterr().out
    text = (root / "paper.html").read_text()
    assert "1 experiment of 18." in text  # the run on digits is none of the 18
    assert "<small>paper: 5</small>" in text
    assert re.search(r"<small>[\d.]+; in \d of 2 seeds; on mnist-5k</small>", text)
    assert "98.5%" in text  # the paper's accuracy beside ours
    assert "384 of 4,500" in text
    assert "limit 384" in text
    assert "not run" in text
    rows = (root / "claims.csv").read_text().splitlines()
    assert len(rows) == 1 + sum(len(claim.networks) * len(claim.data) for claim in CLAIMS)
    (row,) = [row for row in rows if "Later layers" in row and "alexnet" in row and "mnist-5k" in row]
    assert row.endswith((",holds,", ",does not hold,"))
    assert write_page(root).read_text() == text


def test_a_folder_of_runs_is_not_overwritten(root, capsys):
    assert main(["paper", "alexnet-mnist", "--data", "mnist-5k", "--runs", str(root)]) == 2
    assert "exists: go on with it by --resume" in capsys.readouterr().err


def test_an_interrupted_preset_goes_on(tmp_path, monkeypatch):
    """It is interrupted in epoch 2 of the first seed, and resumed with the same data and no other flag. Both seeds, of
    which the second had not begun, give the same as an uninterrupted call, and use the same number of workers."""
    arguments = ["paper", "alexnet-mnist", "--data", "digits", "--seeds", "2"]
    settings = ["--limit", "256", "--epochs", "2", "--batch-size", "64", "--workers", "1"]
    assert main([*arguments, *settings, "--runs", str(tmp_path / "whole")]) == 0

    class Stops(wsf.RWCMonitor):
        def _after_step(self, found_inf=None):
            super()._after_step(found_inf)
            if self.step == 6:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "RWCMonitor", Stops)
        assert main([*arguments, *settings, "--runs", str(tmp_path / "broken")]) == 130
    assert read_metrics(tmp_path / "broken" / "alexnet-digits" / "seed-0")[-1]["epoch"] == 1
    assert main([*arguments, "--resume", "--runs", str(tmp_path / "broken")]) == 0
    for seed in ("seed-0", "seed-42"):
        whole, broken = (RWCHistory.load(tmp_path / place / "alexnet-digits" / seed) for place in ("whole", "broken"))
        assert np.array_equal(whole.rwc, broken.rwc)
        states = [
            torch.load(tmp_path / place / "alexnet-digits" / seed / "checkpoints" / "last.pt", weights_only=True)
            for place in ("whole", "broken")
        ]
        assert all(torch.equal(w, states[1]["model"][name]) for name, w in states[0]["model"].items())


def test_resuming_with_other_settings(root, capsys):
    arguments = ["paper", "alexnet-mnist", "--data", "mnist-5k", "--runs", str(root), "--resume"]
    assert main([*arguments, "--epochs", "5"]) == 2
    assert "was started with epochs=3, and can only go on so; got 5: drop it" in capsys.readouterr().err
    assert main([*arguments, "--workers", "2"]) == 2
    assert "was started with workers=0, and can only go on so; got 2: drop it" in capsys.readouterr().err


def test_a_diverged_seed_is_named_and_left_out(root, tmp_path):
    for seed in (0, 42):
        source, run = root / "alexnet-mnist-5k" / f"seed-{seed}", tmp_path / "alexnet-mnist-5k" / f"seed-{seed}"
        RWCHistory.load(source).save(run)
        RWCHistory.load(source / "epochs").save(run / "epochs")
        lines = (source / "metrics.jsonl").read_text().splitlines()
        if seed == 42:
            lines = [lines[0], json.dumps(json.loads(lines[1]) | {"loss": None})]
        (run / "metrics.jsonl").write_text("\n".join(lines))
    runs = SeedRuns.load(tmp_path / "alexnet-mnist-5k")
    assert runs.left_out == {42: "diverged in epoch 2"}
    assert runs.rwc.shape == (1, 3, 8)
    assert "seed 42 diverged in epoch 2, and is left out" in write_page(tmp_path).read_text()


def test_unfinished_seeds_wait_for_the_others(root, tmp_path):
    for seed, epochs in ((0, 3), (42, 2)):
        copy_run(root / "alexnet-mnist-5k" / f"seed-{seed}", tmp_path / "alexnet-mnist-5k" / f"seed-{seed}", epochs)
    runs = SeedRuns.load(tmp_path / "alexnet-mnist-5k")
    assert runs.left_out == {42: "has 2 of 3 epochs"}
    assert runs.rwc.shape == (1, 3, 8)
    shutil.rmtree(tmp_path / "alexnet-mnist-5k" / "seed-0")
    alone = SeedRuns.load(tmp_path / "alexnet-mnist-5k")
    assert alone.left_out == {}
    assert alone.unfinished == {42: "has 2 of 3 epochs"}
    assert alone.rwc.shape == (1, 2, 8)
    assert "alexnet on mnist-5k: seed 42 has 2 of 3 epochs." in write_page(tmp_path).read_text()


@pytest.mark.parametrize("text", ["hello", '{"epoch": 1, "loss"', "[1]", '{"acc": 1}', '{"epoch": 1, "loss": 0.5}'])
def test_a_foreign_folder_is_named_and_left_out(root, tmp_path, text):
    copy_run(root / "alexnet-mnist-5k" / "seed-0", tmp_path / "alexnet-mnist-5k" / "seed-0", 3)
    foreign = tmp_path / "other" / "seed-1"
    foreign.mkdir(parents=True)
    (foreign / "metrics.jsonl").write_text(text)
    assert f"line 1 of {foreign / 'metrics.jsonl'} is not what weightscale train writes" in write_page(
        tmp_path
    ).read_text().replace("&#x27;", "'")


def test_a_model_name_that_climbs_leads_nowhere(tmp_path):
    """The figures' names come from the settings of a run, which may be a stranger's."""
    config = find_preset("resnet18-mnist").config
    about = {"images": [10, 2], "images_of": [10, 2], "steps_per_epoch": 2, "classes": 10, "seed": 0, "epochs": 3}
    settings = dataclasses.asdict(config) | {"preset": "resnet18-mnist", "changed": {}, "as_coded": []} | about
    settings |= {"model": "resnet18/../../out/x", "data": "mnist-5k", "stop_at": None}
    names = [f"{block}.weight" for block in ("conv1", "layer1.0", "layer2.0", "layer3.0", "layer4.0", "fc")]
    run = tmp_path / "in" / "x" / "seed-0"
    make_history(noisy(6, 6), names, settings=settings).save(run)
    make_history(noisy(3, 6), names, settings=settings).save(run / "epochs")
    measured = ("loss", "train_top1", "train_top5", "test_top1", "test_top5", "images_per_second", "seconds")
    epochs = [
        dict.fromkeys(measured, 0.5) | {"epoch": epoch, "step": 2 * epoch, "recording_share": 0.01}
        for epoch in (1, 2, 3)
    ]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, epochs)))
    (tmp_path / "in" / "resnet18").mkdir()
    (tmp_path / "out").mkdir()
    write_page(tmp_path / "in")
    assert not list((tmp_path / "out").iterdir())
    assert (tmp_path / "in" / "resnet18_.._.._out_x-blocks.png").exists()


def test_a_run_with_no_row_a_step(root, tmp_path):
    run = tmp_path / "alexnet-mnist-5k" / "seed-0"
    copy_run(root / "alexnet-mnist-5k" / "seed-0", run, 3)
    for shard in (run / "rwc").iterdir():
        shard.unlink()
    assert "from epoch to epoch" in write_page(tmp_path).read_text()


def test_a_seed_that_ends_after_one_epoch_is_left_out(root, tmp_path):
    for seed, epochs in ((0, 3), (42, 1)):
        copy_run(root / "alexnet-mnist-5k" / f"seed-{seed}", tmp_path / "alexnet-mnist-5k" / f"seed-{seed}", epochs)
    (tmp_path / "alexnet-mnist-5k" / "seed-0-old").mkdir()  # somebody's copy
    (reason,) = SeedRuns.load(tmp_path / "alexnet-mnist-5k").left_out.values()
    assert re.fullmatch(r"has one epoch only, with [\d.]+% of the test images right", reason)


def test_accuracy_is_that_of_the_last_epoch_of_each_run(root, tmp_path):
    """Also if one run ended early. The curves are cut to the shortest run, but the accuracies are not."""
    folder = tmp_path / "alexnet-mnist-5k"
    for seed, epochs in ((0, 3), (42, 2)):
        run = folder / f"seed-{seed}"
        copy_run(root / "alexnet-mnist-5k" / run.name, run, epochs)
        lines = [line | {"test_top1": 0.1} for line in read_metrics(run)]
        lines[-1]["test_top1"] = 0.9
        write_metrics(run, lines)
        meta = json.loads((run / "meta.json").read_text())
        meta["settings"]["stop_at"] = 0.8
        (run / "meta.json").write_text(json.dumps(meta))
    runs = SeedRuns.load(folder)
    assert runs.rwc.shape == (2, 2, 8)
    assert runs.accuracy("test_top1").tolist() == [0.9, 0.9]


def test_a_metrics_line_ahead_of_its_row_waits(root, tmp_path):
    """The report is made between the two writes that end an epoch."""
    run = tmp_path / "alexnet-mnist-5k" / "seed-0"
    copy_run(root / "alexnet-mnist-5k" / "seed-0", run, 3)
    shutil.rmtree(run / "epochs")
    RWCHistory.load(root / "alexnet-mnist-5k" / "seed-0" / "epochs").select(steps=slice(0, 2)).save(run / "epochs")
    assert SeedRuns.load(run.parent).rwc.shape == (1, 2, 8)


def test_the_papers_accuracy_is_shown_for_its_own_data_only(root):
    rows = {row.data: row for row in table(load_runs(root)[0])}
    assert rows["mnist-5k"].published == 0.985  # mnist-5k is a part of the paper's MNIST
    assert rows["digits"].published is None


def test_one_report_shows_a_network_on_a_data_set_once(root, tmp_path):
    for place in ("short", "long"):
        copy_run(root / "alexnet-mnist-5k" / "seed-0", tmp_path / place / "alexnet-mnist-5k" / "seed-0", 3)
    with pytest.raises(WeightScaleError, match="holds several runs of alexnet on mnist-5k"):
        load_runs(tmp_path)


def test_runs_that_all_diverged_are_named(tmp_path, root):
    run = tmp_path / "alexnet-mnist" / "seed-0"
    RWCHistory.load(root / "alexnet-mnist-5k" / "seed-0").save(run)
    (run / "metrics.jsonl").write_text(json.dumps({"epoch": 1, "loss": None}))
    with pytest.raises(WeightScaleError, match="has a curve from epoch to epoch: seed 0 diverged in epoch 1"):
        summarize(tmp_path / "alexnet-mnist")
    with pytest.raises(WeightScaleError, match="holds no runs of presets to show: .*seed 0 diverged in epoch 1"):
        load_runs(tmp_path)


def runs_of(network, data, levels, steps=10):
    """Runs with this many steps in an epoch, whose layers have constant levels [R, L]."""
    model = create_model(network if network == "efficientnet_b4" else f"{network}-small", channels=3, classes=10)
    names = tuple(name for name, parameter in model.named_parameters() if parameter.dim() > 1)
    kinds = tuple(layer_kind(model, name) for name in names)
    levels = levels(names, kinds)
    histories = tuple(
        RWCHistory(
            names,
            np.full(len(names), 10),
            kinds,
            np.arange(1, 4),
            np.tile(level, (3, 1)),
            np.ones((3, len(names))),
            np.ones((3, len(names)), dtype=np.int64),
            settings={"model": f"{network}-small", "data": data, "seed": seed, "steps_per_epoch": steps},
        )
        for seed, level in enumerate(levels)
    )
    return SeedRuns(None, histories, (), {})


def rising(names, kinds, to=2.0, seeds=2):
    return np.tile(np.geomspace(1.0, to, len(names)), (seeds, 1))


def verdict(text, runs, network, data):
    (claim,) = [claim for claim in CLAIMS if text in claim.text]
    (found,) = [v for v in claim.verdicts(by_network_and_data(runs)) if (v.network, v.data) == (network, data)]
    return found


def test_claims_hold_and_do_not_hold():
    grows = runs_of("resnet18", "cifar100", rising)
    falls = runs_of("resnet18", "cifar10", lambda *known: rising(*known, to=0.5))
    assert verdict("Later layers", [grows], "resnet18", "cifar100").answer == "holds"
    assert verdict("Later layers", [falls], "resnet18", "cifar10").answer == "does not hold"
    assert verdict("Later layers", [falls], "vgg19_bn", "cifar10").answer == "not run"
    assert verdict("easier tasks", [falls], "resnet18", "cifar10").answer == "holds"
    assert verdict("each block", [grows], "resnet18", "cifar100").answer == "holds"
    assert verdict("easier tasks", [falls], "resnet18", "cifar10").agreeing == 2


def test_a_claim_compares_two_data_sets_only_when_both_were_run():
    easy = runs_of("resnet50", "cifar10", lambda *known: rising(*known, to=1.5))
    hard = runs_of("resnet50", "cifar100", lambda *known: rising(*known, to=3.0))
    assert verdict("harder task", [hard], "resnet50", "cifar100").answer == "not run"
    found = verdict("harder task", [hard, easy], "resnet50", "cifar100")
    assert found.answer == "holds"
    assert found.number > 1
    low = runs_of("alexnet", "mnist-5k", lambda names, kinds: np.full((1, len(names)), 0.1))
    high = runs_of("alexnet", "fashion-mnist", lambda names, kinds: np.full((2, len(names)), 0.4))
    assert verdict("less on MNIST", [low, high], "alexnet", "mnist").number == pytest.approx(0.25)


def test_data_sets_are_compared_over_as_many_steps():
    low = runs_of("alexnet", "mnist-5k", lambda names, kinds: np.full((1, len(names)), 0.1), steps=35)
    high = runs_of("alexnet", "fashion-mnist", lambda names, kinds: np.full((1, len(names)), 0.4), steps=93)
    found = verdict("less on MNIST", [low, high], "alexnet", "mnist")
    assert found.answer == "not comparable"
    assert found.obstacle == "35 steps in each of 3 epochs, and on fashion-mnist 93 steps in each of 3 epochs"


def test_the_number_of_a_claim_is_of_the_mean_curves():
    """It is not the mean of the seeds' ratios, which is biased upwards: here that would be 1.5."""

    def seeds(names, kinds):
        blocks = blocks_of("alexnet", names, kinds)
        levels = np.ones((2, len(names)))
        levels[0, blocks["early, conv 1"]] = 2.0
        levels[1, blocks["early, conv 1"]] = 0.4
        return levels

    found = verdict("Later layers", [runs_of("alexnet", "mnist", seeds)], "alexnet", "mnist")
    assert found.number == pytest.approx(1 / 1.2)
    assert found.seeds.tolist() == pytest.approx([0.5, 2.5])
    assert found.answer == "does not hold"
    assert found.agreeing == 1


def test_layers_that_stand_still_have_no_ratio():
    still = runs_of("resnet18", "mnist", lambda names, kinds: np.zeros((1, len(names))))
    found = verdict("Later layers", [still], "resnet18", "mnist")
    assert (found.answer, found.obstacle) == ("not comparable", "some of these layers did not move")


def test_claims_on_primitives():
    def slow_depthwise(names, kinds):
        return np.array([[0.1 if kind == "depthwise" else 1.0 for kind in kinds]])

    runs = [runs_of("efficientnet_b4", "cifar10", slow_depthwise), runs_of("efficientnet_b4", "cifar100", rising)]
    assert verdict("depthwise", runs, "efficientnet_b4", "cifar10").number == pytest.approx(0.1)
    assert verdict("later pointwise", runs, "efficientnet_b4", "cifar100").answer == "holds"


def test_infinite_values_do_not_decide():
    def with_one_infinite(names, kinds):
        levels = rising(names, kinds)
        levels[0, 3] = np.inf
        return levels

    run = runs_of("resnet18", "cifar100", with_one_infinite)
    assert np.isfinite(verdict("Later layers", [run], "resnet18", "cifar100").number)


@pytest.mark.parametrize(
    ("network", "sizes"),
    [
        ("resnet18", [4, 5, 5, 5]),
        ("resnet34", [6, 9, 13, 7]),
        ("resnet50", [10, 13, 19, 10]),
        ("vgg19_bn", [4, 6, 6]),
        ("alexnet", [1, 2, 2]),
    ],
)
def test_blocks(network, sizes):
    names, kinds = runs_of(network, "mnist", lambda names, kinds: (names, kinds)).histories[0].names, None
    model = create_model(f"{network}-small", channels=1, classes=10)
    kinds = [layer_kind(model, name) for name in names]
    blocks = blocks_of(network, names, kinds)
    assert [len(rows) for rows in blocks.values()] == sizes
    assert np.all(np.diff(np.concatenate(list(blocks.values()))) > 0)
    with pytest.raises(ValueError, match="network must be a ResNet, an EfficientNet"):
        blocks_of("vit", names, kinds)


def test_the_figure_of_blocks_draws_means_and_spans():
    rwc = np.array([[[1.0, 3.0, 8.0], [2.0, 4.0, 0.0]], [[3.0, 5.0, 8.0], [4.0, 6.0, np.inf]]])  # [R, E, L]
    runs = BlockRuns(rwc, {"block 1": np.array([0, 1]), "block 2": np.array([2])})
    figure = block_curves({"CIFAR-10": runs, "cost in $": runs}, ylabel="RWC per epoch")
    first, second = figure.axes
    assert first.lines[0].get_ydata().tolist() == [3.0, 4.0]  # the mean of 2, 4 and of 3, 5
    assert np.isnan(first.lines[1].get_ydata()[1])  # a log axis cannot show zero or infinity
    assert first.get_yscale() == "log"
    assert first.get_ylim() == second.get_ylim()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["block 1", "block 2"]
    assert first.get_xlabel() == "epoch"
    figure.draw_without_rendering()
    with pytest.raises(ValueError, match="panels must be 1 to 9 for one page, got 0"):
        block_curves({}, ylabel="")


def test_mean_history_refuses_what_has_no_mean():
    one = runs_of("alexnet", "mnist", rising).histories[0]
    with pytest.raises(ValueError, match="must be one or more"):
        mean_history([])
    with pytest.raises(ValueError, match="the same layers, steps and definition"):
        mean_history([one, one.select(steps=slice(0, 2))])


@pytest.mark.parametrize(
    ("name", "layers", "batch"), [("resnet50-cifar10", 54, 16), ("efficientnet_b4-cifar10", 161, 4)]
)
def test_ten_real_steps(name, layers, batch, tmp_path):
    """The large networks run at the image size of their presets, on generated images."""
    changes = {"data": "generated", "limit": 5 * batch, "batch_size": batch, "epochs": 2}
    folder = run_preset(find_preset(name), tmp_path, changes=changes)
    history = wsf.RWCHistory.load(folder / "seed-0")
    assert history.rwc.shape == (10, layers)
    assert np.isfinite(history.rwc).all()
    assert (history.rwc[1:].max(axis=0) > 0).all()
    assert history.settings["image_size"] == find_preset(name).config.image_size
    if name.startswith("efficientnet"):
        kinds = group_layers(history.names, history.kinds, "kind")
        sizes = {kind: len(rows) for kind, rows in kinds.items()}
        assert sizes == {
            "conv": 2,
            "depthwise": 32,
            "squeeze_excite": 64,
            "pointwise_linear": 30,
            "pointwise": 32,
            "linear": 1,
        }
        page = summarize(folder).read_text()
        assert "Clusters within depthwise" in page
