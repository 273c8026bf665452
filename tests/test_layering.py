"""Imports inside the package go one way: a room imports only from rooms below it."""

import ast
from pathlib import Path

import pytest

import weightscale_fast

PACKAGE = Path(weightscale_fast.__file__).parent

# From the bottom up. The rooms of one line do not import one another.
ORDER = """
errors
files graph_capture text
eager extras ratios
ops
weights
functional
optim
distributed
record
analysis
health
figures monitor
report integrations train
comparison paper
cli
__init__ __main__
"""
LEVEL = {room: level for level, line in enumerate(ORDER.split("\n")) for room in line.split()}


def room_of(module: str) -> str:
    """The room of a module: the first name after the package."""
    return module.split(".")[1]


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, also inside its functions."""
    here = ["weightscale_fast", *path.relative_to(PACKAGE).with_suffix("").parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level]
            module = ".".join([*base, *filter(None, [node.module])])
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "weightscale_fast" else {module}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("weightscale_fast."):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("weightscale_fast.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_below(path):
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert room in LEVEL, f"{room} has no place in the order"
    for module in imports(path):
        other = room_of(module)
        if other != room:
            assert LEVEL[other] < LEVEL[room], f"{path.relative_to(PACKAGE)} imports {module}"
