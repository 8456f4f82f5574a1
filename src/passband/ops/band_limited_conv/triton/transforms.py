"""Truncated transforms as Triton kernels: maps are read once, no half-transformed map is written.

`analyze` and `synthesize` take both axes of a map in one program, for a block of channels of one
image: one axis is transformed in registers, block by block, and fed to the product along the
other. On small maps, and along a single axis, `apply_matrix` does all in one matrix product. Maps
may lie in memory in any order; see ../README.md.
"""

from typing import Any

import triton
from torch import Tensor

from passband.ops.band_limited_conv.layout import stored_spectrum_dtype
from passband.ops.band_limited_conv.triton.launch import launch, precision
from passband.ops.band_limited_conv.triton.transform_kernels import (
    analyze_kernel,
    apply_matrix_kernel,
    synthesize_kernel,
)


def analyze(maps: Tensor, bases: tuple[Tensor, Tensor]) -> Tensor:
    """Q_h^T x Q_w for each map: (B, C, H, W) to (frequencies, B, C)."""
    rows, columns = bases
    batch, channels, height, width = maps.shape
    kept_u, kept_v = rows.shape[1], columns.shape[1]
    dtype = stored_spectrum_dtype(maps.dtype)
    spectrum = maps.new_empty(kept_u * kept_v, batch, channels, dtype=dtype)

    def grid(meta: dict[str, Any]) -> tuple[int]:
        tiles = triton.cdiv(kept_u, meta["BLOCK_U"]) * triton.cdiv(kept_v, meta["BLOCK_V"])
        return (tiles * triton.cdiv(channels, meta["BLOCK_C"]) * batch,)

    launch(
        analyze_kernel, grid, spectrum, maps, rows, columns,
        height, width, batch, channels, kept_u, kept_v,
        *maps.stride(), *rows.stride(), *columns.stride(),
        PRECISION=precision(maps.dtype),
    )  # fmt: skip
    return spectrum


def synthesize(
    maps: Tensor, spectrum: Tensor, bases: tuple[Tensor, Tensor], bias: Tensor | None
) -> None:
    """Write Q_h z Q_w^T + bias for each map: (frequencies, B, C) to (B, C, H, W)."""
    rows, columns = bases
    batch, channels, height, width = maps.shape

    def grid(meta: dict[str, Any]) -> tuple[int]:
        tiles = triton.cdiv(height, meta["BLOCK_H"]) * triton.cdiv(width, meta["BLOCK_W"])
        return (tiles * triton.cdiv(channels, meta["BLOCK_C"]) * batch,)

    launch(
        synthesize_kernel, grid, maps, spectrum, rows, columns, _or_any(bias, maps),
        height, width, batch, channels, rows.shape[1], columns.shape[1],
        *maps.stride(), *rows.stride(), *columns.stride(),
        HAS_BIAS=bias is not None, PRECISION=precision(maps.dtype, spectrum.dtype),
    )  # fmt: skip


def apply_matrix(out: Tensor, maps: Tensor, matrix: Tensor, bias: Tensor | None) -> None:
    """Write out[i, b, c] = sum_j matrix[i, j] maps[j, b, c] + bias[c]; any strides."""
    rows, batch, channels = out.shape

    def grid(meta: dict[str, Any]) -> tuple[int]:
        tiles = triton.cdiv(rows, meta["BLOCK_I"]) * triton.cdiv(channels, meta["BLOCK_C"])
        return (tiles * batch,)

    launch(
        apply_matrix_kernel, grid, out, maps, matrix, _or_any(bias, out),
        rows, matrix.shape[1], channels,
        *out.stride(), *maps.stride(), *matrix.stride(),
        HAS_BIAS=bias is not None, PRECISION=precision(out.dtype, maps.dtype),
    )  # fmt: skip


def _or_any(bias: Tensor | None, stand_in: Tensor) -> Tensor:
    """The bias, or a tensor in its place that no kernel reads."""
    return stand_in if bias is None else bias.contiguous()
