"""The convolution by the kernels against the reference in float64."""

import pytest
import torch
from torch import Tensor

import passband as pb
from passband.ops.band_limited_conv.geometry import ConvGeometry, conv_geometry
from passband.ops.band_limited_conv.native import convolution
from passband.ops.band_limited_conv.op import (
    band_limited_conv,
    band_limited_conv_backward,
    geometry_arguments,
)
from tests.ops.band_limited_conv.cases import Call
from tests.ops.band_limited_conv.native.cases import CHANNELS, assert_right, draw_call
from tests.support import assert_close, output_and_gradients, random

HALF = {"compression": 0.5}
BOTH = ["forward", "backward"]


@pytest.mark.parametrize("part", range(12))
def test_random_calls(part: int, kernels: list[str]) -> None:
    calls = [draw_call(index) for index in range(10 * part, 10 * (part + 1))]
    for call in calls:
        assert_right(call)
    assert kernels == BOTH * len(calls)


def test_random_calls_are_of_every_kind() -> None:
    """So that agreement means something."""
    calls = [draw_call(index) for index in range(120)]
    assert {call.axes for call in calls} == {1, 2}
    assert {call.input_shape[1] for call in calls} == set(CHANNELS)
    assert {call.weight_shape[0] for call in calls} == set(CHANNELS)
    assert any(len(set(call.weight_shape[2:])) == 2 for call in calls)
    geometries = [
        conv_geometry(call.input_shape[2:], call.weight_shape[2:], **call.convolution, **call.band)
        for call in calls
    ]
    assert {g.keeps_map for g in geometries} == {True, False}
    assert any(g.grid != g.padded_size for g in geometries)
    assert any(g.band.is_full for g in geometries)


def test_random_calls_by_every_instruction_set(instruction_set: str, kernels: list[str]) -> None:
    for index in range(200, 215):
        assert_right(draw_call(index))
    assert kernels == BOTH * 15


@pytest.mark.parametrize("outputs", [1, 3, 15, 16, 17, 63, 64, 65, 130])
def test_numbers_of_channels(outputs: int, kernels: list[str]) -> None:
    for inputs in (1, 3, 15, 16, 17, 63, 64, 65, 130):
        assert_right(Call((2, inputs, 6, 7), (outputs, inputs, 3, 3), {"padding": 1}, HALF))
    assert kernels == BOTH * 9


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 33])
def test_sizes_of_batches(batch: int, axes: int, kernels: list[str]) -> None:
    for channels in (2, 5, 64):
        shape = (batch, channels, 9, 10)[: axes + 2]
        assert_right(Call(shape, (7, channels, 3, 3)[: axes + 2], {"padding": 1}, HALF))
    assert kernels == BOTH * 3


@pytest.mark.parametrize("axes", [1, 2])
def test_an_empty_batch(axes: int, kernels: list[str]) -> None:
    call = Call((0, 5, 9, 10)[: axes + 2], (7, 5, 3, 3)[: axes + 2], {"padding": 1}, HALF)
    tensors = call.tensors(torch.float32)
    expected = output_and_gradients(call.native(), tensors)
    for name, value in output_and_gradients(call.ours("matmul"), tensors).items():
        assert torch.equal(value, expected[name])
    assert kernels == BOTH


@pytest.mark.parametrize("least_images", [1, 3, 100])
def test_blocks_of_images_and_of_lanes(
    least_images: int, kernels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the last block is a part of one, and where the map is kept."""
    monkeypatch.setattr(convolution, "_CACHED_BYTES", 1)
    monkeypatch.setattr(convolution, "_LEAST_IMAGES", least_images)
    seen: list[tuple[int, int]] = []
    parts = convolution._parts

    def noted(total: int, size: int) -> list[tuple[int, int]]:
        seen.append((total, size))
        return list(parts(total, size))

    monkeypatch.setattr(convolution, "_parts", noted)
    # filters of 1x1 take little memory, so that blocks of images are small
    for band in ({"band": (3, 5)}, {"band": (5, 6)}):
        for channels in ((70, 130), (130, 70)):
            call = Call((7, channels[0], 9, 10), (channels[1], channels[0], 1, 1), {}, band)
            assert_right(call)
    assert kernels == BOTH * 4
    assert (130, 64) in seen and (70, 64) in seen
    images = {size for total, size in seen if total == 7}
    assert (images == {7}) == (least_images == 100)


def test_blocks_by_every_instruction_set(
    instruction_set: str, kernels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "_CACHED_BYTES", 1)
    monkeypatch.setattr(convolution, "_LEAST_IMAGES", 2)
    assert_right(Call((5, 70, 9, 10), (130, 70, 3, 3), {"padding": 1}, HALF))
    assert_right(Call((5, 70, 40), (130, 70, 3), {"padding": 1}, HALF))
    assert kernels == BOTH * 2


def test_numbers_of_threads(kernels: list[str]) -> None:
    """Which thread takes which part does not matter."""
    for call in (
        Call((7, 70, 13, 12), (130, 70, 3, 3), {"padding": 1}, HALF),
        Call((33, 3, 50), (5, 3, 5), {"padding": 2}, HALF),
    ):
        tensors, results = call.tensors(torch.float32), []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(output_and_gradients(call.ours("matmul"), tensors))
        for result in results[1:]:
            for name, value in result.items():
                assert_close(value, results[0][name])
    assert kernels == BOTH * 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("axes", [1, 2])
def test_short_types(axes: int, dtype: torch.dtype, kernels: list[str]) -> None:
    """Of the same numbers in float64; the tolerances say what is rounded."""
    call = Call((3, 17, 12, 13)[: axes + 2], (18, 17, 3, 3)[: axes + 2], {"padding": 1}, HALF)
    assert_right(call, call.tensors(dtype))
    assert kernels == BOTH


def test_autocast(kernels: list[str]) -> None:
    call = Call((3, 17, 12, 13), (18, 17, 3, 3), {"padding": 1}, HALF)
    tensors = call.tensors(torch.float32)

    def under_autocast(**leaves: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return call.ours("matmul")(**leaves)

    found = output_and_gradients(under_autocast, tensors)
    expected = output_and_gradients(call.ours("fft"), {n: t.double() for n, t in tensors.items()})
    assert found["output"].dtype == torch.bfloat16
    for name, value in found.items():
        # output, kept spectrum and cotangent are rounded to bfloat16, the gradients to float32
        assert_close(value, expected[name], 3 * 2**-8)
    assert kernels == BOTH


@pytest.mark.parametrize("names", [("input",), ("weight",), ("bias",)], ids="".join)
@pytest.mark.parametrize("band", [{"band": 3}, {"band": 5}], ids=["spectrum kept", "map kept"])
def test_one_tensor_alone_needs_a_gradient(
    names: tuple[str, ...], band: dict[str, int], kernels: list[str]
) -> None:
    call = Call((3, 17, 9, 8), (18, 17, 3, 3), {"padding": 1}, band)
    tensors = call.tensors(torch.float32)
    fixed = {name: tensor for name, tensor in tensors.items() if name not in names}
    free = {name: tensor for name, tensor in tensors.items() if name in names}
    found = output_and_gradients(lambda **some: call.ours("matmul")(**fixed, **some), free)
    every = output_and_gradients(call.ours("fft"), tensors)
    assert len(found) == 2
    for name, value in found.items():
        assert_close(value, every[name])
    assert kernels == (BOTH if names != ("bias",) else ["forward"])


def test_without_gradients_it_is_the_same(kernels: list[str]) -> None:
    """Also with an input that is a leaf of a graph, and in inference mode."""
    call = Call((3, 17, 9, 8), (18, 17, 3, 3), {"padding": 1}, HALF)
    tensors = call.tensors(torch.float32)
    with_gradients = output_and_gradients(call.ours("matmul"), tensors)["output"]
    assert torch.equal(call.ours("matmul")(**tensors), with_gradients)
    with torch.no_grad():
        tensors["input"].requires_grad_()
        assert torch.equal(call.ours("matmul")(**tensors), with_gradients)
    with torch.inference_mode():
        assert torch.equal(call.ours("matmul")(**tensors), with_gradients)
    # the memory kept from inference mode serves a pass that is differentiated
    again = output_and_gradients(call.ours("matmul"), call.tensors(torch.float32))
    assert torch.equal(again["output"], with_gradients)
    assert kernels == [*BOTH, "forward", "forward", "forward", *BOTH]


def geometry_of(call: Call) -> ConvGeometry:
    return conv_geometry(
        call.input_shape[2:], call.weight_shape[2:], **call.convolution, **call.band
    )


SECOND = [
    Call((3, 5, 9, 8), (17, 5, 3, 2), {"padding": 1, "stride": (1, 2)}, HALF, bias=False),
    Call((3, 5, 7, 6), (17, 5, 3, 3), {}, {"band": (4, 4)}, bias=False),
    Call((3, 17, 30), (5, 17, 4), {"padding": 1}, HALF, bias=False),
]


@pytest.mark.parametrize("call", SECOND, ids=["2d", "2d map kept", "1d"])
def test_from_a_spectrum(call: Call, kernels: list[str]) -> None:
    """What the fine energy mode and second derivatives call, against torch's float64."""
    geometry, arguments = geometry_of(call), geometry_arguments(geometry_of(call))
    frequencies = geometry.band.real_sizes
    count = int(torch.tensor(frequencies).prod())
    tensors = {
        "spectrum": random(count, *call.input_shape[:2], dtype=torch.float32),
        "weight": random(*call.weight_shape, dtype=torch.float32, seed=1),
    }
    # of a spectrum that does not lie in memory in order, too
    tensors["spectrum"] = tensors["spectrum"].mT.contiguous().mT

    def convolve(spectrum: Tensor, weight: Tensor) -> Tensor:
        output, kept = band_limited_conv(spectrum, weight, None, *arguments, "matmul", None, True)
        assert kept.numel() == 0
        return output

    found = output_and_gradients(convolve, tensors)
    assert kernels == BOTH
    long = {name: tensor.double() for name, tensor in tensors.items()}
    for name, value in output_and_gradients(convolve, long).items():
        assert_close(found[name], value)
    assert kernels == BOTH  # float64 is not theirs


@pytest.mark.parametrize("call", SECOND, ids=["2d", "2d map kept", "1d"])
def test_second_derivatives(call: Call, kernels: list[str]) -> None:
    """A gradient penalty, whose own gradient reaches every tensor."""

    def penalty_gradients(algorithm: str, dtype: torch.dtype) -> list[Tensor]:
        leaves = {n: t.requires_grad_() for n, t in call.tensors(dtype).items()}
        output = call.ours(algorithm)(**leaves)
        slopes = torch.autograd.grad(output.sin().sum(), leaves.values(), create_graph=True)
        return list(torch.autograd.grad(sum(s.square().sum() for s in slopes), leaves.values()))

    found = penalty_gradients("matmul", torch.float32)
    assert len(kernels) > len(BOTH) * 2
    for value, expected in zip(found, penalty_gradients("fft", torch.float64), strict=True):
        # errors of the output's sine and of a sum of squares of gradients are added to one another
        assert_close(value, expected, 1e-4)


# the check itself makes strided copies that are no leaves, and asks for their gradients
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_operators_keep_their_promises() -> None:
    """Schemas, shapes and strides without values, and tracing, as torch.library checks them."""
    for call in SECOND:
        geometry = geometry_of(call)
        arguments = (*geometry_arguments(geometry), "matmul", None, False)
        for order in (torch.contiguous_format, torch.channels_last)[: call.axes]:
            x, w = (t.requires_grad_() for t in call.tensors(torch.float32).values())
            x = x.detach().contiguous(memory_format=order).requires_grad_()
            torch.library.opcheck(band_limited_conv, (x, w, None, *arguments))
            output, spectrum = band_limited_conv(x, w, None, *arguments)
            kept = x if geometry.keeps_map else spectrum
            leaves = (output.detach().requires_grad_(), kept.detach().requires_grad_(), w)
            torch.library.opcheck(band_limited_conv_backward, (*leaves, *arguments, True, True))


def test_compiled(kernels: list[str]) -> None:
    """What torch.compile makes of it calls the kernels."""
    call = Call((3, 5, 9, 8), (6, 5, 3, 3), {"padding": 1}, HALF)
    tensors = call.tensors(torch.float32)
    expected = output_and_gradients(call.ours("matmul"), tensors)
    compiled = torch.compile(call.ours("matmul"), fullgraph=True, backend="aot_eager")
    for name, value in output_and_gradients(compiled, tensors).items():
        assert_close(value, expected[name])
    assert kernels == BOTH * 2


def test_a_whole_network_is_trained_by_them(kernels: list[str]) -> None:
    """Two layers and a step, against the same by torch alone."""

    def step() -> Tensor:
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            pb.BandLimitedConv2d(3, 8, 3, padding=1, **HALF, algorithm="matmul"),
            torch.nn.ReLU(),
            pb.BandLimitedConv2d(8, 4, 3, padding=1, **HALF, algorithm="matmul"),
        )
        model(random(4, 3, 12, 11, dtype=torch.float32)).square().mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    found = step()
    assert kernels == [*["forward"] * 2, *["backward"] * 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "load_library", lambda: None)
        expected = step()
    assert len(kernels) == 4
    assert_close(found, expected)
