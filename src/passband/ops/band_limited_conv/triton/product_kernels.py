"""The kernels of `product`.

A coefficient at the frequencies (u, v) is that of two cosines, of a cosine and a sine, or of two
sines: cc, cs, sc, ss. Along one axis u is 0 and MIRRORED is false: there is no (-u, v).
"""

import triton
import triton.language as tl

from passband.ops.band_limited_conv.triton.launch import INTERPRETED, blocks, tuned

# Triton's interpreter multiplies the bits of bfloat16 numbers as if they were whole numbers.
_WIDEN = tl.constexpr(INTERPRETED)


@triton.jit
def _pack(
    spectrum, channel, channels, inside, row_stride, u, v, cosines_u, cosines_v, kept_u, kept_v,
    real: tl.constexpr, MIRRORED: tl.constexpr,
):  # fmt: skip
    """Complex coefficients at (u, v) and (-u, v), up to a factor, from the real ones.

    A sine that does not exist, because the frequency is its own negative, is read as zero.
    """
    row = (u * kept_v + v).to(tl.int64)
    sine_v, sine_u = cosines_v - 1, (cosines_u - 1) * kept_v
    with_v = channels * ((v > 0) & (v + cosines_v <= kept_v)).to(tl.int32)
    cc = tl.load(spectrum + row * row_stride, inside & (channel < channels), 0.0)
    cs = tl.load(spectrum + (row + sine_v) * row_stride, inside & (channel < with_v), 0.0)
    cc, cs = cc.to(real), cs.to(real)
    if MIRRORED:
        exists_u = ((u > 0) & (u + cosines_u <= kept_u)).to(tl.int32)
        with_u, with_both = channels * exists_u, with_v * exists_u
        sc = tl.load(spectrum + (row + sine_u) * row_stride, inside & (channel < with_u), 0.0)
        row += sine_v
        ss = tl.load(spectrum + (row + sine_u) * row_stride, inside & (channel < with_both), 0.0)
        sc, ss = sc.to(real), ss.to(real)
        return cc - ss, -(cs + sc), cc + ss, sc - cs
    else:
        return cc, -cs, cc, -cs


@triton.jit
def _unpack(
    product, channel, channels, inside, row_stride, u, v, cosines_u, cosines_v, kept_u, kept_v,
    real, imag, mirrored_real, mirrored_imag, MIRRORED: tl.constexpr,
):  # fmt: skip
    """Write the real coefficients: the adjoint of `_pack`, halved where MIRRORED, its inverse."""
    row = (u * kept_v + v).to(tl.int64)
    sine_v, sine_u = cosines_v - 1, (cosines_u - 1) * kept_v
    with_v = channels * ((v > 0) & (v + cosines_v <= kept_v)).to(tl.int32)
    dtype = product.dtype.element_ty
    cc, cs = real, -imag
    if MIRRORED:
        cc, cs = 0.5 * (mirrored_real + real), -0.5 * (mirrored_imag + imag)
        sc, ss = 0.5 * (mirrored_imag - imag), 0.5 * (mirrored_real - real)
        exists_u = ((u > 0) & (u + cosines_u <= kept_u)).to(tl.int32)
        pointers = product + (row + sine_u) * row_stride
        tl.store(pointers, sc.to(dtype), inside & (channel < channels * exists_u))
        pointers = product + (row + sine_u + sine_v) * row_stride
        tl.store(pointers, ss.to(dtype), inside & (channel < with_v * exists_u))
    tl.store(product + row * row_stride, cc.to(dtype), inside & (channel < channels))
    tl.store(product + (row + sine_v) * row_stride, cs.to(dtype), inside & (channel < with_v))


@tuned(
    ["batch_class", "summed", "results", "tap_count", "cosines_u", "cosines_v"],
    blocks(8, 2, BLOCK_B=64, BLOCK_N=64, BLOCK_K=32),
    blocks(4, 2, BLOCK_B=32, BLOCK_N=64, BLOCK_K=32),
    blocks(8, 2, BLOCK_B=128, BLOCK_N=64, BLOCK_K=16),
    blocks(4, 2, BLOCK_B=64, BLOCK_N=32, BLOCK_K=32),
    blocks(4, 2, BLOCK_B=32, BLOCK_N=32, BLOCK_K=16),
)
@triton.jit
def multiply_kernel(
    product, spectrum, taps, phases,
    batch, batch_class, summed, results, groups, tap_count,
    cosines_u, cosines_v, kept_u, kept_v,
    tap_stride, summed_stride, result_stride, group_stride,
    DTYPE: tl.constexpr, ADJOINT: tl.constexpr, MIRRORED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One frequency (u, v) and its mirror image, for a block of images and of output channels.

    Four real products make a complex one: three would add operands before they are rounded, and
    the tensor cores are not what this kernel waits for. `batch_class` is for the tuning alone.
    """
    tile = tl.program_id(0)
    tiles_n = tl.cdiv(results, BLOCK_N)
    n = (tile % tiles_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    tile = tile // tiles_n
    tiles_b = tl.cdiv(batch, BLOCK_B)
    b = (tile % tiles_b) * BLOCK_B + tl.arange(0, BLOCK_B)
    tile = tile // tiles_b
    count = cosines_u * cosines_v
    frequency = tile % count
    u = frequency // cosines_v
    v = frequency % cosines_v
    group = tile // count

    real = phases.dtype.element_ty
    parts: tl.constexpr = 4 if MIRRORED else 2
    phases += frequency * tap_count * parts
    sign = -1.0 if ADJOINT else 1.0
    spectrum += b.to(tl.int64)[:, None] * (groups * summed) + group * summed
    taps += group * group_stride + n[None, :] * result_stride
    real_sum = tl.zeros((BLOCK_B, BLOCK_N), real)
    imag_sum = tl.zeros((BLOCK_B, BLOCK_N), real)
    mirrored_real_sum = tl.zeros((BLOCK_B, BLOCK_N), real)
    mirrored_imag_sum = tl.zeros((BLOCK_B, BLOCK_N), real)
    for first_k in range(0, summed, BLOCK_K):
        k = first_k + tl.arange(0, BLOCK_K)
        inside = (k < summed)[:, None] & (n < results)[None, :]
        filter_real = tl.zeros((BLOCK_K, BLOCK_N), real)
        filter_imag = tl.zeros((BLOCK_K, BLOCK_N), real)
        mirrored_filter_real = tl.zeros((BLOCK_K, BLOCK_N), real)
        mirrored_filter_imag = tl.zeros((BLOCK_K, BLOCK_N), real)
        for tap in range(0, tap_count):
            pointers = taps + tap * tap_stride + k[:, None] * summed_stride
            values = tl.load(pointers, inside, 0.0).to(real)
            filter_real += values * tl.load(phases + tap * parts)
            filter_imag += values * (sign * tl.load(phases + tap * parts + 1))
            if MIRRORED:
                mirrored_filter_real += values * tl.load(phases + tap * parts + 2)
                mirrored_filter_imag += values * (sign * tl.load(phases + tap * parts + 3))
        x_real, x_imag, mirrored_x_real, mirrored_x_imag = _pack(
            spectrum + k[None, :], k[None, :], summed, (b < batch)[:, None],
            batch * groups * summed, u, v,
            cosines_u, cosines_v, kept_u, kept_v, real, MIRRORED,
        )  # fmt: skip
        real_sum, imag_sum = _multiply_add(
            x_real, x_imag, filter_real, filter_imag,
            real_sum, imag_sum, DTYPE, PRECISION,
        )  # fmt: skip
        if MIRRORED:
            mirrored_real_sum, mirrored_imag_sum = _multiply_add(
                mirrored_x_real, mirrored_x_imag,
                mirrored_filter_real, mirrored_filter_imag,
                mirrored_real_sum, mirrored_imag_sum, DTYPE, PRECISION,
            )  # fmt: skip

    row_stride = batch * groups * results
    product += b.to(tl.int64)[:, None] * (groups * results) + group * results + n[None, :]
    _unpack(
        product, n[None, :], results, (b < batch)[:, None], row_stride, u, v,
        cosines_u, cosines_v, kept_u, kept_v,
        real_sum, imag_sum, mirrored_real_sum, mirrored_imag_sum, MIRRORED,
    )  # fmt: skip


@triton.jit
def _multiply_add(
    x_real, x_imag, y_real, y_imag, real_sum, imag_sum, DTYPE: tl.constexpr, PRECISION: tl.constexpr
):
    """(real_sum, imag_sum) + x y, of complex matrices in DTYPE."""
    x_real, x_imag = x_real.to(DTYPE), x_imag.to(DTYPE)
    y_real, y_imag = y_real.to(DTYPE), y_imag.to(DTYPE)
    if _WIDEN and DTYPE == tl.bfloat16:  # noqa: SIM300
        x_real, x_imag = x_real.to(tl.float32), x_imag.to(tl.float32)
        y_real, y_imag = y_real.to(tl.float32), y_imag.to(tl.float32)
    real_sum = tl.dot(x_real, y_real, real_sum, input_precision=PRECISION)
    real_sum = tl.dot(-x_imag, y_imag, real_sum, input_precision=PRECISION)
    imag_sum = tl.dot(x_real, y_imag, imag_sum, input_precision=PRECISION)
    imag_sum = tl.dot(x_imag, y_real, imag_sum, input_precision=PRECISION)
    return real_sum, imag_sum


@tuned(
    ["inputs", "outputs", "tap_count", "parts", "cosines_u", "cosines_v"],
    blocks(4, 2, BLOCK_T=16, BLOCK_C=16, BLOCK_O=32, BLOCK_B=32),
    blocks(8, 2, BLOCK_T=16, BLOCK_C=32, BLOCK_O=32, BLOCK_B=16),
    blocks(8, 2, BLOCK_T=16, BLOCK_C=16, BLOCK_O=32, BLOCK_B=64),
    blocks(4, 2, BLOCK_T=16, BLOCK_C=16, BLOCK_O=16, BLOCK_B=16),
)
@triton.jit
def filter_gradient_kernel(
    partial, spectrum, grad, phases,
    batch, inputs, outputs, groups, tap_count, parts,
    cosines_u, cosines_v, kept_u, kept_v,
    DTYPE: tl.constexpr, MIRRORED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """A block of taps, inputs and outputs, summed over every `parts`-th frequency.

    The gradient of the filters' spectrum at a frequency lives in registers, and is added to that of
    each tap at once.
    """
    tile = tl.program_id(0)
    tiles_o = tl.cdiv(outputs, BLOCK_O)
    o = (tile % tiles_o) * BLOCK_O + tl.arange(0, BLOCK_O)
    tile = tile // tiles_o
    tiles_c = tl.cdiv(inputs, BLOCK_C)
    c = (tile % tiles_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    tile = tile // tiles_c
    tiles_t = tl.cdiv(tap_count, BLOCK_T)
    t = (tile % tiles_t) * BLOCK_T + tl.arange(0, BLOCK_T)
    tile = tile // tiles_t
    group = tile % groups
    part = tile // groups

    real = phases.dtype.element_ty
    scale: tl.constexpr = 0.5 if MIRRORED else 1.0
    numbers: tl.constexpr = 4 if MIRRORED else 2
    spectrum += group * inputs + c[:, None]
    grad += group * outputs + o[None, :]
    total = tl.zeros((BLOCK_T, BLOCK_C, BLOCK_O), real)
    for frequency in range(part, cosines_u * cosines_v, parts):
        u = frequency // cosines_v
        v = frequency % cosines_v
        real_sum = tl.zeros((BLOCK_C, BLOCK_O), real)
        imag_sum = tl.zeros((BLOCK_C, BLOCK_O), real)
        mirrored_real_sum = tl.zeros((BLOCK_C, BLOCK_O), real)
        mirrored_imag_sum = tl.zeros((BLOCK_C, BLOCK_O), real)
        for first_b in range(0, batch, BLOCK_B):
            b = first_b + tl.arange(0, BLOCK_B)
            x_real, x_imag, mirrored_x_real, mirrored_x_imag = _pack(
                spectrum + b.to(tl.int64)[None, :] * (groups * inputs),
                c[:, None], inputs, (b < batch)[None, :],
                batch * groups * inputs, u, v,
                cosines_u, cosines_v, kept_u, kept_v, real, MIRRORED,
            )  # fmt: skip
            g_real, g_imag, mirrored_g_real, mirrored_g_imag = _pack(
                grad + b.to(tl.int64)[:, None] * (groups * outputs),
                o[None, :], outputs, (b < batch)[:, None],
                batch * groups * outputs, u, v,
                cosines_u, cosines_v, kept_u, kept_v, real, MIRRORED,
            )  # fmt: skip
            real_sum, imag_sum = _multiply_add(
                x_real, -x_imag, g_real, g_imag,
                real_sum, imag_sum, DTYPE, PRECISION,
            )  # fmt: skip
            if MIRRORED:
                mirrored_real_sum, mirrored_imag_sum = _multiply_add(
                    mirrored_x_real, -mirrored_x_imag,
                    mirrored_g_real, mirrored_g_imag,
                    mirrored_real_sum, mirrored_imag_sum, DTYPE, PRECISION,
                )  # fmt: skip
        pointers = phases + (frequency * tap_count + t) * numbers
        known = t < tap_count
        factors = tl.load(pointers, known, 0.0)[:, None, None] * scale
        total += factors * real_sum[None, :, :]
        factors = tl.load(pointers + 1, known, 0.0)[:, None, None] * scale
        total += factors * imag_sum[None, :, :]
        if MIRRORED:
            factors = tl.load(pointers + 2, known, 0.0)[:, None, None] * scale
            total += factors * mirrored_real_sum[None, :, :]
            factors = tl.load(pointers + 3, known, 0.0)[:, None, None] * scale
            total += factors * mirrored_imag_sum[None, :, :]
    element = (part * tap_count + t).to(tl.int64)[:, None, None] * inputs + c[None, :, None]
    inside = (t < tap_count)[:, None, None] & (c < inputs)[None, :, None]
    tl.store(
        partial + element * (groups * outputs) + group * outputs + o[None, None, :],
        total,
        inside & (o < outputs)[None, None, :],
    )
