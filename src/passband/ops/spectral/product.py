"""The spectral product: a circular convolution, frequency by frequency, in real numbers.

Y = X conj(K), summed over the input channels, by three real products for each complex one (Gauss),
as in `passband.ops.band_limited_conv.matmul`. K is the DFT of the filter about its centre, so that
the map keeps its place: y[n] = sum_j w[j] x[n + d j - p], with the map continued periodically.
"""

import math

import numpy as np
import torch
from torch import Tensor

from passband.ops.spectral.frame import Frame, self_conjugate_bins
from passband.spectrum.band import Band
from passband.spectrum.constants import cached_constant


def spectral_conv(
    spectrum: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    frame: Frame,
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int = 1,
) -> Tensor:
    """The circular convolution of maps, from spectrum to spectrum.

    Frequencies that are zero in all images and channels are left out of the product.

    Args:
        spectrum: (2, F, B, C).
        weight: Filters (O, C / groups, k1, ..).
        bias: (O,), or None; it is added to frequency zero.
        frame: Of the spectrum, and of the result.
        padding: Place of the filter's centre, as torch's convolutions name it.
        dilation: Distance between taps.
        groups: Groups of channels.

    Returns:
        The spectrum (2, F, B, O).

    Examples:
        >>> frame = Frame.of((8, 8))
        >>> x, w = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
        >>> y = frame.to_map(spectral_conv(frame.from_map(x), w, None, frame, (1, 1), (1, 1)))
        >>> padded = torch.nn.functional.pad(x, (1, 1, 1, 1), "circular")
        >>> torch.allclose(y, torch.nn.functional.conv2d(padded, w), atol=1e-4)
        True
    """
    kernel = tuple(weight.shape[2:])
    matrix = _three_filter_parts(
        frame.band, kernel, padding, dilation, spectrum.dtype, spectrum.device
    )
    active = _active(spectrum)
    bins, outputs = frame.bins, weight.shape[0]
    if active is None:
        result = _product(spectrum, weight, matrix, groups)
    else:
        found = _product(spectrum[:, active], weight, matrix[:, active], groups)
        result = found.new_zeros(2, bins, spectrum.shape[2], outputs).index_copy(1, active, found)
    # rounding leaves something where the symmetry asks for zero
    alone = self_conjugate_bins(frame.band).to(spectrum.device)
    result[1].index_fill_(0, alone, 0.0)
    if bias is not None:
        result[0, 0] += bias.to(result.dtype) * math.sqrt(math.prod(frame.grid))
    return result


def _active(spectrum: Tensor) -> Tensor | None:
    """The frequencies that are not zero throughout, where leaving out the others pays."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return None  # what is recorded must not depend on values
    nonzero = spectrum.detach().ne(0).flatten(2).any(2).any(0)
    count = int(nonzero.sum())
    return None if count > 0.9 * len(nonzero) else nonzero.nonzero().squeeze(1)


def _product(spectrum: Tensor, weight: Tensor, matrix: Tensor, groups: int) -> Tensor:
    real, imag = spectrum
    three = torch.stack([real, imag, real + imag])  # times Li - Lr, Lr + Li and Lr
    taps = weight.to(matrix.dtype).flatten(2).permute(2, 1, 0)
    filters = torch.matmul(matrix, taps.reshape(taps.shape[0], -1))
    filters = filters.view(*matrix.shape[:2], *taps.shape[1:])
    if groups == 1:
        p2, p3, p1 = torch.matmul(three, filters)
    else:
        x = three.view(*three.shape[:-1], groups, -1).transpose(-2, -3)
        k = filters.view(*filters.shape[:-1], groups, -1).transpose(-2, -3)
        p2, p3, p1 = torch.matmul(x, k).transpose(-2, -3).flatten(-2)
    return torch.stack([p1 - p3, p1 + p2])


@cached_constant
def _three_filter_parts(
    band: Band,
    kernel: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Li - Lr, Lr + Li and Lr of the filter's conjugate spectrum L: (3, F, taps)."""
    bins = band.bins()
    taps = np.indices(kernel).reshape(len(kernel), -1)
    angle = np.zeros((len(bins), math.prod(kernel)))
    for axis, size in enumerate(band.sizes):
        place = taps[axis] * dilation[axis] - padding[axis]
        angle += 2 * np.pi / size * (np.outer(bins[:, axis], place) % size)
    real, imag = np.cos(angle), np.sin(angle)
    imag[self_conjugate_bins(band).numpy()] = 0
    parts = np.stack([imag - real, real + imag, real])
    return torch.tensor(parts, dtype=dtype, device=device)
