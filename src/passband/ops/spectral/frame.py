"""Which coefficients of which grid a spectrum holds, and the way to maps and back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from passband.ops.band_limited_conv import matmul
from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.spectral.linear_map import linear_map
from passband.ops.spectral.native import kernels
from passband.ops.spectral.native.kernels import BinsTable
from passband.ops.tracing import is_evaluated_eagerly
from passband.spectrum.band import Band, band_from_compression, full_band, is_self_conjugate
from passband.spectrum.constants import cached_constant
from passband.spectrum.dft import hermitian_packing


@dataclass(frozen=True)
class Frame:
    """The coefficients of a map of `size` points, in zeros of `padding`, of a band of that grid.

    A spectrum is a real tensor (2, F, B, C): real parts, then imaginary parts, of the F
    coefficients of the band, one of each conjugate pair (`Band.bins`), of the orthonormal DFT
    (``norm="ortho"``). Nothing is stored twice. The imaginary part of a coefficient that is its own
    conjugate is zero, and that is all that Hermitian symmetry asks for in this form: any spectrum
    with these zeros is that of a real map.

    Examples:
        >>> frame = Frame.of((6, 5))
        >>> x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
        >>> spectrum = frame.from_map(x)
        >>> spectrum.shape, torch.allclose(frame.to_map(spectrum), x)
        (torch.Size([2, 16, 2, 3]), True)
        >>> torch.allclose(frame.mean(spectrum), x.mean((2, 3)))
        True
    """

    size: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    kept: tuple[int, ...]

    @classmethod
    def of(
        cls,
        size: Sequence[int],
        padding: Sequence[tuple[int, int]] | None = None,
        compression: float | None = None,
    ) -> "Frame":
        """The frame that discards a fraction of the half-spectrum, by default nothing."""
        pads = ((0, 0),) * len(size) if padding is None else tuple(padding)
        grid = tuple(n + a + b for n, (a, b) in zip(size, pads, strict=True))
        band = full_band(grid) if compression is None else band_from_compression(grid, compression)
        return cls(tuple(size), pads, band.kept)

    @property
    def grid(self) -> tuple[int, ...]:
        """Points of the padded map."""
        return tuple(n + a + b for n, (a, b) in zip(self.size, self.padding, strict=True))

    @property
    def band(self) -> Band:
        """The band on the grid."""
        return Band(self.grid, self.kept)

    @property
    def bins(self) -> int:
        """Coefficients F."""
        return self.band.pair_count

    def from_map(self, maps: Tensor) -> Tensor:
        """The spectrum (2, F, B, C) of maps (B, C, n1, ..)."""
        return linear_map(maps, self._analyze, self._analyze_adjoint)

    def from_map_adjoint(self, spectrum: Tensor) -> Tensor:
        """The maps that are the adjoint of `from_map` at a spectrum: a gradient's way back."""
        return self._analyze_adjoint(spectrum)

    def to_real(self, spectrum: Tensor) -> Tensor:
        """The coefficients (frequencies, B, C) in the real Fourier basis, as operators take them.

        They are those of `passband.ops.band_limited_conv.matmul.analyze`.
        """
        return linear_map(spectrum, self._unpack, self._unpack_adjoint)

    def to_map(self, spectrum: Tensor) -> Tensor:
        """The maps (B, C, n1, ..), without the padding."""
        return linear_map(spectrum, self._synthesize, self._synthesize_adjoint)

    def to_map_adjoint(self, maps: Tensor) -> Tensor:
        """The spectrum that is the adjoint of `to_map` at maps: a gradient's way back."""
        return self._synthesize_adjoint(maps)

    def mean(self, spectrum: Tensor) -> Tensor:
        """The means (B, C) of the maps: frequency zero."""
        return spectrum[0, 0] * (math.sqrt(math.prod(self.grid)) / math.prod(self.size))

    @property
    def geometry(self) -> ConvGeometry:
        """Of a convolution with one tap, whose transforms are these."""
        one = (1,) * len(self.size)
        return ConvGeometry(self.size, self.padding, one, one, one, 1, self.grid, self.kept)

    @property
    def analysis_table(self) -> BinsTable:
        """How the kernels make `from_map`'s coefficients of real ones."""
        return _tables(self.band)[0]

    @property
    def synthesis_table(self) -> BinsTable:
        """How the kernels make real coefficients of those that `to_map` is given."""
        return _tables(self.band)[1]

    @property
    def synthesis_by_analysis(self) -> Tensor:
        """(bins,): `to_map` of a spectrum is `from_map_adjoint` of it times these."""
        return _synthesis_by_analysis(self.band)

    def _pack(self, coefficients: Tensor) -> Tensor:
        real, imag = hermitian_packing(self.band, coefficients.dtype, coefficients.device).pack(
            coefficients
        )
        return torch.stack([real, imag])

    def _unpack(self, spectrum: Tensor) -> Tensor:
        real, imag = spectrum / self._weights(spectrum)
        return hermitian_packing(self.band, spectrum.dtype, spectrum.device).unpack(real, imag)

    def _unpack_adjoint(self, coefficients: Tensor) -> Tensor:
        return self._pack(coefficients) / self._weights(coefficients)

    def _analyze(self, maps: Tensor) -> Tensor:
        coefficients = _to_real(maps, self.geometry)
        return self._pack(coefficients) * self._weights(coefficients)

    def _analyze_adjoint(self, spectrum: Tensor) -> Tensor:
        real, imag = spectrum * self._weights(spectrum)
        packing = hermitian_packing(self.band, spectrum.dtype, spectrum.device)
        return _to_maps(packing.unpack(real, imag), self.geometry)

    def _synthesize(self, spectrum: Tensor) -> Tensor:
        return _to_maps(self._unpack(spectrum), self.geometry)

    def _synthesize_adjoint(self, maps: Tensor) -> Tensor:
        return self._unpack_adjoint(_to_real(maps, self.geometry))

    def _weights(self, like: Tensor) -> Tensor:
        return _orthonormal_weights(self.band, like.dtype, like.device)


def _to_real(maps: Tensor, geometry: ConvGeometry) -> Tensor:
    """The transform of maps to real coefficients, by compiled kernels where they apply."""
    if is_evaluated_eagerly() and kernels.suits(len(geometry.size), maps):
        return kernels.analyze(maps, geometry)
    return matmul.analyze(maps, geometry)


def _to_maps(coefficients: Tensor, geometry: ConvGeometry) -> Tensor:
    """The transform of real coefficients to maps."""
    if is_evaluated_eagerly() and kernels.suits(len(geometry.size), coefficients):
        maps = coefficients.new_empty(*coefficients.shape[1:], *geometry.size)
        kernels.synthesize(coefficients, maps, geometry)
        return maps
    return matmul.analyze_adjoint(coefficients, geometry)


@lru_cache(maxsize=512)
def _tables(band: Band) -> tuple[BinsTable, BinsTable]:
    """The tables of analysis and of synthesis."""
    rows, weights = hermitian_packing(band, torch.float64).terms()
    own = _orthonormal_weights(band, torch.float64, torch.device("cpu")).view(-1, 1).numpy()
    return BinsTable(rows, weights * own), BinsTable(rows, weights / own)


@lru_cache(maxsize=512)
def _synthesis_by_analysis(band: Band) -> Tensor:
    weights = _orthonormal_weights(band, torch.float32, torch.device("cpu"))
    return weights.flatten().square().reciprocal()


@cached_constant
def _orthonormal_weights(band: Band, dtype: torch.dtype, device: torch.device) -> Tensor:
    """From coefficients whose squares sum to a map's energy to those of the orthonormal DFT.

    One of each pair is stored, so there it has the energy of both: (F, 1, 1).
    """
    alone = self_conjugate_bins(band)
    weights = torch.full((band.pair_count, 1, 1), math.sqrt(0.5), dtype=dtype)
    weights[alone] = 1
    return weights.to(device)


@cached_constant
def self_conjugate_bins(band: Band) -> Tensor:
    """Places of the bins that are their own conjugates, whose imaginary part is zero."""
    return torch.tensor(
        [
            place
            for place, frequencies in enumerate(band.bins())
            if all(
                is_self_conjugate(int(f), n) for f, n in zip(frequencies, band.sizes, strict=True)
            )
        ]
    )
