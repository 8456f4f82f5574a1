"""How well a segmentation meets the truth."""

import torch
from torch import Tensor


class Dice:
    """The Dice coefficient of classes of points, over batches.

    Of a class with a points found, b true and c both, 2c / (a + b): 1 where all points meet. The
    mean over all classes but the first, which is the background.

    Examples:
        >>> dice = Dice()
        >>> dice.add(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1]]), 2)
        >>> dice.value
        0.8
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, found: Tensor, truth: Tensor, classes: int) -> None:
        """Add a batch of classes, of any shape; negative true ones are left out."""
        there = truth >= 0
        pairs = (truth[there] * classes + found[there]).flatten()
        sums = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
        self._sums = sums if self._sums is None else self._sums + sums

    @property
    def value(self) -> float | None:
        """The mean over the classes that there are; None without any point."""
        if self._sums is None:
            return None
        counts = self._sums.double()
        sizes = (counts.sum(0) + counts.sum(1))[1:]
        shares = 2 * counts.diagonal()[1:] / sizes.clamp(min=1)
        return float(shares[sizes > 0].mean()) if bool((sizes > 0).any()) else 1.0
