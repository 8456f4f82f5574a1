"""Keeping a part of a band's coefficients only, for the fine energy mode."""

import torch
from torch import Tensor

from passband.ops.band_limited_conv import matmul
from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.spectrum.dft import hermitian_packing


def masked_spectrum(maps: Tensor, geometry: ConvGeometry, mask: Tensor) -> Tensor:
    """The spectrum of `matmul.analyze` with the coefficients outside a mask set to zero.

    The band is a projection, so masking the map's spectrum alone masks the filter's as well.

    Args:
        maps: (B, C, n1, ..).
        geometry: Static shapes and the band.
        mask: Boolean half-spectrum (N1, .., N//2 + 1) that keeps conjugates together.

    Returns:
        Tensor (frequencies, B, C).
    """
    spectrum = matmul.analyze(maps, geometry)
    packing = hermitian_packing(geometry.band, spectrum.dtype, spectrum.device)
    real, imag = packing.pack(spectrum)
    keep = mask_of_bins(geometry, mask).to(spectrum)[:, None, None]
    return packing.unpack(real * keep, imag * keep)


def mask_of_bins(geometry: ConvGeometry, mask: Tensor) -> Tensor:
    """A half-spectrum mask read at the bins of the band, which all lie in the half-spectrum."""
    bins = torch.from_numpy(geometry.band.bins())
    index = tuple(
        (column % size).to(mask.device) for column, size in zip(bins.T, geometry.grid, strict=True)
    )
    return mask[index]
