"""The reference against two definitions written independently of it.

One is the formula, by complex exponentials over the whole spectrum and by sums. The other does what
the authors' code does (Dziedzic et al. 2019): a grid of a power of two, corners of the rfft set to
zero, the gradients computed from the kept coefficients.
"""

from itertools import product

import numpy as np
import pytest
import torch

import passband as pb
from tests.support import assert_close, output_and_gradients, random

OURS = {1: pb.band_limited_conv1d, 2: pb.band_limited_conv2d, 3: pb.band_limited_conv3d}


def exponentials(size: int, points: np.ndarray, kept: int) -> np.ndarray:
    """exp(-2 pi i f n / N) for signed frequencies |f| <= k - 1, or all where k = N//2 + 1."""
    every = range(-((size - 1) // 2), size // 2 + 1)
    frequencies = [f for f in every if abs(f) <= kept - 1 or kept == size // 2 + 1]
    return np.exp(-2j * np.pi * np.outer(frequencies, points) / size)


def transformed(tensor: np.ndarray, matrices: list[np.ndarray]) -> np.ndarray:
    """Multiply the axes after the first two by a matrix each."""
    for axis, matrix in enumerate(matrices, 2):
        tensor = np.moveaxis(np.tensordot(matrix, tensor, (1, axis)), 0, axis)
    return tensor


def by_definition(x, w, padding, stride, dilation, groups, grid, kept) -> np.ndarray:
    """Y = X conj(K) at every kept frequency of the full spectrum; outputs point by point."""
    padded = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    sizes, taps = padded.shape[2:], w.shape[2:]
    spectrum = transformed(padded, list(map(exponentials, grid, map(np.arange, sizes), kept)))
    places = [np.arange(t) * d for t, d in zip(taps, dilation, strict=True)]
    filters = transformed(w, list(map(exponentials, grid, places, kept)))
    outputs, inputs = w.shape[:2]
    product_ = np.zeros((len(x), outputs, *spectrum.shape[2:]), complex)
    for b, o, c in product(range(len(x)), range(outputs), range(inputs)):
        channel = o // (outputs // groups) * inputs + c
        product_[b, o] += spectrum[b, channel] * filters[o, c].conj()
    ends = [n - d * (t - 1) for n, t, d in zip(sizes, taps, dilation, strict=True)]
    points = [np.arange(0, end, s) for end, s in zip(ends, stride, strict=True)]
    inverse = [matrix.conj().T for matrix in map(exponentials, grid, points, kept)]
    output = transformed(product_, inverse) / np.prod(grid)
    assert np.abs(output.imag).max() < 1e-12  # a band that keeps f keeps -f
    return output.real


CASES = {
    # input, weight, padding, stride, dilation, groups, grid, k
    "1d": ((2, 3, 9), (4, 3, 3), [0], [1], [1], 1, [9], [3]),
    "1d even": ((2, 3, 8), (4, 3, 4), [2], [2], [1], 1, [12], [4]),
    "1d full": ((2, 4, 8), (2, 2, 3), [1], [3], [2], 2, [10], [6]),
    "1d full odd": ((2, 4, 7), (2, 2, 3), [1], [1], [2], 2, [9], [5]),
    "2d": ((2, 2, 6, 7), (3, 2, 3, 2), [1, 0], [1, 2], [1, 2], 1, [8, 7], [3, 2]),
    "2d larger grid": ((1, 4, 5, 4), (4, 2, 2, 3), [1, 1], [2, 1], [2, 1], 2, [9, 8], [4, 5]),
    "2d one full": ((1, 2, 5, 4), (2, 1, 3, 3), [1, 1], [1, 1], [1, 1], 2, [7, 6], [4, 2]),
    "3d": (
        (1, 2, 3, 4, 5), (3, 2, 2, 3, 2), [1, 0, 1], [1, 1, 2], [1, 1, 2], 1, [5, 5, 8], [2, 3, 3],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_reference_is_the_definition(name: str) -> None:
    input_shape, weight_shape, padding, stride, dilation, groups, grid, kept = CASES[name]
    x, w, b = random(*input_shape), random(*weight_shape, seed=1), random(weight_shape[0], seed=2)
    expected = by_definition(x.numpy(), w.numpy(), padding, stride, dilation, groups, grid, kept)
    expected = expected + b.numpy().reshape(-1, *[1] * len(grid))
    found = OURS[len(grid)](
        x, w, b, stride, padding, dilation, groups, band=kept, fft_size=grid, algorithm="fft"
    )
    assert_close(found, torch.from_numpy(expected))


def corners_zeroed(spectrum: torch.Tensor, kept: int) -> torch.Tensor:
    """Of an rfft2: k rows from the top and k - 1 from the bottom stay, and k columns."""
    rows, columns = spectrum.shape[-2:]
    spectrum = spectrum.clone()
    spectrum[..., kept : rows - (kept - 1), :] = 0
    spectrum[..., kept:columns] = 0
    return spectrum


def authors_layer(input, weight, bias, cotangent, padding: int, compression: float):
    """Output and gradients as the authors' code computes them, for stride 1 and square maps."""
    size, taps = input.shape[-1], weight.shape[-1]
    out = size + 2 * padding - taps + 1
    # long enough for the correlation of the padded map with the larger of filter and output
    grid = 2 ** int(np.ceil(np.log2(size + 2 * padding + max(out, taps) - 1)))
    kept = int((grid // 2 + 1) * (1 - compression) ** 0.5)

    def spectrum(maps: torch.Tensor) -> torch.Tensor:
        return corners_zeroed(torch.fft.rfft2(maps, s=(grid, grid)), kept)

    def maps(product: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft2(product, s=(grid, grid))

    x = spectrum(torch.nn.functional.pad(input, [padding] * 4))
    w, g = spectrum(weight), spectrum(cotangent)
    inside = slice(padding, padding + size)
    results = {
        "output": maps(torch.einsum("bchw,ochw->bohw", x, w.conj()))[..., :out, :out]
        + bias[:, None, None],
        "gradient of input": maps(torch.einsum("bohw,ochw->bchw", g, w))[..., inside, inside],
        "gradient of weight": maps(torch.einsum("bchw,bohw->ochw", x, g.conj()))[..., :taps, :taps],
        "gradient of bias": cotangent.sum((0, 2, 3)),
    }
    return results, grid, kept


@pytest.mark.parametrize("algorithm", ["fft", "lowpass", "matmul"])
@pytest.mark.parametrize(
    ("size", "taps", "padding", "compression", "grid", "kept"),
    [
        (32, 3, 1, 0.5, 128, 45),
        (32, 3, 1, 0.85, 128, 25),
        (16, 5, 2, 0.48, 64, 23),
        (8, 3, 1, 0.5, 32, 12),
        (7, 3, 0, 0.3, 16, 7),
    ],
)
def test_the_authors_code(
    algorithm: str, size: int, taps: int, padding: int, compression: float, grid: int, kept: int
) -> None:
    """With its grid as fft_size and its k as band: the same outputs and the same gradients."""
    tensors = {
        "input": random(2, 3, size, size),
        "weight": random(4, 3, taps, taps, seed=1),
        "bias": random(4, seed=2),
    }
    found = output_and_gradients(
        lambda **leaves: pb.band_limited_conv2d(
            **leaves, padding=padding, fft_size=grid, band=kept, algorithm=algorithm
        ),
        tensors,
    )
    cotangent = random(*found["output"].shape, seed=99)
    expected, its_grid, its_kept = authors_layer(**tensors, cotangent=cotangent, padding=padding,
                                                 compression=compression)  # fmt: skip
    assert (its_grid, its_kept) == (grid, kept)
    for name, value in found.items():
        assert_close(value, expected[name])
