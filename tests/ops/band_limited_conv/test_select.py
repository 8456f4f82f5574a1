import re

import pytest
import torch

import passband as pb
from passband.ops.band_limited_conv.cost import multiplications
from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.ops.band_limited_conv.select import ALGORITHMS, check_algorithm, select_algorithm
from tests.support import random


@pytest.mark.parametrize("algorithm", ["winograd", "", "FFT", None, 3])
def test_an_unknown_algorithm(algorithm: object) -> None:
    message = (
        f"algorithm is {algorithm!r}, allowed are 'auto', 'fft', 'lowpass', 'matmul', 'triton'"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        check_algorithm(algorithm)


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a not in ("auto", "triton")])
def test_a_named_algorithm_is_the_one(algorithm: str) -> None:
    geometry = conv_geometry((9, 8), (3, 3), compression=0.5)
    assert select_algorithm(algorithm, geometry, 2, 3, 4) == algorithm


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((32, 64, 64, 32, 3), {"padding": 1, "compression": 0.5}),
        ((32, 64, 64, 32, 3), {"padding": 1, "compression": 0.85}),
        ((32, 64, 64, 32, 7), {"padding": 3, "compression": 0.5}),
        ((32, 512, 512, 4, 3), {"padding": 1, "compression": 0.5}),
        ((1, 8, 8, 8, 3), {"padding": 1, "compression": 0.9, "groups": 8}),
        ((4, 3, 16, 17, 1), {"compression": 0.5}),
    ],
)
def test_auto_never_multiplies_more_than_either(shape, arguments) -> None:
    """The choice costs no more multiplications than lowpass does; it may be lowpass."""
    batch, inputs, outputs, size, taps = shape
    geometry = conv_geometry((size, size), (taps, taps), **arguments)
    chosen = select_algorithm("auto", geometry, batch, inputs, outputs)
    assert chosen in ("lowpass", "matmul")
    cost = multiplications(chosen, geometry, batch, inputs, outputs)
    assert cost.total <= multiplications("lowpass", geometry, batch, inputs, outputs).total


def test_auto_is_torchs_convolution_at_full_band() -> None:
    x, w, b = (random(*shape, dtype=torch.float32) for shape in ((2, 3, 9, 8), (4, 3, 3, 3), (4,)))
    ours = pb.band_limited_conv2d(x, w, b, 2, 1)
    assert torch.equal(ours, torch.nn.functional.conv2d(x, w, b, 2, 1))
