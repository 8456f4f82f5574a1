"""Truncated real Fourier transforms as real matrix products.

No complex number is needed for a band: it is spanned, axis by axis, by the orthonormal constant,
cosines and sines of its kept frequencies (`fourier_basis`, Q). The coefficients of a map in this
basis, z = Q^T x Q, are its truncated spectrum: as many real numbers as the band has real degrees of
freedom. Q z Q^T is the low-passed map, and since Q is orthonormal the adjoint of each transform is
the other one.

`HermitianPacking` turns these coefficients into the real and imaginary parts of one complex
coefficient per conjugate pair, in which a convolution is a product per frequency.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from passband.spectrum.band import Band, is_self_conjugate
from passband.spectrum.constants import cached_constant

_SMALL = 5000  # entries of a Kronecker matrix up to which it is faster than axis after axis


def _angles(
    size: int, frequencies: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """2 pi f n / N of shape (positions, frequencies), reduced exactly before it is rounded."""
    return 2 * np.pi / size * (np.outer(positions, frequencies) % size)


def _fourier_basis_float64(size: int, kept: int) -> npt.NDArray[np.float64]:
    frequencies = np.arange(kept)
    alone = np.array([is_self_conjugate(f, size) for f in range(kept)])
    angle = _angles(size, frequencies, np.arange(size))
    cosines = np.cos(angle) * np.where(alone, 1 / math.sqrt(size), math.sqrt(2 / size))
    sines = np.sin(angle[:, ~alone]) * math.sqrt(2 / size)
    return np.concatenate([cosines, sines], 1)


@cached_constant
def fourier_basis(
    size: int, kept: int, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> Tensor:
    """Orthonormal real Fourier basis Q of the frequencies below `kept`.

    Columns: the cosines of frequencies 0..kept-1 (frequency zero is the constant), then the sines
    of those that are not their own negative. Q^T Q = 1, and Q Q^T is the low-pass.

    Returns:
        Tensor (size, 2 * kept - 1), or (size, size) at full band. It is cached: do not change it.

    Examples:
        >>> q = fourier_basis(9, 3)
        >>> q.shape, torch.allclose(q.T @ q, torch.eye(5, dtype=q.dtype))
        (torch.Size([9, 5]), True)
    """
    return torch.tensor(_fourier_basis_float64(size, kept), dtype=dtype, device=device)


def transform(tensor: Tensor, matrices: Sequence[Tensor | None], first_axis: int) -> Tensor:
    """Multiply consecutive axes by a matrix each: y[.., i, ..] = sum_j M[i, j] x[.., j, ..].

    Args:
        tensor: Any shape.
        matrices: One matrix (new length, old length) per axis; None leaves the axis as it is.
        first_axis: The axis that belongs to the first matrix.

    Examples:
        >>> q = fourier_basis(6, 2, torch.float32)
        >>> transform(torch.ones(2, 6, 6), [q.T, q.T], 1).shape
        torch.Size([2, 3, 3])
    """
    given = [matrix for matrix in matrices if matrix is not None]
    if len(given) == len(matrices) and _as_one(
        [m.shape[1] for m in given], [len(m) for m in given]
    ):
        axes_after = first_axis + len(matrices)
        before, after = tensor.shape[:first_axis], tensor.shape[axes_after:]
        together = reduce(_kronecker, given)
        flat = tensor.reshape(*before, together.shape[1], *after)
        new_sizes = (len(matrix) for matrix in given)
        return _along(flat, together, first_axis).reshape(*before, *new_sizes, *after)
    for axis, matrix in enumerate(matrices, first_axis):
        if matrix is not None:
            tensor = _along(tensor, matrix, axis)
    return tensor


def transform_multiplications(
    old_sizes: Sequence[int], new_sizes: Sequence[int], axes: Sequence[int]
) -> int:
    """Multiplications of `transform` for one map.

    Args:
        old_sizes: Points of all spatial axes before.
        new_sizes: And after.
        axes: The axes that have a matrix.

    Examples:
        >>> transform_multiplications((32, 32), (25, 25), (0, 1))
        45600
    """
    if len(axes) == len(old_sizes) and _as_one(old_sizes, new_sizes):
        return math.prod(old_sizes) * math.prod(new_sizes)
    shape, count = list(old_sizes), 0
    for axis in axes:
        count += math.prod(shape) * new_sizes[axis]
        shape[axis] = new_sizes[axis]
    return count


def _as_one(old_sizes: Sequence[int], new_sizes: Sequence[int]) -> bool:
    """Whether axes are transformed together, by the Kronecker product of their matrices.

    That multiplies more, in far fewer and larger steps, and wins on tiny maps.
    """
    return len(old_sizes) > 1 and math.prod(old_sizes) * math.prod(new_sizes) <= _SMALL


def _kronecker(first: Tensor, second: Tensor) -> Tensor:
    """torch.kron, which refuses some strides of matrices with a single row."""
    products = first[:, None, :, None] * second[None, :, None, :]
    return products.reshape(len(first) * len(second), -1)


def _along(tensor: Tensor, matrix: Tensor, axis: int) -> Tensor:
    before, after = tensor.shape[:axis], tensor.shape[axis + 1 :]
    if not after:
        return torch.matmul(tensor, matrix.T)
    flat = tensor.reshape(math.prod(before), tensor.shape[axis], math.prod(after))
    return torch.matmul(matrix, flat).reshape(*before, matrix.shape[0], *after)


@dataclass(frozen=True)
class Gather:
    """A sparse matrix with few entries per row: out = sum_t weights[t] * in[indices[t]].

    Calling it multiplies the first axis of a tensor.
    """

    indices: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]

    def __call__(self, rows: Tensor) -> Tensor:  # noqa: D102
        shape = (-1,) + (1,) * (rows.dim() - 1)
        terms = [
            rows.index_select(0, index) * weight.view(shape)
            for index, weight in zip(self.indices, self.weights, strict=True)
        ]
        out = terms[0]
        for term in terms[1:]:
            out = out + term
        return out


class HermitianPacking:
    """Between real Fourier coefficients and one complex coefficient per conjugate pair.

    An orthonormal change of basis: with c and s the coefficients of the cosine and sine of each
    axis, the complex coefficient at signed frequencies F = (f1, f2, ..) is proportional to the
    product of (c - i sign(f) s) over the axes; multiplied out, even numbers of sines give its real
    part and odd numbers its imaginary part. Frequencies that are their own negative have no sine.

    Args:
        band: The band.
        dtype: Floating type of the weights.
        device: Their device.

    Examples:
        >>> packing = hermitian_packing(Band((6, 5), (3, 2)), torch.float64)
        >>> z = torch.randn(15, 2, dtype=torch.float64)
        >>> real, imag = packing.pack(z)
        >>> real.shape, torch.allclose(packing.unpack(real, imag), z)
        (torch.Size([8, 2]), True)
    """

    def __init__(self, band: Band, dtype: torch.dtype, device: torch.device | None) -> None:
        bins = band.bins()
        paired = np.stack(
            [
                [not is_self_conjugate(f, size) for f in column]
                for column, size in zip(bins.T, band.sizes, strict=True)
            ],
            1,
        )
        pairs = paired.sum(1)
        # a bin with no partner is real; p paired axes share 2^p real numbers in 2^(p-1) bins
        scale = np.where(pairs > 0, 2.0 ** (-(np.maximum(pairs, 1) - 1) / 2), 1.0)
        rows, columns, weights = [], [], []
        for subset in product((False, True), repeat=len(band.sizes)):
            sine = np.array(subset)
            count = int(sine.sum())
            valid = (paired | ~sine).all(1)
            index = np.ravel_multi_index(
                [
                    np.abs(f) + (cosines - 1 if s else 0)
                    for f, s, cosines in zip(bins[valid].T, subset, band.cosines, strict=True)
                ],
                band.real_sizes,
            )
            sign = np.prod(np.where(sine, np.sign(bins[valid]), 1), axis=1)
            power = (1, -1, -1, 1)[count]  # (-i)^count is 1, -i, -1, i
            rows.append(np.flatnonzero(valid) + (count % 2) * len(bins))
            columns.append(index)
            weights.append(power * sign * scale[valid])
        entries = (np.concatenate(rows), np.concatenate(columns), np.concatenate(weights))
        self.bins = len(bins)
        self._pack = sparse_rows(*entries, 2 * len(bins), dtype, device)
        self._unpack = sparse_rows(
            entries[1], entries[0], entries[2], math.prod(band.real_sizes), dtype, device
        )

    def pack(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary parts (bins, ...) of real coefficients (degrees of freedom, ...)."""
        both = self._pack(coefficients)
        return both[: self.bins], both[self.bins :]

    def terms(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
        """Which real coefficients each complex one is made of, in one or two axes.

        Returns:
            Their places (bins, 4), two of the real part and two of the imaginary part, and their
            weights. Where a part has one term the other place is the same, and its weight is zero;
            where the imaginary part has none it has the place of the real part.
        """
        index = torch.stack(self._pack.indices).numpy()
        weight = torch.stack(self._pack.weights).double().numpy()
        if len(index) == 1:
            index, weight = np.repeat(index, 2, 0), np.concatenate([weight, np.zeros_like(weight)])
        index = np.where(weight == 0, index[:1], index)  # the terms that fill up a row
        index, weight = (a.reshape(2, 2, self.bins).transpose(2, 1, 0) for a in (index, weight))
        none = (weight[:, 1] == 0).all(1, keepdims=True)
        rows = np.stack([index[:, 0], np.where(none, index[:, 0, :1], index[:, 1])], 1)
        return rows.reshape(-1, 4).astype(np.int32), weight.reshape(-1, 4)

    def unpack(self, real: Tensor, imag: Tensor) -> Tensor:
        """The inverse of `pack`, and its adjoint."""
        return self._unpack(torch.cat([real, imag]))


def sparse_rows(
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    row_count: int,
    dtype: torch.dtype,
    device: torch.device | None,
) -> Gather:
    """The sparse matrix of the entries, its rows padded with zeros to one number of terms."""
    order = np.argsort(rows, kind="stable")
    rows, columns, weights = rows[order], columns[order], weights[order]
    start = np.searchsorted(rows, np.arange(row_count))
    term = np.arange(len(rows)) - start[rows]
    terms = int(term.max()) + 1
    index, value = np.zeros((terms, row_count), np.int64), np.zeros((terms, row_count))
    index[term, rows], value[term, rows] = columns, weights
    return Gather(
        tuple(torch.tensor(i, device=device) for i in index),
        tuple(torch.tensor(v, dtype=dtype, device=device) for v in value),
    )


@cached_constant
def hermitian_packing(
    band: Band, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> HermitianPacking:
    """The cached `HermitianPacking` of a band."""
    return HermitianPacking(band, dtype, device)


@cached_constant
def filter_transform(
    band: Band,
    kernel: tuple[int, ...],
    dilation: tuple[int, ...],
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> Tensor:
    """DFT of a small filter at the bins of a band, as a real matrix.

    K(F) = sum_j w[j] exp(-2 pi i sum_a F_a d_a j_a / N_a), with d the dilation; unnormalised.

    Returns:
        Tensor (2, bins, taps): real part, then imaginary part. Cached: do not change it.

    Examples:
        >>> e = filter_transform(Band((6,), (2,)), (3,), (1,))
        >>> torch.allclose(e[0, 1], torch.tensor([1.0, 0.5, -0.5], dtype=e.dtype))
        True
    """
    bins = band.bins()
    shift = np.zeros((len(bins), math.prod(kernel)))
    taps = np.indices(kernel).reshape(len(kernel), -1)
    for axis, size in enumerate(band.sizes):
        shift = shift + _angles(size, taps[axis] * dilation[axis], bins[:, axis])
    return torch.tensor(np.stack([np.cos(shift), -np.sin(shift)]), dtype=dtype, device=device)


@cached_constant
def mirrored_phases(
    band: Band,
    kernel: tuple[int, ...],
    dilation: tuple[int, ...],
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> Tensor:
    """Phases of a filter's taps at the cosine frequencies (u, v) of a band of one or two axes.

    They are 2 pi (u d_h j / N_h + v d_w i / N_w) at (u, v), and with -u for u at the mirrored
    frequency (-u, v), which of one axis there is none. Together they cover the band; those with a
    frequency that is its own negative come twice.

    Returns:
        Tensor (frequencies, taps, 2 ** axes): cosine and sine, then those of the mirrored
        frequency. Cached: do not change it.

    Examples:
        >>> mirrored_phases(Band((6, 5), (3, 2)), (3, 3), (1, 1)).shape
        torch.Size([6, 9, 4])
    """
    frequencies = np.indices(band.cosines).reshape(len(kernel), -1)
    taps = np.indices(kernel).reshape(len(kernel), -1)
    along = [
        _angles(size, taps[axis] * dilation[axis], frequencies[axis])
        for axis, size in enumerate(band.sizes)
    ]
    phases = [sum(along)] if len(along) == 1 else [along[1] + along[0], along[1] - along[0]]
    parts = [part for phase in phases for part in (np.cos(phase), np.sin(phase))]
    return torch.tensor(np.stack(parts, -1), dtype=dtype, device=device)
