"""Short floating types, memory orders, empty and tiny maps, values that are not finite."""

import pytest
import torch

import passband as pb
from passband.ops.band_limited_conv import matmul
from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.ops.band_limited_conv.lowpass import BY_TORCH
from tests.ops.band_limited_conv.cases import FAST, NATIVE, OURS, Call
from tests.support import TOLERANCE, assert_close, output_and_gradients, random

algorithms = pytest.mark.parametrize("algorithm", ["fft", *FAST])
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@algorithms
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "call",
    [
        Call((2, 8, 65), (8, 8, 5), {"padding": 2}, {"compression": 0.5}),
        Call((2, 8, 17, 16), (8, 8, 3, 3), {"padding": 1}, {"compression": 0.5}),
        Call((2, 8, 17, 16), (8, 4, 3, 3), {"padding": 1, "stride": 2, "groups": 2}, {"band": 3}),
        Call((2, 8, 17, 16), (8, 8, 3, 3), {"padding": 1}, {}),
        Call((2, 8, 9, 8), (8, 8, 3, 3), {}, {"energy": 0.7, "energy_mode": "fine"}),
        Call((1, 4, 5, 6, 7), (4, 4, 3, 3, 3), {"padding": 1}, {"compression": 0.5}),
    ],
    ids=["1d", "2d", "2d groups", "2d full", "2d energy", "3d"],
)
def test_short_types_are_near_to_float64(call: Call, dtype: torch.dtype, algorithm: str) -> None:
    """Of the same numbers; the tolerances say what is rounded on the way."""
    short = call.tensors(dtype)
    found = output_and_gradients(call.ours(algorithm), short)
    long = {name: tensor.double() for name, tensor in short.items()}
    # the cotangent is rounded as well: one more rounding of the same size
    expected = output_and_gradients(call.ours("fft"), long)
    for name, value in found.items():
        assert value.dtype == dtype
        assert_close(value, expected[name])


@pytest.mark.parametrize("module", [BY_TORCH, matmul], ids=["lowpass", "matmul"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_transforms_are_computed_in_float32_at_least(dtype: torch.dtype, module) -> None:
    geometry = conv_geometry((9, 8), (3, 3), compression=0.5)
    spectrum = module.analyze(random(2, 3, 9, 8, dtype=dtype), geometry)
    at_least = dtype if dtype == torch.float64 else torch.float32
    assert spectrum.dtype == at_least
    assert module.analyze_adjoint(spectrum.to(dtype), geometry).dtype == at_least


@algorithms
def test_float16_transforms_do_not_overflow(algorithm: str) -> None:
    """The sum over a map may exceed 65504 where the output does not."""
    x = torch.full((1, 1, 64, 64), 100.0, dtype=torch.float16)
    w = torch.full((1, 1, 1, 1), 1.0, dtype=torch.float16)
    found = pb.band_limited_conv2d(x, w, compression=0.5, algorithm=algorithm)
    assert_close(found, x, TOLERANCE[torch.float16])


LAYOUTS = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "every second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "channels innermost": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "batch innermost": lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0),
    "expanded": lambda t: t[:1].expand(t.shape),
    "offset": lambda t: torch.cat([t, t])[len(t) :],
}


@algorithms
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_matter(layout: str, axes: int, algorithm: str) -> None:
    call = Call((4, 4, 9, 8, 5)[: axes + 2], (4, 2, 3, 3, 3)[: axes + 2],
                {"padding": 1, "groups": 2}, {"compression": 0.5})  # fmt: skip
    tensors = call.tensors(torch.float64)
    strided = {n: t if n == "bias" else LAYOUTS[layout](t) for n, t in tensors.items()}
    assert not strided["input"].is_contiguous() or layout == "offset"
    compact = {n: t.clone(memory_format=torch.contiguous_format) for n, t in strided.items()}
    expected = output_and_gradients(call.ours(algorithm), compact)
    for name, value in output_and_gradients(call.ours(algorithm), strided).items():
        assert_close(value, expected[name])


@pytest.mark.parametrize("band", [{"compression": 0.5}, {"band": 5}, {}], ids=str)
@pytest.mark.parametrize("algorithm", FAST)
@pytest.mark.parametrize("axes", [2, 3])
def test_channels_last_gives_channels_last(axes: int, algorithm: str, band) -> None:
    """In the output and in the gradient of the input, as torch's convolutions do."""
    call = Call((2, 4, 9, 8, 9)[: axes + 2], (6, 4, 3, 3, 3)[: axes + 2], {"padding": 1}, band)
    order = CHANNELS_LAST[axes + 2]
    tensors = call.tensors(torch.float32)
    x = tensors.pop("input").contiguous(memory_format=order).requires_grad_()
    output = call.ours(algorithm)(input=x, **tensors)
    assert output.is_contiguous(memory_format=order)
    (gradient,) = torch.autograd.grad(output, x, torch.ones_like(output))
    assert gradient.is_contiguous(memory_format=order)


@pytest.mark.parametrize("algorithm", FAST)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_contiguous_gives_contiguous(axes: int, algorithm: str) -> None:
    """Maps of one channel, which are in both orders at once, included."""
    for channels in (4, 1):
        input_shape, weight_shape = (2, channels, 9, 8, 9), (6, channels, 3, 3, 3)
        call = Call(input_shape[: axes + 2], weight_shape[: axes + 2], {}, {"compression": 0.5})
        tensors = call.tensors(torch.float32)
        x = tensors.pop("input").requires_grad_()
        output = call.ours(algorithm)(input=x, **tensors)
        assert output.is_contiguous()
        (gradient,) = torch.autograd.grad(output, x, torch.ones_like(output))
        assert gradient.is_contiguous()


@algorithms
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_an_empty_batch(axes: int, algorithm: str) -> None:
    """No maps out, and gradients of zero."""
    call = Call((0, 4, 9, 8, 7)[: axes + 2], (6, 2, 3, 3, 3)[: axes + 2],
                {"padding": 1, "stride": 2, "groups": 2}, {"compression": 0.5})  # fmt: skip
    tensors = call.tensors(torch.float32)
    found = output_and_gradients(call.ours(algorithm), tensors)
    expected = output_and_gradients(call.native(), tensors)
    for name, value in found.items():
        assert torch.equal(value, expected[name])


@algorithms
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_maps_of_one_point(axes: int, algorithm: str) -> None:
    """With a band of one coefficient and with the full one, with padding and without."""
    ones = (1,) * axes
    x, w = random(3, 4, *ones), random(5, 4, *ones, seed=1)
    found = OURS[axes](x, w, compression=0.5, algorithm=algorithm)
    assert_close(found, NATIVE[axes](x, w))  # one coefficient is all there is
    padded = OURS[axes](x, w, padding=1, band=1, algorithm=algorithm)
    # the mean over 3 points per axis, everywhere
    assert_close(padded, NATIVE[axes](x, w).expand(padded.shape) / 3**axes)


@algorithms
def test_one_coefficient_is_the_mean_times_the_sum_of_the_filter(algorithm: str) -> None:
    x, w = random(2, 3, 9, 8), random(4, 3, 3, 2, seed=1)
    found = pb.band_limited_conv2d(x, w, band=1, algorithm=algorithm)
    means, sums = x.mean((2, 3)), w.sum((2, 3))
    assert_close(found, (means @ sums.T)[:, :, None, None].expand(found.shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("band", [{"compression": 0.5}, {}, {"energy": 0.5}], ids=str)
@algorithms
def test_what_is_not_finite_propagates(algorithm: str, band, value: float) -> None:
    """Wherever torch's output is not finite ours is not, and other maps and groups stay clean."""
    call = Call((3, 4, 9, 8), (6, 2, 3, 3), {"padding": 1, "groups": 2}, band)
    tensors = call.tensors(torch.float64)
    tensors["input"][1, 0, 4, 3] = value
    torchs = call.native()(**tensors).isfinite()
    found = call.ours(algorithm)(**tensors)
    assert not torchs.all()
    assert not found.isfinite()[~torchs].any()
    assert found[[0, 2]].isfinite().all()
    assert found[:, 3:].isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@algorithms
def test_a_filter_that_is_not_finite_spoils_its_own_output_only(algorithm: str, value) -> None:
    call = Call((3, 4, 9, 8), (6, 2, 3, 3), {"padding": 1, "groups": 2}, {"compression": 0.5})
    tensors = call.tensors(torch.float64)
    tensors["weight"][2, 1, 0, 0] = value
    found = call.ours(algorithm)(**tensors).isfinite()
    assert not found[:, 2].any()
    assert found[:, [0, 1, 3, 4, 5]].all()


@pytest.mark.parametrize("algorithm", FAST)
def test_a_map_that_is_kept_must_not_be_changed(algorithm: str) -> None:
    """At full band the map is what is kept, as in torch; elsewhere its spectrum is, a copy."""
    x, w = random(1, 1, 9, 9), random(1, 1, 3, 3).requires_grad_()
    output = pb.band_limited_conv2d(x, w, algorithm=algorithm)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
