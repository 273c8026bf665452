"""One page about all runs under a folder: accuracies, whether the papers' claims hold, and the papers' figures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..analysis import LayerClusters, cluster_layers
from ..figures import clustered_curves, pca_panels
from ..figures.save import DPI, save_figure, svg_of
from ..figures.style import rwc_unit, set_title, styled
from ..files import atomic_write
from ..report.page import Picture, figure_html, fill_template
from ..text import count
from .block_curves import block_curves
from .claims import ANSWERS, CLAIMS, Verdict, by_network_and_data
from .presets import PAPERS, PRESETS
from .results import METRICS, Row, is_of_paper, load_runs, stand_in, table, verdicts, write_tables
from .seeds import SeedRuns
from .summary import agreement, block_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..record.history import RWCHistory

PAGE = "paper.html"
DATA = ("cifar10", "cifar100", "svhn", "mnist", "fashion-mnist")


def write_page(root: str | Path) -> Path:
    """Write `paper.html`, its figures, `accuracy.csv` and `claims.csv` about all runs of presets under `root`.

    Returns:
        The path of the page, which needs no other file.

    Raises:
        WeightScaleError: there is no run, or a package is missing.

    Example:
        `write_page("runs/paper")`
    """
    root = Path(root)
    runs, failures = load_runs(root)
    write_tables(runs, root)
    rows = table(runs)
    networks = list(dict.fromkeys(run.network for run in runs))
    answers = [verdict.answer for verdict in verdicts(runs)]
    counts = ", ".join(f"{answers.count(answer)} {answer}" for answer in ANSWERS)
    ours = count(sum(map(is_of_paper, runs)), "experiment")
    text = fill_template(
        "paper/template.html",
        title="The papers' experiments, run here",
        lead=escape(f"{ours} of {len(PRESETS)}. Of the papers' claims, by network and data set: {counts}."),
        accuracy="\n".join(map(_accuracy_row, rows)),
        changed=_changes(rows, failures),
        data="".join(f"<th>{escape(data)}</th>" for data in DATA),
        claims="\n".join(_claim_rows(runs)),
        networks="\n".join(_network([run for run in runs if run.network == network], root) for network in networks),
    )
    with atomic_write(root / PAGE) as file:
        file.write(text.encode())
    return root / PAGE


def _accuracy_row(row: Row) -> str:
    cells = [
        f"<td>{escape(row.network)}</td>",
        f"<td>{escape(row.data)}</td>",
        f'<td class="number">{row.seeds}<small>paper: {row.published_seeds}</small></td>',
        f'<td class="number">{row.epochs}<small>paper: {row.published_epochs}</small></td>',
        f'<td class="number">{row.images}</td>',
        *(_percent(row.accuracy[name]) for name in METRICS),
        f'<td class="number">{"not at hand" if row.published is None else f"{row.published:.1%}"}</td>',
        f'<td class="number">{row.recording_share:.1%}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _percent(values: np.ndarray) -> str:
    spread = f"<small>± {100 * values.std():.1f}</small>" if len(values) > 1 else ""
    return f'<td class="number">{values.mean():.1%}{spread}</td>'


def _changes(rows: list[Row], failures: list[str]) -> str:
    """The differences between the runs and their papers, one sentence for each."""
    sentences = []
    for row in rows:
        changes = ", ".join(f"{name} {value}" for name, value in row.changed.items())
        sentences += [f"{row.network} on {row.data}: {changes}."] if changes else []
        sentences += [f"{row.network}: {row.note}."] if row.note else []
        for seed, reason in row.left_out.items():
            sentences.append(f"{row.network} on {row.data}: seed {seed} {reason}, and is left out.")
        sentences += [f"{row.network} on {row.data}: seed {seed} {reason}." for seed, reason in row.unfinished.items()]
    sentences += failures
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in dict.fromkeys(sentences))
    return f"<p>Other than in the papers:</p>\n<ul>{items}</ul>" if sentences else ""


def _claim_rows(runs: list[SeedRuns]) -> list[str]:
    """A row for each claim and network, a cell for each data set."""
    found = by_network_and_data(runs)
    rows = []
    for claim in CLAIMS:
        its_verdicts = list(claim.verdicts(found))
        for network in claim.networks:
            cell_of = {
                verdict.data: _verdict(verdict, stand_in(runs, verdict))
                for verdict in its_verdicts
                if verdict.network == network
            }
            head = ""
            if network == claim.networks[0]:
                details = f"{PAPERS[claim.paper]}; {claim.measure}, {claim.expected} expected"
                head = f"<td rowspan={len(claim.networks)}>{escape(claim.text)}<small>{escape(details)}</small></td>"
            cells = "".join(cell_of.get(data, '<td class="not-run">no claim</td>') for data in DATA)
            rows.append(f"<tr>{head}<td>{escape(network)}</td>{cells}</tr>")
    return rows


def _verdict(verdict: Verdict, stood_in: str | None) -> str:
    reasons = [] if np.isnan(verdict.number) else [f"{verdict.number:.3g}"]
    if len(verdict.seeds) > 1:
        reasons.append(f"in {verdict.agreeing} of {count(len(verdict.seeds), 'seed')}")
    reasons += filter(None, [verdict.obstacle, stood_in and f"on {stood_in}"])
    reason = f"<small>{escape('; '.join(reasons))}</small>" if reasons else ""
    return f'<td class="{verdict.answer.replace(" ", "-")}">{verdict.answer}{reason}</td>'


def _network(runs: list[SeedRuns], root: Path) -> str:
    """The figures of one network, its data sets side by side."""
    network = runs[0].network
    clusters = {run.data: cluster_layers(run.mean()) for run in runs}
    pictures = [
        Picture(
            f"{network}: RWC of its blocks",
            _save(_blocks(runs), root, f"{network}-blocks"),
            "Each line is the mean over the layers of a part of the network, from epoch to epoch. The panels share one "
            "axis, so lines that lie higher in one of them changed more on that data set.",
            half=len(runs) == 1,
        ),
        Picture(
            f"{network}: maps of its layers",
            _save(pca_panels(clusters), root, f"{network}-maps"),
            "Each mark is a layer, and marks that lie close have similar curves. Every data set has its own components "
            "and its own clusters, so compare how the layers fall into groups and not where the groups lie.",
            half=len(runs) == 1,
        ),
        *(picture for run in runs for picture in _clustered(run, clusters[run.data], root)),
    ]
    lead = " ".join(_agreement(run, clusters[run.data]) for run in runs)
    figures = "\n".join(map(figure_html, pictures))
    return f'<h2>{escape(network)}</h2>\n<p>{escape(lead)}</p>\n<div class="figures">\n{figures}\n</div>'


def _blocks(runs: list[SeedRuns]) -> Figure:
    return block_curves({run.data: block_runs(run) for run in runs}, ylabel=rwc_unit(runs[0].histories[0]))


def _clustered(run: SeedRuns, clusters: LayerClusters, root: Path) -> Iterator[Picture]:
    """The curves of a run by cluster: the mean over the seeds from epoch to epoch, and one seed from step to step."""
    name = f"{run.network} on {run.data}"
    per_step = run.per_step()
    every = "every step" if per_step.every == 1 else f"every {per_step.every} steps"
    for history, what, reading in (
        (
            run.mean(),
            "from epoch to epoch",
            "Each thin line is a layer, the mean over the seeds, and each thick line is the median of a cluster.",
        ),
        (
            per_step,
            f"{every} of seed {per_step.settings['seed']}",
            "The same clusters from step to step. Layers that move much at every step and little from epoch to epoch "
            "go back and forth.",
        ),
    ):
        if not len(history):  # a short run that records few steps may have no row
            continue
        figure = _curves(history, clusters, f"{name}, {what}")
        stem = f"{run.network}-{run.data}-{'steps' if history is per_step else 'epochs'}"
        yield Picture(f"{name}, {what}", _save(figure, root, stem), reading, half=True)


@styled
def _curves(history: RWCHistory, clusters: LayerClusters, title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.6, 4.4), layout="constrained")
    set_title(clustered_curves(history, clusters, figure.add_subplot()), title.replace("$", r"\$"))
    return figure


def _agreement(run: SeedRuns, clusters: LayerClusters) -> str:
    found = f"On {run.data}: {count(len(clusters.names), 'layer')} in {count(clusters.k, 'cluster')}"
    if len(run.histories) == 1:
        return f"{found}, one seed."
    return (
        f"{found}; the seeds, each clustered by itself, agree by {agreement(run, clusters):.2f} (adjusted Rand index)."
    )


def _save(figure: Figure, root: Path, stem: str) -> bytes:
    """Write the figure as PNG into `root`, and return its SVG for the page.

    Args:
        stem: the name of the file. It comes from the settings of a run, so nothing of it may lead out of `root`.
    """
    svg = svg_of(figure, DPI)
    figure.set_layout_engine("none")  # it is laid out; to do that again would double the time
    save_figure(figure, root / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', stem)}.png")
    return svg
