"""Sparse spectra as they are stored: one bit per coefficient, and the values that are not zero.

A dense spectrum is a real tensor (2, F, ...): real parts, then imaginary parts, of F coefficients,
one of each conjugate pair. A coefficient is stored where either part is not zero. Every byte is
counted by `PackedSpectrum.nbytes`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from passband.spectrum.constants import cached_constant

STORAGE = ("float32", "bfloat16", "int8")
"""How values are stored: as they are (float64 stays float64), in 16 bits, or in 8."""

UNIT_TYPE = torch.bfloat16
"""Of the size of a step: the largest part is 127 of them, within less than half of one."""

_UNIT_BLOCK = 64  # values of a part that have one size of a step; BLOCK of packed.h
_GATHER_BITS = 0x0102040810204080  # times eight bytes of 0 or 1: their bits, first byte lowest
_SIGN = 1 << 63


@dataclass(frozen=True)
class PackedSpectrum:
    """A sparse spectrum: `pack` makes it, `unpack` gives the dense one back.

    Examples:
        >>> dense = torch.zeros(2, 9, 4, 3)
        >>> dense[0, 5, 1, 2], dense[1, 7] = 2.0, -1.0
        >>> packed = pack(dense)
        >>> packed.count, packed.nbytes  # 13 complex values, 108 bits
        (13, 118)
        >>> torch.equal(unpack(packed), dense)
        True
    """

    values: Tensor
    """Real parts, then imaginary parts, of the coefficients that are kept: (2, count)."""
    bits: Tensor | None
    """A bit per coefficient, in bytes; None where every coefficient is kept."""
    scale: Tensor | None
    """Of 8-bit values what one step is, of each block of values of a coefficient: (F, blocks)."""
    shape: tuple[int, ...]
    """Of the dense spectrum."""
    dtype: torch.dtype
    """Of the dense spectrum."""
    passes: bool = False
    """Whether gradients go to all coefficients, as if nothing had been left out or rounded; by
    default to those that are kept alone."""

    @property
    def count(self) -> int:
        """Complex coefficients kept."""
        return self.values.shape[1]

    @property
    def gradient_bits(self) -> Tensor | None:
        """A bit per coefficient that gradients go to; None: to all."""
        return None if self.passes else self.bits

    @property
    def gradient_count(self) -> int:
        """Complex coefficients that gradients go to."""
        return math.prod(self.shape[1:]) if self.passes else self.count

    @property
    def density(self) -> float:
        """Fraction of the coefficients that is kept."""
        return self.count / max(1, math.prod(self.shape[1:]))

    @property
    def nbytes(self) -> int:
        """Bytes of values, bits and units."""
        return sum(t.nbytes for t in (self.values, self.bits, self.scale) if t is not None)


def pack(dense: Tensor, storage: str = "float32", sparse: bool = True) -> PackedSpectrum:
    """Store the coefficients of which a part is not zero.

    Args:
        dense: Spectrum (2, F, ...), floating.
        storage: "float32" keeps the values as they are; "bfloat16" rounds them to 8 bits of
            precision; "int8" to 255 steps between the largest part of a coefficient and its
            negative, over each block of 64 along all else, with 16 bits for the size of a step.
        sparse: Whether zeros are left out; otherwise there are no bits.

    Raises:
        ValueError: `storage` is unknown.

    Examples:
        >>> dense = torch.tensor([[[3.0, 0.0, -1.0]], [[0.0, 0.0, 0.5]]])
        >>> pack(dense).values
        tensor([[ 3.0000, -1.0000],
                [ 0.0000,  0.5000]])
        >>> unpack(pack(dense, "int8"))[0]
        tensor([[ 3.0076,  0.0000, -0.9946]])
    """
    check_storage(storage)
    dtype, shape, scale = dense.dtype, tuple(dense.shape), None
    if storage == "int8":
        dense = dense.to(torch.promote_types(dtype, torch.float32))  # half precision has no 127
        scale = (_largest(dense) / 127).to(UNIT_TYPE)
        unit = _of_coefficients(scale, shape, dense.dtype)
        dense = torch.round(dense / unit.clamp(min=torch.finfo(dense.dtype).tiny)).to(torch.int8)
    elif storage == "bfloat16":
        dense = dense.to(torch.bfloat16)
    if not sparse:
        return PackedSpectrum(dense.reshape(2, -1), None, scale, shape, dtype)
    real, imag = dense
    kept = (real != 0).logical_or_(imag != 0)
    values = torch.stack([torch.masked_select(real, kept), torch.masked_select(imag, kept)])
    return PackedSpectrum(values, pack_bits(kept), scale, shape, dtype)


def unit_shape(coefficients: int, others: int) -> tuple[int, int]:
    """How many sizes of a step there are of so many coefficients, each so many times.

    Examples:
        >>> unit_shape(9, 100)
        (9, 2)
    """
    return coefficients, -(-others // _UNIT_BLOCK)


def _largest(dense: Tensor) -> Tensor:
    """Of each block of each coefficient the largest magnitude of a part: (F, blocks)."""
    parts = dense.abs().amax(0).flatten(1) if dense.dim() > 2 else dense.abs().amax(0).unsqueeze(1)
    blocks = unit_shape(*parts.shape)
    padded = parts.new_zeros(blocks[0], blocks[1] * _UNIT_BLOCK)
    padded[:, : parts.shape[1]] = parts
    return padded.view(*blocks, _UNIT_BLOCK).amax(2)


def _of_coefficients(scale: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """What one step of each value is, of the shape of either part."""
    others = math.prod(shape[2:])
    of_values = scale.to(dtype).repeat_interleave(_UNIT_BLOCK, 1)
    return of_values[:, :others].reshape(shape[1:])


def unpack(packed: PackedSpectrum) -> Tensor:
    """The dense spectrum (2, F, ...), zero where nothing is stored."""
    dense = scatter(packed.values, packed.bits, packed.shape)
    if packed.scale is None:
        return dense.to(packed.dtype)
    dtype = torch.promote_types(packed.dtype, torch.float32)
    unit = _of_coefficients(packed.scale, packed.shape, dtype)
    return dense.to(dtype).mul_(unit).to(packed.dtype)


def scatter(values: Tensor, bits: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """Values (2, count) at the coefficients that the bits name, zeros elsewhere.

    Examples:
        >>> scatter(torch.ones(2, 1), pack_bits(torch.tensor([False, True])), (2, 2))
        tensor([[0., 1.],
                [0., 1.]])
    """
    if bits is None:
        return values.view(shape)
    kept = unpack_bits(bits, math.prod(shape[1:]))
    dense = values.new_zeros(2, kept.numel())
    for part, own in zip(dense, values, strict=True):
        part.masked_scatter_(kept, own)
    return dense.view(shape)


def gather(dense: Tensor, bits: Tensor | None) -> Tensor:
    """The values (2, count) at the coefficients that the bits name: the adjoint of `scatter`.

    They are in memory of their own.
    """
    if bits is None:
        return dense.clone(memory_format=torch.contiguous_format).view(2, -1)
    flat = dense.reshape(2, -1)
    kept = unpack_bits(bits, flat.shape[1])
    return torch.stack([torch.masked_select(part, kept) for part in flat])


def pack_bits(flags: Tensor) -> Tensor:
    """Booleans as bits, the first one lowest: a byte for every eight, in order.

    Examples:
        >>> pack_bits(torch.tensor([True, False, True] + [False] * 6)).tolist()
        [5, 0]
    """
    flat = flags.reshape(-1).contiguous()
    rest = -flat.numel() % 8
    if rest:
        flat = torch.cat([flat, flat.new_zeros(rest)])
    if flat.storage_offset() % 8:
        flat = flat.clone()
    together = flat.view(torch.int64) * _GATHER_BITS  # the top byte holds the bits
    return (together >> 56).to(torch.uint8)


def unpack_bits(bits: Tensor, count: int) -> Tensor:
    """The inverse of `pack_bits`: `count` booleans.

    Examples:
        >>> unpack_bits(torch.tensor([5], dtype=torch.uint8), 4).tolist()
        [True, False, True, False]
    """
    return _bytes_of_bits(bits.device).index_select(0, bits.int()).view(torch.bool)[:count]


@cached_constant
def _bytes_of_bits(device: torch.device) -> Tensor:
    """Of each byte, its eight bits as eight bytes, in one number: (256,)."""
    numbers = []
    for byte in range(256):
        number = sum((byte >> bit & 1) << 8 * bit for bit in range(8))
        numbers.append(number - (_SIGN << 1) if number >= _SIGN else number)
    return torch.tensor(numbers, dtype=torch.int64, device=device)


def check_storage(storage: str) -> None:
    """Check the name of a way to store values.

    Raises:
        ValueError: It is unknown.
    """
    if storage not in STORAGE:
        raise ValueError(f"storage is {storage!r}, allowed are {', '.join(map(repr, STORAGE))}")
