"""Several real processes under torchrun, with Gloo. tests/sharding_worker.py has the cases.

One launch runs all cases of a number of ranks, because a launch takes longer than any case.
"""

import functools
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.distributed.shares import Piece, cut_evenly
from weightscale_fast.ops.plan import CHUNK
from weightscale_fast.record.rows import RESUMED

ROOT = Path(__file__).parents[1]
WORKER = Path(__file__).with_name("sharding_worker.py")
SECONDS = 180  # if a launch takes longer, it hangs
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")


def environment(**variables):
    package = str(Path(wsf.__file__).parents[1])  # the workers must import the package that is tested here
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in variables.items()}}


def cases():
    """(ranks, case) for each case of the worker. They are read from its source, because importing it is slow."""
    found = re.findall(r"^@case\(([\d, ]+)\)\ndef (\w+)", WORKER.read_text(), re.MULTILINE)
    return [(int(size), name) for sizes, name in found for size in sizes.split(",")]


@functools.cache
def outcomes_of(ranks, folder):
    """For each rank, {case: None or a traceback}; and the output of the launch."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    try:
        run = subprocess.run(
            [*command, str(WORKER), str(folder)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        )
        output = run.stdout
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
    files = [folder / f"rank-{rank}.json" for rank in range(ranks)]
    return [json.loads(file.read_text()) if file.exists() else {} for file in files], output.decode()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folders = {ranks: tmp_path_factory.mktemp(f"ranks-{ranks}") for ranks in {ranks for ranks, _ in cases()}}
    return lambda ranks: outcomes_of(ranks, folders[ranks])


@pytest.mark.parametrize(("ranks", "case"), cases(), ids=lambda value: str(value).replace("_", " "))
def test_case(ranks, case, results):
    outcomes, output = results(ranks)
    for rank, of_rank in enumerate(outcomes):
        assert case in of_rank, f"rank {rank} did not run this case; the launch ended with:\n{output[-4000:]}"
        assert of_rank[case] is None, f"rank {rank}:\n{of_rank[case]}"


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def start(source, ranks=2):
    """Run the source on each rank, without torchrun: if one process died, torchrun would kill the others."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    return [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(source)],
            env=environment(**shared, RANK=rank, LOCAL_RANK=rank),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]


def output_of(process):
    try:
        return process.communicate(timeout=60)[0]
    finally:
        process.kill()


DIES = """
    import os, sys, torch, torch.distributed as dist
    from torch import nn
    import weightscale_fast as wsf
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = {model}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with wsf.RWCMonitor(model, optimizer, {argument} run_dir={folder!r}) as monitor:
        for step in range(600):
            if step == 300 and dist.get_rank() == 1:
                os._exit(9)
            model(torch.ones(1, 8)).sum().backward()
            optimizer.step()
"""


@pytest.mark.parametrize(
    ("model", "argument", "error"),
    [
        ("nn.Linear(8, 8)", "process_group=dist.group.WORLD,", "could not add up steps 257"),
        ("nn.parallel.DistributedDataParallel(nn.Linear(8, 8))", "", "RuntimeError: "),
    ],
    ids=["found by the monitor", "found by the training"],
)
def test_a_process_that_dies(tmp_path, model, argument, error):
    """The other process ends with an error and does not hang. The rows that were added up can be loaded."""
    folder = tmp_path / "run"
    survivor, dead = start(DIES.format(model=model, argument=argument, folder=str(folder)))
    output = output_of(survivor)
    assert dead.wait(60) == 9
    dead.stdout.close()
    assert survivor.returncode in (1, -6), output  # gloo may abort in its teardown, after the error was printed
    assert error in output
    assert wsf.RWCHistory.load(folder).steps.tolist() == list(range(1, 257))


ABSENT = """
    import os, time, torch, torch.distributed as dist
    from datetime import timedelta
    from torch import nn
    import weightscale_fast as wsf
    dist.init_process_group("gloo", timeout=timedelta(seconds=3))
    model = nn.parallel.DistributedDataParallel(nn.Linear(8, 8))
    if dist.get_rank() == 0:
        try:
            wsf.RWCMonitor(model)
        except wsf.WeightScaleError as error:
            print("WeightScaleError:", error, flush=True)
    else:
        time.sleep(5)
    os._exit(0)
"""


def test_a_rank_that_makes_no_monitor():
    """The usual mistake is `if rank == 0`. After the group's timeout the error says what to do."""
    waiting, absent = start(ABSENT)
    output = output_of(waiting)
    output_of(absent)
    assert (
        "WeightScaleError: RWCMonitor got no answer from some of the 2 ranks: every rank must make its RWCMonitor"
        in output
    )


DESTROYED = """
    import torch.distributed as dist
    from torch import nn
    import weightscale_fast as wsf
    dist.init_process_group("gloo")
    monitor = wsf.RWCMonitor(nn.parallel.DistributedDataParallel(nn.Linear(8, 8)))
    monitor.record()
    dist.destroy_process_group()
    monitor.close()
"""


def test_a_process_group_that_is_destroyed_before_the_monitor_is_closed():
    for rank in start(DESTROYED):
        output = output_of(rank)
        assert rank.returncode == 1
        assert "WeightScaleError: RWCMonitor could not add up steps 1 to 1" in output
        assert "the process group was destroyed before the monitor was closed" in output


FORKED = """
    import os, torch, torch.distributed as dist
    from torch import nn
    import weightscale_fast as wsf
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    monitor = wsf.RWCMonitor(nn.parallel.DistributedDataParallel(nn.Linear(8, 8)))
    monitor.record()
    if dist.get_rank() == 0 and os.fork() == 0:
        monitor.close()
        os._exit(0)
    if dist.get_rank() == 0:
        assert os.wait()[1] == 0
    monitor.close()
    print("closed with", len(monitor.history()), "row", flush=True)
    os._exit(0)
"""


def test_close_in_a_forked_child_makes_no_collective_call():
    for rank in start(FORKED):
        assert "closed with 1 row" in output_of(rank)


LIGHTNING = """
    import os, sys, torch, lightning.pytorch as pl
    from lightning.pytorch.loggers import CSVLogger
    from torch import nn
    import weightscale_fast as wsf
    from weightscale_fast.integrations.lightning import RWCCallback

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 2))

        def training_step(self, batch, index):
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-2, momentum=0.9)

    class ByHand(pl.Callback):
        def on_train_start(self, trainer, module):
            self.prev = wsf.snapshot(module)

        def on_train_batch_end(self, trainer, module, *_):
            expected.append(wsf.fast_rwc(module, self.prev))

    folder, expected = {folder!r}, []
    images = torch.randn(64, 300, generator=torch.Generator().manual_seed(1))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=8)
    for epochs, checkpoint in ((1, None), (2, folder + "/first.ckpt")):
        trainer = pl.Trainer(
            accelerator="cpu", devices=2, strategy="ddp", max_epochs=epochs, enable_checkpointing=False,
            enable_progress_bar=False, logger=CSVLogger(folder, version=epochs), log_every_n_steps=2,
            callbacks=[RWCCallback(folder + "/run"), ByHand()])
        trainer.fit(Module(), data, ckpt_path=checkpoint)
        trainer.save_checkpoint(folder + "/first.ckpt")
    torch.save(torch.stack(expected), f"{{folder}}/expected-{{trainer.global_rank}}.pt")
"""

TRANSFORMERS = """
    import torch, transformers
    import weightscale_fast as wsf
    from weightscale_fast.integrations.transformers import RWCTrainerCallback

    class Tokens(torch.utils.data.Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, index):
            tokens = (torch.arange(8) * (index % 5 + 1)) % 32
            return {{"input_ids": tokens, "labels": tokens}}

    class ByHand(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, *, model, **_):
            self.prev = wsf.snapshot(model)

        def on_step_end(self, args, state, control, *, model, **_):
            expected.append(wsf.fast_rwc(model, self.prev))

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 4

    class Tracker:
        def scalars(self, values, step):
            assert len(values) == 8 and values["rwc/layers_still"] == 0 and values["rwc/min"] > 0, values

        def image(self, *_): pass
        def page(self, *_): pass

    folder, expected = {folder!r}, []
    for resume, callbacks in ((None, [Stop()]), (True, [])):
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=2, n_head=2)
        trainer = transformers.Trainer(
            transformers.GPT2LMHeadModel(config),
            transformers.TrainingArguments(
                folder, per_device_train_batch_size=4, num_train_epochs=1, save_steps=2, logging_steps=2,
                report_to="none", use_cpu=True, disable_tqdm=True),
            train_dataset=Tokens(),
            callbacks=[RWCTrainerCallback(folder + "/run", tracker=Tracker()), ByHand(), *callbacks])
        trainer.train(resume_from_checkpoint=resume)
    torch.save(torch.stack(expected), f"{{folder}}/expected-{{trainer.args.process_index}}.pt")
"""


ACCELERATE = """
    import torch, accelerate
    from torch import nn
    import weightscale_fast as wsf
    from weightscale_fast.integrations.accelerate import RWCState

    folder, expected = {folder!r}, []
    torch.manual_seed(0)
    accelerator = accelerate.Accelerator(cpu=True)
    model = nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 2))
    model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=1e-3))
    with wsf.RWCMonitor(model, optimizer, run_dir=folder + "/run") as monitor:
        accelerator.register_for_checkpointing(RWCState(monitor))
        for step in range(1, 11):
            if step == 7:
                accelerator.load_state(folder + "/state")
                del expected[4:]
            prev = wsf.snapshot(accelerator.unwrap_model(model))
            accelerator.backward(model(torch.ones(4, 300) * step).square().mean())
            optimizer.step()
            optimizer.zero_grad()
            expected.append(wsf.fast_rwc(accelerator.unwrap_model(model), prev))
            if step == 4:
                accelerator.save_state(folder + "/state")
    torch.save(torch.stack(expected), f"{{folder}}/expected-{{accelerator.process_index}}.pt")
"""
FRAMEWORKS = {"lightning": LIGHTNING, "transformers": TRANSFORMERS, "accelerate": ACCELERATE}


@pytest.mark.parametrize("package", FRAMEWORKS)
def test_frameworks_on_two_ranks(tmp_path, package):
    """The ranks share the counting, although frameworks give callbacks the model and checkpoints of one process."""
    pytest.importorskip(package, reason="needs pip install 'weightscale_fast[integrations]'")
    ranks = start(FRAMEWORKS[package].format(folder=str(tmp_path)))
    outputs = [output_of(rank) for rank in ranks]
    for rank, output in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, output
    history = wsf.RWCHistory.load(tmp_path / "run")
    assert history.steps.tolist() == list(range(1, 9))
    assert history.flags.tolist() == [0, 0, 0, 0, RESUMED, 0, 0, 0]
    for rank in range(2):
        np.testing.assert_allclose(history.rwc, torch.load(tmp_path / f"expected-{rank}.pt"), rtol=1e-6)
    if package == "lightning":
        table = (tmp_path / "lightning_logs" / "version_2" / "metrics.csv").read_text().splitlines()
        assert [line.rpartition(",")[2] for line in table] == ["step", "6", "8"]


def piece(held, *, size=4, dense=True):
    return Piece("", (held,), "", "", "", (), held, size, dense, 0.0)


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
def test_each_weight_is_in_one_part_and_the_parts_are_even(parts):
    generator = np.random.default_rng(0)
    row = [piece(int(n), size=s) for n, s in zip(generator.integers(0, 10 * CHUNK, 40), [2, 4, 8, 4] * 10, strict=True)]
    row += [piece(5 * CHUNK, dense=False), piece(1)]
    load = np.zeros(parts)
    for one, cuts in zip(row, cut_evenly(row, parts), strict=True):
        assert cuts[0] == 0
        assert cuts[-1] == one.held
        assert cuts == sorted(cuts)
        assert all(cut % CHUNK == 0 or cut == one.held for cut in cuts)
        assert one.dense or set(cuts) <= {0, one.held}
        load += np.diff(cuts) * one.size
    assert load.max() - load.min() <= 5 * CHUNK * 4 + 2 * 8 * CHUNK


def test_arguments_that_need_several_processes():
    with pytest.raises(ValueError, match="process_group and pipeline need several processes: call torch.distributed"):
        wsf.RWCMonitor(nn.Linear(2, 2), pipeline=True)


def test_one_process_imports_nothing_distributed():
    """A monitor of one process does not import the modules for DTensors and FSDP."""
    source = """
        import sys, weightscale_fast as wsf
        from torch import nn
        wsf.RWCMonitor(nn.Linear(2, 2)).close()
        loaded = [name for name in ("torch.distributed.tensor", "torch.distributed.fsdp") if name in sys.modules]
        assert not loaded, loaded
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(source)], env=environment(), check=False, timeout=60)
    assert run.returncode == 0
    assert importlib.util.find_spec("torch.distributed.tensor") is not None
