"""The sceptic's control: the same data at fewer points, for a network that discards nothing."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from passband.atomic import write_atomically
from passband.data import DataBundle


def downsampled_size(size: tuple[int, ...], compression: float) -> tuple[int, ...]:
    """The size that keeps about 1 - compression of the points, each axis cut alike.

    Examples:
        >>> downsampled_size((8, 8), 0.5), downsampled_size((150,), 0.5)
        ((6, 6), (75,))
    """
    factor = (1 - compression) ** (1 / len(size))
    return tuple(max(1, round(points * factor)) for points in size)


def write_downsampled(bundle: DataBundle, size: tuple[int, ...], path: Path) -> None:
    """Write a data set, every image or series of it resized, as a file that `npz:FILE` reads.

    Linear interpolation with an antialiasing filter; a series is an image of one row.
    """
    arrays: dict[str, Any] = {}
    for part, items in (("train", bundle.train), ("test", bundle.test)):
        pairs = [items[index] for index in range(len(items))]  # type: ignore[arg-type]
        inputs = torch.stack([input for input, _ in pairs])
        arrays[f"x_{part}"] = resized(inputs, size).numpy()
        arrays[f"y_{part}"] = np.array([label for _, label in pairs])
    content = io.BytesIO()
    np.savez(content, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def resized(inputs: Tensor, size: tuple[int, ...]) -> Tensor:
    """Images (B, C, H, W) or series (B, C, L) at another size, without aliasing."""
    rows = inputs.unsqueeze(2) if len(size) == 1 else inputs
    target = (1, *size) if len(size) == 1 else size
    fewer = F.interpolate(rows, target, mode="bilinear", antialias=True, align_corners=False)
    return fewer.squeeze(2) if len(size) == 1 else fewer
