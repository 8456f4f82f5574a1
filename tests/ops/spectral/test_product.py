import pytest
import torch
import torch.nn.functional as F

from passband.ops.spectral.frame import Frame, self_conjugate_bins
from passband.ops.spectral.product import spectral_conv
from tests.support import assert_close, assert_same_function, random

CASES = [
    # size, kernel, dilation, groups
    ((8, 9), (3, 3), (1, 1), 1),
    ((7, 6), (3, 5), (2, 1), 2),
    ((5, 5), (1, 1), (1, 1), 1),
    ((4, 3), (3, 3), (1, 1), 4),
    ((3, 3), (5, 5), (1, 1), 1),  # a filter larger than the map wraps around it
    ((11,), (5,), (2,), 2),
]


def padding(kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))


@pytest.mark.parametrize(("size", "kernel", "dilation", "groups"), CASES)
def test_is_the_circular_convolution(
    size: tuple[int, ...], kernel: tuple[int, ...], dilation: tuple[int, ...], groups: int
) -> None:
    frame, pad = Frame.of(size), padding(kernel, dilation)

    def ours(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        spectrum = frame.from_map(input)
        return frame.to_map(spectral_conv(spectrum, weight, bias, frame, pad, dilation, groups))

    def torchs(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        for axis, p in enumerate(pad, 2):
            n = input.shape[axis]
            places = torch.arange(-p, n + p) % n
            input = input.index_select(axis, places)
        conv = F.conv1d if len(size) == 1 else F.conv2d
        return conv(input, weight, bias, dilation=dilation, groups=groups)

    tensors = {
        "input": random(3, 4, *size),
        "weight": random(8, 4 // groups, *kernel, seed=1),
        "bias": random(8, seed=2),
    }
    assert_same_function(ours, torchs, tensors)


def test_frequencies_that_are_zero_throughout_change_nothing() -> None:
    frame = Frame.of((8, 8))
    spectrum = frame.from_map(random(3, 4, 8, 8))
    spectrum[:, 5:] = 0
    weight = random(6, 4, 3, 3, seed=1)
    found = spectral_conv(spectrum, weight, None, frame, (1, 1), (1, 1))
    padded = F.pad(frame.to_map(spectrum), (1, 1, 1, 1), "circular")
    assert not found[:, 5:].any()
    assert_close(frame.to_map(found), F.conv2d(padded, weight))


def test_a_spectrum_of_zeros() -> None:
    frame = Frame.of((4, 4))
    zeros = torch.zeros(2, frame.bins, 2, 3)
    found = spectral_conv(zeros, torch.ones(5, 3, 3, 3), torch.ones(5), frame, (1, 1), (1, 1))
    assert torch.allclose(frame.to_map(found), torch.ones(2, 5, 4, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_is_of_a_real_map(dtype: torch.dtype) -> None:
    frame = Frame.of((6, 8))
    spectrum = frame.from_map(random(2, 9, 6, 8, dtype=dtype))
    found = spectral_conv(spectrum, random(5, 9, 3, 3, dtype=dtype), None, frame, (1, 1), (1, 1))
    assert not found[1, self_conjugate_bins(frame.band)].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_zero_has_a_gradient(dtype: torch.dtype) -> None:
    """Frequencies of the input that are zero throughout, of which the filters are not."""
    frame = Frame.of((6, 6))
    spectrum = frame.from_map(random(2, 3, 6, 6, dtype=dtype))
    spectrum[:, 4:] = 0
    weight = random(5, 3, 3, 3, dtype=dtype, seed=1)
    grad = random(2, frame.bins, 2, 5, dtype=dtype, seed=2)
    gradients = []
    for input in (spectrum, torch.ones_like(spectrum)):  # it is linear: the same wherever it is
        input.requires_grad_()
        made = spectral_conv(input, weight, None, frame, (1, 1), (1, 1))
        gradients += torch.autograd.grad(made, input, grad)
    assert_close(*gradients)
