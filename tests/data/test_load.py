import sys
from pathlib import Path

import numpy as np
import pytest

from passband.data import list_datasets, load_dataset


def write(folder: Path, size: int) -> None:
    folder.mkdir()
    images = np.zeros((2, 1, size, size), np.uint8)
    labels = np.array([0, 1])
    np.savez(folder / "mnist.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)


def test_the_list_names_what_can_be_loaded() -> None:
    names = [name for name, _ in list_datasets()]
    assert names == [
        "digits",
        "cifar10",
        "cifar100",
        "svhn",
        "mnist",
        "ucr:NAME",
        "npz:FILE",
        "segmentation:NAME",
        "folder:PATH",
    ]
    assert all(description for _, description in list_datasets())


@pytest.mark.parametrize("name", ["digit", "digits:8", ""])
def test_an_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown data set '{name}': .*known are cifar10, .*svhn"):
        load_dataset(name)


def test_the_closest_name_is_suggested() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'cifar100'\?"):
        load_dataset("CIFAR-100")


@pytest.mark.parametrize(
    ("name", "missing"), [("ucr", "NAME: ucr:NAME"), ("npz:", "FILE: npz:FILE"), ("folder", "PATH")]
)
def test_a_name_without_its_argument(name: str, missing: str) -> None:
    with pytest.raises(ValueError, match=f"data set '{name}' lacks its {missing}"):
        load_dataset(name)


def test_an_image_size_out_of_range() -> None:
    with pytest.raises(ValueError, match="image_size is 0; it must be at least 1"):
        load_dataset("folder:x", image_size=0)


def test_root_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "named", 5)
    write(tmp_path / "given", 7)
    monkeypatch.setenv("PASSBAND_DATA", str(tmp_path / "named"))
    assert load_dataset("mnist").input_shape == (1, 5, 5)
    assert load_dataset("mnist", root=tmp_path / "given").input_shape == (1, 7, 7)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'passband\[data\]'"):
        load_dataset("digits")
