"""The papers' data sets, read from small files in the real formats, and the messages about missing or wrong files."""

import gzip
import hashlib
import os
import pickle
import shutil
import struct
import tarfile
import tempfile
import threading
import time
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets as torchvision_datasets

from weightscale_fast import WeightScaleError
from weightscale_fast.paper.presets import PRESETS
from weightscale_fast.train import datasets
from weightscale_fast.train.data import load_images
from weightscale_fast.train.datasets import DEBIAN_FASHION_MNIST, SOURCES, read_source

IDX = ("mnist", "fashion-mnist")
CIFAR = {"cifar10": 10, "cifar100": 100}
needs_debian = pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.exists(), reason="needs Debian's files: apt-get install dataset-fashion-mnist"
)


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory, monkeypatch):
    """A separate folder for temporary files. It must be empty after each test."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


@pytest.fixture(autouse=True)
def no_debian(monkeypatch):
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", DEBIAN_FASHION_MNIST / "not installed")


def md5(content):
    return hashlib.md5(content).hexdigest()


def tree(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def random_images(name, count, seed):
    """Pixels [N, C, H, W] and labels, which include the highest class."""
    draw = np.random.default_rng(seed)
    shape = (1, 28, 28) if name in IDX else (3, 32, 32)
    classes = CIFAR.get(name, 10)
    labels = draw.integers(0, classes, count)
    labels[-1] = classes - 1
    return draw.integers(0, 256, (count, *shape), dtype=np.uint8), labels


def idx(array):
    """The format of MNIST: two zeros, the type (8: bytes), the number of dimensions, each of them, the bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(name, root, splits, monkeypatch):
    contents = [idx(part) for pixels, labels in splits for part in (pixels[:, 0], labels)]
    files = []
    (root / SOURCES[name].folder).mkdir(parents=True)
    for file, content in zip(SOURCES[name].files, contents, strict=True):
        packed = gzip.compress(content)
        (root / SOURCES[name].folder / file.name).write_bytes(packed)
        files.append(replace(file, size=len(packed), md5=md5(packed), content_md5=md5(content)))
    monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], files=tuple(files)))


def write_cifar(name, root, splits, monkeypatch):
    """An archive of pickled batches: a row of 3,072 bytes an image, all its red first, then green, then blue."""
    kind = getattr(torchvision_datasets, SOURCES[name].kind)
    (pixels, labels), test = splits
    batches = len(kind.train_list)
    parts = [*zip(np.array_split(pixels, batches), np.array_split(labels, batches), strict=True), test]
    contents = []
    for pixels, labels in parts:
        key = {"labels": labels.tolist()} if name == "cifar10" else {"fine_labels": labels.tolist()}
        contents.append(pickle.dumps({"data": pixels.reshape(len(pixels), -1), **key}, protocol=2))
    contents.append(pickle.dumps({kind.meta["key"]: [f"class {i}" for i in range(CIFAR[name])]}, protocol=2))
    names = [row[0] for row in (*kind.train_list, *kind.test_list)] + [kind.meta["filename"]]
    (root / kind.base_folder).mkdir(parents=True)
    for file, content in zip(names, contents, strict=True):
        (root / kind.base_folder / file).write_bytes(content)
    archive = root / kind.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / kind.base_folder, kind.base_folder)
    shutil.rmtree(root / kind.base_folder)

    sums = [[file, md5(content)] for file, content in zip(names, contents, strict=True)]
    monkeypatch.setattr(kind, "train_list", sums[:batches])
    monkeypatch.setattr(kind, "test_list", sums[batches:-1])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": sums[-1][1]})
    file = replace(SOURCES[name].files[0], size=archive.stat().st_size, md5=md5(archive.read_bytes()))
    monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], files=(file,)))


def write_svhn(name, root, splits, monkeypatch):
    """Two MATLAB files: X is [H, W, C, N], y is [N, 1] with 10 for the digit 0."""
    files, table = [], dict(torchvision_datasets.SVHN.split_list)
    root.mkdir(parents=True, exist_ok=True)
    for file, split, (pixels, labels) in zip(SOURCES[name].files, ("train", "test"), splits, strict=True):
        path = root / file.name
        digits = np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)
        scipy.io.savemat(path, {"X": pixels.transpose(2, 3, 1, 0), "y": digits}, do_compression=True)
        files.append(replace(file, size=path.stat().st_size, md5=md5(path.read_bytes())))
        table[split] = [*table[split][:2], files[-1].md5]
    monkeypatch.setattr(torchvision_datasets.SVHN, "split_list", table)
    monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], files=tuple(files)))


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Make the files of a data set, 11 training and 4 test images, under `tmp_path`; its images."""

    def write(name, root=tmp_path):
        splits = [random_images(name, 11, seed=1), random_images(name, 4, seed=2)]
        {"svhn": write_svhn, **dict.fromkeys(IDX, write_idx), **dict.fromkeys(CIFAR, write_cifar)}[name](
            name, root, splits, monkeypatch
        )
        return splits

    return write


def assert_same(read, written):
    for (pixels, labels), (wanted_pixels, wanted_labels) in zip(read, written, strict=True):
        assert pixels.dtype == torch.uint8
        assert labels.dtype == torch.int64
        assert np.array_equal(pixels.numpy(), wanted_pixels)
        assert labels.tolist() == wanted_labels.tolist()


class TestTables:
    """What is asked of the reader to fetch is what torchvision fetches."""

    @pytest.mark.parametrize("name", CIFAR)
    def test_cifar(self, name):
        kind, (file,) = getattr(torchvision_datasets, SOURCES[name].kind), SOURCES[name].files
        assert (file.name, file.md5, file.url) == (kind.filename, kind.tgz_md5, kind.url)

    def test_svhn(self):
        table = torchvision_datasets.SVHN.split_list
        assert [[file.url, file.name, file.md5] for file in SOURCES["svhn"].files] == [table["train"], table["test"]]

    @pytest.mark.parametrize("name", IDX)
    def test_idx(self, name):
        kind, source = getattr(torchvision_datasets, SOURCES[name].kind), SOURCES[name]
        assert [(file.name, file.md5) for file in source.files] == kind.resources
        assert all(file.url == kind.mirrors[0] + file.name for file in source.files)


class TestReading:
    @pytest.mark.parametrize("name", SOURCES)
    def test_packed_as_published(self, make, tmp_path, name):
        written = make(name)
        before = tree(tmp_path)
        assert_same(read_source(name, tmp_path), written)
        assert tree(tmp_path) == before  # a root that is read-only does as well

    @pytest.mark.parametrize("name", CIFAR)
    def test_cifar_unpacked(self, make, tmp_path, name):
        written = make(name)
        archive = tmp_path / SOURCES[name].files[0].name
        torchvision_datasets.utils.extract_archive(str(archive), str(tmp_path), remove_finished=True)
        assert_same(read_source(name, tmp_path), written)

    @pytest.mark.parametrize("name", IDX)
    def test_idx_unpacked(self, make, tmp_path, name):
        written = make(name)
        for packed in (tmp_path / SOURCES[name].folder).iterdir():
            torchvision_datasets.utils.extract_archive(str(packed), remove_finished=True)
        assert_same(read_source(name, str(tmp_path)), written)

    def test_a_home_folder(self, make, tmp_path, monkeypatch):
        written = make("mnist")
        monkeypatch.setenv("HOME", str(tmp_path.parent))
        assert_same(read_source("mnist", f"~/{tmp_path.name}"), written)

    def test_the_red_of_an_image_is_its_first_channel(self, make, tmp_path, monkeypatch):
        red = np.zeros((1, 3, 32, 32), np.uint8)
        red[0, 0, 5, 7] = 255  # row 5, column 7
        for write, name in ((write_svhn, "svhn"), (write_cifar, "cifar100")):
            write(name, tmp_path, [(red.repeat(2, 0), np.array([0, 1]))] * 2, monkeypatch)
            (pixels, _), _ = read_source(name, tmp_path)
            assert pixels[0].nonzero().tolist() == [[0, 5, 7]]

    def test_svhn_calls_the_digit_0_class_0(self, make, tmp_path):
        (_, labels), _ = make("svhn")
        assert 10 in scipy.io.loadmat(tmp_path / "train_32x32.mat")["y"]
        assert read_source("svhn", tmp_path)[0][1].tolist() == labels.tolist()

    def test_debians_files_stand_in_for_fashion_mnist_alone(self, make, tmp_path, monkeypatch):
        written = make("fashion-mnist")
        monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / SOURCES["fashion-mnist"].folder)
        assert_same(read_source("fashion-mnist", tmp_path / "empty"), written)
        with pytest.raises(WeightScaleError, match=r"empty/MNIST/raw/train-images-idx3-ubyte.gz is not there"):
            read_source("mnist", tmp_path / "empty")

    @needs_debian
    @pytest.mark.parametrize("root", [DEBIAN_FASHION_MNIST, "data"])
    def test_debians_real_files(self, root, tmp_path, monkeypatch):
        monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", DEBIAN_FASHION_MNIST)
        monkeypatch.chdir(tmp_path)
        (pixels, labels), (test_pixels, test_labels) = read_source("fashion-mnist", root)
        assert (pixels.shape, test_pixels.shape) == ((60_000, 1, 28, 28), (10_000, 1, 28, 28))
        assert labels.bincount().tolist() == [6_000] * 10
        assert test_labels.bincount().tolist() == [1_000] * 10
        assert not list(tmp_path.iterdir())


def assert_named(message, root, file):
    """The message has the name, size, checksum and address of the file, and both ways to get it."""
    for part in (str(root), file.name, f"{file.size:,} bytes", f"MD5 {file.md5}", file.url):
        assert part in message
    assert "Let it be fetched with --download (download=True), or fetch it and put it there" in message


class TestMissing:
    @pytest.mark.parametrize("preset", PRESETS)
    def test_every_preset_names_all_its_files(self, tmp_path, preset):
        config = PRESETS[preset].config
        with pytest.raises(WeightScaleError, match=f"{config.data} is not whole under data root") as error:
            load_images(config, data_root=tmp_path)
        for file in SOURCES[config.data].files:
            assert_named(str(error.value), tmp_path / SOURCES[config.data].folder, file)
        assert ("apt-get install dataset-fashion-mnist" in str(error.value)) == (config.data == "fashion-mnist")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["mnist", "svhn"])
    def test_only_what_is_missing_is_named(self, make, tmp_path, name):
        make(name)
        folder, (*others, last) = tmp_path / SOURCES[name].folder, SOURCES[name].files
        (folder / last.name).unlink()
        with pytest.raises(WeightScaleError, match=f"{last.name} is not there") as error:
            read_source(name, tmp_path)
        assert_named(str(error.value), folder, last)
        assert not any(file.name in str(error.value) for file in others)

    def test_the_root_is_a_file(self, tmp_path):
        (tmp_path / "data").write_text("")
        for download in (False, True):
            with pytest.raises(WeightScaleError, match="mnist cannot be read from data root .*data: it is a file"):
                read_source("mnist", tmp_path / "data", download=download)

    def test_a_file_that_cannot_be_opened(self, make, tmp_path):
        make("mnist")
        path = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte.gz"
        path.unlink()
        path.mkdir()
        with pytest.raises(WeightScaleError, match=r"t10k-labels-idx1-ubyte.gz is no file"):
            read_source("mnist", tmp_path)

    def test_nowhere_to_unpack(self, make, tmp_path, scratch, monkeypatch):
        make("cifar10")
        monkeypatch.setattr(tempfile, "tempdir", str(scratch / "none"))
        with pytest.raises(WeightScaleError, match="cifar10 cannot be read from data root .*No such file"):
            read_source("cifar10", tmp_path)


DAMAGE = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "changed": lambda content: content[:-20] + bytes([content[-20] ^ 1]) + content[-19:],
    "text": lambda content: b"<html>404</html>",
}


class TestDamaged:
    @pytest.mark.parametrize("damage", DAMAGE)
    @pytest.mark.parametrize("name", SOURCES)
    def test_a_packed_file(self, make, tmp_path, name, damage):
        make(name)
        *others, last = SOURCES[name].files
        path = tmp_path / SOURCES[name].folder / last.name
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
        with pytest.raises(WeightScaleError, match=f"{path} is damaged, or another file of that name: ") as error:
            read_source(name, tmp_path)
        assert_named(str(error.value), path, last)
        assert not any(file.name in str(error.value) for file in others)

    @pytest.mark.parametrize(
        "content",
        [
            idx(np.zeros((4, 28))),
            gzip.compress(idx(np.zeros(4)) + b"\0"),
            gzip.compress(b"\x00\x00\x0d\x01" + idx(np.zeros(4))[4:]),  # says float32
            gzip.compress(b"\xff" * 12),
            gzip.compress(idx(np.arange(4))),
        ],
        ids=["not packed", "too long", "of floats", "wrong magic", "of another data set"],
    )
    def test_an_idx_file_of_another_kind(self, make, tmp_path, content):
        make("mnist")
        path = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte.gz"
        path.write_bytes(content)
        with pytest.raises(WeightScaleError, match=f"{path} is damaged, or another file of that name"):
            read_source("mnist", tmp_path)

    @pytest.mark.parametrize("name", IDX)
    def test_what_a_killed_unpacking_left_gives_way_to_the_packed_file(self, make, tmp_path, name):
        written = make(name)
        folder, file = tmp_path / SOURCES[name].folder, SOURCES[name].files[0].name
        unpacked = folder / file.removesuffix(".gz")
        unpacked.write_bytes(gzip.decompress((folder / file).read_bytes())[:100])
        assert_same(read_source(name, tmp_path), written)
        (folder / file).unlink()
        with pytest.raises(WeightScaleError, match=f"{unpacked} is damaged"):
            read_source(name, tmp_path)

    @pytest.mark.parametrize("name", CIFAR)
    def test_a_damaged_folder_gives_way_to_the_archive(self, make, tmp_path, name):
        written = make(name)
        archive = tmp_path / SOURCES[name].files[0].name
        kind = getattr(torchvision_datasets, SOURCES[name].kind)
        torchvision_datasets.utils.extract_archive(str(archive), str(tmp_path))
        (tmp_path / kind.base_folder / kind.test_list[0][0]).write_bytes(b"")
        (tmp_path / kind.base_folder / kind.train_list[0][0]).unlink()
        assert_same(read_source(name, tmp_path), written)
        archive.unlink()
        with pytest.raises(WeightScaleError, match=f"{archive} is not there, and .*{kind.base_folder} is damaged: "):
            read_source(name, tmp_path)


class Server:
    """A server of files. With `how` = "half" it cuts its answers, and with "other" it sends something else."""

    def __init__(self):
        self.files, self.how, self.asked, self.folder, self.seen = {}, "whole", [], None, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def answer(self, request):
        name = request.path.removeprefix("/")
        content = self.files.get(name, b"") if self.how != "other" else b"<html>Sign in to this network</html>"
        request.send_response(200 if name in self.files else 404)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        self.asked.append(name)
        half = len(content) // 2
        with suppress(
            ConnectionError
        ):  # torchvision first asks for the address and hangs up, and then asks for the file
            request.wfile.write(content[:half])
            if self.asked.count(name) == 2:
                self.look(self.folder / f".{name}.{os.getpid()}.tmp")
            if self.how != "half":
                request.wfile.write(content[half:])

    def look(self, temporary):
        """Keep the names in the folder halfway through the download: what a kill would leave."""
        for _ in range(500):
            if temporary.exists():
                break
            time.sleep(0.01)
        self.seen.append({path.name for path in self.folder.iterdir()})

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    server = Server()
    yield server
    server.close()


@pytest.fixture
def publish(make, server, tmp_path, monkeypatch):
    """Put a data set on the server. Returns it, and the empty folder for its download."""

    def publish(name):
        written = make(name, tmp_path / "published")
        source = SOURCES[name]
        for file in source.files:
            server.files[file.name] = (tmp_path / "published" / source.folder / file.name).read_bytes()
        url = f"http://127.0.0.1:{server.server.server_address[1]}/"
        files = tuple(replace(file, url=url + file.name) for file in source.files)
        monkeypatch.setitem(SOURCES, name, replace(source, files=files))
        server.folder = tmp_path / "data" / source.folder
        return written, tmp_path / "data", server.folder

    return publish


class TestDownload:
    @pytest.mark.parametrize("name", SOURCES)
    def test_it_is_fetched_once(self, publish, server, name):
        written, root, folder = publish(name)
        assert_same(read_source(name, root, download=True), written)
        assert sorted(path.name for path in folder.iterdir()) == sorted(server.files)
        server.asked.clear()
        assert_same(read_source(name, root, download=True), written)
        assert_same(read_source(name, root), written)
        assert not server.asked

    def test_not_unless_asked_for(self, publish, server):
        _, root, _ = publish("svhn")
        with pytest.raises(WeightScaleError, match="is not there"):
            read_source("svhn", root)
        assert not server.asked
        assert not root.exists()

    @pytest.mark.parametrize("name", ["mnist", "svhn"])
    def test_only_what_is_missing_or_damaged(self, publish, server, name):
        written, root, folder = publish(name)
        read_source(name, root, download=True)
        missing, damaged = (file.name for file in SOURCES[name].files[:2])
        (folder / missing).unlink()
        (folder / damaged).write_bytes(b"half")
        server.asked.clear()
        assert_same(read_source(name, root, download=True), written)
        assert set(server.asked) == {missing, damaged}

    @pytest.mark.parametrize("how", ["half", "other"])
    @pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
    def test_a_bad_download_leaves_nothing(self, publish, server, name, how):
        written, root, folder = publish(name)
        server.how, first = how, SOURCES[name].files[0]
        with pytest.raises(
            WeightScaleError, match=f"{name} cannot be downloaded: .*corrupted.* in another way"
        ) as error:
            read_source(name, root, download=True)
        for part in (first.url, f"{first.size:,} bytes", f"MD5 {first.md5}", str(folder)):
            assert part in str(error.value)
        assert not list(folder.iterdir())
        server.how = "whole"
        assert_same(read_source(name, root, download=True), written)

    def test_a_file_has_its_name_only_when_it_is_whole(self, publish, server):
        written, root, folder = publish("cifar10")
        folder.mkdir(parents=True)
        (folder / ".cifar-10-python.tar.gz.1.tmp").write_bytes(b"half")  # left by a killed download
        assert_same(read_source("cifar10", root, download=True), written)
        temporary = f".cifar-10-python.tar.gz.{os.getpid()}.tmp"
        assert server.seen == [{".cifar-10-python.tar.gz.1.tmp", temporary}]
        assert not (folder / temporary).exists()

    def test_no_network(self, publish, server):
        _, root, folder = publish("fashion-mnist")
        server.close()
        with pytest.raises(WeightScaleError, match=r"fashion-mnist cannot be downloaded: .*Connection refused"):
            read_source("fashion-mnist", root, download=True)
        assert not list(folder.iterdir())

    def test_no_such_file_there(self, publish, server):
        _, root, _ = publish("svhn")
        del server.files["test_32x32.mat"]
        with pytest.raises(WeightScaleError, match=r"svhn cannot be downloaded: HTTP Error 404.*test_32x32.mat"):
            read_source("svhn", root, download=True)

    def test_a_root_that_cannot_be_written(self, publish):
        publish("svhn")
        with pytest.raises(WeightScaleError, match=r"svhn cannot be downloaded: \[Errno .*'/proc/data"):
            read_source("svhn", "/proc/data", download=True)


def test_a_packed_file_that_would_fill_the_memory(tmp_path, monkeypatch):
    """Its checksum was looked at when all of it was unpacked: 6 MB took 3 GB."""
    monkeypatch.setattr(datasets, "LARGEST_IDX", 100_000)
    write_idx("mnist", tmp_path, [random_images("mnist", 8, 0), random_images("mnist", 8, 1)], monkeypatch)
    bomb = tmp_path / SOURCES["mnist"].folder / SOURCES["mnist"].files[0].name
    bomb.write_bytes(gzip.compress(bytes(30_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(WeightScaleError, match="train-images-idx3-ubyte.gz is damaged, or another file"):
            read_source("mnist", tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


def test_the_largest_file_is_read_as_a_whole(tmp_path, monkeypatch):
    splits = [random_images("mnist", 8, 0), random_images("mnist", 8, 1)]
    write_idx("mnist", tmp_path, splits, monkeypatch)
    monkeypatch.setattr(datasets, "LARGEST_IDX", len(idx(splits[0][0][:, 0])))
    (pixels, _), _ = read_source("mnist", tmp_path)
    assert np.array_equal(pixels.numpy(), splits[0][0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_in_the_place_of_a_file(tmp_path, monkeypatch):
    """Reading it would wait for ever."""
    write_idx("mnist", tmp_path, [random_images("mnist", 8, 0), random_images("mnist", 8, 1)], monkeypatch)
    packed = tmp_path / SOURCES["mnist"].folder / SOURCES["mnist"].files[0].name
    packed.unlink()
    os.mkfifo(packed)
    with pytest.raises(WeightScaleError, match="train-images-idx3-ubyte.gz is no file"):
        read_source("mnist", tmp_path)
