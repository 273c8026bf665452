"""The HTML of the report: a history, its clusters and its findings become one page that needs no other file.

Letters: S recorded steps, L layers, k clusters.
"""

from __future__ import annotations

import json
from collections import Counter
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from ..analysis.curves import FloatArray
from ..analysis.medians import finite_median
from ..analysis.result import OUTLIER
from ..figures.style import cluster_look, labels_of
from ..health.check import rows_to_judge
from ..health.levels import layer_levels
from ..text import count, short_name
from .findings import findings_html

if TYPE_CHECKING:
    from ..analysis.result import LayerClusters
    from ..health.finding import Finding
    from ..record.history import RWCHistory

SAFE = " !$'()*+,-./:;=?@[]^_`{|}~"  # in the address of a picture, between double quotes
MOST_NAMES = 2  # of a cluster of so few layers, all names are given


class Summary(NamedTuple):
    """What the tables say about each layer, in network order."""

    clusters: list[int | None]  # [L] None for a layer that was not clustered
    rwc: FloatArray  # [L] see `layer_levels`
    moved: FloatArray  # [L] median fraction of the weights that moved

    @classmethod
    def of(cls, history: RWCHistory, clusters: LayerClusters) -> Summary:
        """The clusters and the medians of the layers of a history."""
        label_of = dict(zip(clusters.rows.tolist(), clusters.labels.tolist(), strict=True))
        return cls(
            clusters=[label_of.get(i) for i in range(len(history.names))],
            rwc=layer_levels(history).level,
            moved=np.median(history.moved_fraction, axis=0),
        )


class Picture(NamedTuple):
    """A figure in the page."""

    title: str
    svg: bytes
    reading: str  # two sentences
    half: bool  # half as wide as the page


class Group(NamedTuple):
    """A group of layers with its own section. A group of too few layers has no clusters and no picture."""

    name: str
    clusters: LayerClusters | None
    picture: Picture | None


def page(
    history: RWCHistory,
    clusters: LayerClusters,
    *,
    origin: str,
    findings: list[Finding],
    notes: list[str],
    summary: Summary,
    pictures: list[Picture],
    groups: list[Group],
) -> str:
    """The whole page. Every text that came from outside is escaped.

    Args:
        history: the run.
        clusters: its clusters.
        origin: which run it is, where that is known, else `""`.
        findings: what is wrong with it.
        notes: what is left out, a sentence each.
        summary: the numbers of the table of layers.
        pictures: the figures.
        groups: the groups that were clustered by themselves.
    """
    model = _plain(history.settings.get("model", "this network"))
    rwc = history.rwc
    return fill_template(
        "report/template.html",
        title=escape(f"How the layers of {model} learned"),
        lead=escape(_lead(clusters, rwc)),
        origin=f'<p class="origin">{escape(origin)}</p>' if origin else "",
        facts=_facts(history, clusters),
        findings=findings_html(findings, len(history) >= rows_to_judge(history.every)) + _notes(notes),
        clusters=_cluster_table(history, clusters, rwc),
        figures="\n".join(figure_html(picture) for picture in pictures),
        groups=_groups(history, groups, rwc),
        layers="\n".join(_layer_row(i, history, summary) for i in range(len(history.names))),
        method=_plain_rows(_method(history, clusters)),
        settings=_settings(history),
    )


def fill_template(name: str, **parts: str) -> str:
    """The template `name` of this package, filled with `parts` and the style that all pages share."""
    folder = files("weightscale_fast")
    style = (folder / "report/style.css").read_text("utf-8")
    return Template((folder / name).read_text("utf-8")).substitute(style=style, **parts)


def _lead(clusters: LayerClusters, rwc: FloatArray) -> str:
    text = _extent(clusters)
    if clusters.k > 1:  # HDBSCAN may find none
        slowest, fastest = (_cluster_median(clusters, label, rwc) for label in (0, clusters.k - 1))
        if slowest > 0:
            text += f". The fastest cluster changes {fastest / slowest:,.3g} times as fast as the slowest (medians)"
    return f"{text}. RWC, the relative weight change, is how far a layer moves in proportion to its weights."


def _notes(notes: list[str]) -> str:
    """What the page leaves out, above everything that leaves it out."""
    return "".join(f'\n<p class="note">{escape(note[:1].upper() + note[1:])}.</p>' for note in notes)


def _facts(history: RWCHistory, clusters: LayerClusters) -> str:
    settings, weights = history.settings, int(history.numel.sum())
    unit = history.unit.rpartition(" ")[2]
    every = f"every {unit}" if history.every == 1 else f"every {history.every:,} {unit}s"
    facts = [(key.capitalize(), _plain(settings[key]), "") for key in ("model", "data") if key in settings]
    facts += [
        (
            f"{unit.capitalize()}s recorded",
            f"{len(history.steps):,}",
            f"{history.steps[0]:,} to {history.steps[-1]:,}, {every}",
        ),
        ("Layers", f"{len(history.names):,}", f"{len(clusters.names):,} clustered"),
        ("Weights", _short_number(weights), f"{weights:,}"),
        ("Clusters", str(clusters.k), _agreement(clusters)),
    ]
    return "\n".join(
        f"<div><dt>{escape(term)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for term, value, note in facts
    )


def _extent(clusters: LayerClusters) -> str:
    """For example `"54 layers in 3 clusters and 2 outliers"`."""
    text = f"{count(len(clusters.names), 'layer')} in {count(clusters.k, 'cluster')}"
    outliers = int((clusters.labels == OUTLIER).sum())
    return f"{text} and {count(outliers, 'outlier')}" if outliers else text


def _agreement(clusters: LayerClusters) -> str:
    """How sure the clusters are, in a few words. HDBSCAN has no seeds, so it has no stability."""
    return "by HDBSCAN" if np.isnan(clusters.stability) else f"stability {clusters.stability:.2f}"


def _cluster_median(clusters: LayerClusters, label: int, rwc: FloatArray) -> float:
    """The median RWC over the steps and the layers of a cluster."""
    return float(finite_median(rwc[:, clusters.rows[clusters.labels == label]].ravel(), axis=0))


def _cluster_table(history: RWCHistory, clusters: LayerClusters, rwc: FloatArray) -> str:
    heads = ("Cluster", "Layers", "Weights", "Kinds", "Where in the network, first layer left", "Median RWC")
    numbers = ("Layers", "Weights", "Median RWC")
    head = "".join(f"<th{' class=number' if text in numbers else ''}>{text}</th>" for text in heads)
    rows = "\n".join(_cluster_row(label, history, clusters, rwc) for label in labels_of(clusters))
    return f'<div class="scroll">\n<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>'


def _cluster_row(label: int, history: RWCHistory, clusters: LayerClusters, rwc: FloatArray) -> str:
    members = clusters.rows[clusters.labels == label]
    kinds = Counter(history.kinds[i] for i in members).most_common()
    cells = [
        f"<td>{_chip(label)}</td>",
        _number(f"{len(members):,}"),
        _number(_short_number(int(history.numel[members].sum()))),
        f'<td class="kinds">{escape(", ".join(f"{number} {kind}" for kind, number in kinds))}</td>',
        f"<td>{_where(members, history.names)}{_strip(members, len(history.names), cluster_look(label).colour)}</td>",
        _number(_rwc(_cluster_median(clusters, label, rwc))),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _groups(history: RWCHistory, groups: list[Group], rwc: FloatArray) -> str:
    """One section for each group, then the names of the groups that are too small."""
    if not groups:
        return ""
    sections = ["<h2>Groups of layers, each clustered by itself</h2>"]
    for name, clusters, picture in groups:
        if clusters is not None and picture is not None:
            choice = f"{_extent(clusters)} ({clusters.k_reason}; {_agreement(clusters)}; {clusters.scale} scale)."
            table = _cluster_table(history, clusters, rwc)
            sections += [f"<h3>{escape(name)}</h3>", f"<p>{escape(choice)}</p>", table, figure_html(picture)]
    small = [escape(group.name) for group in groups if group.clusters is None]
    if small:
        sections.append(f"<p>Too few layers to cluster: {', '.join(small)}.</p>")
    return "\n".join(sections)


def _where(members: NDArray[np.int64], names: tuple[str, ...]) -> str:
    shown = [f"<code>{escape(short_name(names[i]))}</code>" for i in members]
    if len(members) <= MOST_NAMES:
        return " and ".join(shown)
    low, high = np.quantile(members + 1, [0.25, 0.75]).round().astype(int)
    return f"{shown[0]} to {shown[-1]}, half in layers {low} to {high} of {len(names)}"


def _strip(members: NDArray[np.int64], L: int, colour: str) -> str:
    """The network from left to right, with the members in colour. The words above it say the same."""
    cells = "".join(f'<rect x="{i}" width="1" height="1"/>' for i in members)
    shape = f'viewBox="0 0 {L} 1" preserveAspectRatio="none" shape-rendering="crispEdges"'
    return f'<svg class="strip" {shape} aria-hidden="true" fill="{colour}">{cells}</svg>'


def figure_html(picture: Picture) -> str:
    """The picture as part of the page, with its caption."""
    data = quote(picture.svg, safe=SAFE)  # a quarter smaller than base64: the images inside already are base64
    return (
        f'<figure{" class=half" if picture.half else ""}><img alt="{escape(picture.title)}" '
        f'src="data:image/svg+xml,{data}"><figcaption>{escape(picture.reading)}</figcaption></figure>'
    )


def _layer_row(i: int, history: RWCHistory, summary: Summary) -> str:
    label = summary.clusters[i]
    cells = [
        _number(f"{i + 1}", i + 1),
        f'<td class="name">{escape(history.names[i])}</td>',
        f"<td>{escape(history.kinds[i])}</td>",
        _number(f"{history.numel[i]:,}", int(history.numel[i])),
        '<td data-value="">not clustered</td>' if label is None else f'<td data-value="{label}">{_chip(label)}</td>',
        _number(_rwc(summary.rwc[i]), float(summary.rwc[i])),
        _number(f"{summary.moved[i]:.3g}", float(summary.moved[i])),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _method(history: RWCHistory, clusters: LayerClusters) -> dict[str, str]:
    R, T = clusters.curves.shape
    formula = {
        "norm_ratio": "sum of |w - w_prev| / sum of |w_prev|",
        "mean_ratio": "mean of |w - w_prev| / |w_prev|",
        "l2_ratio": "L2 norm of w - w_prev / L2 norm of w_prev",
    }
    shares = " and ".join(f"{share:.1%}" for share in clusters.explained_variance_ratio[:2])
    space = {"raw": "the whole curves", "pca": "the 2-D scores"}[clusters.space]
    how = {
        "kmeans": f"k-means on {space}, best of {count(clusters.n_init, 'start')}, seed {clusters.seed}",
        "hdbscan": f"HDBSCAN on {space}; layers that belong to no cluster are outliers",
    }[clusters.method]
    recipe = (
        f"{clusters.recipe}: {count(clusters.infinities_replaced, 'infinite value')} replaced, "
        "the network's first and last layer left out"
    )
    stability = f"{clusters.stability:.3f} (mean adjusted Rand index with other seeds; 1: the same clusters)"
    silhouette = f"{clusters.silhouette:.3f} (1: far apart, 0: touching)"
    return {
        "Relative weight change": f"{history.definition}: {formula[history.definition]}",
        **({} if clusters.recipe is None else {"Recipe": recipe}),
        "Curves": f"{count(R, 'layer')} of {count(T, 'value')}",
        "Scale": f"{clusters.scale}: {clusters.scale_reason}",
        "Outliers": f"{clusters.outliers}: {count(clusters.outliers_replaced, 'value')} of {R * T:,} replaced",
        "Explained variance": f"{shares}, along the first and the second principal component",
        "Number of clusters": f"k = {clusters.k}: {clusters.k_reason}",
        "Clustering": how,
        "Stability": "not defined: no seeds" if np.isnan(clusters.stability) else stability,
        "Silhouette": "not defined for this k" if np.isnan(clusters.silhouette) else silhouette,
        "Backend": f"{clusters.backend}: {clusters.backend_reason}",
    }


def _settings(history: RWCHistory) -> str:
    if not history.settings:
        return "<p>The run recorded none.</p>"
    rows = _plain_rows({str(key): _plain(value) for key, value in history.settings.items()})
    return f'<table class="plain"><tbody>\n{rows}\n</tbody></table>'


def _plain_rows(texts: dict[str, str]) -> str:
    return "\n".join(f"<tr><th scope=row>{escape(key)}</th><td>{escape(text)}</td></tr>" for key, text in texts.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _chip(label: int) -> str:
    text = "outlier" if label == OUTLIER else label
    return f'<span class="chip" style="background:{cluster_look(label).colour}"></span>{text}'


def _number(text: str, value: float | None = None) -> str:
    """A right-aligned cell. The column sorts by `value`; NaN has none."""
    data = "" if value is None else ' data-value=""' if np.isnan(value) else f' data-value="{value!r}"'
    return f'<td class="number"{data}>{text}</td>'


def _rwc(value: float) -> str:
    return "not finite" if np.isnan(value) else f"{value:.2e}" if value else "0"


def _short_number(number: int) -> str:
    """`25.6 M` for 25,557,032."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
