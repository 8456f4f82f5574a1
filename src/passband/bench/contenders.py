"""What our layers are measured against, and one pass of a layer."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband.bench.cases import LayerCase
from passband.nn.band_limited import BandLimitedConv1d, BandLimitedConv2d
from passband.ops.band_limited_conv.geometry import ConvGeometry

Pass = Callable[[], object]

TEXTBOOK_BYTES = 96 * 2**20
"""Largest spectrum of its filters with which the textbook convolution is measured."""

_NATIVE = {1: nn.Conv1d, 2: nn.Conv2d}
_LIMITED = {1: BandLimitedConv1d, 2: BandLimitedConv2d}
_COMPLEX = 8  # bytes


def native_layer(case: LayerCase) -> nn.Conv1d | nn.Conv2d:
    """The convolution of torch.nn of a case, without bias."""
    kind: Any = _NATIVE[len(case.size)]
    layer: nn.Conv1d | nn.Conv2d = kind(
        case.in_channels, case.out_channels, case.kernel, padding=case.zeros, bias=False
    )
    return layer


def band_limited_layer(
    native: nn.Module, case: LayerCase, algorithm: str
) -> BandLimitedConv1d | BandLimitedConv2d:
    """Our layer with the weights of torch's."""
    kind: Any = _LIMITED[len(case.size)]
    layer: BandLimitedConv1d | BandLimitedConv2d = kind.from_conv(
        native, compression=case.compression, algorithm=algorithm
    )
    return layer


class TextbookFFTConv(nn.Module):
    """The convolution theorem as everyone writes it: transform map and filter, multiply, go back.

    Nothing is discarded and nothing saved: the full spectrum, complex numbers, torch.fft.

    Examples:
        >>> case = LayerCase(2, 3, 4, (9, 8), 3, 0.0, training=False)
        >>> native, maps = native_layer(case), torch.rand(2, 3, 9, 8)
        >>> torch.allclose(TextbookFFTConv(native, case)(maps), native(maps), atol=1e-6)
        True
    """

    def __init__(self, native: nn.Conv1d | nn.Conv2d, case: LayerCase) -> None:
        super().__init__()
        self.weight, self.geometry = native.weight, case.geometry

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, n1, ..) -> (B, O, m1, ..)."""
        geometry = self.geometry
        grid, dims = geometry.padded_size, tuple(range(-geometry.axes, 0))
        padded = F.pad(maps, [p for pair in reversed(geometry.padding) for p in pair])
        x = torch.fft.rfftn(padded, s=grid, dim=dims)
        k = torch.fft.rfftn(self.weight, s=grid, dim=dims)
        product = torch.einsum("bc...,oc...->bo...", x, k.conj())
        y: Tensor = torch.fft.irfftn(product, s=grid, dim=dims)
        for axis, points in enumerate(geometry.output_size, 2):
            y = y.narrow(axis, 0, points)
        return y


def textbook_refusal(geometry: ConvGeometry, case: LayerCase) -> str:
    """Why the textbook convolution is not measured; empty where it is."""
    half = (*geometry.padded_size[:-1], geometry.padded_size[-1] // 2 + 1)
    size = _COMPLEX * case.out_channels * case.in_channels * math.prod(half)
    if size <= TEXTBOOK_BYTES:
        return ""
    return f"textbook FFT left out: its filters' spectrum takes {size / 2**20:.0f} MiB"


class DownsampledConv(nn.Module):
    """A control: the same convolution on a smaller map, and its output enlarged again.

    The map shrinks to the band's fraction of points per axis, by averages; the output grows to its
    size by repetition, the cheapest way. It is another function than the band-limited convolution.

    Examples:
        >>> case = LayerCase(2, 3, 4, (16, 16), 3, 0.5, training=False)
        >>> small = DownsampledConv(native_layer(case), case)
        >>> small.small, small(torch.rand(2, 3, 16, 16)).shape
        ((12, 12), torch.Size([2, 4, 16, 16]))
    """

    def __init__(self, native: nn.Conv1d | nn.Conv2d, case: LayerCase) -> None:
        super().__init__()
        self.conv, geometry = native, case.geometry
        least = [max(1, case.kernel - 2 * case.zeros)] * geometry.axes
        self.small = tuple(
            max(fewest, round(n * kept / grid))
            for fewest, n, kept, grid in zip(
                least, case.size, geometry.band.real_sizes, geometry.grid, strict=True
            )
        )
        self.output_size = geometry.output_size

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, n1, ..) -> (B, O, m1, ..)."""
        small = F.interpolate(maps, size=self.small, mode="area")
        return F.interpolate(self.conv(small), size=self.output_size, mode="nearest")


def layer_pass(layer: nn.Module, maps: Tensor, grad: Tensor, training: bool) -> Pass:
    """One pass of a layer: forward and backward, or forward in evaluation mode.

    Args:
        layer: The layer; its mode is set here.
        maps: Its input.
        grad: Gradient of its output, in the memory order of the maps.
        training: With gradients of the input and of the parameters.
    """
    layer.train(training)
    if not training:

        def infer() -> object:
            with torch.no_grad():
                return layer(maps)

        return infer
    leaf = maps.detach().requires_grad_()
    leaves = (leaf, *layer.parameters())
    return lambda: torch.autograd.grad(layer(leaf), leaves, grad)


def compiled_pass(layer: nn.Module, maps: Tensor, grad: Tensor, training: bool) -> Pass | str:
    """The pass of a compiled layer, compiled here; text that says why there is none."""
    torch.compiler.reset()  # or the layers compiled before count as too many variants of one
    try:
        compiled: Any = torch.compile(layer)
        run = layer_pass(compiled, maps, grad, training)
        run()
    except Exception as error:  # whatever a compiler may miss; the other contenders go on
        return f"not compiled: {type(error).__name__}"
    return run
