"""write_report: one self-contained HTML page about a run, with its figures and tables in files beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ..analysis.cluster import cluster_layers
from ..analysis.result import LayerClusters
from ..analysis.usable import finite_part, fits, left_out_of_clusters
from ..figures.curves import check_same_layers
from ..figures.style import check_not_empty
from ..files import atomic_write, check_own_folder, write_csv
from ..health.check import check_health
from ..record.run_folder import RunFolder
from ..record.source import HistorySource, history_of
from .findings import cell, write_findings
from .page import Group, Summary, page
from .pictures import draw, draw_groups

if TYPE_CHECKING:
    from ..record.history import RWCHistory


def write_report(
    history: HistorySource,
    clusters: LayerClusters | None = None,
    folder: str | Path | None = None,
    *,
    per_epoch: RWCHistory | None = None,
    groups: Mapping[str, LayerClusters | None] | None = None,
    run: str | Path | None = None,
) -> Path:
    """Write the page `report.html`, every figure as PNG and SVG, and `labels.csv`, `findings.csv`, `findings.json` and
    `scree.csv`.

    The page begins with what `check_health` finds. If the run diverged, the page shows the steps before that, and says
    so. It needs no network and no other file. Files of the same names are replaced. The page is replaced last and in
    one move, so a reader never sees half of it. The same data give the same page, byte by byte.

    Args:
        history: an `RWCHistory`, the path of a run folder, or a monitor.
        clusters: what `cluster_layers` made of it; by default `cluster_layers(history)`.
        folder: where to write; made if it is missing. For a run folder the default is its `analysis` folder.
        per_epoch: the same run with one row an epoch, each compared with the weights one epoch before. It gets a figure
            of its own, unless it has no rows.
        groups: groups of layers that were clustered by themselves, from `groups.cluster_groups`. Each gets a section,
            and `groups.csv` holds their clusters.
        run: the run folder of the history. The page then names it, its date and the versions it was recorded with. Not
            needed if `history` is a path.

    Returns:
        The path of `report.html`.

    Raises:
        ValueError: the history is empty, or the clusters are of other layers or steps.
        TypeError: `history` or `clusters` is something else, or there is no `folder`.
        WeightScaleError: there is no run folder at that path, or its `analysis` is a link or a file.

    Example:
        `write_report("runs/first")`, or `write_report(history, cluster_layers(history), "out")`
    """
    if clusters is not None and not isinstance(clusters, LayerClusters):
        raise TypeError(
            f"clusters must be what cluster_layers returned, got {type(clusters).__name__}; give a folder as folder="
        )
    if isinstance(history, (str, os.PathLike)):
        run = Path(history) if run is None else run
        if folder is None:
            folder = Path(history).expanduser() / "analysis"
            check_own_folder(folder)
    if folder is None:
        raise TypeError('write_report needs a folder to write to: pass folder="out"')
    history = history_of(history)
    check_not_empty(history)
    findings = check_health(history)
    history, clusters, notes = _clustered(history, clusters)
    origin = "" if run is None else _origin(Path(run))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_findings(folder, findings)
    summary = Summary.of(history, clusters)
    _write_labels(folder / "labels.csv", history, summary)
    _write_scree(folder / "scree.csv", clusters)
    pictures = draw(history, clusters, per_epoch, folder)
    sections = draw_groups(history, groups or {}, folder)
    if sections:
        _write_groups(folder / "groups.csv", sections)
    text = page(
        history,
        clusters,
        origin=origin,
        findings=findings,
        notes=notes,
        summary=summary,
        pictures=pictures,
        groups=sections,
    )
    with atomic_write(folder / "report.html") as file:
        file.write(text.encode())
    return folder / "report.html"


def _clustered(history: RWCHistory, clusters: LayerClusters | None) -> tuple[RWCHistory, LayerClusters, list[str]]:
    """The part of the record that the page shows, its clusters, and what is left out.

    A run that diverged is shown as far as it was finite. Clusters that were given may be of the whole record, or of its
    finite part.
    """
    part, notes = finite_part(history)
    if clusters is None:
        check_not_empty(part)
        clusters = cluster_layers(part)
    elif part is not history and clusters.curves.shape[1] == len(history) and fits(history, clusters):
        part, notes = history, []
    check_same_layers(part, clusters)
    return part, clusters, notes + left_out_of_clusters(part, clusters)


def _origin(run: Path) -> str:
    """Which run it is, when it began, and with what it was recorded."""
    meta = RunFolder.open(run).meta
    begun = f", begun {datetime.fromisoformat(meta['begun']):%Y-%m-%d %H:%M} UTC" if "begun" in meta else ""
    versions = ", ".join(f"{name} {version}" for name, version in meta.get("versions", {}).items())
    return f"Run {run}{begun}" + (f", recorded with {versions}" if versions else "")


def _write_labels(path: Path, history: RWCHistory, summary: Summary) -> None:
    header = ("name", "kind", "weights", "cluster", "median_rwc", "median_moved_fraction")
    medians = (summary.rwc.tolist(), summary.moved.tolist())
    rows = zip(
        map(cell, history.names),
        map(cell, history.kinds),
        history.numel.tolist(),
        summary.clusters,
        *medians,
        strict=True,
    )
    write_csv(path, header, rows)


def _write_scree(path: Path, clusters: LayerClusters) -> None:
    k = range(1, len(clusters.sse) + 1)
    write_csv(path, ("k", "sse", "sse_raw"), zip(k, clusters.sse.tolist(), clusters.sse_raw.tolist(), strict=True))


def _write_groups(path: Path, sections: list[Group]) -> None:
    rows = [
        (cell(name), cell(group), label)
        for group, clusters, _ in sections
        if clusters is not None
        for name, label in zip(clusters.names, clusters.labels.tolist(), strict=True)
    ]
    write_csv(path, ("name", "group", "cluster"), rows)
