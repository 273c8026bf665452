"""Where a named parameter is: the modules on the way to it, and the table that holds it. Names outlive wrappers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

# Modules that hold another one under this name and compute the same: torch.compile, activation checkpointing.
TRANSPARENT = ("_orig_mod", "_checkpoint_wrapped_module")
PARAMETRIZATIONS = "parametrizations"  # torch.nn.utils.parametrize keeps `weight` in parametrizations.weight.original


class Tables:
    """The submodules or parameters of a TorchScript module, read as a dictionary: its own tables have no `get`."""

    def __init__(self, table: Mapping[str, object]) -> None:
        self._table = table

    def get(self, key: str) -> object:
        return self._table[key] if key in self._table else None  # noqa: SIM401

    def __getitem__(self, key: str) -> object:
        return self._table[key]


class Place(NamedTuple):
    """Where a parameter is now.

    Args:
        modules: the modules from the root to the one that has the parameter.
        parts: the names of modules[1:], each in the module before it.
        key: the parameter's name in the last module.
    """

    modules: list[nn.Module]
    parts: list[str]
    key: str


def find_parameters(root: nn.Module, names: Iterable[str]) -> list[Place | None]:
    """Find parameters by their names. The place is None for a name that `root` does not have.

    A name is followed through the modules' own tables. The way may have changed since the name was made:

    - A module was wrapped by `torch.compile` or `checkpoint_wrapper`, or the wrapper was taken off again.
    - Pruning or a parametrization renamed `weight` to `weight_orig` or `parametrizations.weight.original`, or back.
    - The model's own `named_parameters()` gives other names than the way.
    """
    names = list(names)
    places = [_follow(root, *_split(name)) for name in names]
    if any(place is None for place in places):
        own = dict(root.named_parameters(remove_duplicate=False))
        by_identity = {id(_parameter(place.modules[-1], place.key)): place for place in _all_places(root)}
        places = [place or by_identity.get(id(own.get(name))) for name, place in zip(names, places, strict=True)]
    return places


def table(found: object) -> dict[str, object]:
    """The table of a module's children or parameters, with `get` and `[]`."""
    return found if isinstance(found, dict) else Tables(found)  # type: ignore[return-value, arg-type]


def _parameter(module: nn.Module, key: str) -> Tensor | None:
    return table(module._parameters).get(key)  # type: ignore[return-value]


def _child(module: nn.Module, part: str) -> nn.Module | None:
    return table(module._modules).get(part)  # type: ignore[return-value]


def _split(name: str) -> tuple[list[str], str]:
    """The modules on the way to a parameter, and its key. A parametrized weight has the key of the plain weight."""
    *path, key = name.split(".")
    if path[-2:-1] == [PARAMETRIZATIONS] and key == "original":
        path, key = path[:-2], path[-1]
    return path, key


def _follow(root: nn.Module, path: list[str], key: str) -> Place | None:
    here = Place([root], [], key)
    for part in path:
        below, inner = _down(here, [part]), _unwrapped(here)
        while below is None and inner is not None:
            below, inner = _down(inner, [part]), _unwrapped(inner)
        if below is None and part not in TRANSPARENT:
            return None
        here = below or here
    outer: Place | None = here
    while outer is not None:
        for inside, renamed in _names_of(key):
            place = _down(outer, inside)
            if place is not None and _parameter(place.modules[-1], renamed) is not None:
                return place._replace(key=renamed)
        outer = _unwrapped(outer)
    return None


def _unwrapped(place: Place) -> Place | None:
    """One wrapper further in, or None if the last module is not a wrapper."""
    return next((inner for name in TRANSPARENT if (inner := _down(place, [name])) is not None), None)


def _names_of(key: str) -> list[tuple[list[str], str]]:
    """What the parameter `key` of a module may be called: for each name, the submodules on the way to it."""
    plain = key.removesuffix("_orig")
    return [([], key), ([], f"{plain}_orig"), ([PARAMETRIZATIONS, plain], "original"), ([], plain)]


def _down(place: Place, inside: list[str]) -> Place | None:
    """Further in, through the submodules `inside`; None if one is missing."""
    modules = list(place.modules)
    for part in inside:
        child = _child(modules[-1], part)
        if child is None:
            return None
        modules.append(child)
    return Place(modules, [*place.parts, *inside], place.key)


def _all_places(root: nn.Module) -> Iterator[Place]:
    """Every parameter of `root`, whatever its `named_parameters` and `named_modules` say."""
    waiting = [Place([root], [], "")]
    seen = {id(root)}
    while waiting:
        modules, parts, _ = waiting.pop()
        for key in modules[-1]._parameters.keys():  # noqa: SIM118  # TorchScript's table is no dictionary
            if _parameter(modules[-1], key) is not None:
                yield Place(modules, parts, key)
        for part, child in modules[-1]._modules.items():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                waiting.append(Place([*modules, child], [*parts, part], ""))
