"""How long each way to compute a call takes: a linear model with measured constants.

    seconds = sum over features of amount * constant

The features are multiplications over channels, multiplications of transforms, work on filters,
bytes moved, and calls. The constants shipped here were measured on two cores of an AMD EPYC (Zen 4,
AVX-512); `passband tune` measures those of another machine. Only ratios matter: on a machine twice
as fast all of them halve and the choice is the same.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from passband.ops.band_limited_conv.cost import multiplications, native_multiplications
from passband.ops.band_limited_conv.geometry import ConvGeometry

WAYS = ("torch", "lowpass", "matmul", "lowpass kernels", "matmul kernels")
"""torch: its own convolution, of no band. The others: an algorithm, and where it says so by the
kernels for CPUs."""

FEATURES = ("product", "transforms", "filters", "bytes", "calls")

Costs = Mapping[str, tuple[float, ...]]
"""Of each way, seconds per unit of each feature."""

VERSION = 2

SHIPPED: Costs = {
    "torch": (8.5e-12, 0.0, 0.0, 1.07e-10, 1.0e-4),
    "lowpass": (1.0e-11, 2.4e-11, 0.0, 1.28e-10, 3.8e-4),
    "matmul": (4.6e-11, 2.1e-11, 5.2e-11, 1.13e-10, 3.5e-4),
    "lowpass kernels": (1.0e-11, 1.6e-11, 0.0, 1.0e-10, 1.9e-4),
    "matmul kernels": (1.1e-11, 0.0, 5.4e-11, 9.2e-11, 1.5e-4),
}


@dataclass(frozen=True)
class Call:
    """A call of the band-limited convolution, as far as its time goes."""

    geometry: ConvGeometry
    batch: int
    in_channels: int
    out_channels: int
    training: bool
    """Whether a backward pass follows."""


def features(way: str, call: Call) -> tuple[float, ...]:
    """The amount of each feature, forward and in training backward pass.

    Examples:
        >>> from passband.ops.band_limited_conv.geometry import conv_geometry
        >>> g = conv_geometry((8, 8), (3, 3), padding=1, compression=0.5)
        >>> dict(zip(FEATURES, features("torch", Call(g, 1, 4, 4, False))))["product"]
        9216
    """
    g = call.geometry
    shape = (g, call.batch, call.in_channels, call.out_channels)
    maps = call.batch * (
        call.in_channels * math.prod(g.size) + call.out_channels * math.prod(g.output_size)
    )
    weights = call.out_channels * (call.in_channels // g.groups) * math.prod(g.kernel)
    passes = 3 if call.training else 1
    both = 2 if call.training else 1  # maps and their gradients
    if way == "torch":
        product = native_multiplications(*shape)
        return (product * passes, 0.0, 0.0, 4.0 * (maps * both + weights * passes), passes)
    algorithm, _, kernels = way.partition(" ")
    own = multiplications(algorithm, *shape)
    spectra = math.prod(g.band.real_sizes) * call.batch
    if algorithm == "lowpass":
        # the backward pass makes the low-passed map anew, and transforms its gradient back
        transforms = own.transforms * (2.5 if call.training else 1.0)
        moved = maps * both + spectra * call.in_channels * both + weights * passes
        return (own.product * passes, transforms, 0.0, 4.0 * moved, passes)
    moved = maps * both + 2 * spectra * (call.in_channels + call.out_channels) * both
    filters = own.filters
    if kernels:
        # read and folded; along the rows; then the parts of each frequency from what that leaves
        pairs = call.out_channels * (call.in_channels // g.groups)
        rows, columns = g.band.real_sizes[0] if g.axes > 1 else 1, g.kernel[-1]
        per_pair = 4 * math.prod(g.kernel) + rows * columns + g.band.pair_count * (columns + 6)
        filters = pairs * per_pair
    return (
        float(own.product * passes), float(own.transforms * both), float(filters * passes),
        4.0 * moved, passes,
    )  # fmt: skip


def seconds(way: str, call: Call, costs: Costs | None = None) -> float:
    """The estimated time of a call, by the constants in use unless others are given.

    Examples:
        >>> from passband.ops.band_limited_conv.geometry import conv_geometry
        >>> g = conv_geometry((32, 32), (3, 3), padding=1, compression=0.85)
        >>> call = Call(g, 32, 64, 64, training=True)
        >>> seconds("matmul kernels", call, SHIPPED) < seconds("torch", call, SHIPPED)
        True
    """
    constants = (costs or costs_in_use())[way]
    return sum(a * c for a, c in zip(features(way, call), constants, strict=True))


def costs_path() -> Path:
    """Where `passband tune` puts its constants: PASSBAND_COSTS, or the user's cache folder."""
    given = os.environ.get("PASSBAND_COSTS")
    if given:
        return Path(given)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "passband" / "costs.json"


def costs_in_use() -> Costs:
    """The constants measured on this machine, or else the shipped ones.

    With torch.use_deterministic_algorithms(True) the shipped ones, so that the choice is the same
    whatever has been measured here.

    Raises:
        ValueError: The file is there, but is none that `passband tune` writes.
    """
    if torch.are_deterministic_algorithms_enabled():
        return SHIPPED
    return _read_costs(costs_path())


@lru_cache(maxsize=8)
def _read_costs(path: Path) -> Costs:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return SHIPPED
    try:
        content = json.loads(text)
        costs = {way: tuple(float(c) for c in content["costs"][way]) for way in WAYS}
        valid = content["version"] == VERSION and all(
            len(c) == len(FEATURES) and all(math.isfinite(v) and v >= 0 for v in c)
            for c in costs.values()
        )
    except (ValueError, KeyError, TypeError):
        valid = False
    if not valid:
        raise ValueError(
            f"{path} holds no constants that this version can read; "
            "measure them anew with `passband tune`, or delete the file"
        )
    return costs
