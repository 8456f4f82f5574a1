import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from passband.train.sampling import (
    IGNORED_LABEL,
    PADDING,
    EpochSampler,
    EvaluationItems,
    EvaluationSampler,
    TrainingItems,
    permutation,
)


def indices(sampler: EpochSampler) -> list[int]:
    return [index for _, index in sampler]


def test_an_epoch_has_every_example_once_in_an_order_of_its_own() -> None:
    sampler = EpochSampler(50, batch_size=8, seed=1)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert {found for found, _ in sampler} == {epoch}
        orders.append(indices(sampler))
        assert sorted(orders[-1]) == list(range(50))
    assert orders[0] != orders[1] != orders[2] != sorted(orders[2])


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first = indices(EpochSampler(50, batch_size=8, seed=1))
    torch.rand(3)
    assert indices(EpochSampler(50, batch_size=8, seed=1)) == first
    assert indices(EpochSampler(50, batch_size=8, seed=2)) != first


def test_begins_in_the_middle_of_an_epoch_and_goes_on_with_whole_ones() -> None:
    whole = EpochSampler(50, batch_size=8, seed=1)
    resumed = EpochSampler(50, batch_size=8, seed=1, first_epoch=4, first_batch=3)
    assert len(resumed) == len(whole) == 50
    whole.set_epoch(4)
    assert indices(resumed) == indices(whole)[24:]
    for sampler in (whole, resumed):
        sampler.set_epoch(5)
    assert indices(resumed) == indices(whole)


@pytest.mark.parametrize("size", [30, 31, 32])
def test_processes_share_an_epoch_in_equal_parts(size: int) -> None:
    shares = [
        indices(EpochSampler(size, batch_size=4, seed=0, rank=rank, world_size=3))
        for rank in range(3)
    ]
    assert [len(share) for share in shares] == [size // 3] * 3
    assert len({index for share in shares for index in share}) == 3 * (size // 3)


@pytest.mark.parametrize(
    ("size", "batch_size", "used"), [(9, 4, 8), (10, 4, 10), (1, 4, 1), (3, 1, 3), (5, 5, 5)]
)
def test_leaves_out_a_last_batch_of_one(size: int, batch_size: int, used: int) -> None:
    sampler = EpochSampler(size, batch_size=batch_size, seed=0)
    assert len(sampler) == len(indices(sampler)) == used


class Noisy(Dataset[tuple[torch.Tensor, int]]):
    """Examples augmented with noise from the global generator."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.randn(2) + index, index


def test_augmentation_depends_on_seed_epoch_and_batch_alone() -> None:
    keys = [(0, 5), (0, 2)]
    first = TrainingItems(Noisy(), seed=3).__getitems__(keys)
    torch.rand(7)
    state = torch.get_rng_state()
    again = TrainingItems(Noisy(), seed=3).__getitems__(keys)
    assert torch.equal(torch.get_rng_state(), state)
    assert [label for _, label in first] == [5, 2]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    for seed, other in ((4, keys), (3, [(1, 5), (1, 2)])):
        different = TrainingItems(Noisy(), seed=seed).__getitems__(other)
        assert not torch.equal(first[0][0], different[0][0])


def test_evaluation_goes_through_every_example_once() -> None:
    shares = [list(EvaluationSampler(7, rank=rank, world_size=3)) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 3]
    assert sorted(index for share in shares for index in share if index != PADDING) == list(
        range(7)
    )


def test_padding_has_an_ignored_label() -> None:
    items = EvaluationItems(TensorDataset(torch.arange(3.0), torch.tensor([2, 1, 0])))
    found = items.__getitems__([1, PADDING])
    assert [int(label) for _, label in found] == [1, IGNORED_LABEL]


def test_permutations_of_different_purposes_differ() -> None:
    assert permutation(20, "a", 1) == permutation(20, "a", 1)
    assert permutation(20, "a", 1) != permutation(20, "b", 1)
    assert sorted(permutation(20, "a", 1)) == list(range(20))
