"""The kernels in worker processes of a DataLoader, forked after the parent has used them.

Run by test_memory.py on its own, for the sake of the threads that a fork leaves behind.
"""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import passband as pb
from passband.ops.band_limited_conv.native import library

WEIGHT = torch.ones(65, 5, 3, 3)


def convolved(index: int) -> Tensor:
    maps = torch.arange(3 * 5 * 12 * 11).view(3, 5, 12, 11).add(index).sin()
    return pb.band_limited_conv2d(maps, WEIGHT, padding=1, compression=0.5, algorithm="matmul")


class Convolved(Dataset[Tensor]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return convolved(index)


def main() -> None:
    assert library.load_library() is not None
    torch.set_num_threads(2)
    expected = [convolved(index) for index in range(4)]
    loader = DataLoader(
        Convolved(), None, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    # the order of sums may differ with the number of threads, which is one in a worker
    assert all(torch.allclose(f, e, atol=1e-4) for f, e in zip(loader, expected, strict=True))
    assert torch.equal(convolved(3), expected[3])
    print("equal")


if __name__ == "__main__":
    main()
