"""The definition of the band-limited convolution, by torch.fft: the specification of every other.

Y = irfft(rfft(pad(x)) M conj(rfft(w, N)) M), output = Y[.., : N0 - K + 1 : stride], with M the
band's mask on a grid of N points, N0 the padded map and K the span of the dilated filter. Complex
numbers live here and nowhere else; gradients are torch's own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from passband.ops.band_limited_conv.geometry import ConvGeometry, filter_span


def band_limited_conv(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    mask: Tensor | None = None,
) -> Tensor:
    """Band-limited convolution of maps (B, C, n1, ..) with filters (O, C / groups, k1, ..).

    Args:
        input: Maps.
        weight: Filters.
        bias: One number per output channel (O,), or None.
        geometry: Static shapes and the band.
        mask: Boolean half-spectrum to keep instead of the whole band (the fine energy mode).

    Returns:
        Maps (B, O, m1, ..) in the type of the input.
    """
    dtype = input.dtype
    if dtype in (torch.float16, torch.bfloat16):  # torch.fft has neither on a CPU
        input, weight = input.float(), weight.float()
        bias = None if bias is None else bias.float()
    dims = tuple(range(-geometry.axes, 0))
    keep = geometry.band.mask(input.device) if mask is None else mask
    maps = F.pad(input, [p for pair in reversed(geometry.padding) for p in pair])
    filters = _dilate(weight, geometry)
    x = torch.fft.rfftn(maps, s=geometry.grid, dim=dims) * keep
    k = torch.fft.rfftn(filters, s=geometry.grid, dim=dims) * keep
    x = x.unflatten(1, (geometry.groups, -1))
    k = k.unflatten(0, (geometry.groups, -1))
    y = torch.einsum("bgc...,goc...->bgo...", x, k.conj()).flatten(1, 2)
    output: Tensor = torch.fft.irfftn(y, s=geometry.grid, dim=dims)
    for axis, (n, stride) in enumerate(zip(geometry.output_size, geometry.stride, strict=True), 2):
        positions = torch.arange(n, device=output.device) * stride
        output = output.index_select(axis, positions)
    if bias is not None:
        output = output + bias.view(-1, *[1] * geometry.axes)
    return output.to(dtype)


def _dilate(weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """Filters with dilation - 1 zeros between their taps."""
    if all(d == 1 for d in geometry.dilation):
        return weight
    spans = filter_span(geometry.kernel, geometry.dilation)
    filters = weight.new_zeros(*weight.shape[:2], *spans)
    taps = [slice(None), slice(None), *(slice(None, None, d) for d in geometry.dilation)]
    filters[tuple(taps)] = weight
    return filters
