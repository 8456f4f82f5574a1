"""Inputs, filters and gradients in every memory order, against the reference in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.ops.band_limited_conv.cases import Call
from tests.ops.band_limited_conv.native.cases import assert_right

HALF = {"compression": 0.5}
BOTH = ["forward", "backward"]


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
