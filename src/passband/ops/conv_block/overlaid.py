"""Two maps in one memory, of which the second takes the first's place image by image."""

import math

import torch
from torch import Tensor

_ALIGNED = 64


class Overlaid:
    """The output of a convolution and the gradient of its input, in the memory of the larger.

    Images are asked for in order. Once an image of the first is no longer needed, nor any before
    it, images of the second may be written up to that one:  with a and b bytes per image, n images,
    and the first at the end of n max(a, b) bytes, its images from i on begin at

        n (max(a, b) - a) + i a >= i max(a, b) >= i b.

    Args:
        first: Shape and type of the first.
        second: Shape and type of the second.
        has_second: Whether there is a second at all.
        order: Memory order of both.
        device: Where.
    """

    def __init__(
        self,
        first: tuple[torch.Size, torch.dtype],
        second: tuple[torch.Size, torch.dtype],
        has_second: bool,
        order: torch.memory_format,
        device: torch.device,
    ) -> None:
        self._first, self._second, self._has_second = first, second, has_second
        self._order, self._device = order, device
        self._memory: Tensor | None = None
        self._views: dict[bool, Tensor] = {}

    def first(self, start: int, count: int) -> Tensor:
        """Images of the first."""
        if self._memory is None:
            size, other = _bytes(*self._first), _bytes(*self._second) if self._has_second else 0
            begin = -(-max(other - size, 0) // _ALIGNED) * _ALIGNED
            self._memory = torch.empty(
                max(begin + size, other), dtype=torch.uint8, device=self._device
            )
            self._views[True] = self._view(*self._first, begin)
        return self._views[True].narrow(0, start, count)

    def second(self, start: int, count: int) -> Tensor:
        """Images of the second."""
        if False not in self._views:
            if self._memory is None:
                size = _bytes(*self._second)
                self._memory = torch.empty(size, dtype=torch.uint8, device=self._device)
            self._views[False] = self._view(*self._second, 0)
        return self._views[False].narrow(0, start, count)

    def _view(self, shape: torch.Size, dtype: torch.dtype, begin: int) -> Tensor:
        assert self._memory is not None
        numbers = self._memory[begin : begin + _bytes(shape, dtype)].view(dtype)
        if self._order == torch.contiguous_format:
            return numbers.view(shape)
        batch, channels, *points = shape
        return numbers.view(batch, *points, channels).movedim(-1, 1)


def _bytes(shape: torch.Size, dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize
