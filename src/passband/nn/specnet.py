"""SpecNet's layers: convolutions whose maps stay spectra, and what belongs to them."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from passband.nn.fused_parts import takes_batch_statistics
from passband.nn.spectral_map import Piece, SpectralMap
from passband.nn.spectral_stage import SpectralStage
from passband.nn.stage_arguments import check_stage_arguments
from passband.ops.band_limited_conv.geometry import per_axis
from passband.ops.band_limited_conv.layout import is_under_autocast
from passband.ops.spectral.normalised_stage import run_normalised_stage
from passband.ops.spectral.on_map import MAP_ACTIVATIONS
from passband.ops.spectral.pointwise import DFT_NORMS
from passband.ops.spectral.sources import StageOptions
from passband.ops.spectral.stage import Source, StoredSpectrum, run_stage, store
from passband.ops.tracing import STORES, is_transformed, run_uncompiled, spatial_size
from passband.spectrum.band import check_band_arguments


class _SpectralConv(nn.modules.conv._ConvNd):
    """What the layers of one and two axes share."""

    _native: type[nn.modules.conv._ConvNd]
    scale: Tensor | None

    def __init__(
        self,
        *args: Any,
        threshold: float = 0.0,
        activation: str | None = None,
        learned_scale: bool = False,
        pool: int | Sequence[int] = 1,
        pool_mode: str = "spectral",
        compression: float | None = None,
        storage: str = "float32",
        order: str = "threshold-first",
        gradient: str = "masked",
        dft_norm: str = "ortho",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.configure(
            threshold, activation, learned_scale, pool, pool_mode, compression, storage, order,
            gradient, dft_norm,
        )  # fmt: skip

    def configure(
        self,
        threshold: float,
        activation: str | None,
        learned_scale: bool,
        pool: int | Sequence[int],
        pool_mode: str,
        compression: float | None,
        storage: str,
        order: str,
        gradient: str,
        dft_norm: str,
    ) -> None:
        """Set what follows the convolution; see `SpectralConv2d`."""
        check_stage_arguments(
            threshold, activation, pool_mode, learned_scale, storage, order, gradient, dft_norm
        )
        axes = len(self.kernel_size)
        self.threshold = float(threshold)
        self.dft_norm = dft_norm
        self.activation = activation
        self.pool = per_axis("pool", pool, axes, 1)
        self.pool_mode = pool_mode
        check_band_arguments(compression, None, None)
        self.compression = compression
        self.storage = storage
        self.activation_first = order == "activation-first"
        self.passes_gradients = gradient == "straight-through"
        self.next_padding: tuple[tuple[int, int], ...] = ((0, 0),) * axes
        self.norm_place: tuple[nn.Module, str] | None = None
        scale = torch.ones_like(self.weight[:, 0].flatten(1)[:, 0]) if learned_scale else None
        self.register_parameter("scale", None if scale is None else nn.Parameter(scale))
        self._check_padding()

    @property
    def on_map(self) -> bool:
        """Whether the activation is evaluated on the map."""
        return self.activation in MAP_ACTIVATIONS

    @property
    def norm(self) -> tuple[nn.modules.batchnorm._BatchNorm, ...]:
        """The batch norm after the convolution, if there is one.

        It belongs to another module, `norm_place`, which may be given another one.

        Raises:
            TypeError: What is in its place is no batch norm.
        """
        if self.norm_place is None:
            return ()
        owner, name = self.norm_place
        norm = owner._modules.get(name)
        if isinstance(norm, nn.Identity):
            return ()
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            raise TypeError(
                f"after a layer of SpecNet, {name!r} is of type {type(norm).__name__}, allowed are "
                "batch norms and Identity: revert the model before you change its layers"
            )
        return (norm,)

    @run_uncompiled(STORES)
    def forward(self, input: Tensor | SpectralMap) -> SpectralMap:
        """From maps (B, C, n1, ..) or spectra of them to spectra.

        Raises:
            TypeError: The input is neither, or of another type than the filters.
            ValueError: The number of channels or axes is another one, or a stride does not divide
                the points.
        """
        self.check_input(input)
        parameters = self.stage_parameters()
        stage = self._stage(input)
        given = _spectra(input)
        tracked = [t for spectrum in given for t in tracked_tensors(spectrum)]
        if is_transformed() or not differentiates((*parameters, *tracked)):
            return SpectralMap((Piece(stage.form, stage(_dense(input), parameters, True)),))
        options = StageOptions(
            self.storage,
            sparse=self.threshold > 0,
            passes=self.passes_gradients,
            image_bytes=stage.image_bytes(input.shape[1]),
            parameter_bytes=self.weight.nbytes,
            **stage.codecs(),
        )
        sources: list[Source] = [
            spectrum
            if isinstance(spectrum, StoredSpectrum) or isinstance(input, Tensor)
            else store(spectrum, options)
            for spectrum in given
        ]
        result = self._run(stage, sources, parameters, options, input.shape[0])
        return SpectralMap((Piece(stage.form, result),))

    def threshold_for(self, input: Tensor | SpectralMap, density: float) -> float:
        """The threshold at which a fraction of the coefficients that it is given is kept."""
        stage = self._stage(input)
        return stage.threshold_for(_dense(input), self.stage_parameters(), density)

    def stage_multiplications(self, input: Tensor | SpectralMap) -> int:
        """Multiplications of a forward pass; see `passband.measure.macs`."""
        return self._stage(input).multiplications(input.shape[0])

    @staticmethod
    def _run(
        stage: SpectralStage,
        sources: Sequence[Source],
        parameters: Sequence[Tensor | None],
        options: StageOptions,
        batch: int,
    ) -> StoredSpectrum:
        for norm in stage.layer.norm:
            if takes_batch_statistics(norm) and batch > 0:  # of nothing, torch's own takes none
                function = stage.normalised(norm)
                *others, gamma, beta, _, _ = parameters
                return run_normalised_stage(function, sources, others, gamma, beta, options)
        return run_stage(stage.compute, sources, parameters, options)

    def _stage(self, input: Tensor | SpectralMap) -> SpectralStage:
        if isinstance(input, SpectralMap):
            forms, channels = zip(*((p.form, p.channels) for p in input.pieces), strict=True)
            size = input.shape[2:]
        else:
            forms, channels, size = (None,), (int(input.shape[1]),), spatial_size(input)
        return SpectralStage(self, forms, channels, size)

    def stage_parameters(self) -> list[Tensor | None]:
        """All tensors that the stage uses: filters, bias, scale, and batch norm's.

        Those are its parameters, and the running mean and variance as they are in this call, where
        it takes them; None where it takes the batch's own.
        """
        of_norm: list[Tensor | None] = []
        for norm in self.norm:
            running = (norm.running_mean, norm.running_var)
            if takes_batch_statistics(norm):
                running = (None, None)
            of_norm += [norm.weight, norm.bias, *(r if r is None else r.clone() for r in running)]
        return [self.weight, self.bias, self.scale, *of_norm]

    def to_conv(self) -> nn.Module:
        """The torch convolution with this layer's parameters (the same objects), hooks and mode."""
        conv = self._native.__new__(self._native)
        own = {
            *("threshold", "activation", "pool", "pool_mode", "compression", "storage"),
            *("next_padding", "norm_place", "activation_first", "passes_gradients", "dft_norm"),
        }
        conv.__dict__.update({k: v for k, v in self.__dict__.items() if k not in own})
        conv._parameters = {k: v for k, v in self._parameters.items() if k != "scale"}
        return conv

    def pads(self) -> tuple[tuple[int, int], ...]:
        """Zeros before and after the map, per axis, as the convolution has them."""
        pads = self._reversed_padding_repeated_twice  # of the last axis first
        return tuple(zip(pads[::2], pads[1::2], strict=True))[::-1]

    def extra_repr(self) -> str:
        """The arguments, and those of what follows the convolution."""
        parts = [super().extra_repr()]  # type: ignore[no-untyped-call]
        parts.append(f"threshold={self.threshold:g}")
        if self.dft_norm != DFT_NORMS[0]:
            parts.append(f"dft_norm={self.dft_norm!r}")
        if self.activation is not None:
            parts.append(f"activation={self.activation!r}")
        if max(self.pool) > 1:
            parts.append(f"pool={self.pool}, pool_mode={self.pool_mode!r}")
        if self.compression is not None:
            parts.append(f"compression={self.compression}")
        if self.storage != "float32":
            parts.append(f"storage={self.storage!r}")
        if self.passes_gradients:
            parts.append("gradient='straight-through'")
        return ", ".join(parts)

    def _check_padding(self) -> None:
        """Zeros around a map; or none of it: continued periodically, it has no border."""
        allowed = ("zeros",) if self.on_map else ("zeros", "circular")
        if self.padding_mode not in allowed:
            raise ValueError(
                f"padding_mode is {self.padding_mode!r}, allowed with activation "
                f"{self.activation!r} is {' or '.join(allowed)}"
            )
        if self.on_map:
            return
        for span, (before, after) in zip(self._span(), self.pads(), strict=True):
            if before + after != span - 1:
                raise ValueError(
                    f"padding is {self.padding!r}, but a spectral convolution with a span of "
                    f"{self._span()} points keeps the map's size: use padding='same', or an "
                    "activation on the map"
                )

    def _span(self) -> tuple[int, ...]:
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))

    def _check_type(self, input: Tensor | SpectralMap) -> None:
        own, given = self.weight.dtype, input.dtype
        if own not in (torch.float32, torch.float64):
            raise TypeError(
                f"weights are {own}, allowed in a SpecNet are float32 and float64: for half "
                "precision use torch.autocast"
            )
        # a spectrum of maps in half precision is float32, and under autocast may be less
        may_differ = isinstance(input, SpectralMap) or is_under_autocast(self.weight.device)
        both_short = given.is_floating_point and torch.float64 not in (own, given)
        if given != own and not (may_differ and both_short):
            raise TypeError(f"input is {given}, but weights are {own}: use input.to({own})")

    def check_input(self, input: Tensor | SpectralMap) -> None:
        """Check type and shape of what the layer is given; see `forward`."""
        if not isinstance(input, (Tensor, SpectralMap)):
            raise TypeError(
                f"input is of type {type(input).__name__}, allowed are tensors and SpectralMap"
            )
        self._check_type(input)
        axes, shape = len(self.kernel_size), tuple(input.shape)
        if len(shape) != axes + 2:
            raise ValueError(f"input has shape {shape}, allowed are {axes + 2} axes")
        if shape[1] != self.in_channels:
            raise ValueError(
                f"input has {shape[1]} channels, but the layer takes {self.in_channels}"
            )


def _spectra(input: Tensor | SpectralMap) -> list[Tensor | StoredSpectrum]:
    """The spectra of an input, as they are, or its maps."""
    return [input] if isinstance(input, Tensor) else [piece.spectrum for piece in input.pieces]


def _dense(input: Tensor | SpectralMap) -> list[Tensor]:
    """The dense spectra of an input, or its maps."""
    return [input] if isinstance(input, Tensor) else [piece.dense() for piece in input.pieces]


def tracked_tensors(spectrum: Tensor | StoredSpectrum) -> tuple[Tensor, ...]:
    """The tensors by which autograd knows a spectrum."""
    return (spectrum,) if isinstance(spectrum, Tensor) else spectrum.placeholders


def differentiates(tensors: Iterable[Tensor | None]) -> bool:
    """Whether a backward pass to one of these tensors may follow."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


SpectralConv = _SpectralConv
"""A layer of any number of axes."""


class SpectralConv1d(_SpectralConv, nn.Conv1d):  # type: ignore[misc]
    """Convolution of series (B, C, L) from spectrum to spectrum; see `SpectralConv2d`.

    Examples:
        >>> layer = SpectralConv1d(8, 16, 5, padding="same", activation="spectral-tanh", pool=2)
        >>> layer(SpectralMap.of(torch.randn(4, 8, 270))).shape
        (4, 16, 135)
    """

    _native = nn.Conv1d


class SpectralConv2d(_SpectralConv, nn.Conv2d):  # type: ignore[misc]
    """A convolution from spectrum to spectrum, with the threshold, activation and pooling after it.

    Where gradients are asked for, nothing is kept for the backward pass but the packed spectra that
    enter and leave. All arguments of torch.nn.Conv2d come first, and the filters are its own, in
    the spatial domain.

    With a spectral activation, or none, maps never leave the spectrum:
    ``pool(f(T(X * K + b)))``, with X * K a product per frequency (maps are continued periodically:
    a circular convolution), T the threshold, and f of real and imaginary parts alone. The paper
    names no order of threshold and activation; the threshold comes first, since f(0) = 0 then
    preserves the sparsity, and no threshold of 1 or more could be reached after a tanh.

    With an activation of the map, what is stored is ``X = T(DFT(conv(x) + b))``, and the next layer
    begins with ``x' = pool(f(IDFT(X)))``, as does the way back to maps. At threshold 0 that is
    exactly the ordinary layer, zero padding and all.

    With `order` "activation-first" the threshold comes last, and what is stored is what the next
    layer convolves: ``T(DFT(pool(f(conv(x) + b))))``, with the zeros of that layer's padding
    around the map. That is smaller after pooling, saves transforms, and costs more accuracy.

    Args:
        threshold: Beta: coefficients of the DFT of less magnitude become zero.
        activation: "spectral-tanh" (the paper), "spectral-softsign", "spectral-hardtanh",
            "spectral-arctan" of coefficients; "relu", "tanh", "gelu", "silu", "elu", "leaky-relu",
            "identity" of maps; None is the spectral convolution alone.
        learned_scale: Learn s of s f(x / s) in each output channel; it starts at 1.
        pool: Factor of pooling per axis.
        pool_mode: "spectral" crops the band, which the paper does not describe (Rippel et al.,
            2015); "average" and "stride" fold the spectrum, which is exact and mixes frequencies;
            "max" of maps only.
        compression: Fraction of the half-spectrum to discard besides, 0 <= c < 1.
        storage: How values are kept: "float32", "bfloat16" or "int8".
        order: "threshold-first" or "activation-first".
        gradient: "masked", of the function as it is: what the threshold has made zero has no
            gradient; or "straight-through" (Bengio et al., 2013), for activations of the map:
            gradients pass the threshold as if it were not there, so that what is zero can come
            back. What is kept is the same; gradients on their way are as large as without a
            threshold, and batch norm convolves again in the backward pass.
        dft_norm: The DFT whose coefficients are compared with beta, by torch.fft's names: "ortho",
            so that beta means the same on maps of any size; "backward", not normalised, so that it
            spares large maps: on a map of N points it is beta / sqrt(N) of the orthonormal DFT; or
            "forward", the mean, beta sqrt(N). The paper names none.

    Raises:
        ValueError: A value is outside its range; a spectral convolution is padded so that the map
            would change its size; or an argument does not fit the activation.

    Source:
        Guan et al., SpecNet, ICASSP 2021.

    Examples:
        >>> layer = SpectralConv2d(
        ...     3, 8, 3, padding=1, threshold=1.0, activation="spectral-tanh", pool=2)
        >>> result = layer(torch.randn(4, 3, 16, 16))
        >>> result.shape, result.density < 0.8
        ((4, 8, 8, 8), True)
    """

    _native = nn.Conv2d
