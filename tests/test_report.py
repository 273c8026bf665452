"""write_report: the page needs nothing else, holds everything, and escapes what it was told."""

import csv
import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from weightscale_fast.analysis import cluster_layers
from weightscale_fast.analysis.groups import cluster_groups, group_layers
from weightscale_fast.health.check import check_health
from weightscale_fast.record.history import RWCHistory
from weightscale_fast.record.rates import Rates
from weightscale_fast.report.write import write_report

from .histories import make_history, noisy

NASTY = '</td><script>alert("1 & 2")</script>.weight'
FIGURES = [
    "clustered_curves",
    "pca_map",
    "scree",
    "small_multiples",
    "phases",
    "rwc_curves",
    "heat_map",
    "moved_fraction",
]


class Page(HTMLParser):
    """What a browser would make of a page: its tags, and the texts of the cells and captions."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.captions, self._into = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th", "figcaption"):
            self._into = self.captions if tag == "figcaption" else self.rows[-1]
            self._into.append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th", "figcaption"):
            self._into = None

    def handle_data(self, data):
        if self._into is not None:
            self._into[-1] += data


@pytest.fixture(scope="module")
def history():
    names = ["conv1.weight", NASTY, *(f"layer{i}.weight" for i in range(4, 0, -1))]
    settings = {"model": "resnet<50>", "data": "CIFAR-10", "optimizer": {"lr": 0.1}, "note": "http & co"}
    return make_history(noisy(40, 6), names=names, settings=settings)


@pytest.fixture(scope="module")
def clusters(history):
    return cluster_layers(history, k=3, n_init=2)


@pytest.fixture(scope="module")
def folder(history, clusters, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "deep" / "analysis"
    epochs = replace(history.select(steps=slice(9, None, 10)), steps=np.arange(1, 5))
    assert write_report(history, clusters, folder, per_epoch=epochs) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_folder_holds_every_figure_twice_and_the_tables(folder):
    figures = [f"{name}.{kind}" for name in [*FIGURES, "per_epoch_curves"] for kind in ("png", "svg")]
    assert {path.name for path in folder.iterdir()} == {
        *figures,
        "findings.csv",
        "findings.json",
        "labels.csv",
        "scree.csv",
        "report.html",
    }


def test_page_embeds_every_figure_and_needs_nothing_else(text, page):
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 9
    assert all(image["src"].startswith("data:image/svg+xml,%3C?xml") and image["alt"] for image in images)
    outside = re.sub(r'src="data:[^"]*"', "", text)
    assert "http" not in outside.replace("http &amp; co", "")
    assert not re.search(r"\b(src|href|import|url)\b\s*[=(]", outside)
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "iframe", "object"})


def test_page_says_how_to_read_each_figure_in_two_sentences(page):
    assert len(page.captions) == 9
    assert all(len(re.findall(r"[.](?= [A-Z]|$)", caption)) == 2 for caption in page.captions)
    assert any("not the sum of the epoch's per-step values" in caption for caption in page.captions)


def test_page_shows_the_steps_in_learning_rates_where_the_rates_are_known(history, clusters, tmp_path):
    rates = Rates(lr=np.full((40, 1), 1e-3), weight_decay=np.zeros((40, 1)), rate_of=np.zeros(6, np.int32))
    write_report(replace(history, rates=rates), clusters, tmp_path / "known")
    text = (tmp_path / "known" / "report.html").read_text("utf-8")
    titles = [attrs["alt"] for tag, attrs in Page(text).tags if tag == "img"]
    assert len(titles) == 9
    assert titles[5:7] == ["Relative weight change of every layer", "Size of the steps in learning rates"]
    assert (tmp_path / "known" / "step_sizes.png").exists()
    (reading,) = (caption for caption in Page(text).captions if "divided by their learning rate" in caption)
    assert len(re.findall(r"[.](?= [A-Z]|$)", reading)) == 2


def test_page_has_a_row_for_each_layer(page, history, clusters):
    rows = [row for row in page.rows if len(row) == 7 and row[0].isdigit()]
    assert [row[1] for row in rows] == list(history.names)
    assert [row[2] for row in rows] == list(history.kinds)
    assert [int(row[4]) for row in rows] == clusters.labels.tolist()
    np.testing.assert_allclose([float(row[5]) for row in rows], np.median(history.rwc, axis=0), rtol=1e-2)
    assert {row[6] for row in rows} == {"0.75"}


def test_page_sums_up_each_cluster(page, history, clusters):
    rows = [row for row in page.rows if len(row) == 6 and row[0].isdigit()]
    assert [row[:2] for row in rows] == [["0", "2"], ["1", "2"], ["2", "2"]]
    assert rows[0][3:5] == ["1 conv, 1 linear", "conv1 and layer3"]
    lowest = np.median(history.rwc[:, clusters.labels == 0])
    assert float(rows[0][5]) == pytest.approx(lowest, rel=1e-2)


def test_page_escapes_names_and_settings(text, page):
    assert "alert" not in text.replace(escape(NASTY), "").replace(escape(NASTY.removesuffix(".weight")), "")
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "How the layers of resnet&lt;50&gt; learned" in text
    settings = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert settings["optimizer"] == '{"lr": 0.1}'
    assert settings["note"] == "http & co"


def test_page_says_how_the_analysis_was_made(page, clusters):
    method = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert method["Number of clusters"] == "k = 3: asked for"
    assert method["Outliers"] == f"two_sigma: {clusters.outliers_replaced} values of 240 replaced"
    assert method["Scale"] == f"{clusters.scale}: {clusters.scale_reason}"
    assert "Recipe" not in method
    assert method["Clustering"] == "k-means on the whole curves, best of 2 starts, seed 0"
    assert method["Stability"].startswith(f"{clusters.stability:.3f}")
    assert method["Silhouette"].startswith(f"{clusters.silhouette:.3f}")
    assert method["Backend"] == f"{clusters.backend}: {clusters.backend_reason}"


def test_page_prints_the_choices_of_the_recipe_and_of_hdbscan(history, tmp_path):
    clusters = cluster_layers(history, recipe="weightscale", n_init=2)
    method = {row[0]: row[1] for row in Page(write_report(history, clusters, tmp_path).read_text("utf-8")).rows if row}
    assert method["Recipe"].startswith("weightscale: 0 infinite values replaced, the network's first and last layer")
    assert method["Scale"] == 'linear: recipe="weightscale"'

    rwc = noisy(40, 12)
    rwc[:, 4] = 5.0
    history = make_history(rwc)
    clusters = cluster_layers(history, method="hdbscan", n_init=2)
    page = Page(write_report(history, clusters, tmp_path).read_text("utf-8"))
    method = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert method["Clustering"] == "HDBSCAN on the whole curves; layers that belong to no cluster are outliers"
    assert method["Stability"] == "not defined: no seeds"
    outliers = [row for row in page.rows if row[0] == "outlier"]
    assert [row[1] for row in outliers] == [f"{(clusters.labels == -1).sum()}"]
    assert next(row for row in page.rows if row[0] == "5" and len(row) == 7)[4] == "outlier"


def test_groups_get_a_section_each(tmp_path):
    history = make_history(noisy(40, 12))
    groups = cluster_groups(history, group_layers(history.names, history.kinds, "stage"), k=2, n_init=1)
    clusters = cluster_layers(history, k=3, n_init=1)
    text = write_report(history, clusters, tmp_path, groups=groups).read_text("utf-8")
    page = Page(text)
    assert re.findall("<h3>(.*)</h3>", text) == ["blocks.0", "blocks.1"]
    assert "5 layers in 2 clusters (asked for; stability" in text
    assert "Too few layers to cluster: blocks.2." in text
    assert len(page.captions) == 10
    assert (tmp_path / "group_2_blocks_1.svg").exists()
    with open(tmp_path / "groups.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(history.names[:10])
    assert [int(row["cluster"]) for row in rows[:5]] == groups["blocks.0"].labels.tolist()


def test_headers_can_be_sorted_with_the_keyboard(page):
    assert [tag for tag, _ in page.tags].count("button") == 7
    values = [attrs["data-value"] for tag, attrs in page.tags if tag == "td" and "data-value" in attrs]
    assert len(values) == 5 * 6
    assert all(float(value) >= 0 for value in values)


def test_findings_are_on_top_and_in_a_table(tmp_path):
    rwc = noisy(300, 12)
    rwc[100:, 3] = 0
    rwc[150:, 8:] *= 1e-6
    names = [NASTY if i == 3 else f"layer{i}.weight" for i in range(12)]
    history = make_history(rwc, names=names)
    findings = check_health(history)
    assert [finding.kind for finding in findings] == ["stopped", "stopped"]
    text = write_report(history, cluster_layers(history, k=2, n_init=1), tmp_path).read_text("utf-8")
    section = text[text.index("<main>") : text.index("<table>")]
    for finding in findings:
        assert escape(str(finding)) in section
    assert section.count("<code>layer") == 4  # the second finding names one layer and counts the others
    assert "Nothing found" not in text
    with open(tmp_path / "findings.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["layer"], int(row["since_step"])) for row in rows] == [
        (finding.kind, finding.layer, finding.step) for finding in findings
    ]
    assert rows[1]["more_layers"].split() == names[9:]


def test_the_page_says_that_nothing_was_found(text, folder):
    above = text[text.index("<main>") : text.index("<table>")]
    assert "Nothing found so far: there are too few rows to judge." in above


def test_the_page_of_a_long_run_says_that_nothing_was_found(tmp_path):
    page = write_report(make_history(noisy(100, 6)), folder=tmp_path)
    assert "Nothing found: no fault that the movement of the weights shows." in page.read_text("utf-8")


def test_the_table_of_a_run_without_findings_is_empty(folder):
    assert len((folder / "findings.csv").read_text().splitlines()) == 1


def test_a_path_is_enough(history, tmp_path):
    run = tmp_path / "first & best"
    history.save(run)
    page = write_report(run)
    assert page == run / "analysis" / "report.html"
    head = page.read_text("utf-8").partition("</header>")[0]
    begun = json.loads((run / "meta.json").read_text())["begun"]
    assert f"Run {escape(str(run))}, begun {begun[:10]} {begun[11:16]} UTC, recorded with python" in head
    assert f"torch {torch.__version__}" in head


def test_what_write_report_does_not_take(history, tmp_path):
    with pytest.raises(TypeError, match="clusters must be what cluster_layers returned, got str; give a folder as fol"):
        write_report(history, str(tmp_path))
    with pytest.raises(TypeError, match='needs a folder to write to: pass folder="out"'):
        write_report(history)
    with pytest.raises(TypeError, match="history must be an RWCHistory, the path of a run folder or an RWCMonitor"):
        write_report(history.rwc, folder=tmp_path)


def test_labels_csv(folder, history, clusters):
    with open(folder / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(history.names)
    assert [int(row["cluster"]) for row in rows] == clusters.labels.tolist()
    assert [int(row["weights"]) for row in rows] == history.numel.tolist()
    assert [float(row["median_rwc"]) for row in rows] == np.median(history.rwc, axis=0).tolist()
    assert {row["median_moved_fraction"] for row in rows} == {"0.75"}


def test_scree_csv(folder, clusters):
    rows = np.genfromtxt(folder / "scree.csv", delimiter=",", names=True)
    assert rows["k"].tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(rows["sse"], clusters.sse)
    np.testing.assert_array_equal(rows["sse_raw"], clusters.sse_raw)


def test_same_data_give_the_same_page(folder, text, history, clusters, tmp_path):
    epochs = replace(history.select(steps=slice(9, None, 10)), steps=np.arange(10, 41, 10), every=10)
    assert write_report(history, clusters, tmp_path, per_epoch=epochs).read_text("utf-8") == text


def test_refusal_leaves_the_page_that_was_there(history, clusters, tmp_path):
    (tmp_path / "report.html").write_text("before")
    with pytest.raises(ValueError, match="clusters must be of this history's layers"):
        write_report(history.select("layer"), clusters, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "before"


def test_two_layers_and_two_steps_are_enough(tmp_path):
    history = make_history([[0.1, 0.2], [0.3, 0.1]])
    nothing = history.select(steps=slice(0, 0))
    page = Page(
        write_report(history, cluster_layers(history, n_init=1), tmp_path, per_epoch=nothing).read_text("utf-8")
    )
    assert len(page.captions) == 8
    assert ["Silhouette", "not defined for this k"] in page.rows


def test_layers_that_were_not_clustered_are_listed_too(tmp_path):
    rwc = noisy(10, 4)
    rwc[:, 1] = np.inf
    history = make_history(rwc)
    part = history.select(lambda name: name != history.names[1])
    clusters = replace(cluster_layers(part, k=2, n_init=1), rows=np.array([0, 2, 3]))
    page = Page(write_report(history, clusters, tmp_path).read_text("utf-8"))
    left_out = next(row for row in page.rows if row[0] == "2" and len(row) == 7)
    assert left_out[4:6] == ["not clustered", "not finite"]
    with open(tmp_path / "labels.csv", newline="") as file:
        assert [row["cluster"] == "" for row in csv.DictReader(file)] == [False, True, False, False]


def test_a_network_in_which_hdbscan_finds_no_cluster(tmp_path):
    rwc = np.random.default_rng(0).random((12, 6))
    history = RWCHistory(
        names=tuple("abcdef"),
        numel=np.full(6, 4),
        kinds=("linear",) * 6,
        steps=np.arange(1, 13),
        delta_l1=rwc,
        prev_l1=np.ones_like(rwc),
        moved=np.full((12, 6), 4),
    )
    clusters = cluster_layers(history, method="hdbscan")
    assert clusters.k == 0
    assert "outlier" in write_report(history, clusters, tmp_path).read_text()
