"""Read curves from a run folder, an npz file or a CSV file.

Letters: S recorded steps, L layers, T columns (steps or epochs).
"""

from __future__ import annotations

import csv
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..record.history import RWCHistory
from ..record.run_folder import RunFolder
from .curves import FloatArray


class NamedCurves(NamedTuple):
    """Curves with the names of their layers. `cluster_layers` accepts it like a history.

    Args:
        names: the names of the L layers.
        curves: [L, T], one row per layer.
    """

    names: tuple[str, ...]
    curves: FloatArray

    @property
    def rwc(self) -> FloatArray:
        """[T, L] as in `RWCHistory`, without a copy."""
        return self.curves.T


def load_curves(path: str | os.PathLike[str]) -> NamedCurves:
    """Read the RWC curves at `path`.

    - A run folder: the RWC by the run's definition. The shards are read one after another. So only the curves, 8 L T
      bytes, and one shard are in memory; `RWCHistory.load` needs three times as much.
    - `.npz` with the arrays `names` [L] and `rwc`. With an array `steps`, as `RWCHistory.to_npz` writes it, `rwc` is
      [S, L]. Without it, `rwc` is [L, T], or [S, L] if only that fits the names.
    - `.csv` as `RWCHistory.to_csv` writes it: a header of `step` and the names, then one row per step.

    Returns:
        `NamedCurves`, that is (names, curves [L, T]), float64. The values are the file's, with infinities and NaN.

    Raises:
        ValueError: there is no such file, it is of another kind, its content has another layout, or its steps do not
            rise.
        WeightScaleError: the folder is not a run folder, or a shard is torn.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "curves.csv"
        ...     _ = path.write_text("step,conv,fc\\n1,0.5,0.25\\n2,0.5,0.125\\n")
        ...     load_curves(path)
        NamedCurves(names=('conv', 'fc'), curves=array([[0.5 , 0.5 ],
               [0.25 , 0.125]]))
    """
    path = Path(path)
    if path.is_dir():
        return _from_run_folder(path)
    readers = {".npz": _from_npz, ".csv": _from_csv}
    if path.suffix not in readers:
        raise ValueError(f"curves must be a run folder, an .npz or a .csv file, got {path}")
    if not path.is_file():
        raise ValueError(f"there is no file {path} to read curves from")
    return readers[path.suffix](path)


def _from_run_folder(path: Path) -> NamedCurves:
    run = RunFolder.open(path)
    names = tuple(run.meta["names"])
    curves = np.empty((len(names), sum(len(part.steps) for part in run.parts())))
    start = 0
    for part in run.parts():
        end = start + len(part.steps)
        curves[:, start:end] = RWCHistory.from_rows(run.meta, part).rwc.T
        start = end
    return NamedCurves(names, curves)


def _from_npz(path: Path) -> NamedCurves:
    try:
        with open(path, "rb") as opened, np.load(opened) as file:
            missing = [name for name in ("names", "rwc") if name not in file.files]
            if missing:
                raise ValueError(f"no array {' and no array '.join(missing)}, only {', '.join(file.files)}")
            names, rwc, by_step = _array(file, "names"), _array(file, "rwc"), "steps" in file.files
            if names.ndim != 1 or rwc.ndim != 2 or rwc.dtype.kind not in "fiu" or not rwc.size:
                raise ValueError(f"names is {names.dtype} {list(names.shape)}, rwc is {rwc.dtype} {list(rwc.shape)}")
            if by_step:
                _check_steps(_array(file, "steps"), len(rwc))
            if by_step or len(rwc) != len(names):
                rwc = rwc.T
            if len(rwc) != len(names):
                shape = list(rwc.shape if by_step else rwc.T.shape)
                raise ValueError(f"{len(names)} names do not fit rwc of shape {shape}")
    except Exception as error:  # changed bytes make numpy, zipfile and the decompressors raise whatever they have
        raise ValueError(
            f"{path} must hold names [layers] and numbers rwc [layers, columns], or rwc [steps, layers] beside steps, "
            f"as RWCHistory.to_npz writes them: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error
    decoded = (name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names.tolist())
    return NamedCurves(tuple(decoded), np.ascontiguousarray(rwc, dtype=np.float64))


def _array(file: Any, name: str) -> NDArray[Any]:
    """An array of an npz file. Its entry is read to the end, because only there zipfile compares the checksum."""
    with file.zip.open(f"{name}.npy") as entry:
        array: NDArray[Any] = np.lib.format.read_array(entry, allow_pickle=False)
        if entry.read(1):
            raise ValueError(f"the entry of {name} is longer than its array {array.dtype} {list(array.shape)}")
    return array


def _check_steps(steps: NDArray[Any], rows: int) -> None:
    """Raise `ValueError` unless these are the steps of so many rows."""
    if steps.shape != (rows,) or steps.dtype.kind not in "fiu":
        raise ValueError(f"steps is {steps.dtype} {list(steps.shape)}, for {rows} rows")
    if not np.all(np.isfinite(steps)) or not np.all(steps[1:] > steps[:-1]):
        raise ValueError("its steps do not rise from row to row")


def _from_csv(path: Path) -> NamedCurves:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets begin a file with a mark
            table_rows = [(line, row) for line, row in enumerate(csv.reader(file), start=1) if any(row)]
        if not table_rows:
            raise ValueError("it is empty")
        (_, head), *rows = table_rows
        while not head[-1]:  # spreadsheets may end each line with commas
            head.pop()
        if head[:1] != ["step"] or len(head) < 2:
            raise ValueError(f"its first line starts {','.join(head[:3])!r}")
        if not rows:
            raise ValueError("it has no rows")
        table = np.array([_numbers(line, row, len(head)) for line, row in rows])
        _check_steps(table[:, 0], len(rows))
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} must be a table with the head step,<name>,<name>,... and a row of numbers a step, "
            f"as RWCHistory.to_csv writes it: {error}"
        ) from error
    if not _ends_a_line(path):
        warnings.warn(
            f"{path} does not end with a new line, so its last row may be cut; its last number is {table[-1, -1]}",
            stacklevel=3,
        )
    return NamedCurves(tuple(head[1:]), np.ascontiguousarray(table[:, 1:].T))


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) in b"\r\n"


def _numbers(line: int, row: list[str], length: int) -> list[float]:
    if not any(row[length:]):
        row = row[:length]
    if len(row) != length:
        raise ValueError(f"line {line} has {len(row)} fields, the head {length}")
    try:
        if any("_" in field for field in row):  # float("0_5") is 5
            raise ValueError("a number must have no underscore")
        return [float(field) for field in row]
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from error
