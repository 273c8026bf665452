"""Groups of layers, by kind, by stage of the network or by a pattern in their names. Each group is clustered by itself.

Letters: L layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..text import listing
from . import LayerClusters, NamedCurves, cluster_layers, weightscale_curves
from .recipe import FIXED, check_recipe

if TYPE_CHECKING:
    from ..record.history import RWCHistory

FEWEST_LAYERS = 3  # in a group that is clustered

# A number with modules below it (blocks.3, stages.1, transformer.h.5), or a numbered word (layer2, denseblock1).
_STAGE = re.compile(r"(?:[^.]+\.)*?(?:\d+|[a-z_]*(?:layer|stage|block|level)s?_?\d+)(?=\.[^.]+\.)", re.IGNORECASE)


def stage_of(name: str) -> str:
    """The leading part of a layer's name that marks its stage. Without such a part, the first component of the name.

    Example:
        >>> [stage_of(name) for name in ("blocks.3.0.conv_dw.weight", "layer2.0.conv1.weight", "conv_stem.weight")]
        ['blocks.3', 'layer2', 'conv_stem']
        >>> stage_of("transformer.h.5.attn.c_attn.weight")
        'transformer.h.5'
    """
    found = _STAGE.match(name)
    return found.group() if found else name.partition(".")[0]


def group_layers(
    names: Sequence[str], kinds: Sequence[str], by: str | Mapping[str, str] = "kind"
) -> dict[str, NDArray[np.int64]]:
    """The indices of the layers of each group. The groups are in the order of their first layer.

    Args:
        names: the names of the L layers, in network order. A history's names are enough, no model is needed.
        kinds: the kinds of the L layers.
        by: `"kind"`; `"stage"` (see `stage_of`); a regular expression with one capture group, which is searched in the
            name and captures the group; or a mapping from name to group. Layers without a match, or without an entry in
            the mapping, belong to no group.

    Raises:
        ValueError: `names` and `kinds` differ in length, the regular expression is not valid, has not one capture group
            or matches nothing, or the mapping is empty or names a layer that does not exist.

    Example:
        >>> group_layers(["conv.weight", "fc1.weight", "fc2.weight"], ["conv", "linear", "linear"])
        {'conv': array([0]), 'linear': array([1, 2])}
        >>> group_layers(["conv.weight", "fc1.weight", "fc2.weight"], ["conv", "linear", "linear"], r"(fc\\d)")
        {'fc1': array([1]), 'fc2': array([2])}
    """
    if len(names) != len(kinds):
        raise ValueError(f"names and kinds must be as long as each other, got {len(names)} and {len(kinds)}")
    members: dict[str, list[int]] = {}
    for i, group in enumerate(_groups(names, kinds, by)):
        if group is not None:
            members.setdefault(group, []).append(i)
    return {group: np.array(indices) for group, indices in members.items()}


def _groups(names: Sequence[str], kinds: Sequence[str], by: str | Mapping[str, str]) -> Sequence[str | None]:
    """The group of each layer, or None."""
    if not isinstance(by, str):
        unknown = sorted(set(by).difference(names))
        if unknown or not by:
            came = f"{unknown[0]!r}, which is none of them" if unknown else "no name"
            raise ValueError(f"by must give a group to layers of the record, {listing(names)}; got {came}")
        return [by.get(name) for name in names]
    if by == "kind":
        return kinds
    if by == "stage":
        return [stage_of(name) for name in names]
    try:
        pattern = re.compile(by)
    except re.error as error:
        raise ValueError(f"by={by!r} is not a regular expression: {error}") from error
    if pattern.groups != 1:
        raise ValueError(
            f'by must be "kind", "stage" or a regular expression with one capture group, as r"layer(\\d)"; '
            f"got {by!r}, which has {pattern.groups}"
        )
    found = [match.group(1) if (match := pattern.search(name)) else None for name in names]
    if not any(group is not None for group in found):
        raise ValueError(f"no layer matches by={by!r}; the record has {listing(names)}")
    return found


def cluster_groups(
    history: RWCHistory, groups: Mapping[str, NDArray[np.int64]], *, recipe: str | None = None, **options: Any
) -> dict[str, LayerClusters | None]:
    """Cluster the layers of each group separately, as in the paper's analysis of EfficientNet's primitives.

    Args:
        history: the run.
        groups: the indices of each group's layers, from `group_layers`.
        recipe: `"weightscale"`, the authors' pipeline. It drops the first and the last layer of the network, not of
            each group.
        options: other options of `cluster_layers`, the same for every group.

    Returns:
        The clusters of each group, or None for a group of fewer than 3 layers that moved. `rows` are indices in the
        whole history.

    Raises:
        ValueError: the errors of `cluster_layers`, with the name of the group.

    Example:
        `cluster_groups(history, group_layers(history.names, history.kinds, "stage"), k=2)`
    """
    rwc = history.rwc
    curves, first, L = rwc.T, 0, rwc.shape[1]
    if recipe is not None:
        check_recipe(recipe, **{name: options.get(name, value) for name, value in FIXED.items()})
        curves, first = weightscale_curves(history.names, curves)[0], 1
        options |= FIXED
    clustered: dict[str, LayerClusters | None] = {}
    for group, members in groups.items():
        rows = members[(members >= first) & (members < L - first)]
        if recipe is None:
            rows = rows[history.moved[:, rows].any(axis=0)]  # cluster_layers leaves out what never moved
        if len(rows) < FEWEST_LAYERS:
            clustered[group] = None
            continue
        try:
            named = NamedCurves(tuple(history.names[i] for i in rows), curves[rows - first])
            clusters = cluster_layers(named, **options)
        except ValueError as error:
            raise ValueError(f"group {group!r}: {error}") from error
        clusters = replace(clusters, rows=rows[clusters.rows])
        if recipe is not None:
            infinities = int(np.isinf(rwc[:, rows]).sum())
            reason = f'recipe="{recipe}"'
            clusters = replace(clusters, recipe=recipe, infinities_replaced=infinities, scale_reason=reason)
        clustered[group] = clusters
    return clustered
