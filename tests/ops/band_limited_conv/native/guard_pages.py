"""The kernels on tensors that lie against pages that may not be touched.

Run by test_memory.py on its own, with the names of instruction sets, because a touch ends the
process. The tensors are inputs, weights, gradients, working memory and results; their last number
lies right before such a page, then their first right after one. What nobody has written is NaN.
"""

import ctypes
import mmap
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_int, c_long, c_size_t, c_void_p
from math import prod

import torch
from torch import Tensor

from passband.ops.band_limited_conv.geometry import ConvGeometry, conv_geometry
from passband.ops.band_limited_conv.lowpass import BY_TORCH
from passband.ops.band_limited_conv.native import convolution, lowpass
from tests.ops.band_limited_conv.cases import Call
from tests.ops.band_limited_conv.native.cases import draw_call
from tests.ops.band_limited_conv.native.conftest import load
from tests.support import assert_close, output_and_gradients, random

PAGE = mmap.PAGESIZE
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_long]
LIBC.mmap.restype = c_void_p
LIBC.mprotect.argtypes = [c_void_p, c_size_t, c_int]
LIBC.munmap.argtypes = [c_void_p, c_size_t]
NOBODY = 0  # PROT_NONE

EMPTY = torch.empty


class Guarded:
    """Makes tensors of memory between two guarded pages, until it is cleared."""

    def __init__(self) -> None:
        self.at_end = True
        self._mapped: list[tuple[int, int]] = []

    def empty(self, shape: tuple[int, ...], form: torch.memory_format) -> Tensor:
        count = prod(shape)
        if not count:
            return EMPTY(shape)
        inner = -(-4 * count // PAGE) * PAGE
        length = inner + 2 * PAGE
        access = mmap.PROT_READ | mmap.PROT_WRITE
        start = LIBC.mmap(None, length, access, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        assert start not in (None, c_void_p(-1).value)
        for page in (start, start + length - PAGE):
            assert LIBC.mprotect(page, PAGE, NOBODY) == 0
        self._mapped.append((start, length))
        offset = inner - 4 * count if self.at_end else 0
        memory = (ctypes.c_float * count).from_address(start + PAGE + offset)
        flat = torch.frombuffer(memory, dtype=torch.float32).fill_(float("nan"))
        return flat.as_strided(shape, EMPTY(shape, device="meta", memory_format=form).stride())

    def copy(self, tensor: Tensor, form: torch.memory_format = torch.contiguous_format) -> Tensor:
        return self.empty(tuple(tensor.shape), form).copy_(tensor)

    def clear(self) -> None:
        while self._mapped:
            LIBC.munmap(*self._mapped.pop())


guarded = Guarded()


def empty(shape: tuple[int, ...], form: torch.memory_format = torch.contiguous_format) -> Tensor:
    return guarded.empty(shape, form)


@contextmanager
def workspace(*sizes: int) -> Iterator[list[Tensor]]:
    yield [empty((size,)) for size in sizes]


def calls() -> Iterator[Call]:
    yield from (draw_call(index) for index in range(500, 512))
    # small maps that are taken as a whole, rows around the width of a register, filters of few taps
    for columns in (1, 3, 4, 7, 8, 15, 16, 17, 33):
        for kernel in (1, 3):
            size = {"padding": (0, kernel // 2)}
            yield Call((2, 17, 9, columns), (19, 17, 1, kernel), size, {"compression": 0.5})


def reference(call: Call) -> list[Tensor]:
    """The output, and the gradients of input and weight, in float64."""
    tensors = {name: tensor.double() for name, tensor in call.tensors(torch.float32).items()}
    found = output_and_gradients(call.ours("fft"), tensors)
    return list(found.values())[:3]


def check(call: Call, form: torch.memory_format, expected: list[Tensor]) -> None:
    """Forward and backward pass against the reference, so that what is not written shows too."""
    geometry = conv_geometry(
        call.input_shape[2:], call.weight_shape[2:], **call.convolution, **call.band
    )
    tensors = call.tensors(torch.float32)
    bias = tensors.get("bias")
    x, w = guarded.copy(tensors["input"], form), guarded.copy(tensors["weight"])
    bias = None if bias is None else guarded.copy(bias)
    keeps = not geometry.keeps_map
    output, kept = convolution.forward(x, w, bias, geometry, torch.float32, False, keeps)
    grad = guarded.copy(random(*output.shape, dtype=torch.float32, seed=99), form)
    found = convolution.backward(
        grad, kept if keeps else x, w, geometry, geometry.keeps_map, False, True, True
    )
    for value, right in zip((output, *found), expected, strict=True):
        assert value is not None
        assert_close(value, right)
    if not geometry.band.is_full:
        check_low_pass(x, geometry)
    guarded.clear()


def check_low_pass(x: Tensor, geometry: ConvGeometry) -> None:
    """Spectrum and low-passed map against those by torch's products in float64."""
    for padded in (False, True):
        spectrum = lowpass.BY_KERNELS.analyze(x, geometry)
        maps = lowpass.BY_KERNELS.to_maps(spectrum, geometry, padded)
        right = BY_TORCH.analyze(x.double(), geometry)
        assert_close(spectrum, right)
        assert_close(maps, BY_TORCH.to_maps(right, geometry, padded))


def touching_is_fatal() -> bool:
    """Whether a child that reads beyond a tensor dies of it."""
    for at_end in (True, False):
        guarded.at_end = at_end
        address = guarded.empty((5,), torch.contiguous_format).data_ptr()
        child = os.fork()
        if not child:
            signal.signal(signal.SIGSEGV, signal.SIG_DFL)
            value = ctypes.c_float.from_address(address + (20 if at_end else -4)).value
            os._exit(value == 0)
        if os.waitpid(child, 0)[1] & 0x7F not in (signal.SIGSEGV, signal.SIGBUS):
            return False
    guarded.clear()
    return True


def main(instruction_sets: list[str]) -> None:
    assert touching_is_fatal()
    print("guarded")
    references = [(call, reference(call)) for call in calls()]
    convolution.empty = lowpass.empty = empty
    convolution.workspace = workspace
    torch.empty_like = lambda tensor: empty(tuple(tensor.shape))
    convolution._CACHED_BYTES, convolution._LEAST_IMAGES = 1, 3  # several blocks
    for name in instruction_sets:
        library = load(name)
        convolution.load_library = lowpass.load_library = lambda library=library: library
        for call, expected in references:
            for at_end in (True, False):
                guarded.at_end = at_end
                for form in (torch.contiguous_format, torch.channels_last)[: call.axes]:
                    print(name, at_end, form, call, file=sys.stderr, flush=True)
                    check(call, form, expected)
        print(name)


if __name__ == "__main__":
    main(sys.argv[1:])
