"""RWCCallback in real Lightning trainings: when it records, how it resumes, and what it logs."""

import csv

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf

pytest.importorskip("lightning", reason="needs Lightning: pip install 'weightscale_fast[integrations]'")
import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.precision import MixedPrecision

from weightscale_fast.integrations.lightning import RWCCallback

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"
    ),  # it warns of few workers
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning"),  # Lightning's use of torch
]


def module_of(base):
    """A small classifier on the LightningModule of either package. It counts the steps that its optimizer makes."""

    class Classifier(base):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
            self.steps = 0

        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def test_step(self, batch, index):
            pass

        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
            optimizer.register_step_post_hook(self._count)
            return optimizer

        def _count(self, *_):
            self.steps += 1

    return Classifier()


class TwoOptimizers(pl.LightningModule):
    """Manual optimization as in a GAN: two critic steps, then one generator step, in each batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))

    def training_step(self, batch, index):
        generator, critic = self.optimizers()
        for optimizer in (critic, critic, generator):
            optimizer.zero_grad()
            loss = self.critic(self.generator(batch[0])).square().mean()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.01) for part in (self.generator, self.critic)]


def batches(count=8):
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(4 * count, 4, generator=generator)
    data = torch.utils.data.TensorDataset(images, (images.sum(1) > 0).long())
    return torch.utils.data.DataLoader(data, batch_size=4)


def trainer_with(callbacks, package=pl, **arguments):
    options = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, **arguments}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return package.Trainer(accelerator="cpu", devices=1, callbacks=callbacks, **quiet, **options)


def test_without_a_copy_that_stays():
    callbacks = [RWCCallback(), RWCCallback(baseline="before_step")]
    assert callbacks[0].state_key != callbacks[1].state_key
    trainer_with(callbacks).fit(module_of(pl.LightningModule), batches())
    plain, brief = (callback.history() for callback in callbacks)
    assert brief.baseline == "before_step"
    assert brief.steps.tolist() == list(range(1, 9))
    np.testing.assert_allclose(brief.rwc, plain.rwc, rtol=1e-9)
    with pytest.raises(ValueError, match="baseline must be one of"):
        RWCCallback(baseline="now")


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_one_row_per_step_with_either_package(package, tmp_path):
    package = pytest.importorskip(package)
    module, callback = module_of(package.LightningModule), RWCCallback(tmp_path / "run")
    prev, expected = wsf.snapshot(module), []

    class ByHand(package.Callback):
        def on_train_batch_end(self, *_):
            expected.append(wsf.fast_rwc(module, prev))

    trainer = trainer_with([callback, ByHand()], package)
    trainer.fit(module, batches())
    history = wsf.RWCHistory.load(tmp_path / "run")  # the callback has closed the record
    assert history.steps.tolist() == list(range(1, trainer.global_step + 1)) == list(range(1, 9))
    assert history.names == ("net.0.weight", "net.2.weight")
    np.testing.assert_allclose(history.rwc, torch.stack(expected), rtol=1e-6)


def test_on_finding_is_called():
    class Breaks(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            if index == 5:
                module.net[2].weight.data[0, 0] = torch.nan

    heard = []
    trainer_with([RWCCallback(on_finding=heard.append), Breaks()]).fit(module_of(pl.LightningModule), batches())
    assert [(finding.kind, finding.step) for finding in heard] == [("not_finite", 6)]


def test_accumulated_batches_are_one_row():
    callback = RWCCallback()
    trainer = trainer_with([callback], accumulate_grad_batches=3)
    trainer.fit(module_of(pl.LightningModule), batches(8))
    assert len(callback.history()) == trainer.global_step == 3
    assert (callback.history().rwc > 0).all()


def test_each_optimizer_has_its_own_record(tmp_path):
    callback, module = RWCCallback(tmp_path / "gan"), TwoOptimizers()
    trainer = trainer_with([callback])
    trainer.fit(module, batches(4))
    generator, critic = callback.history(0), wsf.RWCHistory.load(tmp_path / "gan" / "optimizer_1")
    assert generator.names == ("generator.weight",)
    assert critic.names == ("critic.0.weight", "critic.1.weight")
    assert (len(generator), len(critic)) == (4, 8)
    assert len(generator) + len(critic) == trainer.global_step
    assert (generator.moved_fraction == 1).all()
    assert (critic.rwc > 0).all()
    with pytest.raises(wsf.WeightScaleError, match="one of the 2 recorded, counted from 0, got 2"):
        callback.history(2)


def test_steps_that_the_scaler_skips_make_no_row():
    """A loss scale of 2^20 overflows float16 until the scaler has halved it several times."""
    module, callback = module_of(pl.LightningModule), RWCCallback()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    trainer = trainer_with([callback], plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    trainer.fit(module, batches(16))
    assert 0 < module.steps < trainer.global_step == 16
    assert len(callback.history()) == module.steps
    assert (callback.history().rwc > 0).all()


@pytest.mark.filterwarnings(
    "ignore:The dirpath has changed:UserWarning"
)  # the checkpoints are in another folder on purpose
@pytest.mark.parametrize(("to_folder", "every"), [(False, 1), (True, 3)], ids=["memory", "folder-every-3"])
@pytest.mark.parametrize("make", [lambda: module_of(pl.LightningModule), TwoOptimizers], ids=["one", "two"])
def test_resume_equals_the_uninterrupted_run(tmp_path, to_folder, every, make):
    """Save a checkpoint after epoch 1, fail in epoch 2, resume from the checkpoint."""

    def run_dir(name):
        return tmp_path / name if to_folder else None

    class Dies(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            if trainer.current_epoch == 1 and index == 3:
                raise RuntimeError("out of luck")

    def fit(name, callback, *others, ckpt_path=None):
        torch.manual_seed(0)
        checkpoints = ModelCheckpoint(dirpath=tmp_path / name / "checkpoints", filename="{epoch}", save_top_k=-1)
        trainer = trainer_with([callback, *others, checkpoints], max_epochs=3, enable_checkpointing=True)
        trainer.fit(make(), batches(), ckpt_path=ckpt_path)

    unbroken, broken, resumed = (RWCCallback(run_dir(name), every=every) for name in ("a", "b", "b"))
    with pytest.raises(RuntimeError, match="out of luck"):
        fit("broken", broken, Dies())
    fit("resumed", resumed, ckpt_path=tmp_path / "broken" / "checkpoints" / "epoch=0.ckpt")
    fit("unbroken", unbroken)
    for i in range(len(unbroken.monitors)):
        assert resumed.history(i).steps.tolist() == unbroken.history(i).steps.tolist()
        assert np.array_equal(resumed.history(i).rwc, unbroken.history(i).rwc)
    assert len(unbroken.history()) == 24 // every


def test_an_exception_loses_no_row(tmp_path):
    class Dies(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            if index == 4:
                raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        trainer_with([RWCCallback(tmp_path / "run"), Dies()]).fit(module_of(pl.LightningModule), batches())
    assert wsf.RWCHistory.load(tmp_path / "run").steps.tolist() == [1, 2, 3, 4, 5]


def test_a_second_fit_continues_from_the_current_weights():
    module, callback = module_of(pl.LightningModule), RWCCallback()
    trainer = trainer_with([callback])
    trainer.fit(module, batches())
    before = callback.history().rwc
    with torch.no_grad():
        module.net[0].weight.mul_(100)  # a change that no step made
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, batches())
    history = callback.history()
    assert history.steps.tolist() == list(range(1, 17))
    assert np.array_equal(history.rwc[:8], before)
    assert history.rwc[8, 0] < 1


def test_training_twice(tmp_path):
    """The error names arguments that the callback has, and each way out works."""
    module, folder = module_of(pl.LightningModule), tmp_path / "run"
    trainer_with([RWCCallback(folder)]).fit(module, batches(4))
    with pytest.raises(wsf.WeightScaleError, match=r'pass another run_dir, exist="next" .* from a checkpoint$'):
        trainer_with([RWCCallback(folder)]).fit(module, batches(4))
    callback = RWCCallback(folder, exist="next")
    for name in ("run-2", "run-3"):
        trainer = trainer_with([callback])
        trainer.fit(module, batches(4))
        assert callback.monitors[0].run_dir == tmp_path / name
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, batches(4))  # the same trainer goes on, in the folder of its run
    assert [len(wsf.RWCHistory.load(tmp_path / name)) for name in ("run", "run-2", "run-3")] == [4, 4, 8]
    callback = RWCCallback(folder, exist="overwrite")
    trainer_with([callback]).fit(module, batches(5))
    assert len(wsf.RWCHistory.load(folder)) == 5
    with pytest.raises(ValueError, match="exist must be one of"):
        RWCCallback(folder, exist="more")


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
def test_a_fast_dev_run_writes_no_folder(tmp_path):
    module, callback = module_of(pl.LightningModule), RWCCallback(tmp_path / "run")
    trainer_with([callback], fast_dev_run=True).fit(module, batches())
    assert len(callback.history()) == 1
    assert not (tmp_path / "run").exists()
    trainer_with([callback]).fit(module, batches())
    assert len(wsf.RWCHistory.load(tmp_path / "run")) == 8


def test_checkpoints_hold_the_weights_once(tmp_path):
    """They hold the weights twice only between two rows, or if other code than the optimizer changed the weights."""
    module, callback, sparse = module_of(pl.LightningModule), RWCCallback(), RWCCallback(every=3)
    trainer_with([callback, sparse]).fit(module, batches(4))
    assert callback.state_dict()["monitors"][0]["weights"] is None
    assert set(sparse.state_dict()["monitors"][0]["weights"]) == {"net.0.weight", "net.2.weight"}
    with torch.no_grad():
        module.net[0].weight.clamp_(-0.01, 0.01)
    assert set(callback.state_dict()["monitors"][0]["weights"]) == {"net.0.weight", "net.2.weight"}


def test_a_checkpoint_for_testing_changes_no_record(tmp_path):
    module, callback = module_of(pl.LightningModule), RWCCallback(tmp_path / "run")
    trainer = trainer_with([callback])
    trainer.fit(module, batches(4))
    trainer.save_checkpoint(tmp_path / "early.ckpt")
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, batches(4))
    trainer.test(module, batches(4), ckpt_path=tmp_path / "early.ckpt", verbose=False)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, batches(4))
    assert callback.history().steps.tolist() == list(range(1, 13))


def test_a_checkpoint_that_was_saved_without_the_callback(tmp_path):
    module = module_of(pl.LightningModule)
    trainer = trainer_with([], max_epochs=1)
    trainer.fit(module, batches())
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    callback = RWCCallback(tmp_path / "run")
    trainer_with([callback], max_epochs=2).fit(module, batches(), ckpt_path=tmp_path / "plain.ckpt")
    assert callback.history().steps.tolist() == list(range(9, 17))
    assert (callback.history().rwc < 1).all()


def test_two_callbacks_one_per_step_and_one_per_epoch(tmp_path):
    module, per_step, per_epoch = module_of(pl.LightningModule), RWCCallback(), RWCCallback(every=8)
    trainer = trainer_with([per_step, per_epoch], max_epochs=2)
    trainer.fit(module, batches())
    trainer.save_checkpoint(tmp_path / "both.ckpt")
    assert len(torch.load(tmp_path / "both.ckpt", weights_only=True)["callbacks"]) == 2
    assert per_step.history().steps.tolist() == list(range(1, 17))
    assert per_epoch.history().steps.tolist() == [8, 16]


def test_loggers_get_eight_numbers(tmp_path):
    logger = CSVLogger(tmp_path)
    trainer = trainer_with([RWCCallback()], logger=logger, log_every_n_steps=3)
    trainer.fit(module_of(pl.LightningModule), batches())
    with open(f"{logger.log_dir}/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [3, 6, 8]
    assert sum(name.startswith("rwc/") for name in rows[0]) == 8
    assert all(0 < float(row["rwc/min"]) <= float(row["rwc/median"]) <= float(row["rwc/max"]) for row in rows)


def test_history_before_training():
    with pytest.raises(wsf.WeightScaleError, match="none is recorded before training starts"):
        RWCCallback().history()
