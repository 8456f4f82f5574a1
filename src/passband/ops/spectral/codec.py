"""How a stage's dense tensors become stored spectra and come back, and the gradients of both.

A stage computes with dense spectra, or with maps: then transform, threshold and packing are one
step, for which there are compiled kernels. Both ways are linear, but for the choice of the
coefficients that are kept, so their gradients need nothing but the bits of that choice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from passband.ops.band_limited_conv.native.memory import empty
from passband.ops.spectral.frame import Frame
from passband.ops.spectral.native import kernels
from passband.ops.spectral.pointwise import threshold
from passband.spectrum.packed import PackedSpectrum, gather, pack, scatter, unpack

Kept: TypeAlias = "tuple[PackedSpectrum, Tensor | None, Tensor | None]"
"""A unit, of which only the shape is needed; its bits; and the gradient of its values, if any."""


class Codec(Protocol):
    """Between dense tensors of some images and stored units."""

    def encode(
        self, dense: Tensor, images: Sequence[int], storage: str, sparse: bool
    ) -> list[PackedSpectrum]:
        """Units of so many images each."""

    def encode_adjoint(self, units: Sequence[Kept], device: torch.device) -> Tensor:
        """The gradient of the dense tensor from those of the values that were kept."""

    def decode(self, units: Sequence[PackedSpectrum]) -> Tensor:
        """The dense tensor of some units."""

    def decode_adjoint(self, grad: Tensor, units: Sequence[PackedSpectrum]) -> list[Tensor]:
        """The gradients of the units' values from that of the dense tensor."""


class Spectra:
    """Dense spectra (2, F, b, C)."""

    def encode(  # noqa: D102  # the protocol says it
        self, dense: Tensor, images: Sequence[int], storage: str, sparse: bool
    ) -> list[PackedSpectrum]:
        return [
            pack(part.contiguous(), storage, sparse)
            for part in torch.split(dense.detach(), list(images), 2)
        ]

    def encode_adjoint(  # noqa: D102
        self, units: Sequence[Kept], device: torch.device
    ) -> Tensor:
        parts = [
            torch.zeros(unit.shape, dtype=unit.dtype, device=device)
            if grad is None
            else scatter(grad, bits, unit.shape)
            for unit, bits, grad in units
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def decode(self, units: Sequence[PackedSpectrum]) -> Tensor:  # noqa: D102
        parts = [unpack(unit) for unit in units]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def decode_adjoint(  # noqa: D102
        self, grad: Tensor, units: Sequence[PackedSpectrum]
    ) -> list[Tensor]:
        parts = torch.split(grad, [unit.shape[2] for unit in units], 2)
        return [gather(g, unit.bits) for g, unit in zip(parts, units, strict=True)]


SPECTRA = Spectra()


@dataclass(frozen=True)
class Maps:
    """Maps (b, C, n1, ..) of a frame.

    Args:
        frame: Of their spectra.
        beta: What is smaller is not kept.
    """

    frame: Frame
    beta: float = 0.0

    def encode(  # noqa: D102
        self, dense: Tensor, images: Sequence[int], storage: str, sparse: bool
    ) -> list[PackedSpectrum]:
        if storage == "int8" or not self._by_kernels(dense):
            spectrum = threshold(self.frame.from_map(dense), self.beta)
            return SPECTRA.encode(spectrum, images, storage, sparse)
        real = kernels.analyze(dense, self.frame.geometry)
        table, units = self.frame.analysis_table, []
        for part in torch.split(real, list(images), 1):
            shape = (2, table.bins, *part.shape[1:])
            bits, count = None, table.bins * part[0].numel()
            if sparse:
                bits, count = kernels.mark(table, part, self.beta)
            values = kernels.gather(table, part, bits, count)
            values = values.bfloat16() if storage == "bfloat16" else values
            units.append(PackedSpectrum(values, bits, None, shape, dense.dtype))
        return units

    def encode_adjoint(  # noqa: D102
        self, units: Sequence[Kept], device: torch.device
    ) -> Tensor:
        grads = [grad for _, _, grad in units]
        if any(grad is None for grad in grads) or not self._by_kernels(*grads):
            return self.frame.from_map_adjoint(SPECTRA.encode_adjoint(units, device))
        return self._written(
            self.frame.analysis_table, [(unit, bits, grad) for unit, bits, grad in units]
        )

    def decode(self, units: Sequence[PackedSpectrum]) -> Tensor:  # noqa: D102
        if any(unit.scale is not None for unit in units) or not self._by_kernels(
            *(unit.values.new_empty(0, dtype=unit.dtype) for unit in units)
        ):
            return self.frame.to_map(SPECTRA.decode(units))
        own = [(unit, unit.bits, unit.values.float()) for unit in units]
        return self._written(self.frame.synthesis_table, own)

    def decode_adjoint(  # noqa: D102
        self, grad: Tensor, units: Sequence[PackedSpectrum]
    ) -> list[Tensor]:
        if not self._by_kernels(grad):
            return SPECTRA.decode_adjoint(self.frame.to_map_adjoint(grad), units)
        real = kernels.analyze(grad, self.frame.geometry)
        parts = torch.split(real, [unit.shape[2] for unit in units], 1)
        return [
            kernels.gather(self.frame.synthesis_table, part, unit.bits, unit.count)
            for part, unit in zip(parts, units, strict=True)
        ]

    def _written(self, table: kernels.BinsTable, units: Sequence[Kept]) -> Tensor:
        """The maps that values of complex coefficients make up."""
        images = [unit.shape[2] for unit, _, _ in units]
        channels = units[0][0].shape[3]
        geometry = self.frame.geometry
        rows = torch.Size(geometry.band.real_sizes).numel()
        real = empty((rows, sum(images), channels))
        parts = torch.split(real, images, 1)
        for part, (_, bits, values) in zip(parts, units, strict=True):
            assert values is not None
            kernels.scatter(table, values, bits, part)
        maps = empty((sum(images), channels, *self.frame.size))
        kernels.synthesize(real, maps, geometry)
        return maps

    def _by_kernels(self, *tensors: Tensor | None) -> bool:
        return kernels.suits(len(self.frame.size), *tensors)
