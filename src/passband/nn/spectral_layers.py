"""Threshold, activation and pooling of spectra, each as a layer by itself."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from passband.nn.spectral_map import SpectralMap
from passband.nn.stage_arguments import check_stage_arguments
from passband.ops.band_limited_conv.geometry import per_axis
from passband.ops.spectral import resample
from passband.ops.spectral.on_map import MAP_ACTIVATIONS
from passband.ops.spectral.pointwise import activate, orthonormal_beta, threshold
from passband.ops.tracing import STORES, run_uncompiled


class SpectralThreshold(nn.Module):
    """Sets coefficients of magnitude below beta to zero.

    Args:
        beta: Compared with coefficients of the DFT, 0 or more.
        dft_norm: How that DFT is normalised, by torch.fft's names; see `SpectralConv2d`.

    Examples:
        >>> SpectralThreshold(1.0)(SpectralMap.of(torch.randn(2, 3, 8, 8))).density < 0.7
        True
    """

    def __init__(self, beta: float, dft_norm: str = "ortho") -> None:
        super().__init__()
        check_stage_arguments(beta, None, "spectral", False, "float32", dft_norm=dft_norm)
        self.beta, self.dft_norm = float(beta), dft_norm

    @run_uncompiled(STORES)
    def forward(self, maps: SpectralMap) -> SpectralMap:
        """From spectra to spectra."""
        beta = orthonormal_beta(self.beta, math.prod(maps.frame.grid), self.dft_norm)
        return SpectralMap.dense(maps.frame, threshold(maps.spectrum(), beta))


class SpectralActivation(nn.Module):
    """f(re) + i f(im) of every coefficient, for an odd f, or an activation of the map.

    Args:
        name: One of `ACTIVATIONS`.
        channels: Learn a scale per channel for so many, s f(x / s); None learns none.

    Examples:
        >>> maps = SpectralMap.of(torch.randn(2, 3, 8, 8))
        >>> SpectralActivation("spectral-tanh")(maps).spectrum().abs().max() < 1
        tensor(True)
        >>> SpectralActivation("relu")(maps).to_map().min() > -1e-5
        tensor(True)
    """

    scale: Tensor | None

    def __init__(self, name: str = "spectral-tanh", channels: int | None = None) -> None:
        super().__init__()
        check_stage_arguments(0.0, name, "spectral", channels is not None, "float32")
        self.name = name
        scale = None if channels is None else nn.Parameter(torch.ones(channels))
        self.register_parameter("scale", scale)

    @run_uncompiled(STORES)
    def forward(self, maps: SpectralMap) -> SpectralMap:
        """From spectra to spectra."""
        if self.name in MAP_ACTIVATIONS:
            active = MAP_ACTIVATIONS[self.name](maps.to_map())
            return SpectralMap.dense(maps.frame, maps.frame.from_map(active))
        return SpectralMap.dense(maps.frame, activate(maps.spectrum(), self.name, self.scale))


class SpectralPool(nn.Module):
    """Pooling from spectrum to spectrum: the band is cropped, or the spectrum folded.

    Args:
        factor: Points to one, per axis.
        mode: "spectral" crops; "average" and "stride" fold.

    Examples:
        >>> x = torch.randn(2, 3, 8, 8)
        >>> pooled = SpectralPool(2, "average")(SpectralMap.of(x)).to_map()
        >>> torch.allclose(pooled, nn.functional.avg_pool2d(x, 2), atol=1e-5)
        True
    """

    def __init__(self, factor: int | Sequence[int], mode: str = "spectral") -> None:
        super().__init__()
        check_stage_arguments(0.0, None, mode, False, "float32")
        self.factor, self.mode = factor, mode

    @run_uncompiled(STORES)
    def forward(self, maps: SpectralMap) -> SpectralMap:
        """From spectra to spectra of smaller maps."""
        factor = per_axis("factor", self.factor, len(maps.frame.size), 1)
        if self.mode == "spectral":
            smaller = resample.cropped_frame(maps.frame, factor)
            return SpectralMap.dense(smaller, resample.crop(maps.spectrum(), maps.frame, smaller))
        smaller = resample.folded_frame(maps.frame, factor)
        folded = resample.fold(maps.spectrum(), maps.frame, factor, self.mode == "average")
        return SpectralMap.dense(smaller, folded)
