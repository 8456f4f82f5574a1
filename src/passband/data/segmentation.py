"""Images whose every pixel has a class: pairs of PNG files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from passband.data.arrays import channel_statistics
from passband.data.bundle import DataBundle, LoadOptions
from passband.extras import require

EVERY = 5  # one image of five is a test image

Item = tuple[Tensor, Tensor]


def load_segmentation(name: str, options: LoadOptions) -> DataBundle:
    """The images of ``segmentation/NAME/images`` and their masks, of the same names, in ``masks``.

    Both are brought to `image_size` squared, the masks without mixing classes; the different values
    of all masks, in order, are the classes 0 to K-1. In the order of their names every fifth image
    is a test image. Normalised per channel by the training part. With augmentation, an image and
    its mask are flipped along each axis at random.

    Raises:
        FileNotFoundError: The folders are not there.
        ValueError: An image has no mask, or a mask another size; or there are fewer than five.
    """
    folder = options.find("segmentation", name)
    if folder is None:
        wanted = f"segmentation/{name}/images/*.png and segmentation/{name}/masks/*.png"
        raise options.missing(f"segmentation:{name}", wanted, "is nowhere to be downloaded from")
    pictures = sorted((folder / "images").glob("*.png"))
    if len(pictures) < EVERY:
        raise ValueError(f"{folder / 'images'} has {len(pictures)} PNG files; wanted are 5 or more")
    pairs = [_read(picture, folder / "masks" / picture.name, options) for picture in pictures]
    images = torch.stack([image for image, _ in pairs])
    values = torch.stack([mask for _, mask in pairs])
    classes, masks = torch.unique(values, return_inverse=True)
    test = torch.arange(len(images)) % EVERY == EVERY - 1
    statistics = channel_statistics(images[~test])
    return DataBundle(
        name=f"segmentation:{name}",
        train=SegmentationDataset(images[~test], masks[~test], *statistics, options.augment),
        test=SegmentationDataset(images[test], masks[test], *statistics),
        num_classes=max(2, len(classes)),
        input_shape=tuple(images.shape[1:]),
        class_names=None,
        source=f"{folder}, every fifth image held out for the test",
    )


class SegmentationDataset(Dataset[Item]):
    """Images and masks in memory.

    An item is a float32 image (C, H, W), ``(image - mean) / std``, and its mask, int64 (H, W).

    Args:
        images: (N, C, H, W) uint8.
        masks: (N, H, W) int64.
        mean: Mean per channel, (C, 1, 1).
        std: Standard deviation per channel, (C, 1, 1).
        augment: Flip at random, by torch's global generator.
    """

    def __init__(
        self, images: Tensor, masks: Tensor, mean: Tensor, std: Tensor, augment: bool = False
    ) -> None:
        self.images = images
        self.masks = masks
        self.mean = mean
        self.std = std
        self.augment = augment

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        image = self.images[index].float().sub_(self.mean).div_(self.std)
        mask = self.masks[index]
        if self.augment:
            flipped = [axis for axis in (-2, -1) if torch.rand(()) < 0.5]
            image, mask = image.flip(flipped), mask.flip(flipped)
        return image, mask

    def __getitems__(self, indices: list[int]) -> list[Item]:
        """The items of a batch, as a `DataLoader` asks for them."""
        return [self[index] for index in indices]


def _read(picture: Path, mask: Path, options: LoadOptions) -> Item:
    """An image (C, H, W) and its mask (H, W), resized, both uint8."""
    if not mask.is_file():
        raise ValueError(f"{picture} has no mask: there is no {mask}")
    library: Any = require("PIL.Image", extra="data")
    with library.open(picture) as opened, library.open(mask) as opened_mask:
        if opened.size != opened_mask.size:
            raise ValueError(
                f"{mask} has {opened_mask.size} pixels and {picture} {opened.size}; they must have "
                "the same"
            )
        size = (options.image_size, options.image_size)
        grey = opened.mode in ("1", "L", "I;16")
        image = opened.convert("L" if grey else "RGB").resize(size, library.Resampling.BILINEAR)
        classes = opened_mask.convert("L").resize(size, library.Resampling.NEAREST)
    pixels = torch.from_numpy(np.array(image))
    pixels = pixels[None] if grey else pixels.permute(2, 0, 1)
    return pixels.contiguous(), torch.from_numpy(np.array(classes))
