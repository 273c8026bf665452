"""Records that are not finite throughout, that began at zero, or that have layers which never moved."""

import csv

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.analysis.usable import fill_infinities, finite_part, left_out_of_clusters
from weightscale_fast.cli import main
from weightscale_fast.health.tracked import summarize
from weightscale_fast.report import write_report

from .histories import make_history, noisy

NAMES = list("abcdef")


def lora():
    """A recorded run of a network in which one factor began at 0, and one layer is frozen."""
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(6, 6) for _ in range(6)])
    nn.init.zeros_(model[3].weight)
    model[5].requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    monitor = wsf.RWCMonitor(model, optimizer)
    for _ in range(20):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        optimizer.step()
    monitor.close()
    return monitor.history()


def test_a_run_with_weights_that_began_at_zero_is_clustered_and_said(tmp_path):
    history = lora()
    assert np.isinf(history.rwc).sum() == 1
    clusters = wsf.cluster_layers(history)
    assert clusters.names == history.names[:5]
    assert clusters.infinities_replaced == 1
    notes = left_out_of_clusters(history, clusters)
    assert [note.partition(":")[0] for note in notes] == [
        "1 layer did not move and is not clustered",
        "1 value is infinite, because weights were 0 before the step; in the clusters, the layer's next value stands "
        "there",
    ]
    page = write_report(history, clusters, tmp_path).read_text("utf-8")
    assert "1 layer did not move and is not clustered: 5.weight" in page
    assert "1 value is infinite, because weights were 0" in page


def test_groups_of_such_a_run():
    history = lora()
    groups = {"first": np.arange(3), "last": np.arange(3, 6), "all": np.arange(6)}
    clustered = wsf.analysis.groups.cluster_groups(history, groups)
    assert clustered["last"] is None  # one of its three layers did not move
    assert clustered["all"].rows.tolist() == [0, 1, 2, 3, 4]


def test_the_steps_after_a_run_diverged_are_left_out():
    rwc = noisy(40, 6)
    rwc[30:, 2:] = np.nan
    part, (note,) = finite_part(make_history(rwc, names=NAMES))
    assert part.steps.tolist() == list(range(1, 31))
    assert note == "optimizer steps 31 to 40 are left out: 4 layers were not finite (c, d, e, f)"


def test_one_layer_that_is_nan_while_the_others_train_on_is_left_out():
    rwc = noisy(40, 6)
    rwc[1:, 2] = np.nan
    part, (note,) = finite_part(make_history(rwc, names=NAMES))
    assert part.names == ("a", "b", "d", "e", "f")
    assert len(part) == 40
    assert note == "1 layer was not finite at optimizer steps 2 to 40 and left out: c"


def test_a_finite_record_stays_as_it_is():
    history = make_history(noisy(10, 4))
    assert finite_part(history) == (history, [])


def test_infinities_give_way_to_the_next_value():
    inf = np.inf
    curves = np.array([[inf, inf, 3, 4], [1, inf, inf, 4], [1, 2, 3, inf], [inf, inf, inf, inf]])
    assert fill_infinities(curves) == 5
    assert curves.tolist() == [[3, 3, 3, 4], [1, 4, 4, 4], [1, 2, 3, 3], [inf] * 4]


def test_a_layer_without_a_finite_value_is_named():
    rwc = noisy(10, 4)
    history = make_history(rwc, names=NAMES[:4])
    history.prev_l1[:, 1] = 0
    with pytest.raises(ValueError, match=r"in 1 layers \(b\), at steps 1 to 10"):
        wsf.cluster_layers(history)


def test_still_layers_do_not_count_in_medians():
    rwc = noisy(40, 12)
    rwc[:, 4:] = 0
    history = make_history(rwc)
    moving = make_history(rwc[:, :4])
    assert wsf.RunSummary.of(history).median == wsf.RunSummary.of(moving).median
    numbers, expected = summarize(history), summarize(moving)
    for name in ("min", "q25", "median", "q75", "max"):
        assert numbers[f"rwc/{name}"] == expected[f"rwc/{name}"]
    assert numbers["rwc/layers_still"] == 8


def test_hostile_names_reach_neither_the_terminal_nor_a_spreadsheet(tmp_path, capsys):
    names = ["=cmd|' /C calc'!A0", "\x1b[2J.weight", *NAMES[2:]]
    make_history(noisy(40, 6), names=names).save(tmp_path / "run")
    assert main(["analyze", str(tmp_path / "run"), "--k", "6"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    with open(tmp_path / "run" / "analysis" / "labels.csv", newline="", encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)][1:2] == ["'=cmd|' /C calc'!A0"]
