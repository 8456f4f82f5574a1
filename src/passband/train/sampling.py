"""Which examples a step sees: a function of the seed and the epoch, and of nothing else.

So a run that resumes in the middle of an epoch sees what it would have seen, whatever the number of
processes that load data, and whatever was drawn from the global generators meanwhile.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

Item = tuple[Tensor, Any]
"""An input and its label: a class, or the classes of its points."""

PADDING = -1
IGNORED_LABEL = -100  # what torch.nn.functional.cross_entropy leaves out


def stream_seed(*words: int | str) -> int:
    """A 63-bit seed for a purpose, unrelated to the seed of any other purpose.

    Examples:
        >>> stream_seed("order", 0, 1) == stream_seed("order", 0, 1) != stream_seed("order", 1, 0)
        True
    """
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def permutation(size: int, *words: int | str) -> list[int]:
    """The numbers 0..size-1 in an order that the words determine."""
    generator = torch.Generator().manual_seed(stream_seed(*words))
    order: list[int] = torch.randperm(size, generator=generator).tolist()
    return order


class EpochSampler(Sampler[tuple[int, int]]):
    """Every example once per epoch, shuffled anew in each, shared out among processes.

    Yields (epoch, index), so that what loads an example knows the epoch too. Every process gets the
    same number of examples; those left over sit this epoch out, and so does a last batch of one,
    which batch normalisation cannot take.

    Args:
        size: Number of examples.
        batch_size: Examples per step of one process.
        seed: Determines the order, together with the epoch.
        rank: This process.
        world_size: Number of processes.
        first_epoch: Epoch to begin with.
        first_batch: Batches of that epoch to leave out, because an earlier process saw them.

    Examples:
        >>> sampler = EpochSampler(7, batch_size=3, seed=0)
        >>> len(sampler), len(list(sampler))  # the seventh would be a batch of one
        (6, 6)
    """

    def __init__(
        self,
        size: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        first_epoch: int = 0,
        first_batch: int = 0,
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.first = (first_epoch, first_batch)
        self.epoch = first_epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Examples of a whole epoch for this process, left out ones included."""
        share = self.size // self.world_size
        alone = share % self.batch_size == 1 and share > self.batch_size
        return share - alone

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        order = permutation(self.size, "order", self.seed, epoch)
        mine = order[self.rank :: self.world_size][: len(self)]
        first_epoch, first_batch = self.first
        if epoch == first_epoch:
            mine = mine[first_batch * self.batch_size :]
        return ((epoch, index) for index in mine)


class TrainingItems(Dataset[Item]):
    """A data set whose random augmentation is determined by the seed, the epoch and the batch.

    Takes the (epoch, index) pairs of `EpochSampler`.

    Args:
        dataset: The examples; their augmentation draws from torch's global generator.
        seed: Determines the augmentation, together with the epoch and the examples of the batch.
    """

    def __init__(self, dataset: Dataset[Item], seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitems__(self, keys: list[tuple[int, int]]) -> Sequence[Item]:
        """The examples of one batch, as a `DataLoader` asks for them."""
        epoch, first = keys[0]
        before = torch.random.get_rng_state()
        # Not torch.manual_seed, which would also seed the accelerators.
        torch.default_generator.manual_seed(stream_seed("augmentation", self.seed, epoch, first))
        try:
            return fetch(self.dataset, [index for _, index in keys])
        finally:
            torch.random.set_rng_state(before)


class EvaluationSampler(Sampler[int]):
    """Every example once, in order, shared out among processes.

    Processes must go through the same number of batches, so shares are filled up with `PADDING`.

    Examples:
        >>> list(EvaluationSampler(5, rank=1, world_size=2))
        [1, 3, -1]
    """

    def __init__(self, size: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.size = size
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return -(-self.size // self.world_size)

    def __iter__(self) -> Iterator[int]:
        mine = range(self.rank, self.size, self.world_size)
        yield from mine
        yield from [PADDING] * (len(self) - len(mine))


class EvaluationItems(Dataset[Item]):
    """A data set that answers `PADDING` with an example whose label is ignored."""

    def __init__(self, dataset: Dataset[Item]) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: list[int]) -> Sequence[Item]:
        """The examples of one batch, as a `DataLoader` asks for them."""
        items = fetch(self.dataset, [max(index, 0) for index in indices])
        return [
            (input, _ignored(label) if index == PADDING else label)
            for index, (input, label) in zip(indices, items, strict=True)
        ]


def _ignored(label: Any) -> Any:
    return torch.full_like(label, IGNORED_LABEL) if isinstance(label, Tensor) else IGNORED_LABEL


def fetch(dataset: Any, indices: list[int]) -> Sequence[Item]:
    """Several examples, at once where the data set can."""
    if hasattr(dataset, "__getitems__"):
        items: Sequence[Item] = dataset.__getitems__(indices)
        return items
    return [dataset[index] for index in indices]
