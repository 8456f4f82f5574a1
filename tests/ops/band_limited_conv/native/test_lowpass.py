"""The low-pass by the kernels against the reference in float64."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import passband as pb
from passband.ops.band_limited_conv import op
from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.ops.band_limited_conv.layout import is_channels_last
from passband.ops.band_limited_conv.lowpass import BY_TORCH, LowPass
from passband.ops.band_limited_conv.native import library, lowpass
from tests.ops.band_limited_conv.cases import Call
from tests.ops.band_limited_conv.native.cases import assert_right, draw_call
from tests.support import assert_close, random


@pytest.fixture
def transforms(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The transforms that the kernels have computed in this test."""
    if library.load_library() is None:
        pytest.skip("no kernels are compiled here")
    done: list[str] = []

    def noted(name: str, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*arguments: object) -> Tensor:
            done.append(name)
            return original(*arguments)

        return call

    by_kernels = lowpass.BY_KERNELS
    counting = LowPass(noted("spectra", by_kernels.to_spectra), noted("maps", by_kernels.to_maps))
    monkeypatch.setattr(lowpass, "BY_KERNELS", counting)
    return done


def low_passed(index: int) -> Call | None:
    """A random call, with groups of channels where its numbers allow; None at full band."""
    call = draw_call(index)
    geometry = conv_geometry(
        call.input_shape[2:], call.weight_shape[2:], **call.convolution, **call.band
    )
    outputs, inputs, *kernel = call.weight_shape
    if index % 2 and inputs % 2 == 0 and outputs % 2 == 0:
        call = replace(
            call,
            weight_shape=(outputs, inputs // 2, *kernel),
            convolution={**call.convolution, "groups": 2},
        )
    return None if geometry.band.is_full else call


CALLS = [call for call in map(low_passed, range(300, 360)) if call is not None]


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_random_calls(call: Call, transforms: list[str]) -> None:
    assert_right(call, algorithm="lowpass")
    assert {"spectra", "maps"} == set(transforms)


def test_random_calls_are_of_every_kind() -> None:
    geometries = [
        conv_geometry(call.input_shape[2:], call.weight_shape[2:], **call.convolution, **call.band)
        for call in CALLS
    ]
    assert {g.axes for g in geometries} == {1, 2}
    assert {g.groups for g in geometries} == {1, 2}
    assert {g.keeps_map for g in geometries} == {True, False}
    assert any(
        g.axes == 2 and {g.band.is_full_axis(0), g.band.is_full_axis(1)} == {True, False}
        for g in geometries
    )


def test_by_every_instruction_set(instruction_set: str, transforms: list[str]) -> None:
    for call in CALLS[:8]:
        assert_right(call, algorithm="lowpass")
    assert transforms


@pytest.mark.parametrize("channels", [1, 3, 16, 64, 70])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size", [(5, 7), (33, 40)])
def test_spectra_lie_as_maps_do(
    channels: int, form: torch.memory_format, size: tuple[int, int]
) -> None:
    if library.load_library() is None:
        pytest.skip("no kernels are compiled here")
    geometry = conv_geometry(size, (3, 3), padding=1, compression=0.5)
    maps = random(3, channels, *size, dtype=torch.float32).contiguous(memory_format=form)
    spectrum = lowpass.BY_KERNELS.analyze(maps, geometry)
    by_torch = BY_TORCH.analyze(maps, geometry)
    assert spectrum.is_contiguous(memory_format=form)
    assert is_channels_last(spectrum) == is_channels_last(by_torch)
    assert_close(spectrum, by_torch)
    for padded in (True, False):
        found = lowpass.BY_KERNELS.to_maps(spectrum, geometry, padded)
        assert is_channels_last(found) == is_channels_last(maps)
        assert_close(found, BY_TORCH.to_maps(by_torch, geometry, padded))


def test_a_cropped_view_is_read_where_it_lies(transforms: list[str]) -> None:
    """As the gradient of a map is that was padded with zeros."""
    call = Call((2, 3, 12, 9), (4, 3, 4, 3), {"padding": "same"}, {"band": (3, 6)})
    assert_right(call, algorithm="lowpass")
    assert transforms == ["spectra", "maps", "maps", "spectra", "maps"]


def test_evaluation_needs_no_operator(
    transforms: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(op, "_forward", None)  # whoever calls it fails
    x, w = random(2, 4, 9, 8, dtype=torch.float32), random(6, 2, 3, 3, dtype=torch.float32)
    arguments = {"padding": 1, "groups": 2, "compression": 0.5}
    found = pb.band_limited_conv2d(x, w, **arguments, algorithm="lowpass")
    assert transforms == ["spectra", "maps"]
    assert_close(found, pb.band_limited_conv2d(x.double(), w.double(), **arguments))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_transformed_in_float32(
    dtype: torch.dtype, transforms: list[str]
) -> None:
    x, w = random(2, 4, 9, 8).to(dtype), random(6, 4, 3, 3).to(dtype)
    found = pb.band_limited_conv2d(x, w, padding=1, compression=0.5, algorithm="lowpass")
    assert found.dtype == dtype
    assert transforms == ["spectra", "maps"]
    expected = pb.band_limited_conv2d(x.double(), w.double(), padding=1, compression=0.5)
    assert_close(found, expected)


def test_float64_three_axes_and_the_full_band_are_torchs(transforms: list[str]) -> None:
    for size, dtype, band in (
        ((9, 8), torch.float64, {"compression": 0.5}),
        ((5, 6, 7), torch.float32, {"compression": 0.5}),
        ((9, 8), torch.float32, {}),
    ):
        x, w = random(2, 3, *size, dtype=dtype), random(4, 3, *[3] * len(size), dtype=dtype)
        Call(tuple(x.shape), tuple(w.shape), {"padding": 1}, band, bias=False).ours("lowpass")(
            input=x, weight=w
        )
    assert transforms == []
