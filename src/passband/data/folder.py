"""Images in class folders, the layout of ImageNet."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from passband.data.arrays import channel_statistics
from passband.data.bundle import DataBundle, LoadOptions
from passband.extras import require

MEASURED = 1000  # images that the mean and the standard deviation are taken from, at most
RESIZE = 256 / 224  # shorter side before the central crop, relative to the crop


def load_folder(path: str, options: LoadOptions) -> DataBundle:
    """Images in ``PATH/train/CLASS/*`` and ``PATH/val/CLASS/*``, or ``test`` where no ``val`` is.

    Every image is read when it is needed, as RGB; its shorter side is resized to 256/224 of
    `image_size` and the centre is cropped to `image_size`. With augmentation, a training image is a
    random crop of 8 to 100 % of its area, resized, and flipped at random. Normalised per channel by
    mean and standard deviation of the training part, estimated from 1,000 images evenly spaced
    over it (all of them if there are fewer).

    Raises:
        FileNotFoundError: A folder is missing, or one of a class holds no image.
        ValueError: There are no class folders, or not the same ones in both parts.
    """
    folder = options.locate(path)
    train_folder = folder / "train"
    test_folder = folder / "val" if (folder / "val").is_dir() else folder / "test"
    for part in (train_folder, test_folder):
        if not part.is_dir():
            raise FileNotFoundError(
                f"{folder} has no folder {part.name}; wanted are train/CLASS/ and val/CLASS/ or "
                "test/CLASS/ with images"
            )
    classes = _class_names(train_folder)
    test_classes = _class_names(test_folder)
    if classes != test_classes:
        odd = sorted(set(classes) ^ set(test_classes))
        raise ValueError(
            f"{train_folder} and {test_folder} must have the same class folders; only one has "
            f"{', '.join(odd[:5])}{', ...' if len(odd) > 5 else ''}"
        )
    train, test = _image_folder(train_folder), _image_folder(test_folder)
    statistics = _statistics(train, options.image_size)
    test.transform = _transform(options.image_size, statistics)
    train.transform = _transform(options.image_size, statistics, options.augment)
    return DataBundle(
        name=f"folder:{path}",
        train=train,
        test=test,
        num_classes=len(classes),
        input_shape=(3, options.image_size, options.image_size),
        class_names=classes,
        source=f"{train_folder} and {test_folder.name}",
    )


def _class_names(folder: Path) -> tuple[str, ...]:
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    if not classes:
        raise ValueError(f"{folder} has no class folders; wanted is one folder of images per class")
    return classes


def _image_folder(folder: Path) -> Any:
    datasets = require("torchvision.datasets", extra="data")
    try:
        return datasets.ImageFolder(folder)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder}: {error}") from error


def _transform(
    size: int, statistics: tuple[Tensor, Tensor] | None = None, augment: bool = False
) -> Any:
    """PIL image -> (3, size, size): uint8 without statistics, else float32 and normalised."""
    v2 = require("torchvision.transforms.v2", extra="data")
    if augment:
        steps = [v2.ToImage(), v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
    else:
        steps = [v2.ToImage(), v2.Resize(round(size * RESIZE)), v2.CenterCrop(size)]
    if statistics is not None:
        mean, std = (statistic.flatten().tolist() for statistic in statistics)
        steps += [v2.ToDtype(torch.float32), v2.Normalize(mean, std)]
    return v2.Compose([*steps, v2.ToPureTensor()])


def _statistics(dataset: Any, size: int) -> tuple[Tensor, Tensor]:
    count = min(MEASURED, len(dataset))
    indices = torch.linspace(0, len(dataset) - 1, count, dtype=torch.float64).round().long()
    transform = _transform(size)
    images = [transform(dataset[index][0]) for index in indices.tolist()]
    return channel_statistics(torch.stack(images))
