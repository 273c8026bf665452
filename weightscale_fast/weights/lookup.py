"""Find a model's layers at every step, and notice if they have changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import WeightScaleError
from .layers import unwrap
from .paths import Place, find_parameters, table

Fingerprint = tuple[list[int], list[int], list[torch.dtype], list[tuple[int, ...]]]


def fingerprint(weights: Sequence[Tensor]) -> Fingerprint:
    """Address, size, dtype and strides of each weight. If one of them changes, the plan must be built again.

    With the size, the strides of dense weights give their shape. Reading the shape would take twice as long.
    """
    return (
        list(map(Tensor.data_ptr, weights)),
        list(map(Tensor.numel, weights)),
        [w.dtype for w in weights],
        list(map(Tensor.stride, weights)),
    )


class LayerLookup:
    """Finds the current parameters of named layers in a model.

    A parameter or a whole submodule may be replaced between two steps. So each call follows every name through the
    modules' own dictionaries. That costs about 40 ns per layer.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        self.model = model
        self.names = names
        self.places: Sequence[int] = range(len(names))  # the index of each name among the recorded layers
        self._walk()

    def __call__(self) -> tuple[list[Tensor], Fingerprint]:
        """The parameters in the order of the names, and their fingerprint.

        Raises:
            WeightScaleError: the model no longer has one of them.
        """
        try:
            found = self.parameters()
            return found, fingerprint(found)
        except TypeError:  # one is None: it was renamed, or set to None
            self._walk()
        found = self.parameters()
        return found, fingerprint(found)

    def requires_grad(self, start: int, end: int) -> list[bool]:
        """Whether each parameter of names[start:end] requires a gradient, for the parameters that were found last."""
        return [held[key].requires_grad for held, key in self._slots[start:end]]  # type: ignore[attr-defined]

    def parameters(self) -> list[Tensor]:
        """The parameters in the order of the names. One that was set to None is None.

        Raises:
            WeightScaleError: the model no longer has one of them.
        """
        if [held.get(key) for held, key in self._edges] != self._children:
            self._walk()
        try:
            return [held[key] for held, key in self._slots]  # type: ignore[misc]
        except (KeyError, RuntimeError):  # renamed or removed
            self._walk()
        return [held[key] for held, key in self._slots]  # type: ignore[misc]

    def _walk(self) -> None:
        """Find all names again. If one is missing, everything stays as it was, so that the next call looks again."""
        root = unwrap(self.model)
        edges: dict[tuple[int, str], tuple[dict[str, object], str, nn.Module]] = {}
        slots: list[tuple[dict[str, object], str]] = []
        for name, place in zip(self.names, find_parameters(root, self.names), strict=True):
            if place is None:
                raise self._missing(name)
            self._add_edges(edges, place)
            slots.append((table(place.modules[-1]._parameters), place.key))
        self._slots = slots
        self._edges = [(held, key) for held, key, _ in edges.values()]
        self._children: list[object] = [child for *_, child in edges.values()]

    @staticmethod
    def _add_edges(edges: dict[tuple[int, str], tuple[dict[str, object], str, nn.Module]], place: Place) -> None:
        for module, part, child in zip(place.modules, place.parts, place.modules[1:], strict=False):
            if (id(module), part) not in edges:
                edges[id(module), part] = (table(module._modules), part, child)

    def _missing(self, name: str) -> WeightScaleError:
        module, _, key = name.rpartition(".")
        inside = (other for other, _ in unwrap(self.model).named_parameters() if other.startswith(f"{module}."))
        moved = next((other for other in inside if module and other.endswith(f".{key}")), None)
        why = "the layer was removed" if moved is None else f"the layer was wrapped and is now {moved!r} (an adapter?)"
        return WeightScaleError(
            f"{type(unwrap(self.model)).__name__} has no parameter {name!r}: the snapshot is of another model, or "
            f"{why}; take a new snapshot, or make a new monitor"
        )
