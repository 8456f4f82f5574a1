"""How a stage's dense tensors become stored spectra and come back, and the gradients of both.

A stage computes with dense spectra, or with maps: then transform, threshold and packing are one
step, for which there are compiled kernels. Both ways are linear, but for the choice of the
coefficients that are kept, so their gradients need nothing but the bits of that choice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from passband.ops.band_limited_conv.native.memory import empty
from passband.ops.spectral.frame import Frame
from passband.ops.spectral.native import kernels
from passband.ops.spectral.native.kernels import Stored
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

    def decode_adjoint(
        self, grad: Tensor, units: Sequence[PackedSpectrum], free: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """The gradients of the units' values from that of the dense tensor.

        Args:
            grad: That of the dense tensor.
            units: The units.
            free: Tensors whose memory may be used for the result.
        """


class Spectra:
    """Dense spectra (2, F, b, C)."""

    def encode(  # noqa: D102  # the protocol says it
        self, dense: Tensor, images: Sequence[int], storage: str, sparse: bool
    ) -> list[PackedSpectrum]:
        parts = torch.split(dense.detach(), list(images), 2)
        if not sparse or not kernels.suits(1, dense):
            return [pack(part.contiguous(), storage, sparse) for part in parts]
        table, rows = _spectra_table(dense.shape[1]), _rows(dense.detach())
        return _packed(table, torch.split(rows, list(images), 1), 0.0, storage)

    def encode_adjoint(  # noqa: D102
        self, units: Sequence[Kept], device: torch.device
    ) -> Tensor:
        grads = [grad for _, _, grad in units]
        if all(g is not None for g in grads) and kernels.suits(1, *grads):
            return self._written(units)
        parts = [
            torch.zeros(unit.shape, dtype=unit.dtype, device=device)
            if grad is None
            else scatter(grad, bits, unit.shape)
            for unit, bits, grad in units
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def decode(self, units: Sequence[PackedSpectrum]) -> Tensor:  # noqa: D102
        if _suit(1, units):
            return self._written([(u, u.bits, _kernel_values(u)) for u in units])
        parts = [unpack(unit) for unit in units]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def decode_adjoint(  # noqa: D102
        self, grad: Tensor, units: Sequence[PackedSpectrum], free: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        images = [unit.shape[2] for unit in units]
        if not kernels.suits(1, grad):
            parts = torch.split(grad, images, 2)
            return [gather(g, unit.gradient_bits) for g, unit in zip(parts, units, strict=True)]
        stored = [Stored(grad.new_empty(2, u.gradient_count), u.gradient_bits) for u in units]
        parts = torch.split(_rows(grad), images, 1)
        kernels.gather(_spectra_table(grad.shape[1]), stored, parts)
        return [own.values for own in stored]

    def _written(self, units: Sequence[Kept]) -> Tensor:
        """The spectrum that values make up."""
        _, bins, _, channels = units[0][0].shape
        images = [unit.shape[2] for unit, _, _ in units]
        rows = empty((2 * bins, sum(images), channels))
        stored, parts = [_stored(kept) for kept in units], torch.split(rows, images, 1)
        kernels.scatter(_spectra_table(bins), stored, parts)
        return rows.view(2, bins, -1, channels)


SPECTRA = Spectra()


@dataclass(frozen=True)
class Maps:
    """Maps (b, C, n1, ..) of a frame.

    Args:
        frame: Of their spectra.
        beta: What is smaller is not kept.
        layout: How maps lie in memory where the kernels write them.
    """

    frame: Frame
    beta: float = 0.0
    layout: torch.memory_format = torch.contiguous_format

    def encode(  # noqa: D102
        self, dense: Tensor, images: Sequence[int], storage: str, sparse: bool
    ) -> list[PackedSpectrum]:
        if not self._by_kernels(dense):
            spectrum = threshold(self.frame.from_map(dense), self.beta)
            return SPECTRA.encode(spectrum, images, storage, sparse)
        table = self.frame.analysis_table
        if not sparse:
            return self._packed_whole(table, torch.split(dense, list(images)), storage)
        real = kernels.analyze(dense, self.frame.geometry)
        return _packed(table, torch.split(real, list(images), 1), self.beta, storage)

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
        if not _suit(len(self.frame.size), units):
            return self.frame.to_map(SPECTRA.decode(units))
        return self._written(
            self.frame.synthesis_table, [(u, u.bits, _kernel_values(u)) for u in units]
        )

    def decode_adjoint(  # noqa: D102
        self, grad: Tensor, units: Sequence[PackedSpectrum], free: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        if not self._by_kernels(grad):
            return SPECTRA.decode_adjoint(self.frame.to_map_adjoint(grad), units)
        parts, left = torch.split(grad, [unit.shape[2] for unit in units]), list(free)
        stored = [Stored(_memory(unit, left), unit.gradient_bits) for unit in units]
        kernels.pick(self.frame.synthesis_table, stored, parts, self.frame.geometry)
        return [own.values for own in stored]

    @property
    def is_whole(self) -> bool:
        """Whether the spectra are those of the maps and nothing around them, all of them."""
        return self.frame.padding == ((0, 0),) * len(self.frame.size) and self.frame.band.is_full

    def products(
        self, units: Sequence[Kept], stored: Sequence[PackedSpectrum]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of each channel, sums over images and points: gradient times map, gradient, map.

        Where `is_whole`. The map is what is stored; of what is not, the gradient is zero, so that
        the product lacks nothing.

        Args:
            units: Gradients, as for `encode_adjoint`.
            stored: The units themselves.
        """
        points = math.sqrt(math.prod(self.frame.grid))
        channels = stored[0].shape[3]
        grads = [
            own.values.new_zeros(2, own.count, dtype=own.dtype) if grad is None else grad
            for (_, _, grad), own in zip(units, stored, strict=True)
        ]
        if self._by_kernels(*grads):
            given = [Stored(grad, own.bits) for grad, own in zip(grads, stored, strict=True)]
            others = [Stored(_kernel_values(own), own.bits, own.scale) for own in stored]
            lanes = [own.shape[2] * channels for own in stored]
            table = self.frame.analysis_table
            sums = kernels.products(table, given, others, lanes, channels)
            return sums[0], sums[1] * points, sums[2] * points
        device = stored[0].values.device
        sums = torch.zeros(3, channels, dtype=torch.float64, device=device)
        for (unit, bits, _), grad, own in zip(units, grads, stored, strict=True):
            gradient, spectrum = scatter(grad, bits, unit.shape), unpack(own)
            sums[0] += (gradient * spectrum).sum((0, 1, 2))
            sums[1] += gradient[0, 0].sum(0)
            sums[2] += spectrum[0, 0].sum(0)
        return sums[0], sums[1] * points, sums[2] * points

    def encode_adjoint_with(
        self,
        units: Sequence[Kept],
        stored: Sequence[PackedSpectrum],
        first: Tensor,
        second: Tensor,
        constant: Tensor,
    ) -> Tensor:
        """Maps ``first g + second x + constant``, with a number per channel of each.

        Args:
            units: Gradients: g is what `encode_adjoint` makes of them.
            stored: The units themselves: x is what `decode` makes of them.
            first: (C,).
            second: (C,).
            constant: (C,).
        """
        grads = [grad for _, _, grad in units]
        if any(grad is None for grad in grads) or not self._by_kernels(*grads):
            shape = (1, -1, *[1] * len(self.frame.size))
            maps = self.encode_adjoint(units, stored[0].values.device).mul_(first.view(shape))
            return maps.addcmul_(self.decode(stored), second.view(shape)).add_(constant.view(shape))
        mean = constant * math.sqrt(math.prod(self.frame.grid))
        numbers = [number.float().contiguous() for number in (first, second, mean)]
        mixtures = [self._mixture(own, *numbers) for own in stored]
        return self._written(self.frame.analysis_table, units, mixtures)

    def _packed_whole(
        self, table: kernels.BinsTable, parts: Sequence[Tensor], storage: str
    ) -> list[PackedSpectrum]:
        """Units of which everything is kept: no spectrum of them is ever dense."""
        stored, shapes = [], []
        for maps in parts:
            images, channels = maps.shape[:2]
            scale = kernels.new_units(table, images * channels) if storage == "int8" else None
            stored.append(Stored(_values(table.bins * images * channels, storage), None, scale))
            shapes.append((2, table.bins, images, channels))
        kernels.pick(table, stored, parts, self.frame.geometry, self.beta)
        return [_unit(own, shape, storage) for own, shape in zip(stored, shapes, strict=True)]

    def _mixture(
        self, stored: PackedSpectrum, first: Tensor, second: Tensor, constant: Tensor
    ) -> kernels.Mixture:
        ratio = self.frame.synthesis_by_analysis
        return kernels.Mixture(_kernel_values(stored), stored.scale, ratio, first, second, constant)

    def _written(
        self,
        table: kernels.BinsTable,
        units: Sequence[Kept],
        mixtures: Sequence[kernels.Mixture | None] | None = None,
    ) -> Tensor:
        """The maps that values of complex coefficients make up."""
        images = [unit.shape[2] for unit, _, _ in units]
        maps = empty((sum(images), units[0][0].shape[3], *self.frame.size), self.layout)
        mixes = mixtures or (None,) * len(units)
        stored = [_stored(kept, mix) for kept, mix in zip(units, mixes, strict=True)]
        kernels.unpack(table, stored, torch.split(maps, images), self.frame.geometry)
        return maps

    def _by_kernels(self, *tensors: Tensor | None) -> bool:
        return kernels.suits(len(self.frame.size), *tensors)


def _rows(spectrum: Tensor) -> Tensor:
    """Real parts, then imaginary parts, (2 F, b, C), as the kernels take them."""
    return spectrum.contiguous().flatten(0, 1)


def _packed(
    table: kernels.BinsTable, parts: Sequence[Tensor], beta: float, storage: str
) -> list[PackedSpectrum]:
    """Units of real coefficients (rows, b, C), without zeros, by the kernels."""
    scales: list[Tensor | None] = [None] * len(parts)
    if storage == "int8":
        scales = [*kernels.units(table, parts, beta)]
    marks = kernels.mark(table, parts, beta, scales)
    stored = [
        Stored(_values(count, storage), bits, scale)
        for (bits, count), scale in zip(marks, scales, strict=True)
    ]
    kernels.gather(table, stored, parts, beta)
    shapes = [(2, table.bins, *part.shape[1:]) for part in parts]
    return [_unit(own, shape, storage) for own, shape in zip(stored, shapes, strict=True)]


def _values(count: int, storage: str) -> Tensor:
    """Room for the values of a unit as the kernels write them."""
    return torch.empty(2, count, dtype=torch.int8 if storage == "int8" else torch.float32)


def _unit(stored: kernels.Stored, shape: tuple[int, ...], storage: str) -> PackedSpectrum:
    """What the kernels have written, as it is kept."""
    values = stored.values.bfloat16() if storage == "bfloat16" else stored.values
    return PackedSpectrum(values, stored.bits, stored.units, shape, torch.float32)


def _kernel_values(unit: PackedSpectrum) -> Tensor:
    """The values of a unit as the kernels take them: 32-bit ones, or with a scale 8-bit ones."""
    return unit.values if unit.scale is not None else unit.values.float()


def _suit(axes: int, units: Sequence[PackedSpectrum]) -> bool:
    """Whether the kernels make tensors of them."""
    return kernels.suits(axes, *(unit.values.new_empty(0, dtype=unit.dtype) for unit in units))


def _memory(unit: PackedSpectrum, left: list[Tensor]) -> Tensor:
    """Room for the gradient of a unit's values: one of those left, which is taken out, or new."""
    needed = 2 * unit.gradient_count
    for place, tensor in enumerate(left):
        fits = needed <= tensor.numel() <= 1.5 * needed  # a larger one would waste its rest
        if fits and tensor.dtype == torch.float32 and tensor.is_contiguous():
            return left.pop(place).view(-1)[:needed].view(2, -1)
    return torch.empty(2, unit.gradient_count)


def _stored(kept: Kept, mix: kernels.Mixture | None = None) -> kernels.Stored:
    """What the kernels read; gradients are no steps of a scale."""
    unit, bits, values = kept
    assert values is not None
    return Stored(values, bits, unit.scale if values.dtype == torch.int8 else None, mix)


@lru_cache(maxsize=512)
def _spectra_table(bins: int) -> kernels.BinsTable:
    """The coefficients of a dense spectrum, as the kernels see them: two rows each."""
    real = np.arange(bins, dtype=np.int32)
    rows = np.stack([real, real, bins + real, bins + real], 1)
    return kernels.BinsTable(rows, np.tile(np.array([1, 0, 1, 0], np.float32), (bins, 1)))
