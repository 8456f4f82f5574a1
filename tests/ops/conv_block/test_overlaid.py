"""Two maps in one memory: the second never touches what of the first is still needed."""

import pytest
import torch

from passband.ops.conv_block.overlaid import Overlaid
from tests.support import random

CPU = torch.device("cpu")


@pytest.mark.parametrize("first", [(7, 3, 5, 5), (7, 1, 2, 3), (7, 6, 4)])
@pytest.mark.parametrize("second", [(7, 3, 5, 5), (7, 2, 9, 7), (7, 1, 2, 3)])
@pytest.mark.parametrize("dtypes", [(torch.float32,) * 2, (torch.bfloat16, torch.float64)])
@pytest.mark.parametrize("last", [False, True])
def test_image_by_image(
    first: tuple[int, ...],
    second: tuple[int, ...],
    dtypes: tuple[torch.dtype, torch.dtype],
    last: bool,
) -> None:
    order = torch.channels_last if last and len(first) == 4 else torch.contiguous_format
    shapes = torch.Size(first), torch.Size(second)
    memory = Overlaid((shapes[0], dtypes[0]), (shapes[1], dtypes[1]), True, order, CPU)
    own, other = random(*first).to(dtypes[0]), random(*second, seed=1).to(dtypes[1])
    for start, count in ((0, 2), (2, 2), (4, 2), (6, 1)):
        memory.first(start, count).copy_(own[start : start + count])
    for start, count in ((0, 3), (3, 1), (4, 3)):
        # what is written may take the place of these images, and of none after them
        assert torch.equal(memory.first(start, count), own[start : start + count])
        memory.second(start, count).copy_(other[start : start + count])
    assert torch.equal(memory.second(0, 7), other)
    assert memory.second(0, 7).is_contiguous(memory_format=order)
    largest = max(own.nbytes, other.nbytes)
    assert memory.second(0, 7).untyped_storage().nbytes() <= largest + 64


def test_one_of_them_alone() -> None:
    shape, other = torch.Size((2, 3)), torch.Size((2, 30))
    for has_second in (False, True):
        memory = Overlaid(
            (shape, torch.float32), (other, torch.float32), has_second, torch.contiguous_format, CPU
        )
        maps = memory.second(0, 2) if has_second else memory.first(0, 2)
        assert maps.untyped_storage().nbytes() == maps.nbytes
