"""The public functions: torch's arguments, what a band does to a map, one test per message."""

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import passband as pb
from passband.spectrum.energy import band_from_energy
from tests.ops.band_limited_conv.cases import FAST, NATIVE, OURS
from tests.support import assert_close, properties, random

algorithms = pytest.mark.parametrize("algorithm", ["fft", *FAST])


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_arguments_stand_where_torchs_do(axes: int) -> None:
    x, w = random(2, 4, *(9, 8, 7)[:axes]), random(6, 2, *(3,) * axes, seed=1)
    arguments = (x, w, random(6, seed=2), 2, 1, 2, 2)
    assert_close(OURS[axes](*arguments), NATIVE[axes](*arguments))
    with pytest.raises(TypeError, match="positional"):
        OURS[axes](*arguments, 0.5)  # what says how much to keep is named


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_one_map_is_a_batch_of_one(axes: int) -> None:
    x, w = random(4, *(9, 8, 7)[:axes]), random(6, 4, *(3,) * axes, seed=1)
    alone = OURS[axes](x, w, compression=0.5)
    assert_close(alone, OURS[axes](x[None], w, compression=0.5)[0])


@algorithms
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_groups_are_separate_convolutions(axes: int, algorithm: str) -> None:
    x, w = random(2, 6, *(9, 8, 7)[:axes]), random(9, 2, *(3,) * axes, seed=1)
    kept = {"padding": 1, "compression": 0.5, "algorithm": algorithm}
    separate = [OURS[axes](a, b, **kept) for a, b in zip(x.chunk(3, 1), w.chunk(3), strict=True)]
    assert_close(OURS[axes](x, w, groups=3, **kept), torch.cat(separate, 1))


@algorithms
def test_a_stride_takes_every_second_output(algorithm: str) -> None:
    x, w = random(2, 3, 12, 9), random(4, 3, 3, 3, seed=1)
    kept = {"padding": 1, "compression": 0.5, "algorithm": algorithm}
    dense = pb.band_limited_conv2d(x, w, **kept)
    assert_close(pb.band_limited_conv2d(x, w, stride=(2, 3), **kept), dense[..., ::2, ::3])


@algorithms
def test_it_is_a_convolution_of_the_low_passed_map(algorithm: str) -> None:
    """And as well of the map with a low-passed filter: the band may be applied to either."""
    x, w = random(2, 3, 12, 9), random(4, 3, 3, 3, seed=1)
    found = pb.band_limited_conv2d(x, w, padding=1, band=(4, 3), algorithm=algorithm)
    spectrum = torch.fft.fft2(F.pad(x, [1] * 4))
    spectrum[..., 4:-3, :] = 0
    spectrum[..., 3:-2] = 0
    assert_close(found, F.conv2d(torch.fft.ifft2(spectrum).real, w))


@pytest.mark.parametrize("mode", ["coarse", "fine"])
@pytest.mark.parametrize("energy", [0.3, 0.9, 1.0])
@algorithms
def test_an_energy_chooses_the_band_by_the_padded_maps(algorithm: str, energy: float, mode) -> None:
    x, w = random(2, 3, 12, 9), random(4, 3, 3, 3, seed=1)
    found = pb.band_limited_conv2d(
        x, w, padding=(1, 2), energy=energy, energy_mode=mode, algorithm=algorithm
    )
    padded = F.pad(x, [2, 2, 1, 1])
    chosen = band_from_energy(padded, (14, 13), energy, mode)
    mask = chosen.band.mask() if chosen.mask is None else chosen.mask
    assert (chosen.mask is None) == (mode == "coarse" or energy == 1)
    low_passed = torch.fft.irfft2(torch.fft.rfft2(padded) * mask, s=(14, 13))
    assert_close(found, F.conv2d(low_passed, w))


@algorithms
def test_frequencies_outside_the_band_vanish(algorithm: str) -> None:
    n = torch.arange(20, dtype=torch.float64)
    w = random(4, 1, 3, seed=1)
    for frequency in range(11):
        wave = torch.cos(2 * torch.pi * frequency * n / 20 + 0.3).expand(1, 1, 20)
        found = pb.band_limited_conv1d(wave, w, band=5, algorithm=algorithm)
        if frequency < 5:
            assert_close(found, F.conv1d(wave, w))
        else:
            # 20 points of size one: rounding only
            assert found.norm() < 1e-13


@properties
@given(st.integers(1, 3), st.integers(0, 2**31), st.sampled_from(FAST))
def test_it_is_linear_in_the_map_and_in_the_filter(axes: int, seed: int, algorithm: str) -> None:
    x, y = (random(2, 2, *(7, 6, 5)[:axes], seed=seed + i) for i in range(2))
    w, v = (random(3, 2, *(3, 2, 2)[:axes], seed=seed + i) for i in range(2, 4))

    def conv(maps: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
        return OURS[axes](maps, filters, padding=1, compression=0.5, algorithm=algorithm)

    assert_close(conv(2 * x - y, w), 2 * conv(x, w) - conv(y, w))
    assert_close(conv(x, 3 * w + v), 3 * conv(x, w) + conv(x, v))


@pytest.mark.parametrize("algorithm", FAST)
def test_no_compression_is_no_band(algorithm: str) -> None:
    """Bit for bit, for even and for odd grids."""
    for size in ((8, 9), (7, 6)):
        x, w = random(2, 3, *size, dtype=torch.float32), random(4, 3, 3, 3, dtype=torch.float32)
        plain = pb.band_limited_conv2d(x, w, padding=1, algorithm=algorithm)
        for full in ({"compression": 0.0}, {"compression": 0}, {"energy": 1}, {"energy": 1.0}):
            same = pb.band_limited_conv2d(x, w, padding=1, algorithm=algorithm, **full)
            assert torch.equal(same, plain)


@algorithms
def test_arguments_are_left_as_they_are(algorithm: str) -> None:
    tensors = random(2, 3, 9, 8), random(4, 3, 3, 3), random(4)
    copies = [tensor.clone() for tensor in tensors]
    pb.band_limited_conv2d(*tensors, padding=1, energy=0.5, algorithm=algorithm)
    for tensor, copy in zip(tensors, copies, strict=True):
        assert torch.equal(tensor, copy)


def test_maps_without_values_have_shapes() -> None:
    """On the meta device, as torch's convolutions; later calls on a CPU are not disturbed."""
    for algorithm in FAST:
        x, w = random(2, 3, 10, 13), random(4, 3, 3, 3)
        with torch.device("meta"):
            found = pb.band_limited_conv2d(
                x.to("meta"), w.to("meta"), stride=2, compression=0.5, algorithm=algorithm
            )
        assert (found.is_meta, found.shape) == (True, (2, 4, 4, 6))
        real = pb.band_limited_conv2d(x, w, stride=2, compression=0.5, algorithm=algorithm)
        assert not real.is_meta


def shaped(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    return torch.ones(shape, dtype=dtype, device=device)


X, W = shaped(2, 4, 9, 8), shaped(6, 2, 3, 3)
MESSAGES = {
    "input of whole numbers": (
        {"input": shaped(2, 4, 9, 8, dtype=torch.int64)},
        TypeError,
        "input is torch.int64, allowed are real floating types",
    ),
    "complex input": (
        {"input": shaped(2, 4, 9, 8, dtype=torch.complex64)},
        TypeError,
        "input is torch.complex64, allowed are real floating types",
    ),
    "input of numpy": (
        {"input": X.numpy()},
        TypeError,
        "input is of type ndarray, allowed are torch tensors",
    ),
    "weight of lists": (
        {"weight": [[1.0]]},
        TypeError,
        "weight is of type list, allowed are torch tensors",
    ),
    "bias of a number": (
        {"bias": 1.0},
        TypeError,
        "bias is of type float, allowed are torch tensors",
    ),
    "weight of another type": (
        {"weight": W.double()},
        TypeError,
        "weight is torch.float64, but input is torch.float32",
    ),
    "bias of another type": (
        {"bias": shaped(6, dtype=torch.float16)},
        TypeError,
        "bias is torch.float16, but input is torch.float32",
    ),
    "weight elsewhere": (
        {"weight": shaped(6, 2, 3, 3, device="meta")},
        ValueError,
        "weight is on meta, but input is on cpu",
    ),
    "bias elsewhere": (
        {"bias": shaped(6, device="meta")},
        ValueError,
        "bias is on meta, but input is on cpu",
    ),
    "too few axes of input": (
        {"input": shaped(9, 8)},
        ValueError,
        "input has shape (9, 8), allowed are 4 axes (batch, channels, 2 spatial) or 3 without",
    ),
    "too many axes of input": (
        {"input": shaped(1, 2, 4, 9, 8)},
        ValueError,
        "input has shape (1, 2, 4, 9, 8), allowed are 4 axes",
    ),
    "axes of weight": (
        {"weight": shaped(6, 2, 3)},
        ValueError,
        "weight has shape (6, 2, 3), allowed are 4 axes (outputs, inputs / groups, 2 spatial)",
    ),
    "channels": (
        {"input": shaped(2, 3, 9, 8)},
        ValueError,
        "input has 3 channels, but weight of shape (6, 2, 3, 3) with groups 2 needs 4",
    ),
    "groups that do not divide": (
        {"groups": 4},
        ValueError,
        "groups is 4, allowed are divisors of the 6 output channels",
    ),
    "no groups": (
        {"groups": 0},
        ValueError,
        "groups is 0, allowed are divisors of the 6 output channels",
    ),
    "groups that are not a number": (
        {"groups": 2.0},
        TypeError,
        "groups must be a whole number, got 2.0",
    ),
    "shape of bias": (
        {"bias": shaped(5)},
        ValueError,
        "bias has shape (5,), allowed is (6,)",
    ),
    "empty weight": (
        {"weight": shaped(6, 2, 0, 3)},
        ValueError,
        "weight has shape (6, 2, 0, 3), allowed are sizes from 1",
    ),
    "small map": (
        {"input": shaped(2, 4, 2, 8)},
        ValueError,
        "the padded map has (2, 8) points, fewer than the filter's span of (3, 3)",
    ),
    "compression": (
        {"compression": 1},
        ValueError,
        "compression is 1, allowed is 0 <= compression < 1",
    ),
    "energy": ({"energy": -0.5}, ValueError, "energy is -0.5, allowed is 0 < energy <= 1"),
    "two bands": (
        {"compression": 0.5, "energy": 0.5},
        ValueError,
        "compression and energy are given; give at most one of",
    ),
    "band": ({"band": 0}, ValueError, "band is 0, allowed is at least 1 coefficient per axis"),
    "band beyond the grid": (
        {"band": 9},
        ValueError,
        "band is 9 on axis 0, but a grid of 9 points has 1 to 5 half-spectrum coefficients to keep",
    ),
    "fft_size": (
        {"fft_size": 8},
        ValueError,
        "fft_size is (8, 8), allowed is at least the padded map, (9, 8) points",
    ),
    "stride": ({"stride": 0}, ValueError, "stride is 0, allowed is at least 1"),
    "padding": ({"padding": "reflect"}, ValueError, "padding is 'reflect', allowed are 'same', "),
    "dilation": ({"dilation": (1, 0)}, ValueError, "dilation is (1, 0), allowed is at least 1"),
    "algorithm": (
        {"algorithm": "fourier"},
        ValueError,
        "algorithm is 'fourier', allowed are 'auto', 'fft', 'lowpass', 'matmul', 'triton'",
    ),
    "energy mode": (
        {"energy": 0.5, "energy_mode": "exact"},
        ValueError,
        "energy_mode is 'exact', allowed are 'coarse', 'fine'",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name: str) -> None:
    arguments, error, message = MESSAGES[name]
    with pytest.raises(error, match=re.escape(message)) as raised:
        pb.band_limited_conv2d(**{"input": X, "weight": W, "groups": 2, **arguments})
    assert "\n" not in str(raised.value)


def test_under_autocast_types_may_differ() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = pb.band_limited_conv2d(X.bfloat16(), W, groups=2, compression=0.5)
    assert found.dtype == torch.bfloat16
