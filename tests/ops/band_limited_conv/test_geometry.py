import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.spectrum.band import band_from_compression
from tests.support import properties

NATIVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@st.composite
def convolutions(draw: st.DrawFn):
    """Size, kernel, stride, padding, dilation of a convolution that torch accepts."""
    axes = draw(st.integers(1, 3))
    numbers = st.integers(1, 3)
    kernel, dilation, stride = (draw(st.tuples(*[numbers] * axes)) for _ in range(3))
    padding = draw(st.sampled_from(["valid", "same", 0, 1, (2, 0, 1)[:axes]]))
    if padding == "same":
        stride = 1
    least = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = tuple(n + draw(st.integers(0, 4)) for n in least)
    return size, kernel, stride, padding, dilation


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@properties
@given(convolutions())
def test_output_sizes_are_torchs(convolution) -> None:
    size, kernel, stride, padding, dilation = convolution
    geometry = conv_geometry(size, kernel, stride, padding, dilation)
    native = NATIVE[len(size)](
        torch.ones(1, 1, *size), torch.ones(1, 1, *kernel), None, stride, padding, dilation
    )
    assert geometry.output_size == native.shape[2:]
    if padding == "same":
        assert geometry.output_size == size
    assert geometry.grid == geometry.padded_size
    assert geometry.band.is_full


def test_same_padding_puts_the_odd_zero_behind() -> None:
    """A filter of one tap among zeros shows where torch puts the map."""
    geometry = conv_geometry((5,), (4,), padding="same", dilation=3)
    assert geometry.padding == ((4, 5),)


@pytest.mark.parametrize("form", [2, (2,), [2], (2, 2), torch.Size([2, 2])])
def test_forms_of_an_argument_mean_the_same(form) -> None:
    assert conv_geometry((9, 8), (3, 3), form, form, form, band=form) == conv_geometry(
        (9, 8), (3, 3), 2, 2, 2, band=2
    )


def test_the_band_lies_on_the_padded_map_or_on_the_grid_given() -> None:
    padded = conv_geometry((32, 30), (3, 3), padding=1, compression=0.5)
    assert padded.grid == (34, 32)
    assert padded.kept == band_from_compression((34, 32), 0.5).kept
    larger = conv_geometry((32, 30), (3, 3), padding=1, compression=0.5, fft_size=64)
    assert larger.grid == (64, 64)
    assert larger.kept == band_from_compression((64, 64), 0.5).kept


@pytest.mark.parametrize("compression", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("size", [(2, 2), (3, 4), (8, 8), (5, 17)])
def test_what_is_smaller_is_kept(size: tuple[int, int], compression: float) -> None:
    geometry = conv_geometry(size, (3, 3), padding=1, compression=compression)
    rows, columns = geometry.band.real_sizes
    assert geometry.keeps_map == (rows * columns >= size[0] * size[1])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"stride": 0}, ValueError, "stride is 0, allowed is at least 1"),
        ({"stride": (1, -2)}, ValueError, "stride is (1, -2), allowed is at least 1"),
        ({"stride": 1.5}, TypeError, "stride must be a whole number or a tuple of 2, got 1.5"),
        ({"stride": True}, TypeError, "stride must be a whole number or a tuple of 2, got True"),
        ({"stride": (1, 1, 1)}, ValueError, "stride is (1, 1, 1), allowed is one number or 2"),
        ({"stride": ()}, ValueError, "stride is (), allowed is one number or 2 of them"),
        ({"padding": -1}, ValueError, "padding is -1, allowed is at least 0"),
        ({"padding": (1, 0.5)}, TypeError, "padding must be a whole number or a tuple of 2"),
        ({"padding": "full"}, ValueError, "padding is 'full', allowed are 'same', 'valid' or"),
        (
            {"padding": "same", "stride": 2},
            ValueError,
            "padding='same' needs stride 1, but stride is (2, 2)",
        ),
        ({"dilation": 0}, ValueError, "dilation is 0, allowed is at least 1"),
        ({"dilation": None}, TypeError, "dilation must be a whole number or a tuple of 2"),
        ({"fft_size": 0}, ValueError, "fft_size is 0, allowed is at least 1"),
        ({"fft_size": "128"}, TypeError, "fft_size must be a whole number or a tuple of 2"),
        (
            {"fft_size": (16, 7)},
            ValueError,
            "fft_size is (16, 7), allowed is at least the padded map, (9, 8) points",
        ),
        (
            {"fft_size": 9, "padding": 1},
            ValueError,
            "fft_size is (9, 9), allowed is at least the padded map, (11, 10) points",
        ),
        (
            {"band": (5, 6)},
            ValueError,
            "band is 6 on axis 1, but a grid of 8 points has 1 to 5 half-spectrum coefficients",
        ),
        ({"band": (1, 2, 3)}, ValueError, "band is (1, 2, 3), allowed is one number or 2 of them"),
        (
            {"dilation": (4, 2)},
            ValueError,
            "the padded map has (9, 8) points, fewer than the filter's span of (9, 9); use a",
        ),
    ],
)
def test_messages(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        conv_geometry((9, 8), (3, 5), **arguments)
