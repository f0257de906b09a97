from __future__ import annotations

import hashlib
import pickle
import socket
import struct
import subprocess
import sys
import urllib.error
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from dim_ray.config import DataConfig
from dim_ray.core.data.dataset import Dataset, Normalisation, describe, load_dataset, signed, to_bytes
from dim_ray.core.data.splits import class_counts
from dim_ray.errors import DataError
from tests.helpers.tiny import make_dataset
from tests.helpers.written_images import pixels, write_folder, write_parquet


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset(DataConfig())


def test_digits_are_grey_bytes_with_their_names(digits: Dataset) -> None:
    assert (digits.name, digits.num_classes, digits.num_channels, digits.image_size) == ("digits", 10, 1, 8)
    assert digits.class_names == tuple("0123456789")
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.images.max() == 255
    assert digits.train.images.min() == 0
    assert digits.train.labels.dtype == torch.int64


def test_splits_of_digits_have_every_scan_exactly_once(digits: Dataset) -> None:
    images, labels = load_digits(return_X_y=True)
    expected = sorted((tuple(np.rint(x * 255 / 16).astype(int)), y) for x, y in zip(images, labels, strict=True))
    found = sorted(
        (tuple(x), y)
        for split in (digits.train, digits.validation, digits.test)
        for x, y in zip(split.images.flatten(1).tolist(), split.labels.tolist(), strict=True)
    )
    assert found == expected


def test_every_class_gives_the_same_share_to_the_held_out_splits(digits: Dataset) -> None:
    test, validation, train = (class_counts(s, 10) for s in (digits.test, digits.validation, digits.train))
    for in_test, in_validation, in_train in zip(test, validation, train, strict=True):
        rest = in_validation + in_train
        assert in_test == round(0.2 * (in_test + rest))
        assert in_validation == round(0.1 * rest)


def test_the_same_configuration_gives_the_same_split_and_another_seed_another(digits: Dataset) -> None:
    again, other = load_dataset(DataConfig()), load_dataset(DataConfig(split_seed=1))
    assert again.digest == digits.digest
    assert torch.equal(again.train.images, digits.train.images)
    assert other.digest != digits.digest
    assert len(other.test) == len(digits.test)


def test_changing_the_validation_share_leaves_the_test_split_alone(digits: Dataset) -> None:
    other = load_dataset(DataConfig(validation_fraction=0.3))
    assert torch.equal(other.test.images, digits.test.images)
    assert len(other.validation) > 2 * len(digits.validation)


def test_normalisation_is_mean_and_deviation_of_the_training_split_alone(tmp_path: Path) -> None:
    images = pixels(40, channels=3)
    images[:, 1] //= 3
    root = write_folder(tmp_path, {"a": images[:20], "b": images[20:]})
    dataset = load_dataset(DataConfig(dataset=f"folder:{root}"))
    train = dataset.train.images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(dataset.normalisation.mean, train.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(dataset.normalisation.std, train.std(axis=(0, 2, 3)), rtol=1e-12)


def test_a_constant_channel_stays_finite(tmp_path: Path) -> None:
    images = pixels(20, channels=3)
    images[:, 2] = 100
    root = write_folder(tmp_path, {"a": images[:10], "b": images[10:]})
    dataset = load_dataset(DataConfig(dataset=f"folder:{root}"))
    normalised = dataset.normalisation.from_bytes(dataset.train.images)
    assert normalised.isfinite().all()
    assert normalised[:, 2].abs().max() < 1e-5


def test_bytes_and_signed_images_are_normalised_as_the_plain_formula_says() -> None:
    normalisation = Normalisation(mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 1.5))
    images = torch.from_numpy(pixels(5, channels=3))
    mean, std = (
        torch.tensor(v, dtype=torch.float64).reshape(1, 3, 1, 1) for v in (normalisation.mean, normalisation.std)
    )
    reference = ((images.double() / 255 - mean) / std).float()
    torch.testing.assert_close(normalisation.from_bytes(images), reference, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(normalisation.from_signed(signed(images)), reference, rtol=1e-5, atol=1e-6)
    assert (signed(images).amin(), signed(images).amax()) == (-1, 1)


@pytest.mark.parametrize(
    ("name", "channels", "mean", "std"),
    [
        ("cifar10", 3, (0.491, 0.482, 0.447), (0.202, 0.199, 0.201)),
        ("svhn", 3, (0.437, 0.444, 0.473), (0.198, 0.201, 0.197)),
        ("mnist", 1, (0.131,), (0.308,)),
        ("fashion_mnist", 1, (0.286,), (0.353,)),
        ("cifar100", 3, (0.45,) * 3, (0.2,) * 3),  # measured: DiM's code has no numbers of its own
        ("cifar10", 1, (0.45,), (0.2,)),
    ],
)
def test_normalisation_of_the_reference_code_is_that_of_its_numbers_and_range(
    name: str, channels: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    dataset = replace(make_dataset(channels=channels), name=name)
    images = dataset.train.images
    m, s = (torch.tensor(numbers, dtype=torch.float64)[:, None, None] for numbers in (mean, std))
    unit = images.double() / 255
    for kind, seen in (("dim", (unit - m) / s), ("dim_signed", (2 * unit - 1 - m) / s)):
        found = dataset.normalised(kind).normalisation  # type: ignore[arg-type]
        torch.testing.assert_close(found.from_bytes(images).double(), seen, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.from_signed(signed(images)).double(), seen, rtol=1e-5, atol=1e-5)
        again = found.from_other(dataset.normalisation.from_bytes(images), dataset.normalisation)
        torch.testing.assert_close(again.double(), seen, rtol=1e-5, atol=1e-5)
    assert dataset.normalised("measured") is dataset


def test_bytes_are_the_same_after_signed_and_back() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert to_bytes(signed(images)).dtype == torch.uint8
    assert torch.equal(to_bytes(signed(images)), images)


def test_signed_images_are_rounded_to_the_nearest_byte_and_never_wrap_around() -> None:
    numbers = torch.tensor([-40.0, -0.3, 0.4, 0.6, 99.51, 100.49, 254.7, 255.3, 300.0])
    assert to_bytes(numbers / 255 * 2 - 1).tolist() == [0, 0, 0, 1, 100, 100, 255, 255, 255]


def test_gradients_flow_through_signed_images_even_after_inference_mode() -> None:
    normalisation = Normalisation(mean=(0.123,), std=(0.25,))
    with torch.inference_mode():  # as when a generator is sampled before it is trained further
        normalisation.from_signed(torch.zeros(1, 1, 8, 8))
    images = torch.zeros(1, 1, 8, 8, requires_grad=True)
    normalisation.from_signed(images).sum().backward()
    assert images.grad is not None
    torch.testing.assert_close(images.grad, torch.full_like(images, 0.5 / 0.25))


def test_half_precision_images_are_normalised_to_float32() -> None:
    normalisation = Normalisation(mean=(0.5,), std=(0.5,))
    assert normalisation.from_signed(torch.zeros(1, 1, 8, 8, dtype=torch.bfloat16)).dtype == torch.float32


def test_to_moves_every_tensor(digits: Dataset) -> None:
    moved = digits.to("meta")
    for split in (moved.train, moved.validation, moved.test):
        assert split.images.is_meta
        assert split.labels.is_meta
    assert moved.digest == digits.digest
    assert not digits.train.images.is_meta


def test_the_same_images_have_the_same_digest_wherever_they_lie(tmp_path: Path) -> None:
    images, labels = pixels(40), np.repeat([0, 1], 20)
    folder = write_folder(tmp_path / "images", {"a": images[:20], "b": images[20:]})
    copy = write_folder(tmp_path / "copy", {"a": images[:20], "b": images[20:]})
    parquet = write_parquet(tmp_path / "one.parquet", images, labels, names=["a", "b"])
    digests = [
        load_dataset(DataConfig(dataset=d)).digest for d in (f"folder:{folder}", f"folder:{copy}", f"parquet:{parquet}")
    ]
    assert len(set(digests)) == 1


@pytest.mark.parametrize("change", ["pixel", "label", "name"])
def test_any_change_of_content_changes_the_digest(tmp_path: Path, change: str) -> None:
    images, labels, names = pixels(40), np.repeat([0, 1], 20), ["a", "b"]
    before = write_parquet(tmp_path / "before.parquet", images, labels, names=names)
    if change == "pixel":
        images[7, 0, 0, 0] ^= 1
    elif change == "label":
        labels[[0, 39]] = labels[[39, 0]]
    else:
        names = ["a", "c"]
    after = write_parquet(tmp_path / "after.parquet", images, labels, names=names)
    first, second = (load_dataset(DataConfig(dataset=f"parquet:{path}")) for path in (before, after))
    assert first.digest != second.digest


def test_data_needs_torch_alone_until_a_source_is_read() -> None:
    code = (
        "import sys, dim_ray.core.data.dataset; print({'PIL', 'pyarrow', 'sklearn', 'torchvision'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("drawing", [0, 1])
def test_images_that_show_nothing_are_refused(tmp_path: Path, drawing: int) -> None:
    """All are the same, or each has a single colour."""
    colours = np.broadcast_to(np.arange(20, dtype=np.uint8)[:, None, None, None] * drawing, (20, 3, 8, 8))
    write_folder(tmp_path, {"cat": colours[:10], "dog": colours[10:]})
    reason = "have a single colour" if drawing else "are the same"
    with pytest.raises(DataError, match=f"All 20 images of the training split of folder:.* {reason}"):
        load_dataset(DataConfig(dataset=f"folder:{tmp_path}"))


def test_images_of_one_colour_among_others_are_counted(tmp_path: Path) -> None:
    images = pixels(10)
    images[:3] = 7
    write_folder(tmp_path, {"cat": images, "dog": pixels(10, seed=1)})
    assert load_dataset(DataConfig(dataset=f"folder:{tmp_path}")).remarks == ("single-coloured training images: 3",)


def test_the_content_digest_ignores_how_splits_are_held_out(digits: Dataset) -> None:
    other = load_dataset(DataConfig(split_seed=1, test_fraction=0.3, validation_fraction=0.2))
    assert other.digest != digits.digest
    assert other.content_digest == digits.content_digest


def test_a_data_set_is_summarised_in_one_line(tmp_path: Path) -> None:
    for split, count in (("train", 10), ("test", 4)):
        write_folder(
            tmp_path / "pets" / split, {"cat": pixels(count, channels=3), "dog": pixels(2 * count, channels=3)}
        )
    (tmp_path / "pets" / "LICENSE").touch()
    assert describe(load_dataset(DataConfig(dataset=f"folder:{tmp_path / 'pets'}"))) == (
        "pets: 2 classes (cat, dog), 8x8 pixels, colour; train 27 images, 9 (cat) to 18 (dog) a class; "
        "validation 3 held out, test 12. Other files left out: 1 (LICENSE)."
    )


def test_one_class_is_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"cat": pixels(9)})
    with pytest.raises(DataError, match=r"1 class \(cat\); allowed: 2 or more"):
        load_dataset(DataConfig(dataset=f"folder:{root}"))


@pytest.mark.parametrize(("count", "is_enough"), [(2, False), (3, True)])
def test_a_class_needs_an_image_for_each_split(tmp_path: Path, count: int, is_enough: bool) -> None:
    root = write_folder(tmp_path, {"cat": pixels(9), "dog": pixels(count, seed=1)})
    config = DataConfig(dataset=f"folder:{root}")
    if is_enough:
        dataset = load_dataset(config)
        assert [class_counts(s, 2)[1] for s in (dataset.train, dataset.validation, dataset.test)] == [1, 1, 1]
    else:
        with pytest.raises(DataError, match=r"'dog' .* has 2 images .* at least 3 .* test and a validation split"):
            load_dataset(config)


# torchvision's data sets, in files that the tests write as torchvision expects them


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes())


def write_mnist(root: Path, folder: str = "MNIST") -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    written = {}
    for split, prefix, count in (("train", "train", 60), ("test", "t10k", 20)):
        images = pixels(count, size=28, seed=count)
        labels = np.arange(count, dtype=np.uint8) % 10
        write_idx(root / folder / "raw" / f"{prefix}-images-idx3-ubyte", images[:, 0])
        write_idx(root / folder / "raw" / f"{prefix}-labels-idx1-ubyte", labels)
        written[split] = images, labels
    return written


def test_mnist_is_read_from_the_data_root_without_warnings(tmp_path: Path) -> None:
    written = write_mnist(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = load_dataset(DataConfig(dataset="mnist", data_root=str(tmp_path)))
    assert (dataset.name, dataset.num_channels, dataset.image_size) == ("mnist", 1, 28)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (50, 10, 20)
    np.testing.assert_array_equal(dataset.test.images.numpy(), written["test"][0])
    np.testing.assert_array_equal(dataset.test.labels.numpy(), written["test"][1])


def test_mnist_from_torchvision_and_from_parquet_is_the_same_data_set(tmp_path: Path) -> None:
    for split, (images, labels) in write_mnist(tmp_path).items():
        write_parquet(tmp_path / "hub" / f"{split}.parquet", images, labels, names=list("0123456789"))
    by_name = load_dataset(DataConfig(dataset="mnist", data_root=str(tmp_path)))
    assert load_dataset(DataConfig(dataset=f"parquet:{tmp_path / 'hub'}")).digest == by_name.digest


def test_fashion_mnist_has_its_own_folder_and_names(tmp_path: Path) -> None:
    write_mnist(tmp_path, "FashionMNIST")
    dataset = load_dataset(DataConfig(dataset="fashion_mnist", data_root=str(tmp_path)))
    assert dataset.class_names[9] == "Ankle boot"


def training_images(dataset: Dataset) -> list[bytes]:
    """Returns what the training split had before a validation split was held out."""
    return sorted(image.numpy().tobytes() for s in (dataset.train, dataset.validation) for image in s.images)


def test_cifar10_keeps_channels_rows_and_columns_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = pixels(40, size=32, channels=3), [index % 10 for index in range(40)]
    contents = {
        "data_batch_1": {"data": images.reshape(40, -1), "labels": labels},
        "test_batch": {"data": images[::-1].reshape(40, -1), "labels": labels[::-1]},
        "batches.meta": {"label_names": list("abcdefghij")},
    }
    sums = {}
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name, content in contents.items():
        data = pickle.dumps(content)  # the format in which CIFAR-10 is published
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(data)
        sums[name] = hashlib.md5(data).hexdigest()
    cifar10 = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(cifar10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cifar10, "meta", cifar10.meta | {"md5": sums["batches.meta"]})
    dataset = load_dataset(DataConfig(dataset="cifar10", data_root=str(tmp_path)))
    np.testing.assert_array_equal(dataset.test.images.numpy(), images[::-1])
    assert dataset.test.labels.tolist() == labels[::-1]
    assert training_images(dataset) == sorted(map(np.ndarray.tobytes, images))
    assert dataset.class_names == tuple("abcdefghij")


def test_svhn_keeps_channels_rows_and_columns_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = pixels(40, size=32, channels=3), np.arange(40) % 10
    split_list = {}
    for split in ("train", "test"):
        path = tmp_path / f"{split}_32x32.mat"
        # The published files have (H, W, C, N), and label 10 for the digit 0.
        scipy.io.savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None]})
        split_list[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", split_list)
    dataset = load_dataset(DataConfig(dataset="svhn", data_root=str(tmp_path)))
    np.testing.assert_array_equal(dataset.test.images.numpy(), images)
    np.testing.assert_array_equal(dataset.test.labels.numpy(), labels)
    assert training_images(dataset) == sorted(map(np.ndarray.tobytes, images))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "svhn", "cifar10", "cifar100"])
def test_without_files_and_network_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(DataError) as caught:
        load_dataset(DataConfig(dataset=name, data_root=str(tmp_path / "nothing")))
    message = str(caught.value)
    assert message.startswith(f"{name} isn't in {tmp_path / 'nothing'} and can't be downloaded")
    assert "Name or service not known" in message
    assert "--data-root" in message
    assert "--dataset parquet:PATH" in message
    assert "\n" not in message


def test_a_download_that_never_answers_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing: like a firewall
        monkeypatch.setattr("dim_ray.core.data.named._DOWNLOAD_TIMEOUT_SECONDS", 0.2)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [url])
        with pytest.raises(DataError, match="timed out"):
            load_dataset(DataConfig(dataset="mnist", data_root=str(tmp_path)))
    assert socket.getdefaulttimeout() is None


def test_a_truncated_idx_file_is_not_taken_for_an_absent_one(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"files of mnist in .* can't be read .* delete them"):
        load_dataset(DataConfig(dataset="mnist", data_root=str(tmp_path)))


def test_a_data_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("not a folder")
    with pytest.raises(DataError, match=r"mnist isn't in .*root"):
        load_dataset(DataConfig(dataset="mnist", data_root=str(tmp_path / "root")))
