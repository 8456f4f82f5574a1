"""The band-limited convolution by the compiled kernels: what matmul.py computes, in float32.

The batch is taken in blocks whose spectra fit the cache, and memory between the steps is kept from
call to call, because the first touch of fresh memory is slow.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.layout import memory_format
from passband.ops.band_limited_conv.native.library import LANES, load_library
from passband.ops.band_limited_conv.native.memory import (
    TYPES,
    empty,
    is_plain,
    maps_argument,
    workspace,
)
from passband.ops.band_limited_conv.native.tables import AxisTables, ConvTables, conv_tables

_CACHED_BYTES = 8 << 20  # of spectra between two steps, and of transformed filters
_LEAST_IMAGES = 16  # at a time; fewer would transform the filters too often
_MOST_IMAGES = 256  # more would gain nothing, and the products of a task grow with them


def suits(geometry: ConvGeometry, dtype: torch.dtype) -> bool:
    """Whether the kernels compute such convolutions on a CPU.

    Groups of channels and three axes are left to torch's products, and so is float64.
    """
    return (
        geometry.axes <= 2
        and geometry.groups == 1
        and dtype in TYPES
        and load_library() is not None
    )


def applies(geometry: ConvGeometry, dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    """Whether the kernels can compute this call: they read memory, so it must be there."""
    return suits(geometry, dtype) and all(is_plain(t) for t in tensors if t is not None)


def forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    dtype: torch.dtype,
    from_spectrum: bool,
    keep_spectrum: bool,
    output: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output maps, and the spectrum of the input; it is empty where it is not to be kept.

    The maps are written to `output` where it is there: float32 in any memory order.
    """
    input, weight = input.float(), weight.float().contiguous()
    bias = None if bias is None else bias.float().contiguous()
    tables, kernels = conv_tables(geometry), _Kernels()
    frequencies = math.prod(geometry.band.real_sizes)
    outputs, inputs = weight.shape[:2]
    batch = input.shape[1] if from_spectrum else input.shape[0]
    form = torch.contiguous_format if from_spectrum else memory_format(input)
    if output is None:
        output = empty((batch, outputs, *geometry.output_size), form)
    kept = empty((frequencies, batch, inputs)) if keep_spectrum else input.new_empty(0)
    spectrum = (
        _Spectrum.of(input if from_spectrum else kept) if from_spectrum or len(kept) else None
    )
    blocks = _Blocks.of(batch, frequencies, outputs, inputs, tables)
    sizes = (
        blocks.packed(outputs, inputs),
        frequencies * blocks.images * outputs,
        0 if spectrum else frequencies * blocks.images * inputs,
    )
    with workspace(*sizes) as (taps, products, analyzed):
        for start, count in blocks.of_batch():
            x = spectrum.block(start) if spectrum else _Spectrum(analyzed, count * inputs, inputs)
            y = _Spectrum(products, count * outputs, outputs)
            if not from_spectrum:
                kernels.analyze(input, start, count, tables.inputs, x)
            kernels.multiply(x, count, y, weight, geometry, tables, blocks, taps, bias, False)
            kernels.synthesize(y, output, start, count, tables.outputs)
    return output.to(dtype), kept.to(dtype)


def backward(
    grad: Tensor,
    kept: Tensor,
    weight: Tensor,
    geometry: ConvGeometry,
    kept_is_map: bool,
    from_spectrum: bool,
    needs_input: bool,
    needs_weight: bool,
    grad_input: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the input, or with `from_spectrum` of its spectrum, and of the filters.

    Where `grad_input` is there, the input's gradient is written to it: float32 in any memory order.
    It may lie where `grad` does, if no image of it reaches into later images of that.
    """
    grad, kept, weight = grad.float(), kept.float(), weight.float().contiguous()
    tables, kernels = conv_tables(geometry), _Kernels()
    frequencies = math.prod(geometry.band.real_sizes)
    outputs, inputs = weight.shape[:2]
    batch = grad.shape[0]
    grad_weight = None
    if needs_input and grad_input is None:
        shape = (batch, inputs, *geometry.size)
        grad_input = (
            empty((frequencies, batch, inputs))
            if from_spectrum
            else empty(shape, memory_format(grad))
        )
    if needs_weight:
        grad_weight = torch.empty_like(weight) if batch else torch.zeros_like(weight)
    grad_spectrum = _Spectrum.of(grad_input) if grad_input is not None and from_spectrum else None
    spectrum = None if kept_is_map else _Spectrum.of(kept)
    blocks = _Blocks.of(batch, frequencies, outputs, inputs, tables)
    block = frequencies * blocks.images
    sizes = (
        max(
            blocks.packed(inputs, outputs) if needs_input else 0,
            blocks.packed(outputs, inputs) if needs_weight else 0,
        ),
        block * outputs,
        block * inputs if needs_input and not from_spectrum else 0,
        block * inputs if needs_weight and kept_is_map else 0,
    )
    with workspace(*sizes) as (taps, grad_products, products, analyzed):
        for start, count in blocks.of_batch():
            g = _Spectrum(grad_products, count * outputs, outputs)
            kernels.analyze(grad, start, count, tables.outputs, g)
            if grad_input is not None:
                own = _Spectrum(products, count * inputs, inputs)
                gx = grad_spectrum.block(start) if grad_spectrum else own
                kernels.multiply(g, count, gx, weight, geometry, tables, blocks, taps, None, True)
                if not from_spectrum:
                    kernels.synthesize(gx, grad_input, start, count, tables.inputs)
            if grad_weight is not None:
                if spectrum:
                    x = spectrum.block(start)
                else:
                    x = _Spectrum(analyzed, count * inputs, inputs)
                    kernels.analyze(kept, start, count, tables.inputs, x)
                kernels.correlate(x, g, count, grad_weight, tables, blocks, taps, start > 0)
    return grad_input, grad_weight


@dataclass(frozen=True)
class _Blocks:
    """What is computed at a time: images of the batch, and lanes of the filters."""

    batch: int
    images: int
    tables: ConvTables

    @classmethod
    def of(
        cls, batch: int, frequencies: int, outputs: int, inputs: int, tables: ConvTables
    ) -> "_Blocks":
        """Spectra that fit the cache, but of no fewer images than make the filters worth it."""
        least = max(_CACHED_BYTES, 2 * tables.packed_size(outputs, inputs))
        fitting = max(least // (4 * frequencies * (inputs + outputs)), _LEAST_IMAGES)
        fitting = min(fitting, _MOST_IMAGES)
        return cls(batch, math.ceil(batch / math.ceil(batch / fitting)) if batch else 1, tables)

    def of_batch(self) -> Iterator[tuple[int, int]]:
        """First image and number of images of each block."""
        return _parts(self.batch, self.images)

    def of_lanes(self, lanes: int, terms: int) -> Iterator[tuple[int, int]]:
        """First lane and number of lanes of filters that are packed together."""
        return _parts(lanes, self._lanes(lanes, terms))

    def packed(self, lanes: int, terms: int) -> int:
        """Numbers of the filters that are packed together."""
        return self.tables.packed_size(self._lanes(lanes, terms), terms)

    def _lanes(self, lanes: int, terms: int) -> int:
        fitting = _CACHED_BYTES // (4 * self.tables.packed_size(LANES, terms))
        return min(max(fitting, 1) * LANES, lanes)


def _parts(total: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(size, total - start)) for start in range(0, total, size))


class _Spectrum:
    """Part of a spectrum (frequencies, B, C) in memory."""

    def __init__(self, memory: Tensor, row: int, channels: int, first: int = 0) -> None:
        self.row, self.channels, self._memory, self._first = row, channels, memory, first

    @classmethod
    def of(cls, spectrum: Tensor) -> "_Spectrum":
        """All of a spectrum, or of some images of it."""
        channels = spectrum.shape[2]
        if spectrum.stride()[1:] != (channels, 1):
            spectrum = spectrum.contiguous()
        return cls(spectrum, spectrum.stride(0), channels)

    @property
    def pointer(self) -> int:
        """Where it starts."""
        return self._memory.data_ptr() + 4 * self._first

    def block(self, start: int) -> "_Spectrum":
        """The part from image `start` on."""
        return _Spectrum(self._memory, self.row, self.channels, start * self.channels)


class _Kernels:
    """The kernels with tensors as arguments."""

    def __init__(self) -> None:
        library = load_library()
        assert library is not None, "applies() was not asked"
        self._library, self._threads = library, torch.get_num_threads()

    def analyze(
        self, maps: Tensor, start: int, count: int, axes: AxisTables, spectrum: _Spectrum
    ) -> None:
        """Spectra of `count` images from `start` on."""
        self._library.passband_analyze(
            maps_argument(maps, start), count * maps.shape[1], *axes.pointers,
            spectrum.pointer, spectrum.row, None, self._threads,
        )  # fmt: skip

    def synthesize(
        self, spectrum: _Spectrum, maps: Tensor, start: int, count: int, axes: AxisTables
    ) -> None:
        """Images from spectra."""
        self._library.passband_synthesize(
            maps_argument(maps, start), count * maps.shape[1], *axes.pointers,
            spectrum.pointer, spectrum.row, None, self._threads,
        )  # fmt: skip

    def multiply(
        self,
        x: _Spectrum,
        images: int,
        y: _Spectrum,
        weight: Tensor,
        geometry: ConvGeometry,
        tables: ConvTables,
        blocks: _Blocks,
        taps: Tensor,
        bias: Tensor | None,
        adjoint: bool,
    ) -> None:
        """The product over channels, frequency by frequency; bias goes to frequency zero.

        `adjoint` exchanges the filters' inputs and outputs, and conjugates them.
        """
        sign, end = -1.0 if adjoint else 1.0, weight.data_ptr() + weight.nbytes
        lanes, terms, *strides = lanes_and_terms(weight, adjoint)
        for first, count in blocks.of_lanes(lanes, terms):
            self._library.passband_pack_taps(
                weight.data_ptr() + 4 * first * strides[0], end, count, terms, *strides, sign,
                *tables.taps.pointers, taps.data_ptr(), self._threads,
            )  # fmt: skip
            self._library.passband_product(
                x.pointer, x.row, images, terms, y.pointer + 4 * first, y.row, lanes, count,
                *tables.inputs.pointers, tables.taps.pointers[1], taps.data_ptr(), sign,
                None if bias is None else bias.data_ptr() + 4 * first,
                math.sqrt(math.prod(geometry.grid)), self._threads,
            )  # fmt: skip

    def correlate(
        self,
        x: _Spectrum,
        g: _Spectrum,
        images: int,
        grad_weight: Tensor,
        tables: ConvTables,
        blocks: _Blocks,
        taps: Tensor,
        accumulate: bool,
    ) -> None:
        """The filters' gradient."""
        lanes, terms, *strides = lanes_and_terms(grad_weight, adjoint=False)
        end = grad_weight.data_ptr() + grad_weight.nbytes
        for first, count in blocks.of_lanes(lanes, terms):
            self._library.passband_correlate(
                x.pointer, x.row, terms, g.pointer + 4 * first, g.row, lanes, count, images,
                *tables.inputs.pointers, tables.taps.pointers[1], taps.data_ptr(), self._threads,
            )  # fmt: skip
            self._library.passband_unpack_taps(
                taps.data_ptr(), count, terms, *strides, *tables.taps.pointers,
                grad_weight.data_ptr() + 4 * first * strides[0], end, accumulate, self._threads,
            )  # fmt: skip


def lanes_and_terms(weight: Tensor, adjoint: bool) -> tuple[int, int, int, int]:
    """Results and terms of the product over channels, and their distances in the weight."""
    outputs, inputs, *kernel = weight.shape
    taps = math.prod(kernel)
    if adjoint:
        return inputs, outputs, taps, inputs * taps
    return outputs, inputs, inputs * taps, taps
