"""Products by the compiled kernels beside the same in float64, by torch."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from passband.ops.kernel_files import runnable
from passband.ops.spectral.frame import Frame
from passband.ops.spectral.native import product as kernels
from passband.ops.spectral.product import spectral_conv
from tests.support import assert_close, random

FOLDER = Path(kernels.__file__).parent
NAMES = [n for n in ("avx512", "avx2", "default") if (FOLDER / f"kernels_{n}.so").exists()]
RUNNABLE = [name for name in NAMES if name in runnable()]

CASES = [
    # size, kernel, dilation, images, input channels, output channels: parts of registers, more than
    # a row of lanes, a depth or a strip; filters about a tap, and about none
    ((8, 9), (3, 3), (1, 1), 3, 5, 7),
    ((7, 6), (3, 5), (2, 1), 2, 70, 13),
    ((5, 5), (1, 1), (1, 1), 9, 33, 100),
    ((3, 3), (5, 5), (1, 1), 1, 3, 5),
    ((11,), (5,), (2,), 5, 140, 70),
    ((12,), (8,), (1,), 7, 14, 129),
    ((4, 6), (2, 3), (1, 1), 2, 1, 1),
    ((32, 32), (3, 3), (1, 1), 16, 60, 12),
    ((4, 4), (3, 3), (1, 1), 0, 4, 4),
]
Case = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int, int, int]


def results(
    spectrum: Tensor, weight: Tensor, grad: Tensor, size: tuple[int, ...], dilation: tuple[int, ...]
) -> list[Tensor]:
    """The product, and the gradients of the spectrum and of the filters."""
    frame = Frame.of(size)
    spectrum, weight = spectrum.detach().requires_grad_(), weight.detach().requires_grad_()
    pads = tuple(d * (k - 1) // 2 for k, d in zip(weight.shape[2:], dilation, strict=True))
    made = spectral_conv(spectrum, weight, None, frame, pads, dilation)
    return [made, *torch.autograd.grad(made, [spectrum, weight], grad)]


def check(case: Case, copy: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
    """The kernels' float32 results are those of float64.

    Args:
        case: One of `CASES`.
        copy: Puts a tensor elsewhere in memory.
    """
    size, kernel, dilation, images, inputs, outputs = case
    bins = Frame.of(size).bins
    spectrum = random(2, bins, images, inputs, dtype=torch.float32)
    weight = random(outputs, inputs, *kernel, dtype=torch.float32, seed=1)
    grad = random(2, bins, images, outputs, dtype=torch.float32, seed=2)
    spectrum[:, bins // 3 : bins // 2] = 0  # frequencies of which the one or the other is zero
    grad[:, bins // 4 : bins // 3 + 1] = 0
    tensors = spectrum, weight, grad
    assert kernels.suits(*tensors)
    found = results(*map(copy, tensors), size, dilation)
    expected = results(*(t.double() for t in tensors), size, dilation)
    for own, right in zip(found, expected, strict=True):
        assert_close(own, right)
    assert not found[0][:, bins // 3 : bins // 2].any()
