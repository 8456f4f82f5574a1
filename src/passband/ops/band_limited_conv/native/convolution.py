"""The band-limited convolution by the compiled kernels: what matmul.py computes, in float32.

The batch is taken in blocks whose spectra fit the cache, and memory between the steps is kept from
call to call: on a CPU a page of fresh memory costs about as much as the arithmetic done on it.
"""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.layout import memory_format
from passband.ops.band_limited_conv.native.library import Maps, load_library
from passband.ops.band_limited_conv.native.tables import AxisTables, ConvTables, conv_tables

_BLOCK_BYTES = 8 << 20  # of spectra between two steps
_LEAST_BLOCK = 16  # images; fewer would transform the filters too often
_KEPT_BYTES = 64 << 20  # of memory kept from call to call, per thread
_LARGE_BYTES = 4 << 20  # from which on tensors are laid in large pages

_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def applies(geometry: ConvGeometry, dtype: torch.dtype, *tensors: Tensor | None) -> bool:
    """Whether the kernels can compute this convolution.

    They read memory, so it must be there: ordinary tensors on a CPU. Groups of channels and three
    axes are left to torch's products, and so is float64.
    """
    return (
        geometry.axes <= 2
        and geometry.groups == 1
        and dtype in _TYPES
        and all(_is_plain(tensor) for tensor in tensors if tensor is not None)
        and load_library() is not None
    )


def forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    dtype: torch.dtype,
    from_spectrum: bool,
    keep_spectrum: bool,
) -> tuple[Tensor, Tensor]:
    """Output maps, and the spectrum of the input; it is empty where it is not to be kept."""
    input, weight = input.float(), weight.float()
    bias = None if bias is None else bias.float().contiguous()
    tables, kernels = conv_tables(geometry), _Kernels()
    frequencies = math.prod(geometry.band.real_sizes)
    outputs, inputs = weight.shape[:2]
    batch = input.shape[1] if from_spectrum else input.shape[0]
    form = torch.contiguous_format if from_spectrum else memory_format(input)
    output = _empty_maps(batch, outputs, geometry.output_size, form)
    kept = input.new_empty(0)
    if keep_spectrum:
        kept = _empty((frequencies, batch, inputs))
    spectrum = _Spectrum.of(input) if from_spectrum else _Spectrum.of(kept) if len(kept) else None
    images = _images_per_block(batch, frequencies * (inputs + outputs))
    sizes = (
        tables.packed_size(outputs, inputs),
        frequencies * images * outputs,
        0 if spectrum else frequencies * images * inputs,
    )
    with _workspace(*sizes) as (taps, products, analyzed):
        kernels.pack_taps(weight, tables, taps, adjoint=False)
        for start in range(0, batch, images):
            count = min(images, batch - start)
            x = spectrum.block(start) if spectrum else _Spectrum(analyzed, count * inputs, inputs)
            y = _Spectrum(products, count * outputs, outputs)
            if not from_spectrum:
                kernels.analyze(input, start, count, tables.inputs, x)
            kernels.product(x, count, y, geometry, tables, taps, bias, adjoint=False)
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
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the input, or with `from_spectrum` of its spectrum, and of the filters."""
    grad, kept, weight = grad.float(), kept.float(), weight.float()
    tables, kernels = conv_tables(geometry), _Kernels()
    frequencies = math.prod(geometry.band.real_sizes)
    outputs, inputs = weight.shape[:2]
    batch = grad.shape[0]
    images = _images_per_block(batch, frequencies * (inputs + outputs))
    chunks = kernels.correlate_chunks(inputs, outputs, tables) if needs_weight else 0
    grad_input = grad_spectrum = grad_weight = None
    if needs_input and from_spectrum:
        grad_input = _empty((frequencies, batch, inputs))
        grad_spectrum = _Spectrum.of(grad_input)
    elif needs_input:
        grad_input = _empty_maps(batch, inputs, geometry.size, memory_format(grad))
    spectrum = None if kept_is_map else _Spectrum.of(kept)
    block = frequencies * images
    sizes = (
        tables.packed_size(inputs, outputs) if needs_input else 0,
        tables.packed_size(outputs, inputs) * chunks,
        block * outputs,
        block * inputs if needs_input and not from_spectrum else 0,
        block * inputs if needs_weight and kept_is_map else 0,
    )
    with _workspace(*sizes) as (taps, partial, grad_products, products, analyzed):
        if needs_input:
            kernels.pack_taps(weight, tables, taps, adjoint=True)
        for start in range(0, batch, images):
            count = min(images, batch - start)
            g = _Spectrum(grad_products, count * outputs, outputs)
            kernels.analyze(grad, start, count, tables.outputs, g)
            if needs_input:
                own = _Spectrum(products, count * inputs, inputs)
                gx = grad_spectrum.block(start) if grad_spectrum else own
                kernels.product(g, count, gx, geometry, tables, taps, None, adjoint=True)
                if not from_spectrum:
                    kernels.synthesize(gx, grad_input, start, count, tables.inputs)
            if needs_weight:
                if spectrum:
                    x = spectrum.block(start)
                else:
                    x = _Spectrum(analyzed, count * inputs, inputs)
                    kernels.analyze(kept, start, count, tables.inputs, x)
                kernels.correlate(x, g, count, tables, partial, chunks, accumulate=start > 0)
        if needs_weight:
            grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
            kernels.unpack_taps(partial, chunks, tables, grad_weight)
    return grad_input, grad_weight


class _Spectrum:
    """Part of a spectrum (frequencies, B, C) in memory."""

    def __init__(self, memory: Tensor, row: int, channels: int, first: int = 0) -> None:
        self.row, self.channels, self._memory, self._first = row, channels, memory, first

    @classmethod
    def of(cls, spectrum: Tensor) -> "_Spectrum":
        """All of a spectrum."""
        _, batch, channels = spectrum.shape
        return cls(spectrum.contiguous(), batch * channels, channels)

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
            _maps(maps, start), count * maps.shape[1], *axes.pointers,
            spectrum.pointer, spectrum.row, self._threads,
        )  # fmt: skip

    def synthesize(
        self, spectrum: _Spectrum, maps: Tensor, start: int, count: int, axes: AxisTables
    ) -> None:
        """Images from spectra."""
        self._library.passband_synthesize(
            _maps(maps, start), count * maps.shape[1], *axes.pointers,
            spectrum.pointer, spectrum.row, self._threads,
        )  # fmt: skip

    def product(
        self,
        x: _Spectrum,
        batch: int,
        y: _Spectrum,
        geometry: ConvGeometry,
        tables: ConvTables,
        taps: Tensor,
        bias: Tensor | None,
        adjoint: bool,
    ) -> None:
        """The product over channels, frequency by frequency; bias goes to frequency zero."""
        self._library.passband_product(
            x.pointer, x.row, batch, x.channels, y.pointer, y.row, y.channels,
            *tables.inputs.pointers, *tables.taps.pointers, taps.data_ptr(),
            -1.0 if adjoint else 1.0, None if bias is None else bias.data_ptr(),
            math.sqrt(math.prod(geometry.grid)), self._threads,
        )  # fmt: skip

    def correlate_chunks(self, inputs: int, outputs: int, tables: ConvTables) -> int:
        """Into how many parts the filters' gradient is divided for the threads."""
        chunks: int = self._library.passband_correlate_chunks(
            inputs, outputs, tables.inputs.pointers[0], self._threads
        )
        return chunks

    def correlate(
        self,
        x: _Spectrum,
        g: _Spectrum,
        batch: int,
        tables: ConvTables,
        partial: Tensor,
        chunks: int,
        accumulate: bool,
    ) -> None:
        """The filters' gradient, in parts."""
        self._library.passband_correlate(
            x.pointer, x.row, x.channels, g.pointer, g.row, g.channels, batch,
            *tables.inputs.pointers, *tables.taps.pointers, partial.data_ptr(), chunks,
            accumulate, self._threads,
        )  # fmt: skip

    def pack_taps(self, weight: Tensor, tables: ConvTables, taps: Tensor, adjoint: bool) -> None:
        """Filters as `product` reads them; `adjoint` exchanges inputs and outputs."""
        weight = weight.contiguous()
        self._library.passband_pack_taps(
            weight.data_ptr(), *_lanes_and_terms(weight, adjoint), *tables.taps.pointers,
            taps.data_ptr(), self._threads,
        )  # fmt: skip

    def unpack_taps(self, partial: Tensor, chunks: int, tables: ConvTables, grad: Tensor) -> None:
        """The gradient of the filters from what `correlate` has made."""
        self._library.passband_unpack_taps(
            partial.data_ptr(), chunks, *_lanes_and_terms(grad, adjoint=False),
            *tables.taps.pointers, grad.data_ptr(), self._threads,
        )  # fmt: skip


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype in _TYPES
        and not tensor.is_sparse
    )


def _maps(maps: Tensor, start: int) -> Maps:
    batch, channel, *spatial = maps.stride()
    row = () if len(spatial) == 2 else (0,)  # a series is a map of one row
    pointer = maps.data_ptr() + 4 * start * batch
    return Maps(pointer, maps.shape[1], batch, channel, *row, *spatial)


def _empty_maps(
    batch: int, channels: int, size: tuple[int, ...], form: torch.memory_format
) -> Tensor:
    return _empty((batch, channels, *size), form)


def _empty(
    shape: tuple[int, ...], form: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """Float32 memory, in large pages where it is large."""
    tensor = torch.empty(shape, dtype=torch.float32, memory_format=form)
    if tensor.nbytes >= _LARGE_BYTES:
        library = load_library()
        assert library is not None
        library.passband_advise(tensor.data_ptr(), tensor.nbytes)
    return tensor


def _lanes_and_terms(weight: Tensor, adjoint: bool) -> tuple[int, int, int, int]:
    """Results and terms of the product over channels, and their distances in the weight."""
    outputs, inputs, *kernel = weight.shape
    taps = math.prod(kernel)
    if adjoint:
        return inputs, outputs, taps, inputs * taps
    return outputs, inputs, inputs * taps, taps


def _images_per_block(batch: int, numbers_per_image: int) -> int:
    """Images at a time, in blocks of even size."""
    fitting = max(_BLOCK_BYTES // (4 * numbers_per_image), _LEAST_BLOCK)
    return math.ceil(batch / math.ceil(batch / fitting)) if batch else 1


class _Kept(threading.local):
    memory: Tensor | None = None


_kept = _Kept()


@contextmanager
def _workspace(*sizes: int) -> Iterator[list[Tensor]]:
    """Float32 memory of these sizes, from what the last call of this thread has left."""
    sizes = tuple(-(-size // 16) * 16 for size in sizes)
    memory, _kept.memory = _kept.memory, None
    if memory is None or memory.numel() < sum(sizes):
        memory = _empty((sum(sizes),))
    try:
        yield list(memory[: sum(sizes)].split(sizes))
    finally:
        if 4 * memory.numel() <= _KEPT_BYTES:
            _kept.memory = memory
