"""Damaged curve files for damaged_files.py: each is the kind of its damage, its suffix and its bytes."""

from __future__ import annotations

import io
import pickle
import random
import zipfile
from collections.abc import Iterator

import numpy as np

LAYERS, STEPS = 3, 17
NAMES = np.array(["conv", "a,b", "fc"])
Case = tuple[str, str, bytes]


def good_curves() -> np.ndarray:
    """[LAYERS, STEPS] what every good file holds."""
    return np.random.default_rng(0).random((LAYERS, STEPS))


def npz(method: int = zipfile.ZIP_STORED, **arrays: object) -> bytes:
    """An npz file of arrays, or of bytes in their place."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", array if isinstance(array, bytes) else npy(np.asarray(array)))
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    """The array as an npy file, with a pickle if it holds objects."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def claim(shape: str, dtype: str = "<f8", body: bytes = b"") -> bytes:
    """An npy file whose head claims this shape and dtype, whatever its body is."""
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (63 - (10 + len(head)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + body


def good_files() -> dict[str, tuple[str, bytes]]:
    """The good files by their kind: stored, deflated, with the steps, a table."""
    curves, steps = good_curves(), np.arange(1, STEPS + 1)
    lines = [f"{step},{','.join(map(repr, row))}" for step, row in zip(steps, curves.T.tolist(), strict=True)]
    return {
        "stored": (".npz", npz(names=NAMES, rwc=curves)),
        "deflated": (".npz", npz(zipfile.ZIP_DEFLATED, names=NAMES, rwc=curves)),
        "with steps": (".npz", npz(names=NAMES, steps=steps, rwc=curves.T)),
        "table": (".csv", "\r\n".join(['step,conv,"a,b",fc', *lines, ""]).encode()),
    }


def damaged(rng: random.Random) -> Iterator[Case]:
    """All cases, one after another."""
    for kind, (suffix, whole) in good_files().items():
        yield from bytes_changed(f"{kind}: bytes changed", suffix, whole, rng)
        # A table is cut at each byte, an archive at every second.
        for end in range(0, len(whole), 1 if suffix == ".csv" else 2):
            yield f"{kind}: cut", suffix, whole[:end]
        for _ in range(60):
            first = rng.randrange(len(whole))
            middle = rng.randrange(1, 40)
            yield f"{kind}: part missing", suffix, whole[:first] + whole[first + middle :]
            yield f"{kind}: part twice", suffix, whole[: first + middle] + whole[first:]
    yield from archives()
    yield from tables(rng)


def bytes_changed(kind: str, suffix: str, whole: bytes, rng: random.Random) -> Iterator[Case]:
    """1 to 5 bytes become others; half the times in the heads of the entries and in the directory."""
    marks = [i for i in range(len(whole)) if whole[i : i + 2] in (b"PK", b"\x93N")] or [0]
    for turn in range(600):
        changed = bytearray(whole)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            place = rng.randrange(len(whole)) if turn % 2 else (rng.choice(marks) + rng.randrange(130)) % len(whole)
            changed[place] = rng.randrange(256)
        yield kind, suffix, bytes(changed)


class Runs:
    """Runs code if it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('a pickle was run')",)


def archives() -> Iterator[Case]:
    """Archives whose entries are no such arrays."""
    curves = good_curves()
    for dtype in ("?", "i1", "u8", ">i4", "f2", ">f4", "g", "c8", "S3", "U3", "M8[s]", "m8[D]", "V4", "O"):
        with np.errstate(all="ignore"):
            yield "rwc of another dtype", ".npz", npz(names=NAMES, rwc=np.ones((LAYERS, 4)).astype(dtype))
            yield "names of another dtype", ".npz", npz(names=np.arange(LAYERS).astype(dtype), rwc=curves)
            yield (
                "steps of another dtype",
                ".npz",
                npz(names=NAMES, rwc=curves.T, steps=np.arange(STEPS).astype("i8").astype(dtype)),
            )
    yield "records", ".npz", npz(names=NAMES, rwc=np.zeros((LAYERS, 4), [("a", "f8"), ("b", "O")]))
    shapes = ((), (0,), (3,), (17,), (3, 0), (0, 3), (1, 3), (3, 1), (2, 17), (17, 3), (17, 2), (3, 17, 1), (1, 3, 17))
    for shape in shapes:
        yield "rwc of another shape", ".npz", npz(names=NAMES, rwc=np.ones(shape))
        yield "rwc of another shape, steps", ".npz", npz(names=NAMES, rwc=np.ones(shape), steps=np.arange(1, 18))
        yield "names of another shape", ".npz", npz(names=np.full(shape, "x"), rwc=curves)
        yield "steps of another shape", ".npz", npz(names=NAMES, rwc=curves.T, steps=np.ones(shape))
    huge = (
        "(2, 10**15)",
        "(3, 1000000000000000)",
        "(3, 100000000000)",
        "(-1, 3)",
        "(3, -1)",
        "(99999999999999999999, 2)",
    )
    for shape in (*huge, "(3, 1.5)", "'x'", "[3, 4]", "(3, 4", "None", "(True, 3)", "(3,) * 40", "(" * 90, "(3, 17)"):
        for dtype in ("<f8", "<i2", "|b1", "|V0", "<U0", "<U99999999", "O", "x", "|S0"):
            for body in (b"", bytes(200)):
                yield "head claims another shape", ".npz", npz(names=NAMES, rwc=claim(shape, dtype, body))
            yield "names claim another shape", ".npz", npz(names=claim(shape, dtype, b""), rwc=curves)
    yield "nothing, many times", ".npz", npz(names=claim("(1000000000,)", "<U0"), rwc=claim("(1000000000, 0)"))
    head = claim("(3, 4)", body=bytes(96))
    for version in range(1, 256, 12):
        yield "npy of another version", ".npz", npz(names=NAMES, rwc=head[:6] + bytes([version, version]) + head[8:])
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        whole = npz(method, names=NAMES, rwc=curves)
        yield "another compression", ".npz", whole
        for place in range(30, len(whole), 5):
            yield "another compression, changed", ".npz", whole[:place] + b"\xa5" + whole[place + 1 :]
    for objects in (Runs(), {"a": 1}, None, "x"):
        yield "objects", ".npz", npz(names=NAMES, rwc=np.array([[objects, 1], [1, 2], [3, 4]], dtype=object))
        yield "objects", ".npz", npz(names=np.array([objects, "a", "b"], dtype=object), rwc=curves)
        yield "objects", ".npz", npz(names=NAMES, rwc=curves.T, steps=np.array([objects] * STEPS, dtype=object))
        yield "a pickle named npz", ".npz", pickle.dumps(objects)
    yield "npy named npz", ".npz", npy(curves)
    yield "npy of objects named npz", ".npz", npy(np.array([Runs(), 1], dtype=object))
    yield "raw entries", ".npz", npz(names=b"x", rwc=b"y")
    yield "empty entries", ".npz", npz(names=b"", rwc=b"")
    yield "no entries", ".npz", npz()
    yield "a table named npz", ".npz", good_files()["table"][1]
    yield "an archive named csv", ".csv", good_files()["stored"][1]
    yield "npy named csv", ".csv", npy(curves)


def tables(rng: random.Random) -> Iterator[Case]:
    """Tables with other fields, lines, ends and encodings."""
    text = good_files()["table"][1].decode()
    odd = (
        "",
        " ",
        "x",
        "nan",
        "inf",
        "-inf",
        "1e999",
        "1_0",
        "0x1p3",
        "\0",
        "1 2",
        '"',
        "\u0663",
        "--1",
        "1e",
        "9" * 400,
    )
    lines = text.split("\r\n")
    for _ in range(400):
        row = rng.randrange(len(lines) - 1)
        fields = lines[row].split(",")
        fields[rng.randrange(len(fields))] = rng.choice(odd)
        yield "table: another field", ".csv", "\r\n".join([*lines[:row], ",".join(fields), *lines[row + 1 :]]).encode()
    for _ in range(200):
        moved = lines[:-1]
        a, b = rng.randrange(len(moved)), rng.randrange(len(moved))
        moved[a], moved[b] = moved[b], moved[a]
        yield "table: lines in another order", ".csv", "\r\n".join([*moved, ""]).encode()
    for encoding in ("utf-16", "utf-32", "utf-8-sig", "utf-7"):
        yield "table: another encoding", ".csv", text.encode(encoding)
    yield "table: another separator", ".csv", text.replace(",", ";").encode()
    yield "table: a field of 200,000 letters", ".csv", b"step," + b"a" * 200_000 + b"\r\n1,2\r\n"
    yield "table: only a head", ".csv", lines[0].encode()
    yield "table: empty lines", ".csv", text.replace("\r\n", "\r\n\r\n").encode()
    yield "table: commas only", ".csv", b",,,\r\n,,,\r\n"
