"""The low corner of a block of DCT coefficients: which are kept, in which order they are dropped.

Two orders. "shells" drops by the largest index of a coefficient, so that what is left is a dense
block but for its last shell (the frequency chain); "zigzag" drops by the sum of its indices, as
JPEG orders a block (frequency regularization). Ties are in raster order, the last dropped first.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

ORDERS = ("shells", "zigzag")


@dataclass(frozen=True)
class Corner:
    """The first `count` coefficients of a block, and the smallest box that holds them.

    Args:
        sizes: Coefficients per axis of the whole block.
        extents: Those of the box, from the lowest frequency on.
        count: Coefficients kept.
        order: "shells" or "zigzag": which of the box are kept where not all of them are.
    """

    sizes: tuple[int, ...]
    extents: tuple[int, ...]
    count: int
    order: str = "shells"

    @property
    def is_box(self) -> bool:
        """Whether all coefficients of the box are kept."""
        return self.count == math.prod(self.extents)

    def mask(self) -> Tensor | None:
        """The box as booleans, True for what is kept; None where all of it is.

        Examples:
            >>> corner_of_count((4, 4), 7, "shells").mask().int().tolist()
            [[1, 1, 1], [1, 1, 1], [1, 0, 0]]
        """
        return None if self.is_box else _mask(self.sizes, self.extents, self.count, self.order)


def corner_of_count(sizes: tuple[int, ...], count: int, order: str = "shells") -> Corner:
    """The corner of so many coefficients.

    Args:
        sizes: Coefficients per axis.
        count: How many to keep, 1 <= count <= their product.
        order: "shells" or "zigzag".

    Raises:
        ValueError: The count or the order is not allowed.

    Examples:
        >>> corner_of_count((128, 64, 3, 3), 516).extents
        (8, 8, 3, 3)
        >>> corner_of_count((8, 8), 3, "zigzag").mask().int().tolist()
        [[1, 1], [1, 0]]
    """
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}; allowed are {', '.join(ORDERS)}")
    if not 1 <= count <= math.prod(sizes):
        raise ValueError(f"count is {count}; allowed is 1 to {math.prod(sizes)}")
    last = _last_shell(sizes, count, order)
    box = tuple(min(last + 1, size) for size in sizes)
    kept = _mask(sizes, box, count, order)
    extents = tuple(
        int(torch.nonzero(kept.movedim(axis, 0).reshape(box[axis], -1).any(1)).max()) + 1
        for axis in range(len(sizes))
    )
    return Corner(sizes, extents, count, order)


def box_corner(sizes: tuple[int, ...], extents: tuple[int, ...], order: str = "shells") -> Corner:
    """The corner that is a whole box.

    Examples:
        >>> box_corner((8, 8), (2, 3)).count
        6
    """
    return Corner(sizes, extents, math.prod(extents), order)


def whole_shells(sizes: tuple[int, ...], count: int) -> Corner:
    """The corner of the fewest whole shells that hold so many coefficients: a box.

    Examples:
        >>> whole_shells((128, 64, 3, 3), 516).extents
        (8, 8, 3, 3)
    """
    last = _last_shell(sizes, count, "shells")
    return box_corner(sizes, tuple(min(last + 1, size) for size in sizes))


@lru_cache(maxsize=256)
def _cumulative(sizes: tuple[int, ...], order: str) -> tuple[int, ...]:
    """How many coefficients are in the shells 0 to n: those of an index, or a sum, up to n."""
    if order == "shells":
        return tuple(math.prod(min(n + 1, size) for size in sizes) for n in range(max(sizes)))
    counts = [1]
    for size in sizes:
        running, longer = 0, []
        for index in range(len(counts) + size - 1):
            running += counts[index] if index < len(counts) else 0
            running -= counts[index - size] if index >= size else 0
            longer.append(running)
        counts = longer
    return tuple(accumulate(counts))


def _last_shell(sizes: tuple[int, ...], count: int, order: str) -> int:
    """The number of the shell in which `count` coefficients end."""
    return bisect_left(_cumulative(sizes, order), count)


@lru_cache(maxsize=64)
def _mask(sizes: tuple[int, ...], box: tuple[int, ...], count: int, order: str) -> Tensor:
    """The first `count` coefficients of the order, as a mask over a box that holds them all."""
    axes = [
        torch.arange(size).view([-1 if i == axis else 1 for i in range(len(box))])
        for axis, size in enumerate(box)
    ]
    shell = axes[0].expand(box)
    for axis in axes[1:]:
        shell = shell + axis if order == "zigzag" else torch.maximum(shell, axis)
    last = _last_shell(sizes, count, order)
    kept = (shell < last).flatten()
    before = _cumulative(sizes, order)[last - 1] if last else 0
    kept[torch.nonzero((shell == last).flatten())[: count - before, 0]] = True
    return kept.view(box)
