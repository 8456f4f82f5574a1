"""What a layer of SpecNet computes, for maps of one size: the function that its stage runs."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband import functional
from passband.nn.spectral_map import SpectralMap
from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.op import (
    band_limited_conv,
    band_limited_conv_plainly,
    geometry_arguments,
)
from passband.ops.spectral import resample
from passband.ops.spectral.frame import Frame
from passband.ops.spectral.pointwise import activate, squared_magnitude, threshold
from passband.ops.spectral.product import spectral_conv
from passband.ops.spectral.stage import StoredSpectrum
from passband.ops.tracing import is_transformed
from passband.spectrum.dft import transform_multiplications

MAP_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
    "elu": F.elu,
    "leaky-relu": F.leaky_relu,
}
"""Activations of maps, by name: the spectrum is transformed to the map and back around them."""


class StageLayer(Protocol):
    """What a stage asks of its layer; see `passband.nn.specnet.SpectralConv2d`."""

    weight: Tensor
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    threshold: float
    activation: str | None
    pool: tuple[int, ...]
    pool_mode: str
    compression: float | None
    next_padding: tuple[tuple[int, int], ...]
    norm: tuple[nn.modules.batchnorm._BatchNorm, ...]

    @property
    def on_map(self) -> bool:
        """Whether the activation is evaluated on the map."""

    def pads(self) -> tuple[tuple[int, int], ...]:
        """Zeros before and after the map, per axis."""


class SpectralStage:
    """The function of a layer for maps of one size: what `run_stage` runs."""

    def __init__(self, layer: StageLayer, frame: Frame | None, size: tuple[int, ...]) -> None:
        self.layer = layer
        self.takes_maps = frame is None
        if layer.on_map:
            pads = layer.pads()
            self.frame = Frame.of(size, pads, layer.compression) if frame is None else frame
            grid = Frame.of(size, pads, layer.compression)
            self.geometry = ConvGeometry(
                size, pads, layer.kernel_size, layer.stride, layer.dilation, layer.groups,
                grid.grid, self.frame.kept if self.frame.padding == pads else grid.kept,
            )  # fmt: skip
            self.product_frame = Frame(size, pads, self.geometry.kept)
            after = _pooled_size(self.geometry.output_size, layer.pool)
            self.result = Frame.of(after, layer.next_padding, layer.compression)
            return
        self.frame = Frame.of(size, None, layer.compression) if frame is None else frame
        self.result = self.frame
        if max(layer.stride) > 1:
            self.result = resample.folded_frame(self.result, layer.stride)
        self.strided = self.result
        self.product_frame = self.frame
        self.crops = max(layer.pool) > 1 and layer.pool_mode == "spectral"
        if self.crops:
            self.result = resample.cropped_frame(self.result, layer.pool)
            if max(layer.stride) == 1:
                # all that follows acts on single frequencies: those that the pooling drops need
                # not be computed
                self.product_frame = Frame(size, self.frame.padding, self.result.kept)
                self.strided = self.product_frame
        elif max(layer.pool) > 1:
            self.result = resample.folded_frame(self.result, layer.pool)

    def image_bytes(self, channels: int) -> int:
        """Bytes of the largest dense tensor for one image."""
        points = math.prod(self.frame.grid)
        return 4 * max(channels * points, self.layer.out_channels * points)

    def multiplications(self, batch: int) -> int:
        """Of a forward pass: three for each pair of channels and frequency, and the transforms."""
        layer, result = self.layer, self.result
        product, inputs = self.product_frame, layer.in_channels
        count = 3 * product.bins * (layer.weight.numel() // math.prod(layer.kernel_size))
        if self.takes_maps:
            count += inputs * _transform(self.frame)
        if layer.on_map:
            count += layer.out_channels * (_transform(product) + _transform(result))
        return batch * count

    def threshold_for(
        self, sources: list[Tensor], parameters: Sequence[Tensor | None], density: float
    ) -> float:
        """The magnitude that a fraction of what the threshold is given reaches."""
        before = self._before_threshold(sources, parameters, first=True)
        magnitudes = squared_magnitude(before).sqrt().flatten()
        dropped = int((1 - density) * magnitudes.numel())
        return float(magnitudes.kthvalue(dropped + 1).values) if dropped else 0.0

    def __call__(  # noqa: D102  # the class says it
        self, sources: list[Tensor], parameters: Sequence[Tensor | None], first: bool
    ) -> Tensor:
        spectrum = self._before_threshold(sources, parameters, first)
        spectrum = threshold(spectrum, self.layer.threshold)
        return spectrum if self.layer.on_map else self._activate(spectrum, parameters[2])

    def _before_threshold(
        self, sources: list[Tensor], parameters: Sequence[Tensor | None], first: bool
    ) -> Tensor:
        if not self.layer.on_map:
            return self._convolve(self._spectrum(sources), parameters)
        maps = self._convolve_to_map(sources, parameters)
        maps = self._normalise(maps, parameters, first)
        maps = MAP_ACTIVATIONS[self.layer.activation or "identity"](maps)
        return self.result.from_map(self._pool_map(maps))

    def _spectrum(self, sources: list[Tensor]) -> Tensor:
        if self.takes_maps:
            return self.frame.from_map(sources[0])
        return sources[0] if len(sources) == 1 else torch.cat(sources, 3)

    def _convolve(self, spectrum: Tensor, parameters: Sequence[Tensor | None]) -> Tensor:
        weight, bias = parameters[:2]
        assert weight is not None
        layer, frame = self.layer, self.product_frame
        spectrum = spectral_conv(
            resample.select(spectrum, self.frame, frame),
            weight,
            bias,
            frame,
            tuple(before for before, _ in layer.pads()),
            tuple(layer.dilation),
            layer.groups,
        )
        if max(layer.stride) > 1:
            spectrum = resample.fold(spectrum, frame, tuple(layer.stride))
        return spectrum

    def _activate(self, spectrum: Tensor, scale: Tensor | None) -> Tensor:
        layer = self.layer
        spectrum = activate(spectrum, layer.activation, scale)
        if max(layer.pool) == 1:
            return spectrum
        if self.crops:
            return resample.crop(spectrum, self.strided, self.result)
        return resample.fold(spectrum, self.strided, layer.pool, layer.pool_mode == "average")

    def _convolve_to_map(
        self, sources: list[Tensor], parameters: Sequence[Tensor | None]
    ) -> Tensor:
        weight, bias = parameters[:2]
        assert weight is not None
        geometry = self.geometry
        if not self.takes_maps and self.frame.padding == geometry.padding:
            spectrum = self.frame.to_real(self._spectrum(sources))
            operator = band_limited_conv_plainly if is_transformed() else band_limited_conv
            maps: Tensor = operator(
                spectrum, weight, bias, *geometry_arguments(geometry), "matmul", None, True
            )[0]
            return maps
        given = sources[0] if self.takes_maps else self.frame.to_map(self._spectrum(sources))
        return functional.convolve(given, weight, bias, geometry, "auto")

    def _normalise(self, maps: Tensor, parameters: Sequence[Tensor | None], first: bool) -> Tensor:
        """Batch norm; its running statistics are updated in the forward pass alone."""
        for norm, weight, bias in zip(
            self.layer.norm, parameters[3::2], parameters[4::2], strict=True
        ):
            if first:
                maps = norm(maps)
            elif norm.training or norm.running_mean is None:
                maps = F.batch_norm(maps, None, None, weight, bias, True, 0.0, norm.eps)
            else:
                maps = F.batch_norm(
                    maps, norm.running_mean, norm.running_var, weight, bias, False, 0.0, norm.eps
                )
        return maps

    def _pool_map(self, maps: Tensor) -> Tensor:
        factor, axes = self.layer.pool, len(self.layer.pool)
        if max(factor) == 1:
            return maps
        if self.layer.pool_mode == "max":
            return (F.max_pool1d, F.max_pool2d)[axes - 1](maps, factor)
        if self.layer.pool_mode == "average":
            return F.avg_pool1d(maps, factor) if axes == 1 else F.avg_pool2d(maps, factor)
        if self.layer.pool_mode == "stride":
            for axis, (n, s) in enumerate(zip(self.result.size, factor, strict=True), 2):
                maps = maps.narrow(axis, 0, n * s).index_select(
                    axis, torch.arange(0, n * s, s, device=maps.device)
                )
            return maps
        return resample.low_pass_and_sample(maps, self.result.size)


def _transform(frame: Frame) -> int:
    """Multiplications of one map's transform."""
    return transform_multiplications(frame.size, frame.band.real_sizes, range(len(frame.size)))


def parts_and_frame(
    input: Tensor | SpectralMap,
) -> tuple[Sequence[Tensor | StoredSpectrum], Frame | None]:
    """The spectra of an input, and their frame; of maps, the maps and None."""
    if isinstance(input, SpectralMap):
        return input.parts, input.frame
    return (input,), None


def _pooled_size(size: tuple[int, ...], factor: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n // s for n, s in zip(size, factor, strict=True))
