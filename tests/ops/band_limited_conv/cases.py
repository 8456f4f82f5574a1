"""Calls that the algorithms are compared on: every argument, at odd and at even sizes."""

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F

import passband as pb
from tests.support import random

OURS = {1: pb.band_limited_conv1d, 2: pb.band_limited_conv2d, 3: pb.band_limited_conv3d}
NATIVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
FAST = ("lowpass", "matmul", "auto")


@dataclass(frozen=True)
class Call:
    """Shapes, torch's arguments, and what says how much of the spectrum is kept."""

    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    convolution: dict[str, Any] = field(default_factory=dict)
    band: dict[str, Any] = field(default_factory=dict)
    bias: bool = True

    @property
    def axes(self) -> int:
        return len(self.weight_shape) - 2

    def tensors(self, dtype):
        shapes = {"input": self.input_shape, "weight": self.weight_shape}
        if self.bias:
            shapes["bias"] = self.weight_shape[:1]
        return {n: random(*s, dtype=dtype, seed=i) for i, (n, s) in enumerate(shapes.items())}

    def ours(self, algorithm: str, **band: Any):
        """The call by an algorithm, with its own band or with the one given."""
        arguments = {**self.convolution, **(band or self.band)}
        return lambda **tensors: OURS[self.axes](**tensors, **arguments, algorithm=algorithm)

    def native(self):
        """The call of torch, which is that at full band."""
        return lambda **tensors: NATIVE[self.axes](**tensors, **self.convolution)


HALF = {"compression": 0.5}

CALLS = {
    "1d": Call((2, 3, 31), (4, 3, 5), {}, HALF),
    "1d even": Call((2, 3, 30), (4, 3, 4), {"padding": 2, "stride": 2}, HALF),
    "1d same, even filter": Call((3, 2, 17), (4, 2, 4), {"padding": "same", "dilation": 2}, HALF),
    "1d long filter": Call((2, 3, 64), (4, 3, 33), {"padding": (16,)}, {"compression": 0.9}),
    "1d unbatched": Call((3, 29), (4, 3, 3), {"padding": 1}, HALF),
    "1d depthwise": Call((2, 4, 21), (4, 1, 7), {"padding": 3, "groups": 4}, HALF),
    "1d energy": Call((2, 3, 40), (4, 3, 5), {"padding": 2}, {"energy": 0.7}),
    "1d energy, fine": Call(
        (2, 3, 40), (4, 3, 5), {"padding": 2}, {"energy": 0.7, "energy_mode": "fine"}
    ),
    "2d": Call((2, 3, 17, 17), (4, 3, 3, 3), {"padding": 1}, HALF),
    "2d no bias": Call((2, 3, 16, 16), (4, 3, 3, 3), {"padding": 1}, HALF, bias=False),
    "2d one tap": Call((2, 3, 9, 8), (4, 3, 1, 1), {}, {"compression": 0.85}),
    "2d oblong": Call(
        (2, 3, 11, 20),
        (4, 3, 5, 2),
        {"padding": (2, 1), "stride": (2, 3), "dilation": (1, 2)},
        HALF,
    ),
    "2d strides": Call((3, 2, 15, 14), (2, 2, 3, 3), {"stride": 2, "padding": 1}, HALF),
    "2d stride beyond the filter": Call((2, 2, 13, 16), (3, 2, 2, 2), {"stride": (3, 4)}, HALF),
    "2d dilation": Call((2, 3, 18, 15), (4, 3, 3, 3), {"dilation": (3, 2), "padding": 2}, HALF),
    "2d groups": Call((2, 6, 12, 13), (4, 3, 3, 3), {"groups": 2, "padding": 1}, HALF),
    "2d depthwise": Call((2, 5, 12, 13), (5, 1, 3, 3), {"groups": 5, "padding": 1}, HALF),
    "2d depth multiplier": Call((2, 3, 12, 13), (6, 1, 3, 3), {"groups": 3, "padding": 1}, HALF),
    "2d same": Call((2, 3, 10, 11), (4, 3, 4, 3), {"padding": "same"}, HALF),
    "2d valid": Call((2, 3, 10, 11), (4, 3, 4, 3), {"padding": "valid"}, HALF),
    "2d unbatched": Call((3, 14, 9), (4, 3, 3, 3), {"padding": 1}, HALF),
    "2d padding beyond the filter": Call((2, 2, 5, 4), (3, 2, 2, 2), {"padding": 4}, HALF),
    "2d filter as large as the map": Call((2, 2, 7, 6), (3, 2, 7, 6), {}, HALF),
    "2d most discarded": Call((2, 3, 19, 16), (4, 3, 3, 3), {"padding": 1}, {"compression": 0.97}),
    "2d one coefficient": Call((2, 3, 9, 8), (4, 3, 3, 3), {"padding": 1}, {"band": 1}),
    "2d one axis full": Call((2, 3, 9, 8), (4, 3, 3, 3), {"padding": (1, 2)}, {"band": (6, 3)}),
    "2d other axis full": Call((2, 3, 9, 8), (4, 3, 4, 4), {"padding": "same"}, {"band": (2, 6)}),
    "2d power of two": Call(
        (2, 3, 9, 8), (4, 3, 3, 3), {"padding": 1}, {"fft_size": 32, "compression": 0.5}
    ),
    "2d odd grid": Call((2, 3, 9, 8), (4, 3, 3, 3), {}, {"fft_size": (9, 13), "band": (3, 5)}),
    "2d full odd grid": Call((2, 3, 9, 8), (4, 3, 3, 3), {"padding": 1}, {"fft_size": (13, 15)}),
    "2d energy": Call((2, 3, 12, 13), (4, 3, 3, 3), {"padding": 1}, {"energy": 0.6}),
    "2d energy, fine": Call(
        (2, 3, 12, 13), (4, 3, 3, 3), {"padding": 1}, {"energy": 0.6, "energy_mode": "fine"}
    ),
    "2d energy, fine, groups": Call(
        (2, 6, 9, 8),
        (4, 3, 3, 3),
        {"padding": 1, "stride": 2, "groups": 2},
        {"energy": 0.8, "energy_mode": "fine", "fft_size": (16, 12)},
    ),
    "2d all the energy": Call((2, 3, 12, 13), (4, 3, 3, 3), {"padding": 1}, {"energy": 1.0}),
    "2d one point": Call((3, 2, 1, 1), (4, 2, 3, 3), {"padding": 1}, HALF),
    "2d a batch of none": Call((0, 3, 9, 8), (4, 3, 3, 3), {"padding": 1}, HALF),
    "2d a batch of none, energy": Call((0, 3, 9, 8), (4, 3, 3, 3), {}, {"energy": 0.5}),
    "3d": Call((2, 2, 5, 7, 6), (3, 2, 3, 3, 3), {"padding": 1}, HALF),
    "3d strides and groups": Call(
        (2, 4, 6, 8, 7),
        (4, 2, 2, 3, 1),
        {"padding": (1, 2, 0), "stride": (1, 2, 3), "dilation": (2, 1, 1), "groups": 2},
        HALF,
    ),
    "3d same": Call((1, 2, 4, 5, 6), (2, 2, 3, 2, 2), {"padding": "same"}, {"band": (2, 3, 2)}),
    "3d unbatched": Call((2, 4, 5, 6), (3, 2, 3, 3, 3), {"padding": 1}, HALF),
    "3d energy, fine": Call(
        (2, 2, 4, 5, 6), (3, 2, 2, 2, 3), {"padding": 1}, {"energy": 0.7, "energy_mode": "fine"}
    ),
}
