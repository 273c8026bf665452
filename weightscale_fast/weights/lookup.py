"""Find a model's layers at every step, and notice if they have changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import WeightScaleError
from .layers import unwrap

Fingerprint = tuple[list[int], list[int], list[torch.dtype]]


def fingerprint(weights: list[Tensor]) -> Fingerprint:
    """Address, size and dtype of each weight. If one of them changes, the plan must be built again."""
    return list(map(Tensor.data_ptr, weights)), list(map(Tensor.numel, weights)), [w.dtype for w in weights]


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
        except (KeyError, TypeError):  # removed, or set to None
            self._walk()
            raise

    def requires_grad(self, start: int, end: int) -> list[bool]:
        """Whether each parameter of names[start:end] requires a gradient, for the parameters that were found last."""
        return [table[key].requires_grad for table, key in self._slots[start:end]]  # type: ignore[union-attr]

    def parameters(self) -> list[Tensor]:
        """The parameters in the order of the names. If one was removed, it is None, or this raises KeyError."""
        if [table.get(key) for table, key in self._edges] != self._children:
            self._walk()
        return [table[key] for table, key in self._slots]  # type: ignore[misc]

    def _walk(self) -> None:
        root = unwrap(self.model)
        edges: dict[tuple[int, str], tuple[dict[str, nn.Module | None], str, nn.Module]] = {}
        self._slots: list[tuple[dict[str, nn.Parameter | None], str]] = []
        for name in self.names:
            *path, key = name.split(".")
            module = root
            for part in path:
                child = module._modules.get(part)
                if child is None:
                    raise self._missing(name)
                edges[id(module), part] = (module._modules, part, child)
                module = child
            if module._parameters.get(key) is None:
                raise self._missing(name)
            self._slots.append((module._parameters, key))
        self._edges = [(table, key) for table, key, _ in edges.values()]
        self._children: list[nn.Module | None] = [child for *_, child in edges.values()]

    def _missing(self, name: str) -> WeightScaleError:
        module, _, key = name.rpartition(".")
        inside = (other for other, _ in unwrap(self.model).named_parameters() if other.startswith(f"{module}."))
        moved = next((other for other in inside if module and other.endswith(f".{key}")), None)
        why = "the layer was removed" if moved is None else f"the layer was wrapped and is now {moved!r} (an adapter?)"
        return WeightScaleError(
            f"{type(unwrap(self.model)).__name__} has no parameter {name!r}: the snapshot is of another model, or "
            f"{why}; take a new snapshot, or make a new monitor"
        )
