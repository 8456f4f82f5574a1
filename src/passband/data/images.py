"""The small image sets that torchvision knows: CIFAR-10, CIFAR-100, SVHN and MNIST."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from passband.data.arrays import Arrays, channel_statistics, image_augmentation
from passband.data.bundle import DataBundle, LoadOptions
from passband.data.npz import read_npz
from passband.extras import require

TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN", "mnist": "MNIST"}
DIGITS = ("svhn", "mnist")  # a mirrored digit is no digit: crops, no flips


def load_images(name: str, options: LoadOptions) -> DataBundle:
    """The set in ``NAME.npz`` of the user's data folder, else torchvision's, downloaded once.

    Normalised per channel by the training part's mean and standard deviation. Augmented by random
    crops with padding 4 and, but for the sets of digits, horizontal flips.

    Raises:
        FileNotFoundError: The set is not here and cannot be downloaded.
        ValueError: ``NAME.npz`` is not what `read_npz` wants.
    """
    file = options.find(f"{name}.npz")
    if file is not None:
        arrays, source = read_npz(file), str(file)
    else:
        arrays = _from_torchvision(name, options)
        source = f"torchvision's {TORCHVISION[name]} in {options.cache}"
    transform = None
    if options.augment:
        transform = image_augmentation(tuple(arrays.x_train.shape[2:]), flip=name not in DIGITS)
    return arrays.bundle(name, source, channel_statistics(arrays.x_train), transform)


def _from_torchvision(name: str, options: LoadOptions) -> Arrays:
    datasets = require("torchvision.datasets", extra="data")
    require("scipy.io", extra="data")  # torchvision reads SVHN with it
    dataset_class = getattr(datasets, TORCHVISION[name])
    parts = []
    for part in ("train", "test"):
        which = {"split": part} if name == "svhn" else {"train": part == "train"}
        try:
            parts.append(dataset_class(options.cache, download=options.download, **which))
        except (OSError, RuntimeError) as error:
            reason = (
                f"could not be downloaded ({error})"
                if options.download
                else "downloads are switched off"
            )
            wanted = f"{name}.npz (x_train uint8 (N, C, H, W), y_train, x_test, y_test)"
            raise options.missing(name, wanted, reason) from error
    (x_train, y_train), (x_test, y_test) = (_tensors(part) for part in parts)
    names = getattr(parts[0], "classes", [str(digit) for digit in range(10)])
    return Arrays(x_train, y_train, x_test, y_test, len(names), tuple(names))


def _tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) uint8 and labels, whatever torchvision's layout for the set."""
    images = torch.as_tensor(dataset.data)
    if images.ndim == 3:  # MNIST: (N, H, W)
        images = images.unsqueeze(1)
    elif images.shape[-1] == 3:  # CIFAR: (N, H, W, C)
        images = images.permute(0, 3, 1, 2)
    labels = dataset.labels if hasattr(dataset, "labels") else dataset.targets
    return images.contiguous(), torch.as_tensor(np.asarray(labels), dtype=torch.int64)
