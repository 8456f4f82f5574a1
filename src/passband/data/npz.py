"""Arrays in one NumPy file."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from passband.data.arrays import Arrays, channel_statistics, image_augmentation
from passband.data.bundle import DataBundle, LoadOptions

KEYS = ("x_train", "y_train", "x_test", "y_test")
LAYOUTS = "(N, C, H, W), (N, C, L) or (N, L)"


def load_npz(path: str, options: LoadOptions) -> DataBundle:
    """The data set in a file of the user, see `read_npz`.

    Normalised per channel by the training part's mean and standard deviation. Images are augmented
    by crops and flips if that is asked for, series never are.
    """
    file = options.locate(path)
    arrays = read_npz(file)
    size = tuple(arrays.x_train.shape[2:])
    transform = image_augmentation(size, flip=True) if options.augment and len(size) == 2 else None
    return arrays.bundle(f"npz:{path}", str(file), channel_statistics(arrays.x_train), transform)


def read_npz(path: Path) -> Arrays:
    """Read and check ``x_train``, ``y_train``, ``x_test``, ``y_test`` and, if there, ``classes``.

    Args:
        path: The file. Inputs are uint8 or floating, (N, C, H, W), (N, C, L) or (N, L), which is
            taken as one channel; labels are integers 0..K-1. `classes` holds the K names.

    Raises:
        ValueError: The file is no .npz file, lacks an array, or an array has a wrong type or shape,
            values that are not finite, or labels out of range.
    """
    arrays = _read_arrays(path)
    x_train, x_test = (_inputs(path, key, arrays[key]) for key in ("x_train", "x_test"))
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"{path}: items of x_train are {tuple(arrays['x_train'].shape[1:])} and those of "
            f"x_test {tuple(arrays['x_test'].shape[1:])}; they must have one shape"
        )
    y_train = _labels(path, "y_train", arrays["y_train"], len(x_train))
    y_test = _labels(path, "y_test", arrays["y_test"], len(x_test))
    names = tuple(str(name) for name in arrays["classes"]) if "classes" in arrays else None
    num_classes = int(y_train.max()) + 1 if names is None else len(names)
    different = len(np.unique(y_train))
    if names is None and different != num_classes:
        raise ValueError(
            f"{path}: y_train has {different} different labels from {int(y_train.min())} to "
            f"{num_classes - 1}; they must be 0 to K-1, none left out, or add an array classes "
            "with all K names"
        )
    for key, labels in (("y_train", y_train), ("y_test", y_test)):
        if int(labels.max()) >= num_classes:
            raise ValueError(
                f"{path}: {key} has the label {int(labels.max())}, but there are {num_classes} "
                f"classes: 0 to {num_classes - 1}"
            )
    return Arrays(x_train, y_train, x_test, y_test, num_classes, names)


def _read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        # Opened here, because numpy leaves a damaged file open.
        with path.open("rb") as handle:
            file = np.load(handle, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise ValueError("it is one array")
            arrays = {key: file[key] for key in (*KEYS, "classes") if key in file}
            present = list(file)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read as a .npz file of plain arrays ({error}); write it with "
            "numpy.savez(file, x_train=..., y_train=..., x_test=..., y_test=...)"
        ) from error
    absent = [key for key in KEYS if key not in arrays]
    if absent:
        raise ValueError(
            f"{path} lacks {', '.join(absent)}; it holds {', '.join(present) or 'nothing'}"
        )
    return arrays


def _inputs(path: Path, key: str, array: NDArray[np.generic]) -> Tensor:
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{path}: {key} is {array.dtype}; it must be uint8 or floating")
    if array.ndim not in (2, 3, 4) or array.size == 0:
        raise ValueError(f"{path}: {key} has the shape {array.shape}; it must be {LAYOUTS}")
    if array.ndim == 4 and array.shape[3] in (1, 3) and array.shape[1] > 4:
        raise ValueError(
            f"{path}: {key} has the shape {array.shape}, which looks like (N, H, W, C); transpose "
            f"it to {LAYOUTS}"
        )
    if array.dtype != np.uint8:
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {key} holds NaN or infinite values; remove or replace them")
    inputs = torch.from_numpy(array)
    return inputs.unsqueeze(1) if inputs.ndim == 2 else inputs


def _labels(path: Path, key: str, array: NDArray[np.generic], count: int) -> Tensor:
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{path}: {key} is {array.dtype}; labels must be integers 0 to K-1")
    if array.shape != (count,):
        raise ValueError(
            f"{path}: {key} has the shape {array.shape}; one label for each of the {count} inputs "
            f"is ({count},)"
        )
    labels = torch.from_numpy(array.astype(np.int64))
    if int(labels.min()) < 0:
        raise ValueError(
            f"{path}: {key} has the label {int(labels.min())}; labels must be integers 0 to K-1"
        )
    return labels
