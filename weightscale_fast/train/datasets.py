"""The papers' data sets, which torchvision reads from files on disk. An error names each missing file."""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightScaleError
from ..extras import import_extra

LARGEST_IDX = 47_040_016  # bytes of the largest .idx file; a larger one is another file, and may not fit in memory
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # the package dataset-fashion-mnist


@dataclass(frozen=True)
class SourceFile:
    """A file as its authors publish it."""

    name: str
    size: int  # bytes
    md5: str
    url: str
    content_md5: str = ""  # MD5 of the unpacked .idx file; Debian compresses the same content in its own way


@dataclass(frozen=True)
class Source:
    """A data set, in torchvision's terms."""

    kind: str  # the class in torchvision.datasets
    splits: tuple[dict[str, Any], dict[str, Any]]  # arguments of the class for the training and the test images
    folder: str  # where the files are under the data root
    files: tuple[SourceFile, ...]


_IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _idx(kind: str, mirror: str, *rows: tuple[int, str, str]) -> Source:
    """A data set of four .idx files. `rows` has for each the size and MD5 of the packed file, and the unpacked MD5."""
    files = (
        SourceFile(f"{name}.gz", size, md5, f"{mirror}{name}.gz", content_md5)
        for name, (size, md5, content_md5) in zip(_IDX_FILES, rows, strict=True)
    )
    return Source(kind, ({"train": True}, {"train": False}), f"{kind}/raw", tuple(files))


def _cifar(kind: str, archive: str, size: int, md5: str) -> Source:
    file = SourceFile(archive, size, md5, f"https://www.cs.toronto.edu/~kriz/{archive}")
    return Source(kind, ({"train": True}, {"train": False}), "", (file,))


def _svhn(files: dict[str, tuple[int, str]]) -> Source:
    mirror = "http://ufldl.stanford.edu/housenumbers/"
    return Source(
        "SVHN",
        ({"split": "train"}, {"split": "test"}),
        "",
        tuple(SourceFile(name, size, md5, f"{mirror}{name}") for name, (size, md5) in files.items()),
    )


SOURCES = {
    "cifar10": _cifar("CIFAR10", "cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a"),
    "cifar100": _cifar("CIFAR100", "cifar-100-python.tar.gz", 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85"),
    "svhn": _svhn(
        {
            "train_32x32.mat": (182_040_794, "e26dedcc434d2e4c54c9b2d4a06d8373"),
            "test_32x32.mat": (64_275_384, "eb5a983be6a315427106f1b164d9cef3"),
        }
    ),
    "mnist": _idx(
        "MNIST",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
        (28_881, "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
        (1_648_877, "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
        (4_542, "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
    ),
    "fashion-mnist": _idx(
        "FashionMNIST",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
        (29_515, "25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
        (4_422_102, "bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
        (5_148, "bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
    ),
}


def read_source(name: str, root: str | Path, *, download: bool = False) -> list[tuple[Tensor, Tensor]]:
    """Read the data set `name`: pixels uint8 [N, C, H, W] and labels int64 [N], for training and then for testing.

    Files may be packed or unpacked, where torchvision puts them under `root`. FashionMNIST is also read from Debian's
    package. The MD5 of each file is checked. Packed files are unpacked into a temporary folder. Only downloads are
    written under `root`, so it may be read-only.

    Raises:
        WeightScaleError: a file is missing or damaged. The message has its name, size and MD5, and two ways to get it.
    """
    root = Path(root).expanduser()
    try:
        if root.exists() and not root.is_dir():
            raise NotADirectoryError("it is a file")
        try:
            return _read(name, root)
        except WeightScaleError:
            if not download:
                raise
        _fetch(name, root)
        return _read(name, root)
    except OSError as error:  # no permission, or no space to unpack
        raise WeightScaleError(f"{name} cannot be read from data root {root}: {error}") from error


def _read(name: str, root: Path) -> list[tuple[Tensor, Tensor]]:
    source, datasets = SOURCES[name], import_extra("torchvision.datasets", "train")
    if source.kind == "SVHN":
        import_extra("scipy.io", "train")

    def read(folder: Path) -> list[tuple[Tensor, Tensor]]:
        return [_tensors(getattr(datasets, source.kind)(root=folder, **split)) for split in source.splits]

    with tempfile.TemporaryDirectory(prefix="weightscale-") as temporary:
        if source.folder:  # .idx files, which torchvision does not check
            _gather(name, root, Path(temporary))
            return read(Path(temporary))
        with suppress(RuntimeError):  # torchvision only says that something is missing or damaged
            return read(root)
        _check(name, root)
        datasets.utils.extract_archive(str(root / source.files[0].name), temporary)  # CIFAR's archive
        return read(Path(temporary))


def _gather(name: str, root: Path, temporary: Path) -> None:
    """Put the four .idx files where torchvision looks for them under `temporary`."""
    source = SOURCES[name]
    home, target = root / source.folder, temporary / source.folder
    target.mkdir(parents=True)
    lacking = {}
    for file in source.files:
        unpacked = Path(file.name).stem
        lacking[file] = f"{home / file.name} is not there"
        debian = [DEBIAN_FASHION_MNIST / file.name] if name == "fashion-mnist" else []
        for path in filter(Path.exists, (home / unpacked, home / file.name, *debian)):
            if not path.is_file():  # a folder, or a pipe that nobody may write to
                lacking[file] = f"{path} is no file"
                continue
            content = _unpack(path)
            if hashlib.md5(content, usedforsecurity=False).hexdigest() == file.content_md5:
                (target / unpacked).write_bytes(content)
                del lacking[file]
                break
            lacking[file] = f"{path} is damaged, or another file of that name"
    _raise_if_missing(name, root, lacking)


def _unpack(path: Path) -> bytes:
    """The content of the file, or a little more than the largest. It is empty if the file is cut or is no .gz."""
    with suppress(EOFError, gzip.BadGzipFile, zlib.error), open(path, "rb") as file:
        if path.suffix != ".gz":
            return file.read(LARGEST_IDX + 1)
        with gzip.open(file) as unpacked:
            return unpacked.read(LARGEST_IDX + 1)
    return b""


def _check(name: str, root: Path) -> None:
    datasets, source = import_extra("torchvision.datasets", "train"), SOURCES[name]
    unpacked = root / getattr(getattr(datasets, source.kind), "base_folder", "no folder")
    lacking = {}
    for file in source.files:
        path = root / file.name
        if not path.exists():
            lacking[file] = f"{path} is not there" + (f", and {unpacked} is damaged" if unpacked.exists() else "")
        elif not datasets.utils.check_integrity(str(path), file.md5):
            lacking[file] = f"{path} is damaged, or another file of that name"
    _raise_if_missing(name, root, lacking)


def _raise_if_missing(name: str, root: Path, lacking: dict[SourceFile, str]) -> None:
    """Raise `WeightScaleError` if a file is missing or damaged. `lacking` says which, and why."""
    if not lacking:
        return
    files = "".join(f"\n  {why}: {file.size:,} bytes, MD5 {file.md5}, {file.url}" for file, why in lacking.items())
    debian = ", or apt-get install dataset-fashion-mnist" if name == "fashion-mnist" else ""
    raise WeightScaleError(
        f"{name} is not whole under data root {root}:{files}\n"
        f"Let it be fetched with --download (download=True), or fetch it and put it there{debian}"
    )


def _fetch(name: str, root: Path) -> None:
    """Download the files that are missing or damaged. A file gets its name when it is complete."""
    source, utils = SOURCES[name], import_extra("torchvision.datasets.utils", "train")
    folder = root / source.folder
    for file in source.files:
        temporary = folder / f".{file.name}.{os.getpid()}.tmp"
        try:
            if not utils.check_integrity(str(folder / file.name), file.md5):
                utils.download_url(file.url, str(folder), temporary.name, file.md5)
                temporary.replace(folder / file.name)
        except (OSError, RuntimeError, HTTPException) as error:  # no network, no permission, or a wrong checksum
            raise WeightScaleError(
                f"{name} cannot be downloaded: {error}. Fetch {file.url} ({file.size:,} bytes, MD5 {file.md5}) in "
                f"another way and put it into {folder}"
            ) from error
        finally:
            with suppress(OSError):
                temporary.unlink()


def _tensors(split: Any) -> tuple[Tensor, Tensor]:
    """Pixels [N, C, H, W] and labels. torchvision keeps pixels in three layouts, and labels under two names."""
    pixels = torch.as_tensor(split.data)
    if pixels.dim() == 3:  # [N, H, W]
        pixels = pixels[:, None]
    elif pixels.shape[3] == 3:  # [N, H, W, C]; SVHN has [N, C, H, W] already
        pixels = pixels.permute(0, 3, 1, 2)
    labels = split.labels if hasattr(split, "labels") else split.targets
    return pixels.contiguous(), torch.as_tensor(labels, dtype=torch.int64)
