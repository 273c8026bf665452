"""RWCTrainerCallback in real trainings of a tiny transformer: when it records, how it resumes, what it logs."""

import shutil

import numpy as np
import pytest
import torch

import weightscale_fast as wsf

pytest.importorskip("accelerate", reason="needs Accelerate: pip install 'weightscale_fast[integrations]'")
pytest.importorskip("transformers", reason="needs Transformers: pip install 'weightscale_fast[integrations]'")
import transformers

from weightscale_fast.integrations.transformers import RWCTrainerCallback

LAYERS = 10  # two embeddings, and four layers in each of two blocks; the head is tied to the first embedding


class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return 48

    def __getitem__(self, index):
        tokens = (torch.arange(8) * (index % 5 + 1)) % 32
        return {"input_ids": tokens, "labels": tokens}


class Dies(transformers.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise RuntimeError("out of luck")


def trainer_with(folder, *callbacks, **arguments):
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    options = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "save_strategy": "no", **arguments}
    quiet = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "logging_strategy": "no"}
    return transformers.Trainer(
        transformers.GPT2LMHeadModel(config),
        transformers.TrainingArguments(str(folder), **{**quiet, **options}),
        train_dataset=Tokens(),
        callbacks=list(callbacks),
    )


def test_one_row_per_step(tmp_path):
    prev, expected = None, []

    class ByHand(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, *, model, **_):
            expected.append(wsf.fast_rwc(model, prev))

    trainer = trainer_with(tmp_path, RWCTrainerCallback(tmp_path / "run"), ByHand())
    prev = wsf.snapshot(trainer.model)
    trainer.train()
    history = wsf.RWCHistory.load(tmp_path / "run")  # the callback has closed the record
    assert history.steps.tolist() == list(range(1, trainer.state.global_step + 1)) == list(range(1, 13))
    assert len(history.names) == LAYERS
    np.testing.assert_allclose(history.rwc, torch.stack(expected), rtol=1e-6)


def test_without_a_copy_that_stays_and_resumed(tmp_path):
    """A Transformers checkpoint continues a record whose rows are compared with the weights before each step."""
    callback = RWCTrainerCallback(tmp_path / "run", baseline="before_step")
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer_with(tmp_path / "out", callback, Dies(9), save_strategy="steps", save_steps=4).train()
    trainer = trainer_with(tmp_path / "out", RWCTrainerCallback(tmp_path / "run", baseline="before_step"))
    trainer.train(resume_from_checkpoint=True)
    history = wsf.RWCHistory.load(tmp_path / "run")
    assert history.steps.tolist() == list(range(1, 13))
    assert history.baseline == "before_step"
    plain = RWCTrainerCallback(tmp_path / "plain")
    trainer_with(tmp_path / "unbroken", plain).train()
    np.testing.assert_allclose(history.rwc, wsf.RWCHistory.load(tmp_path / "plain").rwc, rtol=1e-6)


def test_on_finding_is_called(tmp_path):
    class Breaks(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, *, model, **_):
            if state.global_step == 5:
                model.transformer.wpe.weight.data[0, 0] = torch.nan

    heard = []
    trainer_with(tmp_path, RWCTrainerCallback(on_finding=heard.append), Breaks()).train()
    assert [(finding.kind, finding.step) for finding in heard] == [("not_finite", 6)]


def test_accumulated_batches_are_one_row(tmp_path):
    callback = RWCTrainerCallback(definition="mean_ratio", layers="attn")
    trainer = trainer_with(tmp_path, callback, gradient_accumulation_steps=5)
    trainer.train()
    assert len(callback.history()) == trainer.state.global_step == 3
    assert callback.history().definition == "mean_ratio"
    assert all("attn" in name for name in callback.history().names)


@pytest.mark.parametrize("fused", [False, True])
def test_steps_that_the_scaler_skips(tmp_path, fused):
    """A loss scale of 2^70 overflows the norm of the gradients until the scaler has halved it several times.

    A fused optimizer, the Trainer's default, is called even for a skipped step and makes a row of 0 with a flag.
    """
    callback = RWCTrainerCallback()
    options = {"max_grad_norm": 0} | ({} if fused else {"optim": "adamw_torch"})
    trainer = trainer_with(tmp_path, callback, **options)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**70)
    stepped = []
    trainer.create_optimizer().register_step_post_hook(lambda *_: stepped.append(1))
    trainer.train()
    history = callback.history()
    moved = history.rwc.max(axis=1) > 0
    assert trainer.state.global_step == 12
    assert len(history) == len(stepped)
    assert 0 < moved.sum() < 12
    assert np.array_equal(history.skipped, ~moved)
    assert fused == history.skipped.any()


def test_two_callbacks_resume_each_with_its_own_state(tmp_path):
    def callbacks():
        return RWCTrainerCallback(layers="attn"), RWCTrainerCallback(layers="mlp")

    whole = callbacks()
    trainer_with(tmp_path / "whole", *whole).train()
    saving = {"save_strategy": "steps", "save_steps": 5}
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer_with(tmp_path / "broken", *callbacks(), Dies(7), **saving).train()
    resumed = callbacks()
    trainer_with(tmp_path / "broken", *resumed, **saving).train(resume_from_checkpoint=True)
    for one, other in zip(whole, resumed, strict=True):
        assert one.history().names == other.history().names
        np.testing.assert_allclose(one.history().rwc, other.history().rwc, rtol=1e-6)


@pytest.mark.parametrize(("to_folder", "every"), [(False, 1), (True, 3)], ids=["memory", "folder-every-3"])
def test_resume_equals_the_uninterrupted_run(tmp_path, to_folder, every):
    """Save checkpoints after steps 5 and 10, fail after step 14, resume from step 10."""

    def run_dir(name):
        return tmp_path / name if to_folder else None

    options = {"save_strategy": "steps", "save_steps": 5, "num_train_epochs": 2}
    unbroken, broken, resumed = (RWCTrainerCallback(run_dir(name), every=every) for name in ("a", "b", "b"))
    trainer_with(tmp_path / "unbroken", unbroken, **options).train()
    with pytest.raises(RuntimeError, match="out of luck"):
        trainer_with(tmp_path / "broken", broken, Dies(14), **options).train()
    assert len(broken.history()) == 14 // every
    trainer_with(tmp_path / "broken", resumed, **options).train(resume_from_checkpoint=True)
    assert resumed.history().steps.tolist() == unbroken.history().steps.tolist() == list(range(every, 25, every))
    assert np.array_equal(resumed.history().rwc, unbroken.history().rwc)


def test_a_moved_checkpoint_is_found_by_resume_from_checkpoint(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 5, "num_train_epochs": 1}
    trainer_with(tmp_path / "a", RWCTrainerCallback(tmp_path / "run"), **options).train()
    moved = str(shutil.move(tmp_path / "a" / "checkpoint-10", tmp_path / "moved"))
    resumed = RWCTrainerCallback(tmp_path / "run")
    trainer = trainer_with(tmp_path / "b", resumed, num_train_epochs=1, resume_from_checkpoint=moved)
    trainer.train(resume_from_checkpoint=moved)
    assert resumed.history().steps.tolist() == list(range(1, 13))


def test_a_checkpoint_that_was_saved_without_the_callback(tmp_path):
    trainer_with(tmp_path, save_strategy="steps", save_steps=5).train()
    callback = RWCTrainerCallback(tmp_path / "run")
    with pytest.warns(UserWarning, match=r"no weightscale_fast_\w+.pt in .*the record continues after step 10"):
        trainer_with(tmp_path, callback).train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert callback.history().steps.tolist() == [11, 12]
    assert (callback.history().rwc < 1).all()


def test_the_record_starts_again_if_the_trainer_retries_with_a_smaller_batch(tmp_path):
    class Small(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, *, train_dataloader, **_):
            if state.global_step == 2 and train_dataloader.total_batch_size > 2:
                raise RuntimeError("CUDA out of memory. Tried to allocate 1 TiB")

    callback = RWCTrainerCallback(tmp_path / "run")
    trainer = trainer_with(tmp_path, callback, Small(), auto_find_batch_size=True)
    trainer.train()
    assert trainer.state.global_step == 24
    assert wsf.RWCHistory.load(tmp_path / "run").steps.tolist() == list(range(1, 25))
    with pytest.raises(wsf.WeightScaleError, match=r"run folder .*run exists"):
        trainer.train()  # a complete record is not overwritten


def test_training_twice(tmp_path):
    """The error names arguments that the callback has, and each way out works."""
    callback = RWCTrainerCallback(tmp_path / "run")
    trainer = trainer_with(tmp_path / "out", callback)
    trainer.train()
    with pytest.raises(wsf.WeightScaleError, match=r'pass another run_dir, exist="next" .* from a checkpoint$'):
        trainer.train()
    with pytest.raises(ValueError, match="exist must be one of"):
        RWCTrainerCallback(tmp_path / "run", exist="more")
    trial = RWCTrainerCallback(tmp_path / "run", exist="next")
    trainer = trainer_with(tmp_path / "out", trial, save_strategy="steps", save_steps=5)
    for name in ("run-2", "run-3"):
        trainer.train()
        assert trial.monitor.run_dir == tmp_path / name
    trainer.train(resume_from_checkpoint=True)  # continues the last one, and no other
    assert trial.monitor.run_dir == tmp_path / "run-3"
    for name in ("run", "run-2", "run-3"):
        assert wsf.RWCHistory.load(tmp_path / name).steps.tolist() == list(range(1, 13))


def test_a_failed_training_does_not_hold_the_folder(tmp_path):
    """The Trainer tells its callbacks nothing of an error, so the first monitor was never closed."""
    for died_at in (1, 3):
        first = RWCTrainerCallback(tmp_path / f"run-{died_at}", exist="overwrite")
        with pytest.raises(RuntimeError, match="out of luck"):
            trainer_with(tmp_path / "out", first, Dies(died_at)).train()
        again = RWCTrainerCallback(tmp_path / f"run-{died_at}", exist="overwrite")
        trainer_with(tmp_path / "out", again).train()
        assert wsf.RWCHistory.load(tmp_path / f"run-{died_at}").steps.tolist() == list(range(1, 13))


def test_model_only_checkpoints_stay_small(tmp_path):
    trainer_with(tmp_path, RWCTrainerCallback(), save_strategy="steps", save_steps=5, save_only_model=True).train()
    assert (tmp_path / "checkpoint-5" / "model.safetensors").exists()
    assert not list(tmp_path.glob("checkpoint-*/weightscale_fast*"))


def test_the_tracker_gets_eight_numbers_at_each_log(tmp_path):
    logged = []

    class Tracker:
        def scalars(self, values, step):
            logged.append((step, values))

        def image(self, name, png, step): ...

        def page(self, html): ...

    callback = RWCTrainerCallback(tracker=Tracker())
    trainer_with(tmp_path, callback, logging_strategy="steps", logging_steps=5).train()
    assert [step for step, _ in logged] == [5, 10, 12]
    assert all(len(values) == 8 for _, values in logged)


def test_history_before_training():
    with pytest.raises(
        wsf.WeightScaleError, match=r"nothing is recorded before training: call trainer.train\(\) first"
    ):
        RWCTrainerCallback().history()
