import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from numpy.typing import NDArray

from passband.data import ArrayDataset, DataBundle, load_dataset

DATA = Path(os.environ.get("PASSBAND_DATA", "nowhere"))
RANDOM = np.random.default_rng(0)


def datasets(data: DataBundle) -> tuple[ArrayDataset, ArrayDataset]:
    assert isinstance(data.train, ArrayDataset)
    assert isinstance(data.test, ArrayDataset)
    return data.train, data.test


def pixels(*shape: int) -> NDArray[np.uint8]:
    return RANDOM.integers(0, 256, shape).astype(np.uint8)


def write_npz(path: Path, channels: int = 3) -> None:
    x_train, x_test = pixels(20, channels, 8, 8), pixels(6, channels, 8, 8)
    y_train, y_test = np.arange(20) % 10, np.arange(6)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "mnist"])
def test_the_users_file_comes_first(tmp_path: Path, offline: Path, name: str) -> None:
    write_npz(tmp_path / f"{name}.npz")
    data = load_dataset(name, root=tmp_path)
    assert (data.name, data.input_shape, data.num_classes) == (name, (3, 8, 8), 10)
    assert data.source == str(tmp_path / f"{name}.npz")
    train, _ = datasets(data)
    assert train.inputs.dtype == torch.uint8
    assert train.transform is None


@pytest.mark.parametrize(("name", "flips"), [("cifar10", True), ("svhn", False), ("mnist", False)])
def test_only_what_may_be_mirrored_is_flipped(tmp_path: Path, name: str, flips: bool) -> None:
    write_npz(tmp_path / f"{name}.npz")
    train, test = datasets(load_dataset(name, root=tmp_path, augment=True))
    assert ("RandomHorizontalFlip" in str(train.transform)) == flips
    assert "RandomCrop" in str(train.transform)
    assert test.transform is None


def test_a_wrong_file_of_the_user_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "cifar10.npz").write_text("no arrays")
    with pytest.raises(ValueError, match=r"cifar10\.npz cannot be read"):
        load_dataset("cifar10", root=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "mnist"])
def test_a_refused_download_says_where_to_put_the_file(offline: Path, name: str) -> None:
    message = (
        rf"{name} is not here and could not be downloaded \(.*\): put {name}\.npz \(x_train uint8 "
        r"\(N, C, H, W\), y_train, x_test, y_test\) into a folder and set PASSBAND_DATA to it"
    )
    with pytest.raises(FileNotFoundError, match=message) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)


def test_downloads_can_be_switched_off(tmp_path: Path, offline: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"downloads are switched off: put .* into /"):
        load_dataset("cifar10", root=tmp_path, download=False)


def test_torchvisions_mnist(offline: Path) -> None:
    folder = offline / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images = {"train": pixels(20, 28, 28), "t10k": pixels(10, 28, 28)}
    for part, values in images.items():
        header = struct.pack(">IIII", 0x803, *values.shape)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + values.tobytes())
        labels = (np.arange(len(values)) % 10).astype(np.uint8)
        header = struct.pack(">II", 0x801, len(labels))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    data = load_dataset("mnist")
    train, test = datasets(data)
    assert (data.input_shape, data.num_classes) == ((1, 28, 28), 10)
    assert data.class_names is not None
    assert data.class_names[3] == "3 - three"
    assert np.array_equal(train.inputs[:, 0].numpy(), images["train"])
    assert np.array_equal(test.inputs[:, 0].numpy(), images["t10k"])
    assert train.labels.tolist() == [*range(10), *range(10)]


@pytest.mark.parametrize(("name", "key"), [("cifar10", "labels"), ("cifar100", "fine_labels")])
def test_torchvisions_cifar(
    offline: Path, monkeypatch: pytest.MonkeyPatch, name: str, key: str
) -> None:
    dataset = getattr(torchvision.datasets, name.upper())
    # Files of our own have other checksums than the real ones.
    monkeypatch.setattr(dataset, "train_list", [["train", None]])
    monkeypatch.setattr(dataset, "test_list", [["test", None]])
    monkeypatch.setattr(dataset, "meta", dataset.meta | {"md5": None})
    folder = offline / dataset.base_folder
    folder.mkdir(parents=True)
    names = [f"class {index}" for index in range(10)]
    (folder / dataset.meta["filename"]).write_bytes(pickle.dumps({dataset.meta["key"]: names}))
    images = {"train": pixels(20, 3, 32, 32), "test": pixels(10, 3, 32, 32)}
    for part, values in images.items():
        labels = [index % 10 for index in range(len(values))]
        content = {"data": values.reshape(len(values), -1), key: labels}
        (folder / part).write_bytes(pickle.dumps(content))
    data = load_dataset(name)
    train, test = datasets(data)
    assert (data.input_shape, data.num_classes) == ((3, 32, 32), 10)
    assert data.class_names == tuple(names)
    assert str(offline) in data.source
    assert np.array_equal(train.inputs.numpy(), images["train"])
    assert np.array_equal(test.inputs.numpy(), images["test"])
    assert test.labels.tolist() == list(range(10))


def test_torchvisions_svhn(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline.mkdir(parents=True)
    images = {"train": pixels(32, 32, 3, 20), "test": pixels(32, 32, 3, 10)}
    files = {part: ["nowhere", f"{part}.mat", None] for part in images}
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", files)
    for part, values in images.items():
        labels = np.arange(values.shape[-1]) % 10 + 1  # the set's own: 10 stands for 0
        scipy.io.savemat(offline / f"{part}.mat", {"X": values, "y": labels[:, None]})
    data = load_dataset("svhn")
    train, test = datasets(data)
    assert (data.input_shape, data.num_classes) == ((3, 32, 32), 10)
    assert data.class_names == tuple("0123456789")
    assert np.array_equal(train.inputs.numpy(), images["train"].transpose(3, 2, 0, 1))
    assert test.labels.tolist() == [*range(1, 10), 0]


@pytest.mark.skipif(not (DATA / "mnist.npz").exists(), reason="no mnist.npz in PASSBAND_DATA")
def test_the_real_mnist() -> None:
    data = load_dataset("mnist")
    train, _ = datasets(data)
    assert (data.input_shape, data.num_classes, len(train)) == ((1, 28, 28), 10, 60000)
    # published: mean 0.1307, deviation 0.3081
    assert train.mean.item() / 255 == pytest.approx(0.1307, abs=5e-4)
    assert train.std.item() / 255 == pytest.approx(0.3081, abs=5e-4)


@pytest.mark.skipif(not (DATA / "cifar10.npz").exists(), reason="no cifar10.npz in PASSBAND_DATA")
def test_the_real_cifar10() -> None:
    data = load_dataset("cifar10", augment=True)
    train, test = datasets(data)
    assert (data.input_shape, data.num_classes, len(train)) == ((3, 32, 32), 10, 50000)
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    # published to four digits
    mean, std = (train.mean / 255).flatten().tolist(), (train.std / 255).flatten().tolist()
    assert mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert std == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-5)
    assert train[0][0].shape == (3, 32, 32)
