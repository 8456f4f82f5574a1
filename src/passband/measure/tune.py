"""Measures the constants by which `algorithm="auto"` chooses, on this machine."""

import json
import platform
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from passband.atomic import atomic_path
from passband.functional import convolve
from passband.measure.timing import alternate
from passband.ops.band_limited_conv.geometry import ConvGeometry, conv_geometry
from passband.ops.band_limited_conv.lowpass import convolve_full_band
from passband.ops.band_limited_conv.native import convolution as native
from passband.ops.band_limited_conv.op import band_limited_conv_plainly, geometry_arguments
from passband.ops.band_limited_conv.speed import (
    FEATURES,
    SHIPPED,
    VERSION,
    WAYS,
    Call,
    Costs,
    features,
)

# Batch, input and output channels, map, taps, stride: narrow and wide, large and tiny, one image
# and many, one axis and two.
SHAPES: tuple[tuple[int, int, int, tuple[int, ...], int, int], ...] = (
    (32, 64, 64, (32, 32), 3, 1),
    (8, 64, 64, (56, 56), 3, 1),
    (32, 128, 128, (16, 16), 3, 1),
    (32, 256, 256, (8, 8), 3, 1),
    (16, 256, 256, (14, 14), 3, 1),
    (32, 512, 512, (4, 4), 3, 1),
    (8, 512, 512, (7, 7), 3, 1),
    (1, 64, 64, (32, 32), 3, 1),
    (1, 256, 256, (14, 14), 3, 1),
    (1, 512, 512, (7, 7), 3, 1),
    (8, 128, 128, (28, 28), 3, 1),
    (32, 64, 128, (32, 32), 3, 2),
    (32, 16, 16, (32, 32), 3, 1),
    (32, 3, 64, (32, 32), 3, 1),
    (4, 8, 8, (8, 8), 3, 1),
    (16, 64, 64, (16, 16), 7, 1),
    (32, 64, 64, (16, 16), 1, 1),
    (16, 128, 256, (270,), 5, 1),
)

Sample = tuple[str, Call, float]


def measure_costs(
    progress: Callable[[str], None] = lambda line: None,
    shapes: tuple[tuple[int, int, int, tuple[int, ...], int, int], ...] = SHAPES,
    repeats: int = 5,
) -> Costs:
    """Time convolutions of every kind and fit the constants of each way to compute them.

    Takes about a minute. The fit is a least-squares one of relative errors, with no constant
    below zero. Ways that cannot run here keep the shipped constants.

    Args:
        progress: Called with a line for every shape.
        shapes: Batch, input channels, output channels, map, taps per axis, stride.
        repeats: Timed calls of each.
    """
    samples = [sample for shape in shapes for sample in _samples(*shape, repeats, progress)]
    return {way: _fit(way, samples) for way in WAYS}


def save_costs(costs: Costs, path: Path) -> None:
    """Write constants, as JSON and atomically, where the next process finds them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "version": VERSION,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "features": FEATURES,
        "costs": costs,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _samples(
    batch: int,
    inputs: int,
    outputs: int,
    size: tuple[int, ...],
    taps: int,
    stride: int,
    repeats: int,
    progress: Callable[[str], None],
) -> Iterator[Sample]:
    for compression in (0.5, 0.85):
        geometry = conv_geometry(
            size, (taps,) * len(size), stride, padding=taps // 2, compression=compression
        )
        yield from _timed(geometry, batch, inputs, outputs, repeats)
    progress(
        f"{batch} x {inputs} -> {outputs} channels, map {'x'.join(map(str, size))}, {taps} taps"
    )


def _timed(
    geometry: ConvGeometry, batch: int, inputs: int, outputs: int, repeats: int
) -> Iterator[Sample]:
    maps = torch.randn(batch, inputs, *geometry.size)
    weight = torch.randn(outputs, inputs, *geometry.kernel)
    grad = torch.randn(batch, outputs, *geometry.output_size)

    def compute(way: str, maps: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if way == "torch":
            return convolve_full_band(maps, weight, None, geometry)
        algorithm, _, kernels = way.partition(" ")
        if kernels:
            return convolve(maps, weight, None, geometry, algorithm)
        arguments = (*geometry_arguments(geometry), algorithm, None, False)
        return band_limited_conv_plainly(maps, weight, None, *arguments)[0]

    def infer(way: str) -> None:
        with torch.no_grad():
            compute(way, maps, weight)

    def train(way: str) -> None:
        leaves = maps.detach().requires_grad_(), weight.detach().requires_grad_()
        torch.autograd.grad(compute(way, *leaves), leaves, grad)

    by_kernels = native.applies(geometry, weight.dtype, maps, weight)
    ways = [way for way in WAYS if by_kernels or not way.endswith("kernels")]
    for training, run in ((False, infer), (True, train)):
        call = Call(geometry, batch, inputs, outputs, training)
        times = alternate([partial(run, way) for way in ways], repeats)
        yield from ((way, call, time) for way, time in zip(ways, times, strict=True))


def _fit(way: str, samples: list[Sample]) -> tuple[float, ...]:
    own = [(features(way, call), time) for name, call, time in samples if name == way]
    if len(own) < len(FEATURES):
        return SHIPPED[way]
    amounts = np.array([row for row, _ in own])
    return tuple(_least_squares(amounts / np.array([[time] for _, time in own])))


def _least_squares(rows: npt.NDArray[np.float64]) -> list[float]:
    """The constants, none below zero, with which every row comes nearest to 1."""
    scale = np.abs(rows).max(0)
    used = scale > 0
    while used.any():
        solution = np.zeros(len(scale))
        solution[used] = np.linalg.lstsq(
            rows[:, used] / scale[used], np.ones(len(rows)), rcond=None
        )[0]
        if (solution >= 0).all():
            return [float(v) for v in solution / np.where(scale > 0, scale, 1)]
        used &= solution > 0
    return [0.0] * len(scale)
