"""Each kernel against the formula it computes, in float64 by torch's own operators."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from passband.ops.band_limited_conv.geometry import ConvGeometry, conv_geometry
from passband.spectrum.dft import filter_transform, hermitian_packing
from tests.ops.band_limited_conv.triton.device import DEVICE, tolerance
from tests.support import assert_close, random

pytest.importorskip("triton", reason="Triton is not installed")

from passband.ops.band_limited_conv.triton import product, transforms

dtypes = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)


def bases(height: int, width: int, kept_u: int, kept_v: int, dtype: torch.dtype):
    """Any matrices will do; the second is no contiguous one."""
    at_least = dtype if dtype == torch.float64 else torch.float32
    rows = random(height, kept_u, dtype=at_least, seed=1).to(DEVICE)
    return rows, random(2 * width, kept_v, dtype=at_least, seed=2).to(DEVICE)[::2]


def doubles(*tensors: Tensor) -> list[Tensor]:
    return [tensor.double().cpu() for tensor in tensors]


# The blocks of the interpreter's candidate have 16 points and coefficients per axis.
SIZES = [(5, 3, 2, 3), (17, 33, 18, 5)]


@dtypes
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
def test_analyze(order: torch.memory_format, dtype: torch.dtype) -> None:
    for height, width, kept_u, kept_v in SIZES:
        maps = random(2, 19, height, width, dtype=dtype).to(DEVICE, memory_format=order)
        rows, columns = bases(height, width, kept_u, kept_v, dtype)
        found = transforms.analyze(maps, (rows, columns))
        x, q_h, q_w = doubles(maps, rows, columns)
        expected = torch.einsum("bchw,hu,wv->uvbc", x, q_h, q_w).flatten(0, 1)
        assert_close(found.cpu(), expected, tolerance(dtype))


@dtypes
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
def test_synthesize(order: torch.memory_format, dtype: torch.dtype) -> None:
    for height, width, kept_u, kept_v in SIZES:
        spectrum = random(kept_u * kept_v, 2, 19, dtype=dtype).to(DEVICE)
        rows, columns = bases(height, width, kept_u, kept_v, dtype)
        bias = random(19, dtype=dtype, seed=3).to(DEVICE)
        shape = (2, 19, height, width)
        maps = torch.empty(shape, dtype=dtype, device=DEVICE, memory_format=order)
        transforms.synthesize(maps, spectrum, (rows, columns), bias)
        z, q_h, q_w, b = doubles(spectrum, rows, columns, bias)
        z = z.unflatten(0, (kept_u, kept_v))
        expected = torch.einsum("uvbc,hu,wv->bchw", z, q_h, q_w) + b.view(-1, 1, 1)
        assert_close(maps.cpu(), expected, tolerance(dtype))


@dtypes
@pytest.mark.parametrize("with_bias", [False, True])
def test_apply_matrix(with_bias: bool, dtype: torch.dtype) -> None:
    """Positions, images and channels in any order in memory; sizes beyond one block."""
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        inverse = tuple(order.index(axis) for axis in range(3))
        maps = random(*(torch.Size((33, 2, 35))[a] for a in order), dtype=dtype).permute(inverse)
        matrix = bases(37, 4, 33, 2, dtype)[0]
        bias = random(35, dtype=dtype, seed=3).to(DEVICE) if with_bias else None
        out = torch.empty(2, 35, 37, dtype=dtype, device=DEVICE).permute(2, 0, 1)
        transforms.apply_matrix(out, maps.to(DEVICE), matrix, bias)
        x, m = doubles(maps, matrix)
        expected = torch.einsum("ij,jbc->ibc", m, x)
        if bias is not None:
            expected = expected + bias.double().cpu()
        assert_close(out.cpu(), expected, tolerance(dtype))


def spectra(geometry: ConvGeometry, batch: int, inputs: int, outputs: int, dtype: torch.dtype):
    """Spectra of an input and of an output's gradient, and filters."""
    count = math.prod(geometry.band.real_sizes)
    shapes = (
        (count, batch, inputs),
        (count, batch, outputs),
        (outputs, inputs // geometry.groups, *geometry.kernel),
    )
    return [random(*shape, dtype=dtype, seed=i).to(DEVICE) for i, shape in enumerate(shapes)]


# one axis and two, odd and even grids, full axes (with a Nyquist frequency) and others, groups;
# "blocks" has more of everything than one block of the interpreter's candidate holds
PRODUCTS = {
    "1d": (((11,), (3,), {"band": 3}), 3, 4, 5),
    "1d full, even": (((8,), (4,), {"dilation": 2}), 2, 2, 2),
    "1d one coefficient": (((1,), (1,), {}), 1, 1, 1),
    "2d": (((9, 8), (3, 2), {"band": (3, 2)}), 3, 4, 5),
    "2d full, even": (((4, 6), (2, 3), {}), 2, 2, 3),
    "2d full, odd": (((5, 3), (2, 2), {}), 2, 2, 3),
    "2d one axis full": (((4, 9), (3, 3), {"band": (3, 2), "dilation": (1, 2)}), 2, 3, 2),
    "2d groups": (((7, 7), (3, 3), {"band": (2, 3), "groups": 3}), 2, 6, 9),
    "2d blocks": (((9, 9), (5, 5), {"band": (1, 2)}), 35, 19, 37),
}


DOUBLE = [(name, torch.float64) for name in PRODUCTS]
OTHERS = [("2d", dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)]


@pytest.mark.parametrize(("name", "dtype"), [*DOUBLE, *OTHERS])
def test_product_and_its_gradients(name: str, dtype: torch.dtype) -> None:
    """Against complex numbers in float64, and torch's own gradients."""
    (size, kernel, arguments), batch, inputs, outputs = PRODUCTS[name]
    geometry = conv_geometry(size, kernel, **arguments)
    x, grad, weight = spectra(geometry, batch, inputs, outputs, dtype)
    found = {
        "product": product.multiply(x, weight, geometry, dtype, adjoint=False),
        "adjoint": product.multiply(grad, weight, geometry, dtype, adjoint=True),
        "filters": product.filter_gradient(x, grad, weight, geometry, dtype),
    }
    z, g, w = doubles(x, grad, weight)
    z.requires_grad_()
    w.requires_grad_()
    expected = {"product": by_complex_numbers(z, w, geometry)}
    expected["adjoint"], expected["filters"] = torch.autograd.grad(expected["product"], (z, w), g)
    for which, value in found.items():
        assert_close(value.cpu(), expected[which], tolerance(dtype))


def by_complex_numbers(spectrum: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    """The product of the definition, frequency by frequency."""
    groups = geometry.groups
    packing = hermitian_packing(geometry.band, spectrum.dtype, spectrum.device)
    real, imag = packing.pack(spectrum)
    filters = filter_transform(geometry.band, geometry.kernel, geometry.dilation)
    taps = weight.flatten(2).unflatten(0, (groups, -1))
    x = torch.complex(real, imag).unflatten(2, (groups, -1))
    k = torch.einsum("ft,goct->fgoc", torch.complex(*filters), taps.to(torch.complex128))
    y = torch.einsum("fbgc,fgoc->fbgo", x, k.conj()).flatten(2)
    return packing.unpack(y.real, y.imag)


@pytest.mark.skipif(sys.platform != "linux", reason="Triton's compiler is for Linux")
def test_every_kernel_compiles_for_a_gpu(tmp_path: Path) -> None:
    """To machine code, for the first that had bfloat16 and TF32.

    The interpreter takes types and shapes that the compiler refuses.
    """
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", script, "80", "bf16"],
        env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shared = [int(line.rpartition(",")[2]) for line in done.stdout.splitlines()]
    assert len(shared) == 9
    assert max(shared) <= 99 * 1024  # what every GPU since Ampere gives to a block
