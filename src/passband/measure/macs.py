"""Multiply-accumulates of layers, counted from shapes: one per real multiplication.

Additions alone, activations and normalisation are not counted, as in torch's FlopCounterMode, whose
count of a convolution or a linear layer is twice this one (a multiplication and an addition).
"""

import math
from dataclasses import replace
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from passband.nn.band_limited import BandLimitedConv1d, BandLimitedConv2d, BandLimitedConv3d
from passband.nn.frequency_layer import FrequencyLayer
from passband.nn.frequency_maps import CoefficientConv2d
from passband.ops.band_limited_conv.cost import multiplications, native_multiplications
from passband.ops.band_limited_conv.geometry import ConvGeometry, conv_geometry
from passband.ops.band_limited_conv.layout import product_dtype
from passband.ops.band_limited_conv.select import Choice, select_algorithm
from passband.spectrum.energy import band_from_energy

BandLimitedConv: TypeAlias = BandLimitedConv1d | BandLimitedConv2d | BandLimitedConv3d
"""A band-limited layer of any number of axes; isinstance takes it too."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
COUNTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, FrequencyLayer)
"""The layers whose multiply-accumulates `layer_macs` knows; their subclasses too."""


def layer_macs(layer: nn.Module, input_shape: tuple[int, ...], filters: bool = True) -> int:
    """Multiply-accumulates of one forward pass.

    - Convolution: B * O * C/groups * taps * output points.
    - Transposed convolution: B * C * O/groups * taps * input points.
    - Linear layer: inputs * outputs * leading axes.
    - Band-limited convolution: those of the algorithm that runs, see `band_limited_macs`.
    - Layer with DCT coefficients for weights: of the channels that are there and kept.

    Args:
        layer: One of these layers.
        input_shape: (B, C, n1, ..), or (C, n1, ..) for one map.
        filters: Whether a band-limited layer's transform of its filters is counted: it is done once
            per batch in training, and not at all in evaluation, where it is kept.

    Raises:
        TypeError: The layer is another one.

    Examples:
        >>> layer_macs(nn.Conv2d(64, 64, 3, padding=1), (1, 64, 56, 56))
        115605504
        >>> layer_macs(nn.Linear(512, 1000), (1, 512))
        512000
    """
    if isinstance(layer, (FrequencyLayer, CoefficientConv2d)):
        return layer.macs(input_shape)
    if isinstance(layer, nn.Linear):
        return math.prod(input_shape[:-1]) * layer.in_features * layer.out_features
    if isinstance(layer, TRANSPOSED):
        weights = layer.weight.numel()  # C * O / groups * taps
        return _batch(layer, input_shape) * weights * math.prod(_size(layer, input_shape))
    if isinstance(layer, BandLimitedConv):
        geometry = layer.geometry(_size(layer, input_shape))
        algorithm = _choice(layer, geometry, input_shape, training=True).algorithm
        return band_limited_macs(layer, geometry, input_shape, algorithm, filters)
    if isinstance(layer, CONVOLUTIONS):
        geometry = _convolution_geometry(layer, input_shape)
        batch = _batch(layer, input_shape)
        return native_multiplications(geometry, batch, layer.in_channels, layer.out_channels)
    known = ", ".join(kind.__name__ for kind in COUNTED)
    raise TypeError(f"layer is {type(layer).__name__}, allowed are {known}")


def band_limited_macs(
    layer: BandLimitedConv,
    geometry: ConvGeometry,
    input_shape: tuple[int, ...],
    algorithm: str,
    filters: bool = True,
) -> int:
    """Multiply-accumulates of a band-limited layer by one algorithm.

    With N the grid's and m the kept real degrees of freedom per axis, `matmul` takes per image one
    separable transform of each input and output channel, and three real products for each pair of
    channels and each of about m1 * m2 / 2 complex frequencies; `lowpass` two separable transforms
    of each input channel and the plain convolution; see `passband.ops.band_limited_conv.cost`.

    Args:
        layer: The layer.
        geometry: Its shapes and band for this input.
        input_shape: (B, C, n1, ..), or (C, n1, ..) for one map.
        algorithm: "fft", "lowpass", "matmul" or "triton".
        filters: Whether the transform of the filters is counted.

    Examples:
        >>> layer = BandLimitedConv2d(64, 64, 3, padding=1, compression=0.5)
        >>> shape = (32, 64, 32, 32)
        >>> macs = band_limited_macs(layer, layer.geometry((32, 32)), shape, "matmul", False)
        >>> round(macs / layer_macs(layer.to_conv(), shape), 2)
        0.26
    """
    batch = _batch(layer, input_shape)
    count = multiplications(algorithm, geometry, batch, layer.in_channels, layer.out_channels)
    return count.total if filters else count.total - count.filters


def call_geometry(
    layer: BandLimitedConv, input: Tensor, training: bool = True
) -> tuple[ConvGeometry, Choice]:
    """The shapes, the band and the algorithm of a band-limited layer's call on this input.

    With `energy` the band is the one that these values ask for.

    Args:
        layer: The layer.
        input: What it is called with.
        training: Whether a backward pass follows.

    Examples:
        >>> import torch
        >>> layer = BandLimitedConv1d(4, 4, 5, energy=0.9, algorithm="matmul")
        >>> geometry, choice = call_geometry(layer, torch.ones(2, 4, 40))
        >>> geometry.kept, choice.algorithm
        ((1,), 'matmul')
    """
    shape = tuple(input.shape)
    geometry = layer.geometry(_size(layer, shape))
    if layer.energy is not None:
        maps = explicitly_padded(layer, input)
        chosen = band_from_energy(maps, geometry.grid, layer.energy, layer.energy_mode)
        geometry = replace(geometry, kept=chosen.band.kept)
        if chosen.mask is not None and layer.algorithm != "fft":
            choice = _choice(layer, geometry, shape, training)
            if choice.algorithm not in ("triton", "matmul"):
                choice = Choice("matmul", "part of a shell is kept, which no other can do")
            return geometry, choice
    return geometry, _choice(layer, geometry, shape, training)


def explicitly_padded(layer: BandLimitedConv, input: Tensor) -> Tensor:
    """The input with the padding that is not zeros: what the layer's band is a band of."""
    if layer.padding_mode == "zeros":
        return input
    return F.pad(input, layer._reversed_padding_repeated_twice, layer.padding_mode)


def _choice(
    layer: BandLimitedConv, geometry: ConvGeometry, shape: tuple[int, ...], training: bool
) -> Choice:
    return select_algorithm(
        layer.algorithm, geometry, _batch(layer, shape), layer.in_channels, layer.out_channels,
        layer.weight.device, product_dtype(layer.weight), training,
    )  # fmt: skip


def _size(layer: nn.modules.conv._ConvNd, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(input_shape[-len(layer.kernel_size) :])


def _batch(layer: nn.modules.conv._ConvNd, input_shape: tuple[int, ...]) -> int:
    return math.prod(input_shape[: -len(layer.kernel_size) - 1])


def _convolution_geometry(
    conv: nn.modules.conv._ConvNd, input_shape: tuple[int, ...]
) -> ConvGeometry:
    """Shapes of a plain convolution: padding of any mode is part of its map."""
    pads = conv._reversed_padding_repeated_twice[::-1]
    size = zip(_size(conv, input_shape), pads[::2], pads[1::2], strict=True)
    return conv_geometry(
        [n + before + after for n, before, after in size],
        conv.kernel_size,
        conv.stride,
        dilation=conv.dilation,
        groups=conv.groups,
    )
