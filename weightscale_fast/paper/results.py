"""All runs under a folder as tables: the papers' accuracies beside ours, and whether the papers' claims hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import WeightScaleError
from ..files import write_csv
from .claims import CLAIMS, STANDS_FOR, Verdict, by_network_and_data
from .presets import PRESETS
from .seeds import FloatArray, SeedRuns

METRICS = ("train_top1", "train_top5", "test_top1", "test_top5")


class Row(NamedTuple):
    """A row of the papers' tables: one network on one data set."""

    network: str
    data: str  # the data set that was trained on
    seeds: int
    published_seeds: int
    epochs: int
    published_epochs: int
    images: str  # training images, "5,000 of 60,000"
    accuracy: dict[str, FloatArray]  # by name in METRICS, [R]
    published: float | None  # top-1 test accuracy
    recording_share: float  # share of the training time that recording took
    changed: dict[str, Any]  # settings that differ from the paper's
    as_coded: list[str]  # names in AS_CODED
    left_out: Mapping[int, str]  # seeds that are left out, and why
    unfinished: Mapping[int, str]  # seeds that are not finished, and how far they are
    note: str


def load_runs(root: str | Path) -> tuple[list[SeedRuns], list[str]]:
    """The runs of presets under `root`, in the order of the presets, and the reasons why others cannot be shown.

    Runs with an option of `AS_CODED` are left out, because they do not follow the papers' text.

    Raises:
        WeightScaleError: there is no run to show, or there are several of one network on one data set.
    """
    folders = sorted({run.parent for run in Path(root).glob("**/seed-*") if (run / "metrics.jsonl").exists()})
    runs, failures = [], []
    for folder in folders:
        try:
            runs.append(SeedRuns.load(folder))
        except WeightScaleError as error:
            failures.append(str(error))
    runs = [run for run in runs if run.settings.get("preset") in PRESETS]
    failures += [f"{run.folder} did as the authors coded, and is left out" for run in runs if run.settings["as_coded"]]
    runs = [run for run in runs if not run.settings["as_coded"]]
    for run in runs:
        if any((run.network, run.data) == (other.network, other.data) and other is not run for other in runs):
            raise WeightScaleError(
                f"{root} holds several runs of {run.network} on {run.data}, {run.folder} among them: report on a "
                "folder that has one of them"
            )
    if not runs:
        why = "; ".join(failures) or f"make some with weightscale paper NAME --runs {root}"
        raise WeightScaleError(f"{root} holds no runs of presets to show: {why}")
    order = list(PRESETS)
    return sorted(runs, key=lambda run: (order.index(run.settings["preset"]), run.data)), failures


def table(runs: Iterable[SeedRuns]) -> list[Row]:
    """A row for each run."""
    rows = []
    for run in runs:
        preset, settings = PRESETS[run.settings["preset"]], run.settings
        rows.append(
            Row(
                network=run.network,
                data=run.data,
                seeds=len(run.histories),
                published_seeds=len(preset.seeds),
                epochs=len(run.histories[0]),
                published_epochs=preset.config.epochs,
                images=f"{settings['images'][0]:,} of {settings['images_of'][0]:,}",
                accuracy={name: run.accuracy(name) for name in METRICS},
                published=preset.published if is_of_paper(run) else None,
                recording_share=float(np.mean([line["recording_share"] for lines in run.metrics for line in lines])),
                changed=dict(settings["changed"]),
                as_coded=list(settings["as_coded"]),
                left_out=run.left_out,
                unfinished=run.unfinished,
                note=preset.note,
            )
        )
    return rows


def is_of_paper(run: SeedRuns) -> bool:
    """Whether the run was trained on the data set of its preset, or on a part of it."""
    return STANDS_FOR.get(run.data, run.data) == PRESETS[run.settings["preset"]].config.data


def verdicts(runs: list[SeedRuns]) -> list[Verdict]:
    """For every claim of both papers, whether it holds in the runs."""
    found = by_network_and_data(runs)
    return [verdict for claim in CLAIMS for verdict in claim.verdicts(found)]


def stand_in(runs: list[SeedRuns], verdict: Verdict) -> str | None:
    """The data set that the run of a verdict used in place of the paper's, or None if it used the paper's."""
    run = by_network_and_data(runs).get((verdict.network, verdict.data))
    return run.data if run is not None and run.data in STANDS_FOR else None


def write_tables(runs: list[SeedRuns], folder: Path) -> None:
    """Write `accuracy.csv` and `claims.csv`."""
    measured = [f"{name}_{what}" for name in METRICS for what in ("mean", "deviation")]
    write_csv(
        folder / "accuracy.csv",
        ("network", "data", "seeds", "epochs", "images", *measured, "paper_test_top1", "changed", "left_out"),
        map(_accuracy_cells, table(runs)),
    )
    about = ("paper", "claim", "network", "data", "measure", "expected")
    write_csv(
        folder / "claims.csv",
        (*about, "number", "seeds", "answer", "obstacle"),
        (_claim_cells(verdict, stand_in(runs, verdict) or verdict.data) for verdict in verdicts(runs)),
    )


def _accuracy_cells(row: Row) -> tuple[Any, ...]:
    accuracies = [f"{value:.4f}" for name in METRICS for value in (row.accuracy[name].mean(), row.accuracy[name].std())]
    about = (row.network, row.data, row.seeds, row.epochs, row.images)
    return (*about, *accuracies, row.published or "", row.changed, dict(row.left_out))


def _claim_cells(verdict: Verdict, data: str) -> tuple[Any, ...]:
    claim = verdict.claim
    number = "" if np.isnan(verdict.number) else f"{verdict.number:.4f}"
    seeds = " ".join(f"{value:.4f}" for value in verdict.seeds)
    about = (claim.paper, claim.text, verdict.network, data, claim.measure, claim.expected)
    return (*about, number, seeds, verdict.answer, verdict.obstacle)
