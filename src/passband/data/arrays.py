"""Data held in memory: normalisation, augmentation and fast access."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from passband.data.bundle import DataBundle
from passband.extras import require

Transform = Callable[[Tensor], Tensor]


class ArrayDataset(Dataset[tuple[Tensor, int]]):
    """Inputs and labels in memory; an item is normalised when it is taken.

    An item is ``(transform(inputs[i]) - mean) / std`` as float32, and its label as an int. A
    `DataLoader` takes a whole batch by one indexing (`__getitems__`), so bytes stay bytes in
    memory at little cost in time.

    Args:
        inputs: (N, C, ...), uint8 or float32.
        labels: (N,) int64.
        mean: Mean per channel, (C, 1, ...).
        std: Standard deviation per channel, (C, 1, ...).
        transform: Applied to one input before normalisation; random ones draw from torch's global
            generator.

    Examples:
        >>> pixels = torch.arange(12, dtype=torch.uint8).reshape(3, 1, 2, 2)
        >>> mean, std = channel_statistics(pixels)
        >>> image, label = ArrayDataset(pixels, torch.tensor([0, 1, 0]), mean, std)[1]
        >>> label, image.shape, image.dtype
        (1, torch.Size([1, 2, 2]), torch.float32)
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        mean: Tensor,
        std: Tensor,
        transform: Transform | None = None,
    ) -> None:
        self.inputs = inputs
        self.labels = labels
        self.mean = mean
        self.std = std
        self.transform = transform

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        item = self.inputs[index]
        if self.transform is not None:
            item = self.transform(item)
        return self._normalised(item), int(self.labels[index])

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """The items of a batch, as a `DataLoader` asks for them."""
        chosen = torch.tensor(indices)
        items = self.inputs[chosen]
        if self.transform is not None:
            items = torch.stack([self.transform(item) for item in items])
        return list(zip(self._normalised(items), self.labels[chosen].tolist(), strict=True))

    def _normalised(self, items: Tensor) -> Tensor:
        return items.to(torch.float32, copy=True).sub_(self.mean).div_(self.std)


def channel_statistics(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, over the items and the positions.

    A constant channel has nothing to scale: its standard deviation is given as 1.

    Args:
        inputs: (N, C, ...), uint8 or floating.

    Returns:
        Two float32 tensors (C, 1, ...), which broadcast against one item and against a batch.

    Examples:
        >>> mean, std = channel_statistics(torch.tensor([[[0, 2]], [[4, 6]]], dtype=torch.uint8))
        >>> mean.tolist(), round(std.item(), 4)
        ([[3.0]], 2.2361)
    """
    shape = (-1,) + (1,) * (inputs.ndim - 2)
    if inputs.dtype == torch.uint8:  # exact, and ten times faster than summing floats
        counts = [torch.bincount(channel.flatten(), minlength=256) for channel in inputs.unbind(1)]
        weight = torch.stack(counts).double() * inputs.shape[1] / inputs.numel()
        values = torch.arange(256, dtype=torch.float64)
        mean = weight @ values
        variance = (weight * (values - mean[:, None]) ** 2).sum(1)
    else:
        dims = [dim for dim in range(inputs.ndim) if dim != 1]
        variance, mean = torch.var_mean(inputs.double(), dims, correction=0)
    std = variance.sqrt()
    # Below the resolution of float32 a spread is rounding, not signal.
    std = torch.where(std > 1e-7 * mean.abs(), std, torch.ones_like(std))
    return mean.float().reshape(shape), std.float().reshape(shape)


@dataclass(frozen=True)
class Arrays:
    """A data set as arrays: inputs (N, C, ...), labels (N,) int64 in 0..num_classes-1."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    class_names: tuple[str, ...] | None

    def bundle(
        self,
        name: str,
        source: str,
        statistics: tuple[Tensor, Tensor],
        transform: Transform | None = None,
    ) -> DataBundle:
        """Both parts normalised with the same statistics, the training part transformed."""
        return DataBundle(
            name=name,
            train=ArrayDataset(self.x_train, self.y_train, *statistics, transform),
            test=ArrayDataset(self.x_test, self.y_test, *statistics),
            num_classes=self.num_classes,
            input_shape=tuple(self.x_train.shape[1:]),
            class_names=self.class_names,
            source=source,
        )


def image_augmentation(size: tuple[int, ...], flip: bool) -> Transform:
    """Random crops of the image padded with 4 zeros on each side, and horizontal flips if wanted.

    Source: He et al., Deep residual learning for image recognition (CVPR 2016), section 4.2.
    """
    v2 = require("torchvision.transforms.v2", extra="data")
    crop = v2.RandomCrop(size, padding=4)
    transform: Transform = v2.Compose([crop, v2.RandomHorizontalFlip()]) if flip else crop
    return transform
