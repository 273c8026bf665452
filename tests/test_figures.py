"""The content of the figures, drawn with the Agg backend."""

import base64
import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from weightscale_fast import figures
from weightscale_fast.analysis import cluster_layers
from weightscale_fast.analysis.medians import finite_median
from weightscale_fast.analysis.phases import phase_labels
from weightscale_fast.analysis.result import OUTLIER
from weightscale_fast.figures.by_name import NAMES
from weightscale_fast.figures.by_name import draw as draw_by_name
from weightscale_fast.figures.layer_lines import MANY_LINES
from weightscale_fast.figures.sampling import MOST_POINTS, thin, trend, trend_window
from weightscale_fast.figures.save import save_figure, svg_of
from weightscale_fast.figures.style import cluster_look
from weightscale_fast.monitor import RWCMonitor
from weightscale_fast.record.observed import Observed
from weightscale_fast.record.rates import Rates
from weightscale_fast.text import short_name

from .histories import make_history, noisy

ADAM_STEP = np.sqrt(0.1 / 1.9)


def with_rates(history, lr=1e-4, implied=ADAM_STEP, optimizer="AdamW", since=0):
    """The history with this rate [S] of every layer, and what its optimizer implies: one value, or one for each."""
    S, L = history.rwc.shape
    lr = np.broadcast_to(lr, S)[:, None]
    steps = tuple(implied) if isinstance(implied, list) else (implied,) * L
    rates = Rates(lr=lr, weight_decay=np.zeros((S, 1)), rate_of=np.zeros(L, np.int32))
    return replace(history, rates=rates, observed=Observed(optimizer, since=since, implied_step=steps))


@pytest.fixture(scope="module")
def history():
    return with_rates(make_history(noisy(100, 12)))


@pytest.fixture(scope="module")
def clusters(history):
    return cluster_layers(history, k=3, n_init=2)


PAGES = ("group_panels", "pca_panels")  # of several panels
SINGLE = [name for name in figures.__all__ if name not in PAGES]
OF_CLUSTERS = ["clustered_curves", "pca_map", "phases", "scree", "small_multiples"]


def draw(name, history, clusters, ax=None):
    data = dict.fromkeys(OF_CLUSTERS, (history, clusters)) | {"pca_map": (clusters,), "scree": (clusters,)}
    return getattr(figures, name)(*data.get(name, (history,)), ax=ax)


def saved(ax, kind="png"):
    file = io.BytesIO()
    ax.figure.savefig(file, format=kind, dpi=None if kind == "svg" else 50)
    return file.getvalue()


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# Every figure


@pytest.mark.parametrize("name", SINGLE)
def test_figure_has_a_title_and_named_axes_and_leaves_matplotlib_as_it_was(name, history, clusters):
    before = dict(matplotlib.rcParams)
    ax = draw(name, history, clusters)
    assert ax.get_title(loc="left")
    assert ax.get_xlabel()
    if name != "phases":  # its rows are layers, and its colours are clusters
        assert ax.get_ylabel() or ax.figure.axes[1].get_ylabel()  # a heat map has its unit on the colour bar
    assert saved(ax)[:4] == b"\x89PNG"
    assert dict(matplotlib.rcParams) == before
    assert ax.figure.get_facecolor() == (1, 1, 1, 1)


@pytest.mark.parametrize("name", SINGLE)
def test_figure_draws_on_the_axes_it_is_given(name, history, clusters):
    ax = Figure(layout="constrained").add_subplot()
    assert draw(name, history, clusters, ax) is ax


def test_importing_needs_no_matplotlib_and_drawing_no_pyplot():
    code = """
import sys, numpy as np
from weightscale_fast import figures, report
from weightscale_fast.record import history
print("matplotlib" in sys.modules)
one = np.ones((2, 2))
figures.heat_map(history.RWCHistory(("a", "b"), one[0], ("conv",) * 2, np.arange(2), one, one, one))
print("matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


EDGES = {
    "one_step": make_history([[0.1, 0.2, 0.3]]),
    "one_layer": make_history(noisy(50, 1)),
    "one_value": make_history([[0.1]]),
    "all_zero": make_history(np.zeros((20, 4))),
    "all_alike": make_history(np.full((20, 4), 0.1)),
    "not_finite": make_history(np.where(np.arange(4) < 2, [np.inf, np.nan, 1, 0], noisy(400, 4))),
    "names": make_history(noisy(5, 3), names=["a" * 90 + ".weight", r"$\nosuchcommand$", "<b>&amp;_^"]),
    "uneven_steps": make_history(noisy(4, 2), steps=np.array([1, 5, 100, 2000])),
}


OF_HISTORY = ["rwc_curves", "heat_map", "moved_fraction", "step_sizes"]


@pytest.mark.parametrize("name", OF_HISTORY)
@pytest.mark.parametrize("history", EDGES.values(), ids=EDGES)
def test_figure_of_an_odd_history_is_drawn(name, history):
    saved(getattr(figures, name)(with_rates(history)))


@pytest.mark.parametrize("rwc", [[[0.1, 0.2], [0.3, 0.1]], np.zeros((3, 4))], ids=["two_by_two", "zeros"])
@pytest.mark.parametrize("name", OF_CLUSTERS)
def test_figure_of_few_or_equal_layers_is_drawn(name, rwc):
    saved(draw(name, make_history(rwc), cluster_layers(make_history(rwc), n_init=1)))


@pytest.mark.parametrize("name", OF_HISTORY)
def test_empty_history_is_refused(name):
    with pytest.raises(ValueError, match="at least one step of one layer, got 0 steps of 3 layers"):
        getattr(figures, name)(make_history(np.empty((0, 3))))


@pytest.mark.parametrize("name", SINGLE)
def test_a_figure_is_shown_by_a_notebook(name, history, clusters):
    png = draw(name, history, clusters)._repr_png_()
    assert Image.open(io.BytesIO(png)).width > 400


def test_a_page_of_panels_is_shown_by_a_notebook(history, clusters):
    for page in (figures.pca_panels({"a": clusters}), figures.group_panels(history, {"a": clusters})):
        assert Image.open(io.BytesIO(page._repr_png_())).width > 400


def test_what_is_no_history_and_what_are_no_clusters(history):
    with pytest.raises(TypeError, match=r"history must be an RWCHistory, got str; RWCHistory.load\(path\) reads a run"):
        figures.rwc_curves("runs/first")
    with pytest.raises(TypeError, match="clusters must be what cluster_layers returned, got RWCHistory"):
        figures.pca_map(history)
    with pytest.raises(TypeError, match="clusters must be what cluster_layers returned, got RWCHistory"):
        figures.clustered_curves(history, history)


def test_many_layers_and_steps_stay_small():
    history = make_history(noisy(10_000, 161))
    clusters = cluster_layers(history, k=3, n_init=1, k_max=3)
    names = ("rwc_curves", "heat_map", "small_multiples", "phases")
    svg = {name: len(saved(draw(name, history, clusters), "svg")) for name in names}
    assert max(svg.values()) < 1_000_000


# Curves


def test_rwc_curves_has_a_line_a_layer_coloured_by_depth(history):
    ax = figures.rwc_curves(history)
    *layers, rule = ax.lines
    assert rule.get_label() == "1e-3: rule of thumb"
    assert len(layers) == 12
    assert ax.get_yscale() == "log"
    assert "per step" in ax.get_ylabel()
    assert len({to_hex(line.get_color()) for line in layers}) == 12
    labels = [text.get_text() for text in ax.figure.axes[1].get_yticklabels()]
    assert labels[0] == "1  blocks.0.0.se.conv_reduce"
    assert labels[-1] == "12  blocks.2.1.se.conv_reduce"


def test_rwc_curves_says_what_a_record_spans(history):
    mean_ratio = replace(history, every=390, definition="mean_ratio", ratio_sum=history.delta_l1)
    assert figures.rwc_curves(mean_ratio).get_ylabel() == "RWC, mean of |Δw| / |w| over 390 steps"


def test_rwc_curves_of_many_steps_adds_running_medians_and_keeps_spikes():
    rwc = noisy(10_000, 2)
    rwc[5_003, 1] = 50.0
    ax = figures.rwc_curves(make_history(rwc))
    assert len(ax.lines) == 5  # and the rule of thumb
    assert max(len(line.get_xdata()) for line in ax.lines) <= MOST_POINTS
    assert ax.lines[1].get_ydata().max() == 50.0
    assert ax.get_ylim()[1] > 50.0
    assert ax.lines[3].get_ydata().max() < 0.01


def test_curves_of_thousands_of_layers_are_one_collection():
    rwc = noisy(40, MANY_LINES)
    collection = figures.rwc_curves(make_history(rwc)).collections[0]
    assert len(collection.get_segments()) == len(collection.get_colors()) == MANY_LINES
    assert np.allclose(collection.get_segments()[7], np.column_stack([np.arange(1, 41), rwc[:, 7]]))
    ax = figures.rwc_curves(make_history(noisy(400, MANY_LINES)))
    assert [len(collection.get_segments()) for collection in ax.collections] == [MANY_LINES, MANY_LINES]  # and medians


def test_rwc_curves_counts_what_it_cannot_draw():
    ax = figures.rwc_curves(make_history([[0.1, 0.0], [np.inf, 0.2]]))
    assert any("not drawn: 2 values, zero or not finite" in text.get_text() for text in ax.texts)


def test_clustered_curves_has_a_line_a_layer_and_a_thick_one_a_cluster(history, clusters):
    ax = figures.clustered_curves(history, clusters)
    thin_lines, thick = ax.lines[:12], ax.lines[12:15]
    assert [line.get_label() for line in thick] == [f"cluster {i}: 4 layers" for i in range(3)]
    assert legend_texts(ax) == [*(line.get_label() for line in thick), "1e-3: rule of thumb"]
    assert {to_hex(line.get_color()) for line in thick} == {cluster_look(i).colour.lower() for i in range(3)}
    colours = {(label, to_hex(line.get_color())) for label, line in zip(clusters.labels, thin_lines, strict=True)}
    assert len(colours) == 3
    lowest = np.median(history.rwc[:, clusters.labels == 0], axis=1)
    np.testing.assert_allclose(thick[0].get_ydata(), lowest)


@pytest.mark.parametrize("name", OF_CLUSTERS)
def test_outlier_layers_are_grey_and_belong_to_no_cluster(name, history, clusters):
    labels = np.where(np.arange(12) == 5, OUTLIER, clusters.labels)
    ax = draw(name, history, replace(clusters, labels=labels, method="hdbscan", stability=float("nan")))
    saved(ax)
    if name != "scree":
        assert "outliers: 1 layer" in legend_texts(ax)


@pytest.mark.parametrize("name", OF_CLUSTERS)
def test_no_cluster_at_all_is_drawn(name, history, clusters):
    nothing = {"centers": clusters.centers[:0], "center_coordinates": clusters.center_coordinates[:0]}
    labels = np.full(12, OUTLIER)
    saved(draw(name, history, replace(clusters, k=0, labels=labels, method="hdbscan", **nothing)))


@pytest.mark.parametrize(
    "name", ["clustered_curves", "pca_map", "phases", "rwc_curves", "small_multiples", "step_sizes"]
)
def test_legend_covers_no_data(name, history, clusters):
    ax = draw(name, history, clusters)
    saved(ax)
    assert ax.get_legend().get_window_extent().y1 < ax.get_window_extent().y0


def test_clusters_of_other_layers_are_refused(history, clusters):
    with pytest.raises(ValueError, match="clusters must be of this history's layers: row 0 was"):
        figures.clustered_curves(history.select("blocks.[12]"), clusters)
    with pytest.raises(ValueError, match="the history has 'only 5 layers' there"):
        figures.clustered_curves(history.select("blocks.0"), clusters)


def rule_of_thumb(history):
    drawn = [figures.rwc_curves(history), figures.clustered_curves(history, cluster_layers(history, k=2, n_init=1))]
    heights = [[line.get_ydata()[0] for line in ax.lines if "rule of thumb" in line.get_label()] for ax in drawn]
    assert heights[0] == heights[1]
    return heights[0]


def test_the_rule_of_thumb_is_drawn_where_the_curves_come_that_far():
    assert rule_of_thumb(make_history(noisy(20, 6))) == [1e-3]
    for factor in (10, 0.01):
        far = make_history(factor * noisy(20, 6))
        assert rule_of_thumb(far) == []
        low, high = figures.rwc_curves(far).get_ylim()
        assert low > factor * noisy(20, 6).min() / 2
        assert high < factor * noisy(20, 6).max() * 2
        assert figures.rwc_curves(far).get_legend() is None
    assert figures.rwc_curves(make_history(np.zeros((20, 6)))).get_legend() is None


def test_the_rule_of_thumb_is_one_for_a_step_and_for_the_ratio_of_norms():
    history = make_history(noisy(20, 6))
    assert rule_of_thumb(replace(history, every=10)) == []
    assert rule_of_thumb(replace(history, settings={"unit": "epoch"})) == []
    assert rule_of_thumb(replace(history, definition="mean_ratio", ratio_sum=history.delta_l1 * 100)) == []


# Sizes of the steps


def band(ax):
    """The lowest and the highest step of the band, and where it begins; None without a band."""
    bands = [collection for collection in ax.collections if "healthy runs" in str(collection.get_label())]
    corners = bands[0].get_paths()[0].vertices if bands else None
    return (*corners.min(axis=0)[::-1], corners[:, 1].max()) if bands else None


def notes(ax):
    return " ".join(text.get_text() for text in ax.texts)


def test_step_sizes_has_a_line_a_layer_and_the_range_of_adam(history):
    ax = figures.step_sizes(history)
    assert len(ax.lines) == 12
    np.testing.assert_allclose(ax.lines[4].get_ydata(), history.step_per_lr[:, 4])
    assert len({to_hex(line.get_color()) for line in ax.lines}) == 12
    assert ax.get_ylabel() == "mean of |Δw| / learning rate, per step"
    assert legend_texts(ax) == ["0.03 to 0.36: mean step in healthy runs", "0.23: RMS that AdamW implies"]
    low, start, high = band(ax)
    np.testing.assert_allclose([low, high], [0.03, 0.36])
    assert start == ax.get_xlim()[0]
    assert len(ax.figure.axes) == 2  # and the bar of depths


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_range_is_in_sight_however_far_the_steps_are_from_it(factor):
    ax = figures.step_sizes(with_rates(make_history(noisy(20, 3) * factor)))
    low, _, high = band(ax)
    bottom, top = ax.get_ylim()
    assert bottom < low < high < top
    assert all(bottom < line.get_ydata().min() and line.get_ydata().max() < top for line in ax.lines)


@pytest.mark.parametrize(
    ("optimizer", "implied", "expected"),
    [
        ("Adam", np.sqrt(0.5 / 1.5), (0.03 * 2.5166, 0.36 * 2.5166)),  # beta1 = 0.5
        ("Adam", 1.0, (0.13077, 1.5692)),  # beta1 = 0
        ("Lion", 1.0, (0.7, 1.1)),
        ("Muon", 0.2, (0.08, 0.2)),
        ("Muon", [0.1, None, 0.05], (0.02, 0.1)),
    ],
)
def test_the_range_is_that_of_the_optimizer(optimizer, implied, expected):
    ax = figures.step_sizes(with_rates(make_history(noisy(20, 3)), implied=implied, optimizer=optimizer))
    low, _, high = band(ax)
    np.testing.assert_allclose((low, high), expected, rtol=1e-3)
    lines = [text for text in legend_texts(ax) if "RMS that" in text]
    assert len(lines) == (0 if isinstance(implied, list) else 1)
    assert ("over all layers" in legend_texts(ax)[0]) == isinstance(implied, list)


def test_the_range_begins_where_the_optimizer_was_watched():
    ax = figures.step_sizes(with_rates(make_history(noisy(20, 3)), since=8))
    assert band(ax)[1] == 9
    assert ax.get_xlim()[0] < 1


def test_without_an_implied_step_there_is_no_range(history):
    sgd = figures.step_sizes(with_rates(history, implied=None, optimizer="SGD"))
    other = figures.step_sizes(with_rates(history, implied=None, optimizer="Adagrad"))
    several = figures.step_sizes(replace(history, every=10))
    epochs = figures.step_sizes(replace(history, settings={"unit": "epoch"}))
    assert [band(ax) for ax in (sgd, other, several, epochs)] == [None] * 4
    assert [ax.get_legend() for ax in (sgd, other, several, epochs)] == [None] * 4
    assert "SGD: the mean gradient, so no range" in notes(sgd)
    assert "no range is known for Adagrad" in notes(other)
    assert "not one step, so no range" in notes(several)
    assert several.get_ylabel() == "mean of |Δw| / learning rate, over 10 steps"
    assert epochs.get_ylabel().endswith("per epoch")


@pytest.mark.parametrize("implied", [0.0, 1e300])
def test_an_implied_step_that_no_optimizer_has_is_not_drawn(history, implied):
    ax = figures.step_sizes(with_rates(history, implied=implied))
    saved(ax)
    assert band(ax) is None


def test_step_sizes_without_a_rate_are_refused():
    for history in (make_history(noisy(5, 3)), with_rates(make_history(noisy(5, 3)), lr=np.nan)):
        with pytest.raises(ValueError, match=r"must have learning rates .*, got none: give the optimizer to"):
            figures.step_sizes(history)


def test_step_sizes_counts_what_it_cannot_draw():
    ax = figures.step_sizes(with_rates(make_history([[0.1, 0.0], [0.1, 0.2], [np.inf, 0.2]]), lr=[0.1, np.nan, 0.1]))
    assert "not drawn: 4 values, zero, not finite or without a rate" in notes(ax)
    ax = figures.step_sizes(with_rates(make_history(noisy(5, 3)), lr=0.0))
    saved(ax)
    assert "No step at a known rate above zero was recorded" in notes(ax)


def test_step_sizes_of_thousands_of_layers_are_one_collection():
    ax = figures.step_sizes(with_rates(make_history(noisy(40, MANY_LINES))))
    assert not ax.lines
    assert len(ax.collections[0].get_segments()) == MANY_LINES
    assert band(ax) is not None


def test_gradients_that_are_never_zeroed_are_above_the_range():
    for zero, above in ((True, False), (False, True)):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        with RWCMonitor(model, optimizer) as monitor:
            for _ in range(60):
                if zero:
                    optimizer.zero_grad()
                torch.nn.functional.mse_loss(model(torch.randn(4, 8)), torch.randn(4, 4)).backward()
                optimizer.step()
        ax = figures.step_sizes(monitor.history())
        high = band(ax)[2]
        assert all((np.median(line.get_ydata()[20:]) > high) == above for line in ax.lines)


# Small multiples


def test_small_multiples_has_a_panel_a_layer_in_network_order(history, clusters):
    ax = figures.small_multiples(history, clusters)
    panels, median, curves = ax.collections[:3]
    assert len(panels.get_paths()) == len(median.get_segments()) == len(curves.get_segments()) == 12
    assert [to_hex(c) for c in curves.get_colors()] == [cluster_look(i).colour.lower() for i in clusters.labels]
    assert [int(segment[0, 1]) for segment in curves.get_segments()] == [0] * 10 + [1] * 2
    names = [text.get_text() for text in ax.texts if "conv_reduce" in text.get_text()]
    assert names == [short_name(name, 22) for name in history.names]
    heights = np.array([segment[0, 1] % 1 for segment in curves.get_segments()])
    assert heights[history.rwc[0].argmax()] == heights.min()  # y runs down: the highest value is on top
    assert legend_texts(ax)[-1] == "median of all layers"


def test_small_multiples_names_what_was_not_clustered(history, clusters):
    part = cluster_layers(history.select("blocks.0"), k=2, n_init=1)
    assert "not clustered: 7 layers" in legend_texts(figures.small_multiples(history, part))


def test_small_multiples_names_do_not_touch():
    history = make_history(noisy(3, 161))
    ax = figures.small_multiples(history, cluster_layers(history, k=3, n_init=1, k_max=3))
    saved(ax)
    boxes = [text.get_window_extent() for text in ax.texts if "conv_reduce" in text.get_text()]
    assert len(boxes) == 161
    assert not any(one.overlaps(other) for one, other in pairwise(boxes))


# Phases


def turning(S=80, L=12):
    """Two groups of layers, slow and fast. Halfway through, three layers change their group."""
    fast = np.arange(L) % 2 == 0
    later = fast ^ (np.arange(L) < 3)
    rng = np.random.default_rng(0)
    return np.where(np.where(np.arange(S)[:, None] < S // 2, fast, later), 1.0, 0.1) * rng.uniform(0.9, 1.1, (S, L))


def test_phases_show_which_layers_changed_sides():
    clusters = cluster_layers(make_history(turning()), k=2, n_init=2, outliers="none")
    labels, edges = phase_labels(clusters)
    assert edges.tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80]
    assert (labels[:4] == labels[0]).all()
    assert (labels[4:] == labels[4]).all()
    assert np.flatnonzero(labels[0] != labels[4]).tolist() == [0, 1, 2]
    np.testing.assert_array_equal(labels[0, 3:], clusters.labels[3:])  # the colours of the whole run


def test_phases_draws_the_windows_and_the_whole_run(history, clusters):
    windows, whole = figures.phases(history, clusters).collections[:2]
    assert windows.get_array().shape == (12, 8)
    np.testing.assert_array_equal(whole.get_array()[:, 0], clusters.labels)


def test_phases_of_other_steps_are_refused(history, clusters):
    with pytest.raises(ValueError, match="clusters must be of this history's 50 records, got curves of 100 values"):
        figures.phases(history.select(steps=slice(50)), clusters)


# Pages of several panels


def test_group_panels_has_curves_and_a_map_a_group(history, clusters):
    page = figures.group_panels(history, {"all": clusters, "two": None, "some $": clusters})
    assert [ax.get_title(loc="left") for ax in page.axes] == ["all", "all", r"some \$", r"some \$"]
    page.savefig(io.BytesIO(), dpi=30)


def test_pca_panels_has_a_map_a_run(clusters):
    page = figures.pca_panels({f"run {i}": clusters for i in range(4)})
    assert [ax.get_title(loc="left") for ax in page.axes] == [f"run {i}" for i in range(4)]


def test_pages_of_nothing_or_too_much_are_refused(history, clusters):
    with pytest.raises(ValueError, match="clustered groups must be 1 to 12 for one page, got 0"):
        figures.group_panels(history, {"two": None})
    with pytest.raises(ValueError, match="runs must be 1 to 12 for one page, got 13; choose some of them"):
        figures.pca_panels({str(i): clusters for i in range(13)})


# SVG


def images_of(svg):
    found = re.findall(rb'"data:image/png;base64,([^"]+)', svg)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")).astype(int) for png in found]


def test_images_in_an_svg_keep_their_colours(clusters):
    page = figures.pca_map(clusters).figure
    (plain,), (small,) = images_of(saved(page.axes[0], "svg")), images_of(svg_of(page, 100))
    assert len(np.unique(plain.reshape(-1, 4), axis=0)) < 256
    np.testing.assert_array_equal(plain, small)


def test_images_of_many_colours_are_rounded():
    page = figures.rwc_curves(make_history(noisy(2_000, 20))).figure
    saved(page.axes[0])
    page.set_layout_engine("none")  # a second layout would move the lines by a fraction of a pixel
    (plain, _), (small, _) = images_of(saved(page.axes[0], "svg")), images_of(svg_of(page, 100))
    assert len(np.unique(plain.reshape(-1, 4), axis=0)) > 256
    seen = small[..., 3] > 0
    assert abs(plain - small)[seen].max() <= 8
    assert plain[~seen, 3].max() < 8
    assert len(svg_of(page, 100)) < 0.7 * len(saved(page.axes[0], "svg"))


# By name


def test_every_figure_has_its_name():
    assert sorted(NAMES) == sorted(figures.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_figure_by_name(name, history, clusters):
    page = draw_by_name(name, {"a run": history}, lambda history: clusters, lambda history: {"all": clusters})
    assert isinstance(page, Figure)


def test_figure_by_name_computes_only_what_it_shows(history):
    draw_by_name("heat_map", {"a run": history}, None, None)


def test_wrong_figures_by_name(history):
    with pytest.raises(ValueError, match="figure must be one of clustered_curves, group_panels, heat_map.*got 'pie'"):
        draw_by_name("pie", {"a run": history}, None, None)
    with pytest.raises(ValueError, match="figure 'scree' shows one run, got 2; name one, or draw 'pca_panels'"):
        draw_by_name("scree", {"a": history, "b": history}, None, None)


# Heat maps


def test_heat_map_has_a_row_a_layer_the_first_on_top(history):
    ax = figures.heat_map(history)
    assert ax.get_ylim() == (12.5, 0.5)
    np.testing.assert_array_equal(ax.collections[0].get_array(), history.rwc.T)
    assert ax.get_yticklabels()[0].get_text() == "blocks.0.0.se.conv_reduce"
    assert ax.get_legend() is None


def test_heat_map_marks_zeros_and_what_is_not_finite():
    ax = figures.heat_map(make_history([[0.1, 0.0, np.inf], [0.2, 0.3, np.nan]]))
    zero, not_finite = (mesh.get_array() for mesh in ax.collections[1:])
    assert (~np.ma.getmaskarray(zero)).tolist() == [[False, False], [True, False], [False, False]]
    assert (~np.ma.getmaskarray(not_finite)).tolist() == [[False, False], [False, False], [True, True]]
    assert legend_texts(ax) == ["0: no weight moved", "not finite"]


def test_heat_map_of_many_steps_keeps_the_largest_of_a_column():
    rwc = noisy(10_000, 3)
    rwc[4_321, 1] = 7.0
    drawn = figures.heat_map(make_history(rwc)).collections[0].get_array()
    assert drawn.shape == (3, 1_000)
    assert np.argmax(drawn[1]) == 432
    assert drawn[1].max() == 7.0


@pytest.mark.parametrize("layers", [54, 161])
def test_heat_map_labels_do_not_touch(layers):
    ax = figures.heat_map(make_history(noisy(3, layers)))
    saved(ax)
    boxes = sorted((label.get_window_extent() for label in ax.get_yticklabels()), key=lambda box: box.y0)
    assert all(lower.y1 <= upper.y0 for lower, upper in pairwise(boxes))
    assert len(boxes) > 50
    assert min(box.x0 for box in boxes) >= 0


def test_moved_fraction_spans_zero_to_one(history):
    mesh = figures.moved_fraction(history).collections[0]
    assert mesh.get_clim() == (0, 1)
    assert np.all(mesh.get_array() == 0.75)


# The plane and the scree plot


def test_pca_map_paints_each_centre_in_the_colour_of_its_cluster(clusters):
    ax = figures.pca_map(clusters)
    image = ax.images[0]
    left, right, bottom, top = image.get_extent()
    pixels = image.get_array()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) == 3
    for label, (x, y) in enumerate(clusters.center_coordinates):
        row = int((y - bottom) / (top - bottom) * (len(pixels) - 1))
        column = int((x - left) / (right - left) * (len(pixels) - 1))
        pale, full = 1 - pixels[row, column], 1 - np.array(to_rgb(cluster_look(label).colour))
        np.testing.assert_allclose(pale / pale.max(), full / full.max())


def test_pca_map_regions_take_the_offsets_of_the_centres(clusters):
    far = replace(clusters, center_offsets=np.array([0.0, 1e9, 1e9]))
    assert len(np.unique(figures.pca_map(far).images[0].get_array().reshape(-1, 3), axis=0)) == 1


def test_pca_map_has_a_mark_a_layer_and_says_what_the_axes_explain(clusters):
    ax = figures.pca_map(clusters)
    *members, centres = ax.collections
    assert [len(marks.get_offsets()) for marks in members] == [4, 4, 4]
    np.testing.assert_array_equal(centres.get_offsets(), clusters.center_coordinates)
    assert ax.get_xlabel() == f"principal component 1 ({clusters.explained_variance_ratio[0]:.1%} of the variance)"
    assert legend_texts(ax) == [*(f"cluster {i}: 4 layers" for i in range(3)), "centre"]


def test_pca_map_names_outlying_layers_where_nothing_is_in_the_way(clusters):
    centres = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 1.0]])
    coordinates = centres[clusters.labels] + 0.01 * np.arange(12)[:, None]
    coordinates[4], coordinates[5] = (0.4, 3.0), (0.4, 2.97)
    ax = figures.pca_map(replace(clusters, coordinates=coordinates, center_coordinates=centres))
    saved(ax)
    names = [text for text in ax.texts if "conv_reduce" in text.get_text()]
    assert {text.get_text() for text in names} == {short_name(clusters.names[4]), short_name(clusters.names[5])}
    boxes = [text.get_window_extent() for text in names]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    frame = ax.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


def test_scree_shows_both_curves_the_chord_and_the_chosen_k(clusters):
    ax = figures.scree(clusters)
    raw, scores, chord, line, chosen = ax.lines
    np.testing.assert_allclose(scores.get_ydata(), 100 * clusters.sse / clusters.sse[0])
    np.testing.assert_allclose(raw.get_ydata(), 100 * clusters.sse_raw / clusters.sse_raw[0])
    np.testing.assert_allclose(chord.get_ydata(), scores.get_ydata()[[0, -1]])
    assert list(line.get_xdata()) == [3, 3]
    assert (chosen.get_xdata()[0], chosen.get_ydata()[0]) == (3, scores.get_ydata()[2])
    assert legend_texts(ax)[3].startswith("chosen: k = 3")


def test_seventeen_clusters_look_different():
    looks = [cluster_look(label) for label in range(17)]
    assert len({(look.colour, look.line) for look in looks}) == 17
    assert len({(look.colour, look.marker) for look in looks}) == 17


# Fewer points


def test_finite_median_is_that_of_the_finite_values():
    values = np.random.default_rng(0).normal(size=(50, 7))
    np.testing.assert_array_equal(finite_median(values, axis=0), np.median(values, axis=0))
    values[3, :4], values[7, 2], values[:, 6] = np.nan, np.inf, np.nan
    expected = np.nanmedian(np.where(np.isfinite(values), values, np.nan)[:, :6], axis=0)
    np.testing.assert_array_equal(finite_median(values, axis=0), [*expected, np.nan])


@pytest.mark.parametrize("S", [1, 999, 1_000, 1_001, 1_501, 9_999, 10_000])
def test_thin_keeps_extremes_order_and_gaps(S):
    rng = np.random.default_rng(S)
    steps, values = np.arange(S) * 3, rng.normal(size=(S, 4))
    values[: S // 2, 3] = np.nan
    x, y = thin(steps, values)
    assert x.shape == y.shape
    assert len(x) <= MOST_POINTS
    np.testing.assert_array_equal(y[:, :3].max(axis=0), values[:, :3].max(axis=0))
    np.testing.assert_array_equal(y[:, :3].min(axis=0), values[:, :3].min(axis=0))
    assert np.all(np.diff(x, axis=0) >= 0)
    np.testing.assert_array_equal(y, np.take_along_axis(values, x // 3, axis=0))
    assert np.isnan(y[0, 3]) or S == 1


def test_trend_is_the_running_median():
    curve = np.random.default_rng(0).normal(size=2_000)
    steps, median = trend(np.arange(2_000), curve)
    half = trend_window(2_000) // 2
    assert half == 25
    assert (steps[0], steps[-1]) == (0, 1_999)
    middle = len(steps) // 2
    assert median[middle] == np.median(curve[steps[middle] - half : steps[middle] + half + 1])
    assert median[0] == np.median(curve[: half + 1])
    np.testing.assert_array_equal(trend(np.arange(300), curve[:300])[1], curve[:300])


def test_steps_may_be_epochs(history, clusters):
    """The unit of the steps, from the settings, is on every axis of steps."""
    epochs = replace(history, settings={"unit": "epoch"})
    assert figures.rwc_curves(epochs).get_xlabel() == "epoch"
    assert figures.rwc_curves(epochs).get_ylabel().endswith("per epoch")
    assert figures.heat_map(epochs).get_xlabel() == "epoch"
    assert figures.moved_fraction(epochs).get_xlabel() == "epoch"
    assert figures.phases(epochs, clusters).get_xlabel() == "epoch"
    assert figures.small_multiples(epochs, clusters).get_xlabel() == "epoch, from 1 to 100 in each panel"
    assert figures.rwc_curves(history).get_xlabel() == "optimizer step"
    assert figures.rwc_curves(replace(epochs, every=5)).get_ylabel().endswith("over 5 epochs")


def test_users_settings_for_tex_do_not_count(history, clusters, tmp_path):
    with matplotlib.rc_context({"text.usetex": True}):
        ax = figures.clustered_curves(history, clusters)
        save_figure(ax.figure, tmp_path / "curves.svg", tmp_path / "curves.png")
        assert matplotlib.rcParams["text.usetex"]
    assert not any(text.get_usetex() for text in ax.figure.findobj(matplotlib.text.Text))


def test_small_multiples_of_many_layers_says_how_many_it_leaves_out():
    history = make_history(noisy(12, 700), names=[f"layer{i}.weight" for i in range(700)])
    ax = figures.small_multiples(history, cluster_layers(history, k=2, n_init=1))
    names = [text.get_text() for text in ax.texts if text.get_text().startswith("layer")]
    assert names == [f"layer{i}" for i in range(0, 700, 3)]
    assert any("466 layers in between are not shown" in text.get_text() for text in ax.texts)


def test_hostile_names_and_units_give_figures_that_can_be_read(history):
    names = ["a\x1b[2Jb.weight", "$$.weight", "line\nend.weight", *history.names[3:]]
    odd = replace(history, names=tuple(names), settings={"unit": "$$ \x00"})
    for name in ("rwc_curves", "heat_map"):
        ElementTree.fromstring(svg_of(getattr(figures, name)(odd).figure, 40))
