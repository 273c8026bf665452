"""All runs under a folder as tables: the papers' accuracies beside ours, and the papers' claims with their answers."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import WeightScaleError
from .claims import CLAIMS, STANDS_FOR, Verdict, by_network_and_data
from .presets import PRESETS
from .seeds import FloatArray, SeedRuns

METRICS = ("train_top1", "train_top5", "test_top1", "test_top5")


class Row(NamedTuple):
    """A row of the papers' tables: one network on one data set."""

    network: str
    data: str  # what was trained on
    seeds: int
    published_seeds: int
    epochs: int
    published_epochs: int
    images: str  # to train on, of how many
    accuracy: dict[str, FloatArray]  # by name in METRICS, [R]
    published: float | None  # top-1 test accuracy
    recording_share: float  # of the training's time
    changed: dict[str, Any]  # settings that are not the paper's
    as_coded: list[str]  # names in AS_CODED
    left_out: Mapping[int, str]  # seeds, and why
    unfinished: Mapping[int, str]  # seeds, and how far they are
    note: str


def load_runs(root: str | Path) -> tuple[list[SeedRuns], list[str]]:
    """The runs of every preset under `root` in the order of the presets, and why others cannot be shown.

    Runs that did as the authors coded are no runs of their papers' text, and are left out.

    Raises:
        WeightScaleError: there is none.
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
    """A row for each."""
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
    """Whether its data are those of its preset, or a part of them."""
    return STANDS_FOR.get(run.data, run.data) == PRESETS[run.settings["preset"]].config.data


def verdicts(runs: list[SeedRuns]) -> list[Verdict]:
    """What the runs say to every claim of both papers."""
    found = by_network_and_data(runs)
    return [verdict for claim in CLAIMS for verdict in claim.verdicts(found)]


def stand_in(runs: list[SeedRuns], verdict: Verdict) -> str | None:
    """What stood for the data set of a verdict, if something did."""
    run = by_network_and_data(runs).get((verdict.network, verdict.data))
    return run.data if run is not None and run.data in STANDS_FOR else None


def write_tables(runs: list[SeedRuns], folder: Path) -> None:
    """`accuracy.csv` and `claims.csv`."""
    with open(folder / "accuracy.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        measured = [f"{name}_{what}" for name in METRICS for what in ("mean", "deviation")]
        writer.writerow(
            ("network", "data", "seeds", "epochs", "images", *measured, "paper_test_top1", "changed", "left_out")
        )
        for row in table(runs):
            values = [
                f"{value:.4f}" for name in METRICS for value in (row.accuracy[name].mean(), row.accuracy[name].std())
            ]
            writer.writerow(
                (
                    row.network,
                    row.data,
                    row.seeds,
                    row.epochs,
                    row.images,
                    *values,
                    row.published or "",
                    row.changed,
                    dict(row.left_out),
                )
            )
    with open(folder / "claims.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        about = ("paper", "claim", "network", "data", "measure", "expected")
        writer.writerow((*about, "number", "seeds", "answer", "obstacle"))
        for verdict in verdicts(runs):
            number = "" if np.isnan(verdict.number) else f"{verdict.number:.4f}"
            seeds = " ".join(f"{value:.4f}" for value in verdict.seeds)
            data, claim = stand_in(runs, verdict) or verdict.data, verdict.claim
            said = (claim.paper, claim.text, verdict.network, data, claim.measure, claim.expected)
            writer.writerow((*said, number, seeds, verdict.answer, verdict.obstacle))
