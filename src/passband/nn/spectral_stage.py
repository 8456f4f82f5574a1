"""What a layer of SpecNet computes, for maps of one size: the function that its stage runs."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband import functional
from passband.nn.fused_parts import norm_call
from passband.nn.spectral_map import Form
from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.op import (
    band_limited_conv,
    band_limited_conv_plainly,
    geometry_arguments,
)
from passband.ops.spectral import resample
from passband.ops.spectral.codec import SPECTRA, Codec, Maps
from passband.ops.spectral.convolution_gradient import gradient_only
from passband.ops.spectral.frame import Frame
from passband.ops.spectral.normalised_stage import NormalisedFunction
from passband.ops.spectral.on_map import OnMap
from passband.ops.spectral.pointwise import (
    activate,
    known_activation,
    orthonormal_beta,
    squared_magnitude,
    threshold,
)
from passband.ops.spectral.product import spectral_conv
from passband.ops.tracing import is_transformed
from passband.spectrum.dft import transform_multiplications


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
    dft_norm: str
    activation: str | None
    pool: tuple[int, ...]
    pool_mode: str
    compression: float | None
    storage: str
    scale: Tensor | None
    activation_first: bool
    passes_gradients: bool
    next_padding: tuple[tuple[int, int], ...]

    @property
    def norm(self) -> tuple[nn.modules.batchnorm._BatchNorm, ...]:
        """The batch norm after the convolution, if there is one."""

    @property
    def on_map(self) -> bool:
        """Whether the activation is evaluated on the map."""

    def pads(self) -> tuple[tuple[int, int], ...]:
        """Zeros before and after the map, per axis."""


class SpectralStage:
    """The function of a layer for maps of one size: what `run_stage` runs.

    Args:
        layer: The layer.
        forms: What each of its sources is a spectrum of; None for one that is maps.
        channels: Of each of its sources.
        size: Points of the maps.
    """

    def __init__(
        self,
        layer: StageLayer,
        forms: Sequence[Form | None],
        channels: Sequence[int],
        size: tuple[int, ...],
    ) -> None:
        self.layer, self.forms = layer, forms
        alike = groupby(zip(forms, channels, strict=True))
        self.bundles = tuple(len(list(run)) for _, run in alike)
        first = forms[0]
        plain = first is not None and first.then is None and set(forms) == {first}
        self.frame = Frame.of(size, None, layer.compression)
        if plain and first is not None:
            self.frame = first.frame
        if layer.on_map:
            self._plan_on_map(size, plain)
        else:
            self._plan_in_spectrum(size)
            self.takes_spectra = plain

    def _plan_on_map(self, size: tuple[int, ...], plain: bool) -> None:
        layer, pads = self.layer, self.layer.pads()
        self.takes_spectra = plain and self.frame.padding == pads
        if not self.takes_spectra:
            self.frame = Frame.of(size, pads, layer.compression)
        self.geometry = ConvGeometry(
            size, pads, layer.kernel_size, layer.stride, layer.dilation, layer.groups,
            self.frame.grid, self.frame.kept,
        )  # fmt: skip
        self.product_frame = self.frame
        self.then = OnMap(layer.activation or "identity", layer.pool, layer.pool_mode)
        made = self.geometry.output_size
        if layer.activation_first:
            made = self.then.size(made)
        self.result = Frame.of(made, layer.next_padding, layer.compression)
        self.form = Form(self.result, None if layer.activation_first else self.then)

    def _plan_in_spectrum(self, size: tuple[int, ...]) -> None:
        layer = self.layer
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
        self.form = Form(self.result)

    def image_bytes(self, channels: int) -> int:
        """Bytes of the largest dense tensor for one image."""
        given = [math.prod(f.frame.grid) for f in self.forms if f is not None]
        points = max(*given, math.prod(self.frame.grid), math.prod(self.result.grid))
        return 4 * max(channels, self.layer.out_channels) * points

    def multiplications(self, batch: int) -> int:
        """Of a forward pass: three for each pair of channels and frequency, and the transforms."""
        layer, product = self.layer, self.product_frame
        count = 3 * product.bins * (layer.weight.numel() // math.prod(layer.kernel_size))
        if not self.takes_spectra:
            count += layer.in_channels * _transform(self.frame)
            count += sum(_transform(f.frame) for f in self.forms if f is not None) * (
                layer.in_channels // len(self.forms)
            )
        if layer.on_map:
            count += layer.out_channels * (_transform(product) + _transform(self.result))
        return batch * count

    def threshold_for(
        self, sources: list[Tensor], parameters: Sequence[Tensor | None], density: float
    ) -> float:
        """The magnitude that a fraction of what the threshold is given reaches."""
        before = self._before_threshold(sources, parameters, first=True)
        magnitudes = squared_magnitude(before).sqrt().flatten()
        dropped = int((1 - density) * magnitudes.numel())
        beta = float(magnitudes.kthvalue(dropped + 1).values) if dropped else 0.0
        return beta / self._orthonormal(1.0)

    def codecs(self) -> dict[str, Any]:
        """How `compute` has its sources read and its result stored: of `StageOptions`."""
        if not self.layer.on_map or self.takes_spectra:
            return {"writes": self.writes()}
        return {
            "reads": tuple(Maps(f.frame) if f else SPECTRA for f in self.forms),
            "writes": self.writes(),
            "bundles": self.bundles,
        }

    def writes(self, layout: torch.memory_format = torch.contiguous_format) -> Codec:
        """How the result of `compute` is stored; gradients come back to maps of a layout."""
        return Maps(self.result, self._beta, layout) if self.layer.on_map else SPECTRA

    def compute(
        self, sources: list[Tensor], parameters: Sequence[Tensor | None], first: bool
    ) -> Tensor:
        """What is to be stored, from what was: spectra, or maps as `codecs` says."""
        if not self.layer.on_map:
            return self(sources, parameters, first)
        is_needed = first or bool(self.layer.norm) or self.layer.activation_first
        return self._to_be_stored(self.convolve(sources, parameters, is_needed), parameters, first)

    def convolve(
        self, sources: list[Tensor], parameters: Sequence[Tensor | None], is_needed: bool
    ) -> Tensor:
        """The convolution's maps, of a layer whose activation is evaluated on the map.

        Args:
            sources: As `compute` has them.
            parameters: Those of the layer.
            is_needed: Whether the values are, or only their gradients.
        """
        if self.takes_spectra:
            return self._convolve_to_map(sources, parameters)
        finished, place = [], 0
        for source, count in zip(sources, self.bundles, strict=True):
            form = self.forms[place]
            maps = source if form is None else form.finish(source)
            if count > 1:  # channels of the sources beside each other
                maps = maps.view(count, -1, *maps.shape[1:]).transpose(0, 1).flatten(1, 2)
            finished.append(maps)
            place += count
        return self._convolve_maps(self._joined(finished), parameters, is_needed)

    @property
    def finish(self) -> Callable[[Tensor], Tensor] | None:
        """What is done to the maps before they are stored; None is nothing."""
        return self.then if self.layer.activation_first else None

    def normalised(self, norm: nn.modules.batchnorm._BatchNorm) -> NormalisedFunction:
        """`compute` in its parts, for one call of a batch norm by the batch's own statistics."""
        splits = self.layer.groups == 1
        return NormalisedFunction(
            self.convolve, norm_call(norm), self.finish, splits_channels=splits
        )

    @property
    def is_known_by_its_result(self) -> bool:
        """Whether `gradient_only` has the gradients of `compute`."""
        layer = self.layer
        steps_after = layer.activation_first or max(layer.pool) > 1 or layer.storage != "float32"
        return not (layer.on_map or steps_after or layer.scale is not None)

    def gradient_only(
        self, sources: list[Tensor], parameters: Sequence[Tensor | None], result: Tensor
    ) -> Tensor:
        """A stand-in for what `compute` gives, which is known: only its gradients are right."""
        spectrum = self._convolve(self._spectrum(sources), parameters, is_needed=False)
        return known_activation(spectrum, result, self.layer.activation)

    def __call__(  # noqa: D102  # the class says it
        self, sources: list[Tensor], parameters: Sequence[Tensor | None], first: bool
    ) -> Tensor:
        layer = self.layer
        spectrum = self._before_threshold(sources, parameters, first)
        kept = threshold(spectrum, self._beta)
        if layer.on_map:
            return spectrum + (kept - spectrum).detach() if layer.passes_gradients else kept
        spectrum = kept
        if not layer.activation_first:
            spectrum = activate(spectrum, layer.activation, parameters[2])
        return self._pool(spectrum)

    @property
    def _beta(self) -> float:
        """What coefficients of the orthonormal DFT are compared with."""
        return self._orthonormal(self.layer.threshold)

    def _orthonormal(self, beta: float) -> float:
        frame = self.result if self.layer.on_map else self.strided
        return orthonormal_beta(beta, math.prod(frame.grid), self.layer.dft_norm)

    def _before_threshold(
        self, sources: list[Tensor], parameters: Sequence[Tensor | None], first: bool
    ) -> Tensor:
        layer = self.layer
        if not layer.on_map:
            spectrum = self._convolve(self._spectrum(sources), parameters)
            if layer.activation_first:
                spectrum = activate(spectrum, layer.activation, parameters[2])
            return spectrum
        maps = self._convolve_to_map(sources, parameters)
        return self.result.from_map(self._to_be_stored(maps, parameters, first))

    def _to_be_stored(
        self, maps: Tensor, parameters: Sequence[Tensor | None], first: bool
    ) -> Tensor:
        maps = self._normalise(maps, parameters, first)
        return self.then(maps) if self.layer.activation_first else maps

    def _spectrum(self, sources: list[Tensor]) -> Tensor:
        if not self.takes_spectra:
            return self.frame.from_map(self._maps(sources))
        return sources[0] if len(sources) == 1 else torch.cat(sources, 3)

    def _maps(self, sources: list[Tensor]) -> Tensor:
        maps = [
            source if form is None else form.to_map(source)
            for source, form in zip(sources, self.forms, strict=True)
        ]
        return self._joined(maps)

    @staticmethod
    def _joined(maps: list[Tensor]) -> Tensor:
        return maps[0] if len(maps) == 1 else torch.cat(maps, 1)

    def _convolve_maps(
        self, maps: Tensor, parameters: Sequence[Tensor | None], is_needed: bool
    ) -> Tensor:
        """The convolution of maps; its gradient only, if that is enough."""
        weight, bias = parameters[:2]
        assert weight is not None
        if not is_needed:
            result = gradient_only(maps, weight, bias, self.geometry)
            if result is not None:
                return result
        return functional.convolve(maps, weight, bias, self.geometry, "auto")

    def _convolve(
        self, spectrum: Tensor, parameters: Sequence[Tensor | None], is_needed: bool = True
    ) -> Tensor:
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
            is_needed,
        )
        if max(layer.stride) > 1:
            spectrum = resample.fold(spectrum, frame, tuple(layer.stride))
        return spectrum

    def _pool(self, spectrum: Tensor) -> Tensor:
        layer = self.layer
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
        if not self.takes_spectra:
            return self._convolve_maps(self._maps(sources), parameters, is_needed=True)
        spectrum = self.frame.to_real(self._spectrum(sources))
        operator = band_limited_conv_plainly if is_transformed() else band_limited_conv
        maps: Tensor = operator(
            spectrum, weight, bias, *geometry_arguments(geometry), "matmul", None, True
        )[0]
        return maps

    def _normalise(self, maps: Tensor, parameters: Sequence[Tensor | None], first: bool) -> Tensor:
        """Batch norm; its running statistics are updated in the forward pass alone."""
        for norm in self.layer.norm:
            if first:
                maps = norm(maps)
            else:
                weight, bias, mean, var = parameters[3:]
                maps = F.batch_norm(maps, mean, var, weight, bias, mean is None, 0.0, norm.eps)
        return maps


def _transform(frame: Frame) -> int:
    """Multiplications of one map's transform."""
    return transform_multiplications(frame.size, frame.band.real_sizes, range(len(frame.size)))
