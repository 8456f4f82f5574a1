"""Band-limited convolution layers: torch.nn.ConvNd with a band."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband import functional
from passband.ops.band_limited_conv import matmul
from passband.ops.band_limited_conv.geometry import ConvGeometry, conv_geometry, per_axis
from passband.ops.band_limited_conv.layout import memory_format, product_dtype
from passband.ops.band_limited_conv.native import convolution as native
from passband.ops.band_limited_conv.select import check_algorithm, select_algorithm
from passband.ops.tracing import is_transformed
from passband.spectrum.band import check_band_arguments

LayerT = TypeVar("LayerT", bound="_BandLimitedConv")

_BAND_ARGUMENTS = ("compression", "energy", "band", "fft_size", "algorithm", "energy_mode")


@dataclass(frozen=True)
class _CachedFilter:
    """Transformed filters, and what they were made of."""

    key: tuple[Any, ...]
    weight: Tensor
    prepared: Tensor


class _BandLimitedConv(nn.modules.conv._ConvNd):
    """What the layers of one, two and three axes share."""

    _axes: int
    _native: type[nn.modules.conv._ConvNd]

    compression: float | None
    energy: float | None
    band: int | tuple[int, ...] | None
    fft_size: int | tuple[int, ...] | None
    algorithm: str
    energy_mode: str
    _filter: _CachedFilter | None

    def __init__(
        self,
        *args: Any,
        compression: float | None = None,
        energy: float | None = None,
        band: int | Sequence[int] | None = None,
        fft_size: int | Sequence[int] | None = None,
        algorithm: str = "auto",
        energy_mode: str = "coarse",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._configure(compression, energy, band, fft_size, algorithm, energy_mode)

    def _configure(
        self,
        compression: float | None,
        energy: float | None,
        band: int | Sequence[int] | None,
        fft_size: int | Sequence[int] | None,
        algorithm: str,
        energy_mode: str,
    ) -> None:
        check_algorithm(algorithm)
        if fft_size is not None:
            per_axis("fft_size", fft_size, self._axes, 1)
        self.algorithm = algorithm
        self.energy_mode = energy_mode
        self.fft_size = (
            fft_size if fft_size is None or isinstance(fft_size, int) else tuple(fft_size)
        )
        self._filter = None
        self.set_band(compression=compression, energy=energy, band=band)

    def set_band(
        self,
        *,
        compression: float | None = None,
        energy: float | None = None,
        band: int | Sequence[int] | None = None,
    ) -> None:
        """Change how much of the spectrum is kept, from the next call on.

        Args:
            compression: Fraction of the half-spectrum to discard, 0 <= c < 1.
            energy: Fraction of the batch's spectral energy to keep, 0 < e <= 1.
            band: Half-spectrum coefficients kept per axis.

        Raises:
            ValueError: More than one is given, or a value is outside its range.
            TypeError: A value is not a number.
        """
        check_band_arguments(compression, energy, band, self.energy_mode)
        if band is not None:
            per_axis("band", band, self._axes, 1)
        self.compression, self.energy = compression, energy
        self.band = band if band is None or isinstance(band, int) else tuple(band)

    @classmethod
    def from_conv(
        cls: type[LayerT],
        conv: nn.Module,
        *,
        compression: float | None = None,
        energy: float | None = None,
        band: int | Sequence[int] | None = None,
        fft_size: int | Sequence[int] | None = None,
        algorithm: str = "auto",
        energy_mode: str = "coarse",
    ) -> LayerT:
        """A band-limited layer with the parameters, hooks and mode of a torch convolution.

        The parameters are the same objects, so an optimizer that holds them goes on working.

        Raises:
            TypeError: `conv` is not exactly the torch layer that this class stands for.
        """
        if type(conv) is not cls._native:
            raise TypeError(
                f"conv is {type(conv).__name__}, allowed is exactly {cls._native.__name__}"
            )
        layer = cls.__new__(cls)
        layer.__dict__.update(conv.__dict__)  # hooks too, so that their handles still remove them
        layer._configure(compression, energy, band, fft_size, algorithm, energy_mode)
        return layer

    def to_conv(self) -> nn.Module:
        """The torch convolution with this layer's parameters (the same objects), hooks and mode."""
        conv = self._native.__new__(self._native)
        own = {*_BAND_ARGUMENTS, "_filter"}
        conv.__dict__.update({k: v for k, v in self.__dict__.items() if k not in own})
        return conv

    def geometry(self, size: Sequence[int]) -> ConvGeometry:
        """The static shapes of a call on maps of `size` points, padding of any mode included.

        With `energy` the band depends on the values; the geometry then has the full band.
        """
        size = tuple(size)
        padding: str | tuple[int, ...] = self.padding
        if self.padding_mode != "zeros":
            pads = self._reversed_padding_repeated_twice[::-1]
            size = tuple(n + a + b for n, a, b in zip(size, pads[::2], pads[1::2], strict=True))
            padding = "valid"
        return conv_geometry(
            size, self.kernel_size, self.stride, padding, self.dilation, self.groups,
            compression=self.compression, band=self.band, fft_size=self.fft_size,
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        """Convolve maps (B, C, n1, ..) or one map (C, n1, ..)."""
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = "valid"
        evaluated = self._evaluated(input, padding)
        if evaluated is not None:
            return evaluated
        call = (functional.band_limited_conv1d, functional.band_limited_conv2d,
                functional.band_limited_conv3d)[self._axes - 1]  # fmt: skip
        return call(
            input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups,
            compression=self.compression, energy=self.energy, band=self.band,
            fft_size=self.fft_size, algorithm=self.algorithm, energy_mode=self.energy_mode,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """The arguments that differ from their defaults."""
        shown = {
            name: getattr(self, name)
            for name in _BAND_ARGUMENTS[:4]
            if getattr(self, name) is not None
        }
        if self.algorithm != "auto":
            shown["algorithm"] = repr(self.algorithm)
        if self.energy is not None and self.energy_mode != "coarse":
            shown["energy_mode"] = repr(self.energy_mode)
        inherited = super().extra_repr()  # type: ignore[no-untyped-call]
        return ", ".join([inherited, *(f"{k}={v}" for k, v in shown.items())])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_filter": None}

    def _evaluated(self, input: Tensor, padding: Any) -> Tensor | None:
        """The output in evaluation without gradients on a CPU; None elsewhere.

        Filters that torch's products need are kept between calls. On other devices there is no
        telling whether the weights have changed but by waiting for the device: fused optimizers and
        `weight.data` leave the version counter as it is. The kernels transform filters faster than
        memory delivers what they would have kept.
        """
        if (
            self.training
            or torch.is_grad_enabled()
            or self.energy is not None
            or torch.compiler.is_compiling()
            or is_transformed()
            or type(input) is not Tensor
            or input.device.type != "cpu"
            or type(self.weight) not in (Tensor, nn.Parameter)
            or self.weight.is_inference()
            or input.dim() != self._axes + 2
        ):
            return None
        functional.check_tensors(self._axes, input, self.weight, self.bias, self.groups)
        geometry = conv_geometry(
            input.shape[2:], self.kernel_size, self.stride, padding, self.dilation, self.groups,
            compression=self.compression, band=self.band, fft_size=self.fft_size,
        )  # fmt: skip
        shape = (geometry, input.shape[0], self.in_channels, self.out_channels)
        dtype = product_dtype(self.weight)
        choice = select_algorithm(self.algorithm, *shape, input.device, dtype, training=False)
        if choice.algorithm != "matmul" or native.applies(
            geometry, dtype, input, self.weight, self.bias
        ):
            return functional.convolve(input, self.weight, self.bias, geometry, choice.algorithm)
        with torch.autocast(input.device.type, enabled=False):
            prepared = self._prepared_filter(geometry, dtype)
            spectrum = matmul.analyze(input, geometry)
            output = matmul.forward_prepared(spectrum, prepared, self.bias, geometry)
        return output.contiguous(memory_format=memory_format(input))

    def _prepared_filter(self, geometry: ConvGeometry, dtype: torch.dtype) -> Tensor:
        """The transformed filters, from the cache if the values of the weights are the same."""
        weight = self.weight
        key = (geometry, dtype, weight.dtype)
        cached = self._filter
        if cached is not None and cached.key == key and torch.equal(cached.weight, weight):
            return cached.prepared
        prepared = matmul.prepare_filter(weight, geometry, dtype)
        self._filter = _CachedFilter(key, weight.detach().clone(), prepared)
        return prepared


class BandLimitedConv1d(_BandLimitedConv, nn.Conv1d):
    """Band-limited convolution of series (B, C, L); see `BandLimitedConv2d`.

    Examples:
        >>> layer = BandLimitedConv1d(8, 16, 5, padding="same", compression=0.5)
        >>> layer(torch.randn(4, 8, 270)).shape
        torch.Size([4, 16, 270])
    """

    _axes = 1
    _native = nn.Conv1d


class BandLimitedConv2d(_BandLimitedConv, nn.Conv2d):
    """torch.nn.Conv2d that keeps the low frequencies of map and filter only.

    The function is `passband.band_limited_conv2d`. All arguments of torch.nn.Conv2d come first; its
    state_dict is that of torch.nn.Conv2d. With a `padding_mode` other than zeros the map is padded
    first and the band lies on the grid of the padded map.

    In evaluation on a CPU without gradients the transformed filters are kept between calls, and
    made anew when the weights have changed.

    Args:
        compression: Fraction of the half-spectrum's coefficients to discard, 0 <= c < 1.
        energy: Fraction of the batch's spectral energy to keep, 0 < e <= 1.
        band: Half-spectrum coefficients kept per axis.
        fft_size: Grid per axis, at least the padded map, which is the default.
        algorithm: "auto", "fft", "lowpass", "matmul" or "triton" (on CUDA devices).
        energy_mode: "coarse" or "fine".

    Raises:
        ValueError: A value is outside its range; more than one band is given.
        TypeError: A value is of the wrong type.

    Source:
        Dziedzic et al., ICML 2019, section 3.

    Examples:
        >>> layer = BandLimitedConv2d(16, 32, 3, padding=1, compression=0.5)
        >>> layer(torch.randn(2, 16, 32, 32)).shape
        torch.Size([2, 32, 32, 32])
        >>> BandLimitedConv2d(16, 32, 3, compression=0.5)
        BandLimitedConv2d(16, 32, kernel_size=(3, 3), stride=(1, 1), compression=0.5)
    """

    _axes = 2
    _native = nn.Conv2d


class BandLimitedConv3d(_BandLimitedConv, nn.Conv3d):
    """Band-limited convolution of volumes (B, C, D, H, W); see `BandLimitedConv2d`.

    Examples:
        >>> layer = BandLimitedConv3d(2, 4, 3, padding=1, compression=0.5)
        >>> layer(torch.randn(1, 2, 6, 8, 8)).shape
        torch.Size([1, 4, 6, 8, 8])
    """

    _axes = 3
    _native = nn.Conv3d
