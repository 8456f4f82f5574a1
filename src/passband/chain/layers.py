"""The layers of a chain: torch.nn modules with the channels that are left."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband.nn.frequency import FrequencyLinear
from passband.nn.frequency_layer import FrequencyLayer
from passband.nn.frequency_maps import CoefficientConv2d, FrequencyBatchNorm


class Affine(NamedTuple):
    """What a batch norm is in evaluation: y = scale x + shift, per channel."""

    scale: Tensor
    shift: Tensor


def batch_norm_affine(norm: FrequencyBatchNorm, channels: list[int]) -> Affine:
    """A batch norm with running statistics, of some channels, in float64."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var[channels].double() + norm.eps).rsqrt()
    weight, bias = norm._parameters["weight"], norm._parameters["bias"]
    if weight is not None:
        scale = scale * weight.detach()[channels].double()
    shift = -norm.running_mean[channels].double() * scale
    if bias is not None:
        shift = shift + bias.detach()[channels].double()
    return Affine(scale, shift)


def plain_layer(
    layer: FrequencyLayer,
    reads: list[tuple[int, int]],
    inputs: int,
    kept: int,
    outputs: int,
    affine: Affine | None,
    before: Tensor | None,
    after: Tensor | None,
) -> nn.Module:
    """The torch layer of what is left of a frequency layer.

    Args:
        layer: The layer.
        reads: Position in its input, and rank in its weights, of each channel that it reads.
        inputs: Channels of its input.
        kept: Channels of its output that something reads.
        outputs: Those that it gives, the rest zeros.
        affine: A batch norm that follows.
        before: A matrix that its input's channels are multiplied by.
        after: A matrix that its output's channels are multiplied by.
    """
    weight = layer.channel_weight().detach().double()
    weight = weight.transpose(0, layer._out_axis)  # (outputs, inputs, ..)
    placed = weight.new_zeros(kept, inputs, *weight.shape[2:])
    positions, ranks = [p for p, _ in reads], [r for _, r in reads]
    placed[:, positions] = weight[:kept, ranks]
    bias = None if layer.bias is None else layer.bias.detach()[:kept].double()
    if affine is not None:
        placed = placed * affine.scale.view(-1, *[1] * (placed.dim() - 1))
        bias = affine.shift if bias is None else bias * affine.scale + affine.shift
    if before is not None:
        placed = torch.einsum("oi...,ic->oc...", placed, before.double())
    if after is not None:
        placed = torch.einsum("co,oi...->ci...", after.double()[:, :kept], placed)
        bias = None if bias is None else after.double()[:, :kept] @ bias
    else:
        placed = torch.cat([placed, placed.new_zeros(outputs - kept, *placed.shape[1:])])
        bias = None if bias is None else F.pad(bias, (0, outputs - kept))
    return _made(layer, placed.to(layer.weight.dtype), bias)


def _made(layer: FrequencyLayer, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The torch layer with this weight (outputs, inputs, ..) and this bias."""
    outputs, inputs = weight.shape[:2]
    made: nn.Module
    if isinstance(layer, FrequencyLinear):
        flat = weight.flatten(1)
        made = nn.Linear(flat.shape[1], outputs, bias is not None)
        weight = flat
    else:
        native = layer._native
        options = {"bias": bias is not None}
        names = ["kernel_size", "stride", "padding", "dilation", "padding_mode"]
        if native is nn.ConvTranspose2d:
            names = ["kernel_size", "stride", "padding", "output_padding", "dilation"]
            weight = weight.transpose(0, 1)
        options |= {name: getattr(layer, name) for name in names}
        made = native(inputs, outputs, **options)
    return _with_weights(made, weight, bias)


def _with_weights(made: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    made.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        made.bias = nn.Parameter(bias.to(weight))
    return made


def plain_batch_norm(
    norm: FrequencyBatchNorm, channels: list[int | None], native: type[nn.Module]
) -> nn.Module:
    """A batch norm of some channels; None is a channel of zeros, which stays zero."""
    there = [k for k in channels if k is not None]
    places = [place for place, k in enumerate(channels) if k is not None]
    made = native(len(channels), norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    own = {**norm._parameters, **norm._buffers}
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = own.get(name)
        target = getattr(made, name, None)
        if isinstance(value, Tensor) and isinstance(target, Tensor):
            with torch.no_grad():
                fresh = torch.zeros_like(target, dtype=value.dtype)
                if name == "running_var":
                    fresh += 1
                fresh[places] = value.detach()[there]
                target.data = fresh
    return made


def plain_depthwise(
    conv: CoefficientConv2d, kept: int, channels: int, affine: Affine | None
) -> nn.Module:
    """A depthwise convolution of the channels that are left, zeros for those of a rounding."""
    weight = conv.weight.detach()[:kept].double()
    bias = None if conv.bias is None else conv.bias.detach()[:kept].double()
    weight, bias = _scaled(weight, bias, affine)
    weight = torch.cat([weight, weight.new_zeros(channels - kept, *weight.shape[1:])])
    bias = None if bias is None else F.pad(bias, (0, channels - kept))
    made: Any = nn.Conv2d
    made = made(
        channels, channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, channels,
        bias is not None, conv.padding_mode,
    )  # fmt: skip
    return _with_weights(made, weight.to(conv.weight.dtype), bias)


def plain_grouped(conv: CoefficientConv2d, affine: Affine | None) -> nn.Module:
    """A grouped convolution as it is."""
    bias = None if conv.bias is None else conv.bias.detach().double()
    weight, bias = _scaled(conv.weight.detach().double(), bias, affine)
    made: Any = nn.Conv2d
    made = made(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
        conv.dilation, conv.groups, bias is not None, conv.padding_mode,
    )  # fmt: skip
    return _with_weights(made, weight.to(conv.weight.dtype), bias)


def _scaled(
    weight: Tensor, bias: Tensor | None, affine: Affine | None
) -> tuple[Tensor, Tensor | None]:
    if affine is None:
        return weight, bias
    shift = affine.shift if bias is None else bias * affine.scale + affine.shift
    return weight * affine.scale.view(-1, *[1] * (weight.dim() - 1)), shift


def channel_matrix_layer(matrix: Tensor, axes: int) -> nn.Module:
    """A matrix along the channels of a value with so many axes, as a layer of torch."""
    outputs, inputs = matrix.shape
    made: nn.Module
    if axes == 2:
        made = nn.Linear(inputs, outputs, bias=False)
    else:
        convolution = nn.Conv1d if axes == 3 else nn.Conv2d
        made = convolution(inputs, outputs, 1, bias=False)
    return _with_weights(made, matrix.reshape(made.weight.shape), None)
