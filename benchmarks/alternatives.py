"""Is a native kernel worth it? The same pass by PyTorch, by its compiler, by numba, and in C.

    python benchmarks/alternatives.py

All compute `algorithm="matmul"` in float32. By numba is the product over channels, one frequency
per step of its parallel loop; the transforms around it are PyTorch's, as in the plain one.
"""

import statistics
from collections.abc import Callable

import numba
import numpy as np
import torch
from machine import provenance, write_result

import passband as pb
from passband.functional import convolve
from passband.measure.timing import time_rounds
from passband.ops.band_limited_conv import matmul
from passband.ops.band_limited_conv.geometry import ConvGeometry, conv_geometry
from passband.ops.band_limited_conv.op import band_limited_conv_plainly, geometry_arguments
from passband.spectrum.dft import hermitian_packing

SHAPES = ((64, 32), (128, 16), (256, 8), (128, 28))
BATCH, TAPS, COMPRESSION, ROUNDS = 32, 3, 0.5, 9


@numba.njit(parallel=True, fastmath=True)
def product(x: np.ndarray, filters: np.ndarray, to: np.ndarray) -> None:
    """(bins, B, C) x (bins, C, O) -> (bins, B, O)."""
    bins, batch, inputs = x.shape
    for f in numba.prange(bins):
        to[f] = 0.0
        for b in range(batch):
            for c in range(inputs):
                value = x[f, b, c]
                for o in range(filters.shape[2]):
                    to[f, b, o] += value * filters[f, c, o]


def by_numba(maps: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry) -> torch.Tensor:
    packing = hermitian_packing(geometry.band, maps.dtype, maps.device)
    real, imag = packing.pack(matmul.analyze(maps, geometry))
    x = torch.cat([real, imag, real + imag])
    filters = matmul.prepare_filter(weight, geometry, weight.dtype)
    products = torch.empty(*x.shape[:2], weight.shape[0])
    product(x.numpy(), filters.numpy(), products.numpy())
    p2, p3, p1 = products.chunk(3)
    output = packing.unpack(p1 - p3, p1 + p2)
    return matmul._to_maps(output, matmul._output_bases(output, geometry), geometry.band)


def measure(channels: int, side: int) -> dict[str, object]:
    geometry = conv_geometry((side, side), (TAPS, TAPS), padding=TAPS // 2, compression=COMPRESSION)
    maps, weight = torch.randn(BATCH, channels, side, side), torch.randn(channels, channels, 3, 3)
    last, arguments = torch.channels_last, (*geometry_arguments(geometry), "matmul", None, False)
    maps_last, weight_last = (t.contiguous(memory_format=last) for t in (maps, weight))

    def plain(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return band_limited_conv_plainly(x, w, None, *arguments)[0]

    torch.compiler.reset()
    compiled = torch.compile(
        lambda x, w: matmul.forward(matmul.analyze(x, geometry), w, None, geometry, x.dtype)
    )
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "native": lambda: torch.conv2d(maps, weight, padding=1),
        "channels_last": lambda: torch.conv2d(maps_last, weight_last, padding=1),
        "pytorch": lambda: plain(maps, weight),
        "compiled": lambda: compiled(maps, weight),
        "numba": lambda: by_numba(maps, weight, geometry),
        "kernels": lambda: convolve(maps, weight, None, geometry, "matmul"),
    }
    with torch.no_grad():
        expected = ways["kernels"]()
        for way in ("pytorch", "compiled", "numba"):
            torch.testing.assert_close(ways[way](), expected, rtol=1e-3, atol=1e-3)
        seconds = time_rounds(list(ways.values()), ROUNDS)
    times = {way: statistics.median(rounds) for way, rounds in zip(ways, seconds, strict=True)}
    best = min(times["native"], times["channels_last"])
    return {
        "channels": channels,
        "map": f"{side}x{side}",
        **{f"{way}_ms": float(f"{1e3 * time:.4g}") for way, time in times.items()},
        **{
            f"{way}_ratio": float(f"{best / times[way]:.3g}")
            for way in ("pytorch", "compiled", "numba", "kernels")
        },
    }


def main() -> None:
    torch.manual_seed(0)
    pb.keep_freed_memory()
    numba.set_num_threads(torch.get_num_threads())
    origin = provenance("cpu")
    write_result("alternatives", [{**measure(*shape), **origin} for shape in SHAPES])


if __name__ == "__main__":
    main()
