"""One bit per element of a map: on which side of an activation's kink it stands."""

import math

import numpy as np
import torch
from torch import Tensor

from passband.ops.band_limited_conv.layout import is_channels_last


def pack_bits(mask: Tensor) -> Tensor:
    """Eight elements of a boolean map (B, ..) to a byte: (B, ceil(n / 8)), in memory order.

    Examples:
        >>> pack_bits(torch.tensor([[True, False, True], [False, True, True]])).tolist()
        [[160], [96]]
    """
    rows = _rows(mask)
    if rows.device.type == "cpu":
        return torch.from_numpy(np.packbits(rows.numpy(), axis=1))
    missing = -rows.shape[1] % 8
    padded = torch.nn.functional.pad(rows, (0, missing)).view(len(rows), -1, 8)
    return (padded.to(torch.uint8) << _shifts(rows.device)).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, shape: tuple[int, ...], channels_last: bool) -> Tensor:
    """The boolean map that `pack_bits` packed.

    Args:
        packed: The bytes, of all images or of some.
        shape: Shape of the map, as many images as there are rows of bytes.
        channels_last: Memory order of the map that was packed.
    """
    count = math.prod(shape[1:])
    if packed.device.type == "cpu":
        rows = torch.from_numpy(np.unpackbits(packed.numpy(), axis=1, count=count)).view(torch.bool)
    else:
        rows = ((packed.unsqueeze(-1) >> _shifts(packed.device)) & 1).flatten(1)[:, :count].bool()
    if channels_last:
        batch, channels, *size = shape
        return rows.view(batch, *size, channels).movedim(-1, 1)
    return rows.view(shape)


def _rows(mask: Tensor) -> Tensor:
    """(B, n) in the map's memory order."""
    ordered = mask.movedim(1, -1) if is_channels_last(mask) else mask
    return ordered.reshape(len(mask), -1)


def _shifts(device: torch.device) -> Tensor:
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=device)
