"""The steps of matmul.py by the compiled kernels: the same spectra, the same results."""

import math

import torch
from torch import Tensor

from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.native.library import Maps, load_library
from passband.ops.band_limited_conv.native.tables import AxisTable, ConvTables, conv_tables

_Axes = tuple[AxisTable, AxisTable]


def spectrum_shape(geometry: ConvGeometry, batch: int, channels: int) -> tuple[int, ...]:
    return (math.prod(geometry.band.real_sizes), batch, channels)


def analyze(maps: Tensor, geometry: ConvGeometry) -> Tensor:
    return _analyze(maps, geometry, conv_tables(geometry).inputs)


def analyze_adjoint(spectrum: Tensor, geometry: ConvGeometry, memory_format) -> Tensor:
    return _synthesize(spectrum, geometry.size, conv_tables(geometry).inputs, memory_format)


def forward(spectrum, weight, bias, geometry, memory_format):
    tables = conv_tables(geometry)
    taps = _packed_taps(weight, tables, adjoint=False)
    output = _product(spectrum, weight.shape[0], taps, bias, geometry, tables, 1.0)
    return _synthesize(output, geometry.output_size, tables.outputs, memory_format)


def backward(grad, spectrum, weight, geometry, needs_spectrum, needs_weight):
    tables = conv_tables(geometry)
    grad_output = _analyze(grad, geometry, tables.outputs)
    grad_spectrum = grad_weight = None
    if needs_spectrum:
        taps = _packed_taps(weight, tables, adjoint=True)
        grad_spectrum = _product(grad_output, weight.shape[1], taps, None, geometry, tables, -1.0)
    if needs_weight:
        grad_weight = _correlate(spectrum, grad_output, weight, tables)
    return grad_spectrum, grad_weight


def _threads():
    return torch.get_num_threads()


def _maps(maps: Tensor) -> Maps:
    rows = (0,) if maps.dim() == 3 else ()
    batch, channel, *spatial = maps.stride()
    return Maps(maps.data_ptr(), maps.shape[1], batch, channel, *rows, *spatial)


def _pointers(axes: _Axes):
    return axes[0].pointer, axes[1].pointer


def _analyze(maps: Tensor, geometry: ConvGeometry, axes: _Axes) -> Tensor:
    batch, channels = maps.shape[:2]
    spectrum = maps.new_empty(spectrum_shape(geometry, batch, channels))
    planes = batch * channels
    load_library().passband_analyze(
        _maps(maps), planes, *_pointers(axes), spectrum.data_ptr(), planes, _threads()
    )
    return spectrum


def _synthesize(spectrum: Tensor, size, axes: _Axes, memory_format) -> Tensor:
    _, batch, channels = spectrum.shape
    maps = torch.empty((batch, channels, *size), memory_format=memory_format)
    planes = batch * channels
    load_library().passband_synthesize(
        _maps(maps), planes, *_pointers(axes), spectrum.data_ptr(), planes, _threads()
    )
    return maps


def _tap_arguments(weight: Tensor, adjoint: bool):
    outputs, inputs = weight.shape[:2]
    taps = weight[0, 0].numel()
    if adjoint:
        return inputs, outputs, taps, inputs * taps
    return outputs, inputs, inputs * taps, taps


def _packed_taps(weight: Tensor, tables: ConvTables, adjoint: bool) -> Tensor:
    library = load_library()
    axes = _pointers(tables.taps)
    lanes, terms, *strides = _tap_arguments(weight, adjoint)
    packed = weight.new_empty(library.passband_packed_taps(*axes, lanes, terms))
    library.passband_pack_taps(
        weight.contiguous().data_ptr(), lanes, terms, *strides, *axes, packed.data_ptr(), _threads()
    )
    return packed


def _product(spectrum, outputs, taps, bias, geometry, tables, sign) -> Tensor:
    frequencies, batch, inputs = spectrum.shape
    result = spectrum.new_empty((frequencies, batch, outputs))
    load_library().passband_product(
        spectrum.data_ptr(), batch * inputs, batch, inputs, result.data_ptr(), batch * outputs,
        outputs, *_pointers(tables.inputs), *_pointers(tables.taps), taps.data_ptr(), sign,
        None if bias is None else bias.data_ptr(), math.sqrt(math.prod(geometry.grid)),
        _threads(),
    )  # fmt: skip
    return result


def _correlate(spectrum, grad_output, weight, tables) -> Tensor:
    library = load_library()
    taps = _pointers(tables.taps)
    band = _pointers(tables.inputs)
    lanes, terms, *strides = _tap_arguments(weight, False)
    batch = spectrum.shape[1]
    threads = _threads()
    chunks = library.passband_correlate_chunks(terms, lanes, band[0], threads)
    partial = weight.new_empty(chunks * library.passband_packed_taps(*taps, lanes, terms))
    library.passband_correlate(
        spectrum.data_ptr(), batch * terms, terms, grad_output.data_ptr(), batch * lanes, lanes,
        batch, *band, *taps, partial.data_ptr(), chunks, 0, threads,
    )  # fmt: skip
    grad = torch.empty_like(weight, memory_format=torch.contiguous_format)
    library.passband_unpack_taps(
        partial.data_ptr(), chunks, lanes, terms, *strides, *taps, grad.data_ptr(), threads
    )
    return grad
