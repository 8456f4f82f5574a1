"""The convolution by the kernels against the reference in float64."""

import gc
import threading
from collections.abc import Callable
from pathlib import Path

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
from tests.support import assert_close, output_and_gradients, random, relative_error

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


def sliced(maps: Tensor, axis: int, order: torch.memory_format) -> Tensor:
    """A slice along an axis of a tensor that is NaN elsewhere."""
    shape = list(maps.shape)
    shape[axis] += 3
    whole = torch.full(shape, float("nan"), dtype=maps.dtype).contiguous(memory_format=order)
    part = whole.narrow(axis, 2, maps.shape[axis])
    part.copy_(maps)
    return part


IN_ROWS, IN_CHANNELS = torch.contiguous_format, torch.channels_last
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda t: t.contiguous(memory_format=IN_CHANNELS),
    "transposed": lambda t: t.mT.contiguous().mT,
    "every second": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "every second row": lambda t: t.repeat_interleave(2, -2)[..., ::2, :],
    "batch innermost": lambda t: t.movedim(0, -1).contiguous().movedim(-1, 0),
    "expanded over the batch": lambda t: t[:1].expand(t.shape),
    "expanded over channels": lambda t: t[:, :1].expand(t.shape),
    "expanded over the map": lambda t: t[..., :1, :1].expand(t.shape),
    "part of the images": lambda t: sliced(t, 0, IN_ROWS),
    "part of the channels": lambda t: sliced(t, 1, IN_ROWS),
    "part of the rows": lambda t: sliced(t, 2, IN_ROWS),
    "part of the columns": lambda t: sliced(t, 3, IN_ROWS),
    "part of the images, channels last": lambda t: sliced(t, 0, IN_CHANNELS),
    "part of the channels, channels last": lambda t: sliced(t, 1, IN_CHANNELS),
    "part of the columns, channels last": lambda t: sliced(t, 3, IN_CHANNELS),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_orders_of_input_and_weight(layout: str, kernels: list[str]) -> None:
    """For channels a multiple of each register's width, and for a map small enough to be flat."""
    for channels in (3, 4, 8, 17, 48, 64):
        for size in ((9, 8), (17, 19)):
            call = Call((3, channels, *size), (18, channels, 3, 2), {"padding": 1}, HALF)
            tensors = call.tensors(torch.float32)
            for name in ("input", "weight"):
                tensors[name] = LAYOUTS[layout](tensors[name])
                assert not tensors[name].is_contiguous() or "images" in layout
            assert_right(call, tensors)
    assert kernels == BOTH * 12


@pytest.mark.parametrize("layout", ["channels last", "part of the channels, channels last"])
def test_memory_orders_by_every_instruction_set(
    layout: str, instruction_set: str, kernels: list[str]
) -> None:
    for channels in (4, 8, 17, 48, 80):
        call = Call((3, channels, 9, 8), (channels, channels, 3, 3), {"padding": 1}, HALF)
        tensors = call.tensors(torch.float32)
        tensors["input"] = LAYOUTS[layout](tensors["input"])
        assert_right(call, tensors, lambda output: output.movedim(1, -1))
    assert kernels == BOTH * 5


@pytest.mark.parametrize("layout", ["transposed", "every second", "batch innermost"])
def test_memory_orders_of_series(layout: str, kernels: list[str]) -> None:
    """Which are maps of one row."""
    for channels in (3, 16, 65):
        call = Call((3, channels, 45), (5, channels, 5), {"padding": 2}, HALF)
        tensors = call.tensors(torch.float32)
        tensors["input"] = LAYOUTS[layout](tensors["input"])
        assert not tensors["input"].is_contiguous()
        assert_right(call, tensors, lambda output: output.mT)
    assert kernels == BOTH * 3


# What is done with the output, by the memory of the gradient that it sends back.
GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded over the map": lambda t: t.sum((2, 3)),
    "expanded over channels": lambda t: t.sum(1),
    "expanded over the batch": lambda t: t.sum(0),
    "expanded over all": lambda t: t.square().sum() + t.sum(),
    "channels last": lambda t: t.movedim(1, -1),
    "transposed": lambda t: t.mT,
    "batch innermost": lambda t: t.movedim(0, -1),
    "part of the channels": lambda t: torch.cat([t.detach(), t], 1),
    "part of the columns": lambda t: torch.cat([t.detach(), t, t.detach()], 3),
}


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_memory_orders_of_gradients(gradient: str, kernels: list[str]) -> None:
    for outputs in (3, 16, 17, 65):
        call = Call((3, 5, 9, 8), (outputs, 5, 3, 3), {"padding": 1}, HALF)
        assert_right(call, after=GRADIENTS[gradient])
    assert kernels == BOTH * 4


def test_tensors_that_start_anywhere_in_memory(kernels: list[str]) -> None:
    """One number on from where an allocator puts them."""
    call = Call((3, 16, 9, 8), (18, 16, 3, 3), {"padding": 1}, HALF)
    shifted = {
        name: torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)
        for name, tensor in call.tensors(torch.float32).items()
    }
    assert all(tensor.data_ptr() % 16 for tensor in shifted.values())
    assert_right(call, shifted)
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
        for order in (IN_ROWS, IN_CHANNELS)[: call.axes]:
            x, w = (t.requires_grad_() for t in call.tensors(torch.float32).values())
            x = x.detach().contiguous(memory_format=order).requires_grad_()
            torch.library.opcheck(band_limited_conv, (x, w, None, *arguments))
            output, spectrum = band_limited_conv(x, w, None, *arguments)
            kept = x if geometry.keeps_map else spectrum
            leaves = (output.detach().requires_grad_(), kept.detach().requires_grad_(), w)
            torch.library.opcheck(band_limited_conv_backward, (*leaves, *arguments, True, True))


# ---- values that are not finite ------------------------------------------------------------------


NOT_FINITE = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("channels", [3, 16, 65])
def test_what_is_not_finite_stays_in_its_image(
    channels: int, value: float, kernels: list[str]
) -> None:
    """Wherever torch's output or gradient is not finite ours is not, and other images are clean."""
    call = Call((33, channels, 9, 8), (17, channels, 3, 3), {"padding": 1}, HALF)
    for order in (IN_ROWS, IN_CHANNELS):
        tensors = call.tensors(torch.float32)
        tensors["input"] = tensors["input"].contiguous(memory_format=order)
        tensors["input"][7, -1, 4, 3] = value
        found = output_and_gradients(call.ours("matmul"), tensors)
        torchs = output_and_gradients(call.native(), tensors)
        others = torch.arange(33) != 7
        assert found["output"][others].isfinite().all()
        assert found["gradient of input"].isfinite().all()
        for name in ("output", "gradient of weight"):
            wrong = ~torchs[name].isfinite()
            assert wrong.any()
            assert not found[name][wrong].isfinite().any()
        # other channels' filters have not met it
        assert found["gradient of weight"][:, :-1].isfinite().all()
    assert kernels == BOTH * 2


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_gradient_that_is_not_finite_stays_in_its_image(value: float, kernels: list[str]) -> None:
    call = Call((5, 17, 9, 8), (18, 17, 3, 3), {"padding": 1}, HALF, bias=False)
    leaves = {n: t.requires_grad_() for n, t in call.tensors(torch.float32).items()}
    output = call.ours("matmul")(**leaves)
    cotangent = random(*output.shape, dtype=torch.float32)
    cotangent[3, 2, 4, 4] = value
    grad_input, grad_weight = torch.autograd.grad(output, leaves.values(), cotangent)
    assert grad_input[[0, 1, 2, 4]].isfinite().all()
    assert not grad_input[3].isfinite().any()
    assert not grad_weight[2].isfinite().any()
    assert grad_weight[torch.arange(18) != 2].isfinite().all()
    assert kernels == BOTH


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_filter_that_is_not_finite_spoils_its_own_output_only(
    value: float, kernels: list[str]
) -> None:
    for outputs in (1, 18, 65):
        call = Call((3, 17, 9, 8), (outputs, 17, 3, 3), {"padding": 1}, HALF)
        tensors = call.tensors(torch.float32)
        tensors["weight"][-1, 2, 0, 0] = value
        found = call.ours("matmul")(**tensors)
        assert not found[:, -1].isfinite().any()
        assert found[:, :-1].isfinite().all()
    assert kernels == ["forward"] * 3


# ---- memory -------------------------------------------------------------------------------------


def test_the_input_is_not_written_to(kernels: list[str]) -> None:
    """Nor is anything else that is read."""
    call = Call((5, 17, 9, 8), (65, 17, 3, 3), {"padding": 1}, HALF)
    tensors = call.tensors(torch.float32)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    output_and_gradients(call.ours("matmul"), tensors)
    assert all(torch.equal(tensors[name], before[name]) for name in before)
    assert kernels == BOTH


def test_results_do_not_share_memory(kernels: list[str]) -> None:
    """What one call returns is not written to by the next, which takes its working memory over."""
    call = Call((5, 17, 9, 8), (65, 17, 3, 3), {"padding": 1}, HALF)
    tensors = call.tensors(torch.float32)
    first = output_and_gradients(call.ours("matmul"), tensors)
    copies = {name: value.clone() for name, value in first.items()}
    other = {name: tensor + 1 for name, tensor in tensors.items()}
    output_and_gradients(call.ours("matmul"), other)
    assert all(torch.equal(first[name], copies[name]) for name in first)
    assert kernels == BOTH * 2


def test_two_threads_at_once(kernels: list[str]) -> None:
    """Of Python: each has working memory of its own."""
    calls = [draw_call(index) for index in range(300, 306)]
    tensors = [call.tensors(torch.float32) for call in calls]
    expected = [
        output_and_gradients(call.ours("matmul"), t) for call, t in zip(calls, tensors, strict=True)
    ]
    worst: dict[int, float] = {}

    def run(number: int) -> None:
        torch.set_num_threads(1 + number % 2)
        worst[number] = max(
            relative_error(value, expected[i][name])
            for _ in range(5)
            for i, call in enumerate(calls)
            for name, value in output_and_gradients(call.ours("matmul"), tensors[i]).items()
        )

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # order of sums may differ with the number of threads
    assert len(worst) == 4 and max(worst.values()) < 1e-5


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="asks Linux for the memory in use"
)
def test_threads_that_end_leave_no_memory_behind(kernels: list[str]) -> None:
    """A thread takes 6 MB here, for itself and for Python: forty would leave 240 MB."""
    call = Call((2000, 1, 16), (1, 1, 3), {"padding": 1}, HALF, bias=False)
    x, w = call.tensors(torch.float32).values()

    def used() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def run() -> None:
        torch.set_num_threads(1)
        call.ours("matmul")(input=x, weight=w)

    def run_in_threads(count: int) -> None:
        for _ in range(count):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()

    run_in_threads(5)
    before = used()
    run_in_threads(40)
    assert used() - before < 60e6
    assert kernels == ["forward"] * 45


# ---- what is not theirs --------------------------------------------------------------------------


def tensors_that_torch_computes() -> dict[str, Tensor]:
    class Special(Tensor):
        pass

    return {
        "float64": random(2, 3, 9, 8),
        "a subclass": random(2, 3, 9, 8, dtype=torch.float32).as_subclass(Special),
        "negated when it is read": torch.randn(2, 3, 9, 8, dtype=torch.complex64).conj().imag,
        "zeros without memory": torch._efficientzerotensor((2, 3, 9, 8)),
    }


@pytest.mark.parametrize("name", tensors_that_torch_computes())
def test_tensors_that_are_not_plain_memory(name: str, kernels: list[str]) -> None:
    """Are computed by torch, or turned into plain memory by it on the way to the operator."""
    x = tensors_that_torch_computes()[name]
    w = random(4, 3, 3, 3, dtype=x.dtype, seed=1)
    geometry = conv_geometry((9, 8), (3, 3), padding=1, **HALF)
    assert not convolution.applies(geometry, x.dtype, x, w)
    found = pb.band_limited_conv2d(x, w, padding=1, **HALF, algorithm="matmul")
    plain = (x + 0.0).as_subclass(Tensor)
    assert_close(found, pb.band_limited_conv2d(plain, w, padding=1, **HALF, algorithm="fft"))


def test_groups_and_three_axes_are_torchs(kernels: list[str]) -> None:
    for call in (
        Call((2, 4, 9, 8), (6, 2, 3, 3), {"padding": 1, "groups": 2}, HALF),
        Call((2, 4, 5, 6, 7), (6, 4, 3, 3, 3), {"padding": 1}, HALF),
    ):
        assert_right(call)
    assert kernels == []


def test_the_default_device_does_not_matter(kernels: list[str]) -> None:
    """Memory is taken where the tensors are, not where new ones would go."""
    call = Call((3, 5, 9, 8), (6, 5, 3, 3), {"padding": 1}, HALF)
    tensors = call.tensors(torch.float32)
    expected = call.ours("matmul")(**tensors)
    leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
    convolution._kept.memory = None
    with torch.device("meta"):
        output = call.ours("matmul")(**leaves)
        output.backward(output.detach())
    assert torch.equal(output, expected)
    assert kernels == ["forward", *BOTH]


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
