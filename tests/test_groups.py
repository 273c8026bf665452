"""Groups of layers, and each clustered by itself."""

from pathlib import Path

import numpy as np
import pytest
import torch

from weightscale_fast.analysis.groups import cluster_groups, group_layers, stage_of
from weightscale_fast.weights.kinds import layer_kind

from .histories import make_history, noisy

NAMES = ("conv1.weight", "layer1.0.conv1.weight", "layer1.1.conv1.weight", "layer2.0.conv1.weight", "fc.weight")
KINDS = ("conv", "conv", "pointwise", "conv", "linear")


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("blocks.3.0.conv_pwl.weight", "blocks.3"),
        ("blocks.3.attn.qkv.weight", "blocks.3"),
        ("layer2.0.downsample.0.weight", "layer2"),
        ("module.layer2.0.conv1.weight", "module.layer2"),
        ("stages.1.blocks.0.mlp.fc1.weight", "stages.1"),
        ("stages_1.0.weight", "stages_1"),
        ("features.denseblock3.denselayer2.conv1.weight", "features.denseblock3"),
        ("transformer.h.5.attn.c_attn.weight", "transformer.h.5"),
        ("model.layers.31.self_attn.q_proj.weight", "model.layers.31"),
        ("conv1.weight", "conv1"),
        ("stem.0.weight", "stem"),
        ("head.fc1.weight", "head"),
        ("pos_embed", "pos_embed"),
        ("0.weight", "0"),
    ],
)
def test_stage_of(name, stage):
    assert stage_of(name) == stage


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("kind", {"conv": [0, 1, 3], "pointwise": [2], "linear": [4]}),
        ("stage", {"conv1": [0], "layer1": [1, 2], "layer2": [3], "fc": [4]}),
        (r"layer\d\.(\d)", {"0": [1, 3], "1": [2]}),
        (r"^fc|(conv)", {"conv": [0, 1, 2, 3]}),  # where the group takes no part, the layer has none
        ({"fc.weight": "end", "conv1.weight": "end"}, {"end": [0, 4]}),
    ],
)
def test_groups_in_network_order(by, groups):
    found = group_layers(NAMES, KINDS, by)
    assert {group: rows.tolist() for group, rows in found.items()} == groups
    assert list(found) == list(groups)


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("primitive", 'by must be "kind", "stage" or a regular expression with one capture group.*which has 0'),
        (r"(layer)(\d)", "which has 2"),
        ("(", "by='\\(' is not a regular expression"),
        ("(blocks)", r"no layer matches by='\(blocks\)'; the record has conv1.weight"),
        ({"fc.wait": "end"}, "by must give a group to layers of the record.*got 'fc.wait', which is none of them"),
        ({}, "got no name"),
    ],
)
def test_groups_that_are_none(by, message):
    with pytest.raises(ValueError, match=message):
        group_layers(NAMES, KINDS, by)


def test_names_and_kinds_must_fit():
    with pytest.raises(ValueError, match="as long as each other, got 5 and 4"):
        group_layers(NAMES, KINDS[1:])


def test_each_group_is_clustered_by_itself():
    history = make_history(noisy(30, 14))
    groups = group_layers(history.names, history.kinds, r"^(blocks\.\d)")
    clustered = cluster_groups(history, groups, k=2, n_init=2)
    assert list(clustered) == ["blocks.0", "blocks.1", "blocks.2"]
    for group, clusters in clustered.items():
        assert clusters.rows.tolist() == groups[group].tolist()
        assert [history.names[i] for i in clusters.rows] == list(clusters.names)


def test_a_group_of_two_is_named_and_not_clustered():
    history = make_history(noisy(30, 7))
    clustered = cluster_groups(history, group_layers(history.names, history.kinds, "stage"), n_init=2)
    assert clustered["blocks.1"] is None
    assert clustered["blocks.0"] is not None


def test_a_refusal_names_the_group():
    history = make_history(noisy(30, 9))
    with pytest.raises(ValueError, match=r"group 'blocks.1': k must be at most the number of layers, 4, got 5"):
        cluster_groups(history, group_layers(history.names, history.kinds, "stage"), k=5, n_init=1)


def test_the_recipe_drops_the_networks_first_and_last_layer_only():
    rwc = noisy(30, 10)
    rwc[3, 1] = np.inf
    history = make_history(rwc)
    clustered = cluster_groups(history, group_layers(history.names, history.kinds, "stage"), recipe="weightscale", k=2)
    assert [clusters.rows.tolist() for clusters in clustered.values()] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert [clusters.infinities_replaced for clusters in clustered.values()] == [1, 0]
    assert {(clusters.recipe, clusters.scale) for clusters in clustered.values()} == {("weightscale", "linear")}
    with pytest.raises(ValueError, match="means scale='linear', got 'log'"):
        cluster_groups(history, {}, recipe="weightscale", scale="log")


REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "efficientnet_b4-cifar10.npz"


@pytest.mark.skipif(not REFERENCE.exists(), reason=f"the authors' arrays are not at {REFERENCE}")
def test_primitives_of_the_authors_efficientnet():
    with np.load(REFERENCE) as file:
        names, rwc = file["names"].tolist(), file["rwc"].T.astype(float)
    with torch.device("meta"):
        model = pytest.importorskip("timm").create_model("efficientnet_b4", num_classes=10)
    history = make_history(rwc, names=names, kinds=tuple(layer_kind(model, name) for name in names))
    groups = group_layers(history.names, history.kinds, "kind")
    clustered = cluster_groups(history, groups, recipe="weightscale", space="pca")
    assert {group: None if found is None else (len(found.names), found.k) for group, found in clustered.items()} == {
        "conv": None,  # the stem is dropped, the head is left
        "depthwise": (32, 4),
        "squeeze_excite": (64, 4),
        "pointwise": (32, 5),
        "pointwise_linear": (30, 4),
        "linear": None,
    }
