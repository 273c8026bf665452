"""Edits of a run folder for damaged_files.py. Each has a name, and changes a copy of a good folder."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

Edit = tuple[str, Callable[[Path], object]]
TEMPORARY = ".*.tmp"  # in the name of an edit that must be made in the process that reads
NUMBERS = 2000  # of files that a process has written
NOTHING: tuple[object, ...] = (None, "x", [], {}, 1.5, -1, True, 10**30, ["x"], [[]])


def edits(outside: Path, rng: random.Random) -> Iterator[Edit]:
    """All edits of a recorded run. `outside` is a folder of somebody else that links lead to."""
    yield from meta_edits()
    yield from shard_edits(rng)
    for place in ("meta.json", "rwc", "analysis", "epochs", ".lock"):
        yield from places(place, outside)
    for name, make in others(outside).items():
        yield f"a shard is {name}", lambda run, make=make: make(first_shard(run))
    for name in ("report.html", "labels.csv", "scree.csv", "findings.csv", "heat_map.png", "pca_map.svg"):
        yield f"analysis/{name} is a link", lambda run, name=name: link_in(run / "analysis", name, outside / "file")
    names = ("analysis/.labels.csv", "analysis/.report.html", "rwc/.part-000000041-000000041.safetensors", ".meta.json")
    for name in names:  # the names under which files are written before they are renamed
        yield f"{name}{TEMPORARY} are links", lambda run, name=name: links_in(run / name, outside / "file")


def meta_edits() -> Iterator[Edit]:
    """Keys of meta.json that are gone or have another value."""
    for key in (
        "format",
        "id",
        "begun",
        "versions",
        "names",
        "numel",
        "kinds",
        "definition",
        "every",
        "settings",
        "dtypes",
    ):
        yield f"meta.json without {key}", lambda run, key=key: edit_meta(run, lambda meta: meta.pop(key))
        for value in NOTHING:
            yield f"meta.json {key}", lambda run, key=key, value=value: edit_meta(run, lambda m: m.update({key: value}))
    lists: dict[str, list[Any]] = {
        "names": ["a", 1, None, ["x"]],
        "numel": [0, -1, 1.5, 10**30, "x", True, float("nan")],
        "kinds": [1, None, "", "<b>"],
        "dtypes": [1, None, "x"],
    }
    for key, values in lists.items():
        for value in values:
            yield (
                f"meta.json {key}",
                lambda run, key=key, value=value: edit_meta(run, lambda m: m.update({key: [value] * len(m[key])})),
            )
    for settings in (
        *({"unit": unit} for unit in ("$\\frac", "$$", ["a"], "", "\x1b[31m", "x" * 10_000)),
        {"model": ["a"], "data": {"x": 1}},
        {"model": "../../x", "data": "a\0b"},
    ):
        yield "meta.json settings", lambda run, settings=settings: edit_meta(run, lambda m: m.update(settings=settings))
    hostile = ["../../x", "<script>", "=1+1", "a\nb\x1b]0;x\7"]
    yield "meta.json names of a stranger", lambda run: edit_meta(run, lambda m: m.update(names=hostile))
    for text in (b"", b"{", b"[]", b"[" * 100_000, b"\xff\xfe{}", b'"x"', b"9" * 5000):
        yield "meta.json is something else", lambda run, text=text: (run / "meta.json").write_bytes(text)


def shard_edits(rng: random.Random) -> Iterator[Edit]:
    """Shards with other arrays, other bytes and other names."""
    for key in ("step", "flags", "delta_l1", "prev_l1", "moved"):
        for dtype in ("f2", "f4", "f8", "i4", "i8", "u1", "u8", "?"):
            yield (
                f"{key} of another dtype",
                lambda run, key=key, dtype=dtype: edit_shard(run, lambda a: a.update({key: a[key].astype(dtype)})),
            )
        for change in (
            np.negative,
            lambda x: x[:, None],
            lambda x: x[:-1],
            lambda x: x[::-1],
            _huge,
        ):
            yield (
                f"{key} with other values",
                lambda run, key=key, change=change: edit_shard(run, lambda a: a.update({key: change(a[key])})),
            )
        yield f"no {key}", lambda run, key=key: edit_shard(run, lambda a: a.pop(key))
    for value in (np.nan, np.inf, -np.inf, 1e308):
        yield (
            "sums that are no numbers",
            lambda run, value=value: edit_shard(run, lambda a: a.update(delta_l1=np.full_like(a["delta_l1"], value))),
        )
    yield "one more array", lambda run: edit_shard(run, lambda a: a.update(extra=np.zeros(3)))
    for head, body in (
        ('{"step":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}', 2),
        ('{"step":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}', 1),
        ('{"step":{"dtype":"XX","shape":[1],"data_offsets":[0,1]}}', 1),
        ('{"step":{"dtype":"I64","shape":[4611686018427387904,4],"data_offsets":[0,0]}}', 0),
        ("{}", 0),
    ):
        whole = struct.pack("<Q", len(head)) + head.encode() + bytes(body)
        yield "a shard with another head", lambda run, whole=whole: first_shard(run).write_bytes(whole)
    for length in (2**63, 200_000_000):
        whole = struct.pack("<Q", length) + b"{}"
        yield "a shard with another head", lambda run, whole=whole: first_shard(run).write_bytes(whole)
    for _ in range(30):
        end, place, byte = rng.random(), rng.random(), rng.randrange(256)
        yield "a shard that is cut", lambda run, end=end: cut(first_shard(run), end)
        yield "a shard with another byte", lambda run, place=place, byte=byte: flip(first_shard(run), place, byte)
    arabic = "part-\u0661-\u0662.safetensors"
    for name in (
        arabic,
        "part-9-2.safetensors",
        f"part-1-{'9' * 200}.safetensors",
        "x.safetensors",
        "part-1-300.safetensors",
    ):
        yield "a shard of another name", lambda run, name=name: first_shard(run).rename(run / "rwc" / name)


def _huge(array: np.ndarray) -> np.ndarray:
    return np.full(array.shape, 2**62)


def places(place: str, outside: Path) -> Iterator[Edit]:
    """Something else in the place of a file or folder."""
    yield f"{place} is missing", lambda run: remove(run / place)
    for name, make in others(outside).items():
        yield f"{place} is {name}", lambda run, make=make: make(run / place)


def others(outside: Path) -> dict[str, Callable[[Path], object]]:
    """What may be in the place of a file or folder."""
    new: dict[str, Callable[[Path], object]] = {
        "a file": lambda path: path.write_text("x"),
        "a folder": lambda path: path.mkdir(),
        "a pipe": os.mkfifo,
        "a link to a folder": lambda path: path.symlink_to(outside / "folder"),
        "a link to a file": lambda path: path.symlink_to(outside / "file"),
        "a link to nothing": lambda path: path.symlink_to(outside / "nothing"),
        "a link to itself": lambda path: path.symlink_to(path),
        "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    }
    made = {name: lambda path, make=make: (remove(path), make(path)) for name, make in new.items()}
    return {**made, "moved, with a link": lambda path: move_out(path, outside / "moved")}


def first_shard(run: Path) -> Path:
    """The first shard of the run."""
    return sorted((run / "rwc").iterdir())[0]


def edit_meta(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of meta.json."""
    meta = json.loads((run / "meta.json").read_text())
    change(meta)
    (run / "meta.json").write_text(json.dumps(meta))


def edit_shard(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the arrays of the first shard."""
    shard = first_shard(run)
    arrays = safetensors.numpy.load_file(shard)
    change(arrays)
    shard.write_bytes(safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in arrays.items()}))


def cut(path: Path, end: float) -> None:
    """Cut a file at this share of its bytes."""
    os.truncate(path, int(path.stat().st_size * end))


def flip(path: Path, place: float, byte: int) -> None:
    """Put another byte into a file, at this share of its bytes."""
    whole = bytearray(path.read_bytes())
    whole[int(place * len(whole))] ^= byte or 1
    path.write_bytes(whole)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link_in(folder: Path, name: str, target: Path) -> None:
    """Make a link in a folder."""
    folder.mkdir(exist_ok=True)
    (folder / name).symlink_to(target)


def links_in(path: Path, target: Path) -> None:
    """Make a link under each temporary name that this process may give the file at `path`."""
    for number in range(NUMBERS):
        link_in(path.parent, f"{path.name}.{os.getpid()}.{number}.tmp", target)


def move_out(path: Path, target: Path) -> None:
    """Move a file or folder away, and leave a link to it."""
    remove(target)
    if path.exists():
        shutil.move(path, target)
    else:
        target.mkdir()
    path.symlink_to(target)
