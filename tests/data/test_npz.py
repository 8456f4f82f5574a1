from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from passband.data import ArrayDataset, DataBundle, load_dataset

RANDOM = np.random.default_rng(0)


def arrays(shape: tuple[int, ...] = (3, 6, 5), dtype: Any = np.uint8) -> dict[str, NDArray[Any]]:
    """A correct file's content: 9 training and 4 test inputs of three classes."""
    values = {
        "x_train": RANDOM.integers(0, 256, (9, *shape)).astype(dtype),
        "y_train": np.arange(9) % 3,
        "x_test": RANDOM.integers(0, 256, (4, *shape)).astype(dtype),
        "y_test": np.array([2, 0, 1, 1]),
    }
    return values


def saved(folder: Path, **values: Any) -> str:
    np.savez(folder / "data.npz", **values)
    return f"npz:{folder / 'data.npz'}"


def datasets(data: DataBundle) -> tuple[ArrayDataset, ArrayDataset]:
    assert isinstance(data.train, ArrayDataset)
    assert isinstance(data.test, ArrayDataset)
    return data.train, data.test


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("shape", "input_shape"), [((3, 6, 5), (3, 6, 5)), ((2, 13), (2, 13)), ((13,), (1, 13))]
)
def test_round_trip(
    tmp_path: Path, shape: tuple[int, ...], input_shape: tuple[int, ...], dtype: Any
) -> None:
    values = arrays(shape, dtype)
    data = load_dataset(saved(tmp_path, **values))
    train, test = datasets(data)
    assert (data.input_shape, data.num_classes, data.class_names) == (input_shape, 3, None)
    assert data.source == str(tmp_path / "data.npz")
    assert train.inputs.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
    assert train.labels.tolist() == values["y_train"].tolist()
    assert test.labels.tolist() == values["y_test"].tolist()
    axes = tuple(axis for axis in range(len(input_shape) + 1) if axis != 1)
    raw = {
        key: values[key].reshape(-1, *input_shape).astype(float) for key in ("x_train", "x_test")
    }
    mean, std = (f(raw["x_train"], axis=axes, keepdims=True) for f in (np.mean, np.std))
    for dataset, key in ((train, "x_train"), (test, "x_test")):
        items = torch.stack([dataset[index][0] for index in range(len(dataset))])
        expected = torch.from_numpy((raw[key] - mean) / std)
        # float32 arithmetic on values up to 255 with a deviation of about 74
        assert (items - expected).norm() / expected.norm() < 1e-6


def test_names_of_classes_fix_their_number(tmp_path: Path) -> None:
    values = arrays() | {"classes": np.array(["ant", "bee", "cat", "dog"])}
    data = load_dataset(saved(tmp_path, **values))
    assert data.num_classes == 4
    assert data.class_names == ("ant", "bee", "cat", "dog")


def test_images_are_augmented_and_series_are_not(tmp_path: Path) -> None:
    train, test = datasets(load_dataset(saved(tmp_path, **arrays()), augment=True))
    assert train.transform is not None
    assert test.transform is None
    assert train[0][0].shape == (3, 6, 5)
    train, _ = datasets(load_dataset(saved(tmp_path, **arrays((2, 13))), augment=True))
    assert train.transform is None


def test_a_relative_file_is_looked_for_in_the_data_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    saved(tmp_path / "data", **arrays((3, 4, 4)))
    assert load_dataset("npz:data.npz", root=tmp_path / "data").input_shape == (3, 4, 4)
    saved(tmp_path / "work", **arrays((1, 4, 4)))
    assert load_dataset("npz:data.npz", root=tmp_path / "data").input_shape == (1, 4, 4)


WRONG = {
    "inputs of integers": (
        {"x_train": np.zeros((9, 3, 6, 5), np.int64)},
        "x_train is int64; it must be uint8 or floating",
    ),
    "too few axes": (
        {"x_test": np.zeros(4, np.float32)},
        r"x_test has the shape \(4,\); it must be \(N, C, H, W\), \(N, C, L\) or \(N, L\)",
    ),
    "no items": (
        {"x_train": np.zeros((0, 3, 6, 5), np.uint8)},
        r"x_train has the shape \(0, 3, 6, 5\); it must be",
    ),
    "channels last": (
        {"x_train": np.zeros((9, 6, 5, 3), np.uint8)},
        r"x_train has the shape \(9, 6, 5, 3\), which looks like \(N, H, W, C\); transpose it",
    ),
    "different items": (
        {"x_test": np.zeros((4, 3, 6, 6), np.uint8)},
        r"items of x_train are \(3, 6, 5\) and those of x_test \(3, 6, 6\); they must have one",
    ),
    "NaN": (
        {"x_train": np.full((9, 3, 6, 5), np.nan)},
        "x_train holds NaN or infinite values; remove or replace them",
    ),
    "labels of floats": (
        {"y_train": np.zeros(9)},
        "y_train is float64; labels must be integers 0 to K-1",
    ),
    "labels in a column": (
        {"y_test": np.zeros((4, 1), np.int64)},
        r"y_test has the shape \(4, 1\); one label for each of the 4 inputs is \(4,\)",
    ),
    "too few labels": (
        {"y_train": np.zeros(8, np.int64)},
        r"y_train has the shape \(8,\); one label for each of the 9 inputs is \(9,\)",
    ),
    "negative label": (
        {"y_test": np.array([0, 1, 2, -1])},
        "y_test has the label -1; labels must be integers 0 to K-1",
    ),
    "labels from 1": (
        {"y_train": np.arange(9) % 3 + 1},
        "y_train has 3 different labels from 1 to 3; they must be 0 to K-1, none left out",
    ),
    "unknown class in the test": (
        {"y_test": np.array([0, 1, 2, 3])},
        "y_test has the label 3, but there are 3 classes: 0 to 2",
    ),
    "more labels than names": (
        {"classes": np.array(["ant", "bee"])},
        "y_train has the label 2, but there are 2 classes: 0 to 1",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(tmp_path: Path, case: str) -> None:
    change, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(saved(tmp_path, **(arrays() | change)))
    assert "data.npz: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_arrays_are_named(tmp_path: Path) -> None:
    values = {"x_train": np.zeros(3), "images": np.zeros(3)}
    with pytest.raises(ValueError, match="lacks y_train, x_test, y_test; it holds x_train, images"):
        load_dataset(saved(tmp_path, **values))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: nowhere\.npz, nor in"):
        load_dataset("npz:nowhere.npz", root=tmp_path)


@pytest.mark.parametrize("content", ["text", "damaged", "npy", "objects", "nothing"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    name = saved(tmp_path, **arrays())
    path = tmp_path / "data.npz"
    if content == "text":
        path.write_text("label,value\n")
    elif content == "damaged":
        path.write_bytes(path.read_bytes()[:-200])
    elif content == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif content == "objects":
        np.savez(path, **(arrays() | {"y_train": np.array([None] * 9)}))
    else:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot be read as a \.npz file of plain arrays") as info:
        load_dataset(name)
    assert "\n" not in str(info.value)
