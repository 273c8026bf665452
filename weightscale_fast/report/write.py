"""write_report: one self-contained HTML page about a run, with its figures and tables as files beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .. import figures
from ..figures.curves import check_same_layers
from ..figures.save import svg_of
from ..figures.style import check_not_empty, set_title
from ..files import atomic_write, write_csv
from ..health.check import check_health
from .page import Group, Picture, Summary, page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..analysis.result import LayerClusters
    from ..health.finding import Finding
    from ..record.history import RWCHistory

DPI = 160  # of PNG files, and of the images inside SVG files


def write_report(
    history: RWCHistory,
    clusters: LayerClusters,
    folder: str | Path,
    *,
    per_epoch: RWCHistory | None = None,
    groups: Mapping[str, LayerClusters | None] | None = None,
) -> Path:
    """Write the page `report.html`, its figures as PNG and SVG, and `findings.csv`, `labels.csv` and `scree.csv`.

    The page needs no network and no other file. Files of the same names are replaced, the page last and at once, so
    that a reader never sees half of it. The same data give the same page, byte by byte.

    Args:
        history: the run.
        clusters: what `cluster_layers` made of it.
        folder: where to write; made if it is missing.
        per_epoch: the same run with a row an epoch, each compared with the weights one epoch before, to be shown too;
            left out where it is empty.
        groups: groups of layers that were clustered by themselves, as `groups.cluster_groups` gives them: each gets a
            section, and its clusters stand in `groups.csv`.

    Returns:
        The path of `report.html`.

    Raises:
        ValueError: the history is empty, or clusters are of other layers or steps.

    Example:
        `write_report(history, cluster_layers(history), "RUN/analysis")`
    """
    check_not_empty(history)
    check_same_layers(history, clusters)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    summary = Summary.of(history, clusters)
    _write_labels(folder / "labels.csv", history, summary)
    _write_scree(folder / "scree.csv", clusters)
    findings = check_health(history)
    _write_findings(folder / "findings.csv", findings)
    pictures = _draw(history, clusters, per_epoch, folder)
    sections = _draw_groups(history, groups or {}, folder)
    if sections:
        _write_groups(folder / "groups.csv", sections)
    text = page(history, clusters, summary, findings, pictures, sections)
    with atomic_write(folder / "report.html") as file:
        file.write(text.encode())
    return folder / "report.html"


def _draw(history: RWCHistory, clusters: LayerClusters, per_epoch: RWCHistory | None, folder: Path) -> list[Picture]:
    """Every figure, saved in the folder, with two sentences on how to read it."""
    shown = float(clusters.explained_variance_ratio[:2].sum())
    near_border = (
        "the clusters were formed on the whole curves, so a mark may lie in the area of another cluster"
        if clusters.space == "raw"
        else "a mark near a border could as well be in the next cluster"
    )
    areas = "the pale areas are what belongs to each" if clusters.method == "kmeans" else "grey marks belong to none"
    drawn = [
        (
            "clustered_curves",
            figures.clustered_curves(history, clusters),
            "Each thin line is a layer, pale in the colour of its cluster, and each thick line is the median of a "
            "cluster. Clusters that stay apart learn at different speeds all along, while lines that cross or part "
            "show when a group of layers slowed down or woke up.",
        ),
        (
            "pca_map",
            figures.pca_map(clusters),
            "Each mark is a layer, marks that lie close have similar curves, an X is the centre of a cluster, and "
            f"{areas}. The plane shows {shown:.1%} of the variance between the curves, "
            f"and {near_border}.",
        ),
        (
            "scree",
            figures.scree(clusters),
            "The blue line is the difference between layers that is left inside the clusters when there are k of them. "
            "More clusters always leave less, so look for the bend furthest below the chord, and where there is no "
            "clear one take k as a choice.",
        ),
        (
            "small_multiples",
            figures.small_multiples(history, clusters),
            "Each panel is a layer, in the order of the network and in the colour of its cluster, above the pale "
            "median of all layers. Read along the rows for how behaviour changes with depth, and look for panels "
            "unlike their neighbours.",
        ),
        (
            "phases",
            figures.phases(history, clusters),
            "Each row is a layer, each column is a part of the training that was clustered by itself, and colours are "
            "those of the clusters of the whole run. A layer that changes colour changed its company, and where many "
            "do at once a phase of the training ended.",
        ),
        (
            "rwc_curves",
            figures.rwc_curves(history),
            "Each line is a layer, dark for the first of the network and light for the last. Colours that are sorted "
            "from bottom to top say that speed depends on depth, and a line that leaves the bundle is a layer to "
            "look at.",
        ),
        (
            "heat_map",
            figures.heat_map(history),
            "Each row is a layer, the first on top, each column is a step, and bright is a large change in proportion "
            "to the weights. Stripes down the map are steps that moved the whole network, and stripes across it are "
            "layers unlike their neighbours.",
        ),
        (
            "moved_fraction",
            figures.moved_fraction(history),
            "Pale is where all weights of a layer got another stored value, and dark is where none did. Dark rows are "
            "frozen layers, or weights stored too coarsely for their updates, as happens with 16 bits.",
        ),
    ]
    if per_epoch is not None and len(per_epoch.steps):
        reading = (
            "Each point compares a layer's weights with those one epoch before, as the figures of the papers do. It is "
            "not the sum of the epoch's per-step values, because steps in opposite directions cancel out."
        )
        drawn.insert(6, ("per_epoch_curves", _epoch_curves(per_epoch), reading))
    return [
        Picture(
            ax.get_title(loc="left"),
            _save(cast("Figure", ax.figure), folder / name),
            reading,
            half=name in ("pca_map", "scree"),
        )
        for name, ax, reading in drawn
    ]


def _draw_groups(history: RWCHistory, groups: Mapping[str, LayerClusters | None], folder: Path) -> list[Group]:
    """The groups, with the figure of each that was clustered, saved in the folder."""
    sections = []
    for number, (name, clusters) in enumerate(groups.items(), start=1):
        picture = None
        if clusters is not None:
            check_same_layers(history, clusters)
            file = f"group_{number}_{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:40]}"
            svg = _save(figures.group_panels(history, {name: clusters}), folder / file)
            reading = (
                "On the left are the curves of this group's layers, on the right is their map, in the colours of the "
                "group's own clusters. They were cleaned and clustered apart from all other layers, so a cluster here "
                "is not the one of the same number above."
            )
            picture = Picture(f"Clusters within {name}", svg, reading, half=False)
        sections.append(Group(name, clusters, picture))
    return sections


def _epoch_curves(per_epoch: RWCHistory) -> Axes:
    """The curves of a history with a record an epoch, whether its steps count epochs or optimizer steps."""
    settings = {**per_epoch.settings, "unit": "epoch"}
    epochs = replace(per_epoch, steps=per_epoch.steps // per_epoch.every, every=1, settings=settings)
    ax = figures.rwc_curves(epochs)
    set_title(ax, "Relative weight change from epoch to epoch")
    return ax


def _save(figure: Figure, path: Path) -> bytes:
    """Write the figure as PNG and SVG; the SVG."""
    svg = svg_of(figure, DPI)
    path.with_name(f"{path.name}.svg").write_bytes(svg)
    figure.set_layout_engine("none")  # it is laid out; once more would double the time
    figure.savefig(path.with_name(f"{path.name}.png"), dpi=DPI)
    return svg


def _write_labels(path: Path, history: RWCHistory, summary: Summary) -> None:
    header = ("name", "kind", "weights", "cluster", "median_rwc", "median_moved_fraction")
    medians = (summary.rwc.tolist(), summary.moved.tolist())
    rows = zip(history.names, history.kinds, history.numel.tolist(), summary.clusters, *medians, strict=True)
    write_csv(path, header, rows)


def _write_scree(path: Path, clusters: LayerClusters) -> None:
    k = range(1, len(clusters.sse) + 1)
    write_csv(path, ("k", "sse", "sse_raw"), zip(k, clusters.sse.tolist(), clusters.sse_raw.tolist(), strict=True))


def _write_groups(path: Path, sections: list[Group]) -> None:
    rows = [
        (name, group, label)
        for group, clusters, _ in sections
        if clusters is not None
        for name, label in zip(clusters.names, clusters.labels.tolist(), strict=True)
    ]
    write_csv(path, ("name", "group", "cluster"), rows)


def _write_findings(path: Path, findings: list[Finding]) -> None:
    header = ("kind", "layer", "more_layers", "since_step", "certain_at_step", "value", "median_of_others", "text")
    rows = [(f.kind, f.layer, " ".join(f.others), f.step, f.last, f.value, f.median, str(f)) for f in findings]
    write_csv(path, header, rows)
