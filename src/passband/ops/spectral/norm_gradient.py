"""The way back through batch norm where what is stored tells the normalised maps.

It needs sums over the batch (the gradients of gamma and beta), and the normalised maps. Where the
stored spectra are those of the normalised maps themselves, both come from there:

    x = (y - beta) / gamma,    sum(grad y) = <G, Y>    (Parseval; G is zero where Y is not stored)

with Y the stored spectrum and G its gradient, so that nothing is convolved again. The sums are
exact; x is the map that the threshold has left, as everywhere in the backward pass.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from passband.ops.conv_block.normalisation import Normalised, NormCall, Sums
from passband.ops.spectral.codec import Kept, Maps
from passband.ops.spectral.sources import StageOptions
from passband.spectrum.packed import PackedSpectrum

LEAST_GAMMA = {"float32": 2.0**-14, "bfloat16": 2.0**-5, "int8": 2.0**-4}
"""How small gamma may be beside the largest gamma and beta for the map to be known by what is
stored: the error of what is stored, by this, should be small."""

Mixture: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Numbers per channel: the gradient of the maps is first G + second Y + constant, as maps."""


def tells_maps(options: StageOptions) -> bool:
    """Whether what is stored is the spectrum of the maps, wherever a gradient comes back.

    Gradients that pass the threshold come back where nothing is stored, too: without those parts of
    the maps gamma's gradient would be another.
    """
    return isinstance(options.writes, Maps) and options.writes.is_whole and not options.passes


def weak_channels(norm: Normalised, storage: str) -> Tensor:
    """Channels whose gamma is too small for their maps to be known by what is stored."""
    gamma, beta = norm.gamma, norm.beta
    if gamma is None:
        return norm.mean.new_empty(0, dtype=torch.int64)
    sizes = gamma.abs() if beta is None else torch.maximum(gamma.abs(), beta.abs())
    return (gamma.abs() <= LEAST_GAMMA[storage] * sizes.amax()).nonzero().flatten()


@dataclass(frozen=True)
class KnownMaps:
    """Normalised maps of a batch, as they are stored.

    Args:
        call: The batch norm's call.
        norm: What it computed.
        codec: How the maps were stored.
        stored: The units.
        units: Gradients, as for `Maps.encode_adjoint`.
    """

    call: NormCall
    norm: Normalised
    codec: Maps
    stored: Sequence[PackedSpectrum]
    units: Sequence[Kept]

    def sums(self) -> tuple[Sums, Tensor]:
        """The gradients of gamma and beta, and the sum of the maps."""
        norm = self.norm
        gamma = torch.ones_like(norm.mean) if norm.gamma is None else norm.gamma
        beta = torch.zeros_like(norm.mean) if norm.beta is None else norm.beta
        products, totals, of_maps = self.codec.products(self.units, self.stored)
        of_gamma = (products - beta * totals) / gamma
        return (of_gamma.to(norm.mean.dtype), totals.to(norm.mean.dtype)), of_maps

    def over_all(self, sums: Sums, of_maps: Tensor) -> tuple[Sums, int, Mixture]:
        """The sums and the values of each channel over all processes, and the maps' gradient."""
        norm = self.norm
        values = sum(unit.shape[2] for unit in self.stored) * math.prod(self.codec.frame.size)
        (whole, _), _ = self.call.over_all((of_maps, of_maps), values)
        over_all, values = self.call.over_all(sums, values)
        # as Normalised.backward has it, with (y - mean y) / gamma for (maps - mean) * invstd; the
        # mean would be beta, but for what is not stored
        second = norm.invstd * over_all[0] / -values
        constant = norm.scale * over_all[1] / -values - second * (whole / values).to(second.dtype)
        return over_all, values, (norm.scale, second, constant)

    def gradient(self, own: slice, mixture: Mixture) -> Tensor:
        """The gradient of the maps that were normalised, of some units."""
        return self.codec.encode_adjoint_with(self.units[own], self.stored[own], *mixture)
