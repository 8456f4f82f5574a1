"""Spectral energy of maps, and the smallest band that holds a given part of it.

The energy of a batch is the sum over its maps and channels of |X|^2, each half-spectrum coefficient
counted as often as it stands in the full spectrum (Parseval).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from passband.spectrum.band import (
    Band,
    coefficient_order,
    full_band,
    nested_bands,
    parseval_weights,
)


@dataclass(frozen=True)
class EnergyBand:
    """What an energy asks to be kept: a band, and for the fine mode which coefficients of it."""

    band: Band
    mask: Tensor | None
    """Boolean half-spectrum (N1, ..., N//2 + 1), or None for the whole band."""


def coefficient_energies(maps: Tensor, sizes: Sequence[int]) -> Tensor:
    """Energy of each half-spectrum coefficient, summed over all leading axes.

    Args:
        maps: Real tensor (..., n1, n2, ...), zero-padded at the end to the grid.
        sizes: The grid, N per axis.

    Returns:
        Tensor (N1, ..., N//2 + 1), whose sum is N1 * N2 * .. times the sum of squares.

    Examples:
        >>> x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
        >>> torch.allclose(coefficient_energies(x, (5, 6)).sum(), 30 * x.square().sum())
        True
    """
    axes = len(sizes)
    if maps.dtype in (torch.float16, torch.bfloat16):
        maps = maps.float()
    if maps.numel() == 0:  # older torch.fft refuses an empty batch
        maps = maps.new_zeros(maps.shape[-axes:])
    spectrum = torch.fft.rfftn(maps, s=tuple(sizes), dim=tuple(range(-axes, 0)))
    power: Tensor = spectrum.real.square() + spectrum.imag.square()
    power = power.flatten(0, -axes - 1).sum(0) if power.dim() > axes else power
    weights: Tensor = torch.from_numpy(parseval_weights(sizes[-1])).to(power)
    return power * weights


def band_energy(maps: Tensor, band: Band) -> Tensor:
    """Fraction of the energy of the maps that a band holds; 0 / 0 is 1.

    Examples:
        >>> x = torch.ones(1, 1, 8, 8)
        >>> band_energy(x, Band((8, 8), (1, 1))).item()
        1.0
    """
    energies = coefficient_energies(maps, band.sizes)
    kept, total = energies[band.mask(energies.device)].sum(), energies.sum()
    return torch.where(total > 0, kept / total, torch.ones_like(total))


def band_from_energy(
    maps: Tensor, sizes: Sequence[int], energy: float, mode: str = "coarse"
) -> EnergyBand:
    """The smallest nested band that holds at least the fraction `energy` of the maps' energy.

    Coarse: whole shells of frequencies are added until the energy is reached. Fine: the last
    shell's coefficients are added one at a time, in raster order of the half-spectrum, a conjugate
    pair of the zero-frequency or Nyquist column together; the rest of the shell stays zero
    (Dziedzic et al. 2019, section 3; the order inside the shell is this library's choice, the paper
    does not name one). An energy of 1, and maps that are not finite, give the full band.

    Args:
        maps: Real tensor (B, C, n1, ...), zero-padded at the end to the grid.
        sizes: The grid, N per axis.
        energy: Fraction to keep, 0 < energy <= 1.
        mode: "coarse" or "fine".

    Examples:
        >>> x = torch.cos(2 * torch.pi * 2 * torch.arange(16) / 16).expand(1, 1, 16)
        >>> band_from_energy(x, (16,), 0.9).band.kept
        (3,)
    """
    return smallest_band(coefficient_energies(maps.detach(), sizes), sizes, energy, mode)


def smallest_band(
    energies: Tensor, sizes: Sequence[int], energy: float, mode: str = "coarse"
) -> EnergyBand:
    """`band_from_energy` from energies that are known already, of many batches for example.

    Args:
        energies: What `coefficient_energies` gives, (N1, ..., N//2 + 1).
        sizes: The grid, N per axis.
        energy: Fraction to keep, 0 < energy <= 1.
        mode: "coarse" or "fine".

    Examples:
        >>> smallest_band(torch.tensor([4.0, 1.0, 5.0, 0.0]), (6,), 0.5).band.kept
        (2,)
    """
    sizes, energies = tuple(sizes), energies.double().flatten()
    order = coefficient_order(sizes)
    rank = order.rank.to(energies.device)
    ranks = len(order.shell_of_rank)
    cumulative = energies.new_zeros(ranks).index_add(0, rank.flatten(), energies).cumsum(0)
    total = cumulative[-1]
    if energy == 1 or not torch.isfinite(total):
        return EnergyBand(full_band(sizes), None)
    last = min(int((cumulative < energy * total).sum()), ranks - 1)
    band = nested_bands(sizes)[order.shell_of_rank[last]]
    return EnergyBand(band, rank <= last if mode == "fine" else None)
