"""The kernels of `transforms`.

The name of a stride says of what and along what: `map_c` is the distance in memory between channels
of a map.
"""

import triton
import triton.language as tl

from passband.ops.band_limited_conv.triton.launch import blocks, tuned


@tuned(
    ["height", "width", "channels", "kept_u", "kept_v", "map_c"],
    blocks(8, 2, BLOCK_U=32, BLOCK_V=32, BLOCK_H=16, BLOCK_W=32, BLOCK_C=16),
    blocks(8, 2, BLOCK_U=32, BLOCK_V=16, BLOCK_H=16, BLOCK_W=32, BLOCK_C=16),
    blocks(8, 2, BLOCK_U=16, BLOCK_V=32, BLOCK_H=16, BLOCK_W=32, BLOCK_C=16),
    blocks(8, 2, BLOCK_U=64, BLOCK_V=16, BLOCK_H=16, BLOCK_W=32, BLOCK_C=16),
    blocks(4, 2, BLOCK_U=16, BLOCK_V=16, BLOCK_H=16, BLOCK_W=16, BLOCK_C=16),
)
@triton.jit
def analyze_kernel(
    spectrum, maps, rows, columns,
    height, width, batch, channels, kept_u, kept_v,
    map_b, map_c, map_h, map_w, row_h, row_u, column_w, column_v,
    PRECISION: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One block of coefficients (u, v) of a block of channels of one image.

    Tiles that read the same maps are neighbours. The loop over rows transforms BLOCK_H of them to
    (BLOCK_H, BLOCK_C, BLOCK_V), which as a matrix (BLOCK_H, BLOCK_C * BLOCK_V) is the right operand
    of the product along the columns.
    """
    tile = tl.program_id(0)
    tiles_v = tl.cdiv(kept_v, BLOCK_V)
    v = (tile % tiles_v) * BLOCK_V + tl.arange(0, BLOCK_V)
    tile = tile // tiles_v
    tiles_u = tl.cdiv(kept_u, BLOCK_U)
    u = (tile % tiles_u) * BLOCK_U + tl.arange(0, BLOCK_U)
    tile = tile // tiles_u
    tiles_c = tl.cdiv(channels, BLOCK_C)
    c = (tile % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    b = (tile // tiles_c).to(tl.int64)
    real = rows.dtype.element_ty
    maps += b * map_b + c[None, :, None] * map_c
    coefficients = tl.zeros((BLOCK_U, BLOCK_C * BLOCK_V), real)
    for first_h in range(0, height, BLOCK_H):
        h = first_h + tl.arange(0, BLOCK_H)
        partial = tl.zeros((BLOCK_H * BLOCK_C, BLOCK_V), real)
        for first_w in range(0, width, BLOCK_W):
            w = first_w + tl.arange(0, BLOCK_W)
            inside = (h < height)[:, None, None] & (c < channels)[None, :, None]
            values = tl.load(
                maps + h[:, None, None] * map_h + w[None, None, :] * map_w,
                inside & (w < width)[None, None, :],
                0.0,
            )
            basis = tl.load(
                columns + w[:, None] * column_w + v[None, :] * column_v,
                (w < width)[:, None] & (v < kept_v)[None, :],
                0.0,
            )
            values = tl.reshape(values.to(real), (BLOCK_H * BLOCK_C, BLOCK_W))
            partial = tl.dot(values, basis, partial, input_precision=PRECISION)
        basis = tl.load(
            rows + u[:, None] * row_u + h[None, :] * row_h,
            (u < kept_u)[:, None] & (h < height)[None, :],
            0.0,
        )
        partial = tl.reshape(partial, (BLOCK_H, BLOCK_C * BLOCK_V))
        coefficients = tl.dot(basis, partial, coefficients, input_precision=PRECISION)
    coefficients = tl.permute(tl.reshape(coefficients, (BLOCK_U, BLOCK_C, BLOCK_V)), (0, 2, 1))
    frequency = (u[:, None, None] * kept_v + v[None, :, None]).to(tl.int64)
    inside = (u < kept_u)[:, None, None] & (v < kept_v)[None, :, None]
    tl.store(
        spectrum + (frequency * batch + b) * channels + c[None, None, :],
        coefficients.to(spectrum.dtype.element_ty),
        inside & (c < channels)[None, None, :],
    )


@tuned(
    ["height", "width", "channels", "kept_u", "kept_v", "map_c"],
    blocks(8, 2, BLOCK_U=32, BLOCK_V=16, BLOCK_H=16, BLOCK_W=32, BLOCK_C=16),
    blocks(8, 2, BLOCK_U=32, BLOCK_V=16, BLOCK_H=32, BLOCK_W=32, BLOCK_C=16),
    blocks(8, 2, BLOCK_U=16, BLOCK_V=16, BLOCK_H=16, BLOCK_W=64, BLOCK_C=16),
    blocks(8, 2, BLOCK_U=16, BLOCK_V=16, BLOCK_H=16, BLOCK_W=32, BLOCK_C=32),
    blocks(4, 2, BLOCK_U=16, BLOCK_V=16, BLOCK_H=16, BLOCK_W=16, BLOCK_C=16),
)
@triton.jit
def synthesize_kernel(
    maps, spectrum, rows, columns, bias,
    height, width, batch, channels, kept_u, kept_v,
    map_b, map_c, map_h, map_w, row_h, row_u, column_w, column_v,
    HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One block of points (h, w) of a block of channels of one image: `analyze_kernel` backwards.

    The coefficients are read with the channels innermost, as they lie, and turned in registers.
    """
    tile = tl.program_id(0)
    tiles_w = tl.cdiv(width, BLOCK_W)
    w = (tile % tiles_w) * BLOCK_W + tl.arange(0, BLOCK_W)
    tile = tile // tiles_w
    tiles_h = tl.cdiv(height, BLOCK_H)
    h = (tile % tiles_h) * BLOCK_H + tl.arange(0, BLOCK_H)
    tile = tile // tiles_h
    tiles_c = tl.cdiv(channels, BLOCK_C)
    c = (tile % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    b = (tile // tiles_c).to(tl.int64)
    real = rows.dtype.element_ty
    spectrum += b * channels + c[None, None, :]
    points = tl.zeros((BLOCK_H * BLOCK_C, BLOCK_W), real)
    for first_v in range(0, kept_v, BLOCK_V):
        v = first_v + tl.arange(0, BLOCK_V)
        partial = tl.zeros((BLOCK_H, BLOCK_C * BLOCK_V), real)
        for first_u in range(0, kept_u, BLOCK_U):
            u = first_u + tl.arange(0, BLOCK_U)
            frequency = (u[:, None, None] * kept_v + v[None, :, None]).to(tl.int64)
            inside = (u < kept_u)[:, None, None] & (v < kept_v)[None, :, None]
            values = tl.load(
                spectrum + frequency * batch * channels,
                inside & (c < channels)[None, None, :],
                0.0,
            )
            basis = tl.load(
                rows + h[:, None] * row_h + u[None, :] * row_u,
                (h < height)[:, None] & (u < kept_u)[None, :],
                0.0,
            )
            values = tl.permute(values.to(real), (0, 2, 1))
            values = tl.reshape(values, (BLOCK_U, BLOCK_C * BLOCK_V))
            partial = tl.dot(basis, values, partial, input_precision=PRECISION)
        basis = tl.load(
            columns + v[:, None] * column_v + w[None, :] * column_w,
            (v < kept_v)[:, None] & (w < width)[None, :],
            0.0,
        )
        partial = tl.reshape(partial, (BLOCK_H * BLOCK_C, BLOCK_V))
        points = tl.dot(partial, basis, points, input_precision=PRECISION)
    points = tl.reshape(points, (BLOCK_H, BLOCK_C, BLOCK_W))
    if HAS_BIAS:
        points += tl.load(bias + c, c < channels, 0.0).to(real)[None, :, None]
    inside = (h < height)[:, None, None] & (c < channels)[None, :, None]
    maps += b * map_b + c[None, :, None] * map_c
    tl.store(
        maps + h[:, None, None] * map_h + w[None, None, :] * map_w,
        points.to(maps.dtype.element_ty),
        inside & (w < width)[None, None, :],
    )


@tuned(
    ["rows", "depth", "channels", "out_c", "map_c"],
    blocks(4, 3, BLOCK_I=64, BLOCK_J=32, BLOCK_C=64),
    blocks(8, 3, BLOCK_I=128, BLOCK_J=32, BLOCK_C=64),
    blocks(8, 3, BLOCK_I=128, BLOCK_J=32, BLOCK_C=128),
    blocks(4, 3, BLOCK_I=32, BLOCK_J=32, BLOCK_C=32),
)
@triton.jit
def apply_matrix_kernel(
    out, maps, matrix, bias,
    rows, depth, channels,
    out_i, out_b, out_c, map_j, map_b, map_c, matrix_i, matrix_j,
    HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One block of rows of a block of channels of one image; tiles of the same maps are neighbours.

    Position, image and channel each have a stride of their own, so that spectra and maps of either
    memory order are the same to it.
    """
    tile = tl.program_id(0)
    tiles_i = tl.cdiv(rows, BLOCK_I)
    i = (tile % tiles_i) * BLOCK_I + tl.arange(0, BLOCK_I)
    tile = tile // tiles_i
    tiles_c = tl.cdiv(channels, BLOCK_C)
    c = (tile % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    b = (tile // tiles_c).to(tl.int64)
    real = matrix.dtype.element_ty
    maps += b * map_b + c[None, :] * map_c
    total = tl.zeros((BLOCK_I, BLOCK_C), real)
    for first_j in range(0, depth, BLOCK_J):
        j = first_j + tl.arange(0, BLOCK_J)
        factors = tl.load(
            matrix + i[:, None] * matrix_i + j[None, :] * matrix_j,
            (i < rows)[:, None] & (j < depth)[None, :],
            0.0,
        )
        values = tl.load(
            maps + j.to(tl.int64)[:, None] * map_j,
            (j < depth)[:, None] & (c < channels)[None, :],
            0.0,
        )
        total = tl.dot(factors, values.to(real), total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias + c, c < channels, 0.0).to(real)[None, :]
    out += b * out_b + c[None, :] * out_c
    tl.store(
        out + i.to(tl.int64)[:, None] * out_i,
        total.to(out.dtype.element_ty),
        (i < rows)[:, None] & (c < channels)[None, :],
    )
