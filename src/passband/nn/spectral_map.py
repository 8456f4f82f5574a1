"""What SpecNet's layers pass on: a batch of maps as spectra, dense or packed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from passband.ops.spectral.codec import Maps
from passband.ops.spectral.frame import Frame
from passband.ops.spectral.on_map import OnMap
from passband.ops.spectral.sources import StageOptions
from passband.ops.spectral.stage import StoredSpectrum, run_to_dense
from passband.ops.tracing import STORES, is_evaluated_eagerly, run_uncompiled, spatial_size


@dataclass(frozen=True)
class Form:
    """What a spectrum stands for: the maps of a frame, or what follows on them.

    Args:
        frame: Which coefficients of which grid are there.
        then: What is still to be done on the map, if anything.
    """

    frame: Frame
    then: OnMap | None = None

    @property
    def size(self) -> tuple[int, ...]:
        """Points of the maps."""
        return self.frame.size if self.then is None else self.then.size(self.frame.size)

    def to_map(self, spectrum: Tensor) -> Tensor:
        """The maps (B, C, n1, ..) of a spectrum (2, F, B, C)."""
        return self.finish(self.frame.to_map(spectrum))

    def finish(self, maps: Tensor) -> Tensor:
        """What is still to be done on the map."""
        return maps if self.then is None else self.then(maps)


@dataclass(frozen=True)
class Piece:
    """Some channels of a batch of maps: a spectrum, dense (2, F, B, C) or packed, and its form."""

    form: Form
    spectrum: Tensor | StoredSpectrum

    @property
    def channels(self) -> int:
        """C."""
        if isinstance(self.spectrum, Tensor):
            return self.spectrum.shape[3]
        return self.spectrum.channels

    @property
    def batch(self) -> int:
        """B."""
        if isinstance(self.spectrum, Tensor):
            return self.spectrum.shape[2]
        return self.spectrum.batch

    @property
    def density(self) -> float:
        """Fraction of the coefficients of the whole half-spectrum that is not zero."""
        band = self.form.frame.band
        if isinstance(self.spectrum, Tensor):
            kept = float((self.spectrum.detach() != 0).any(0).float().mean())
        else:
            kept = self.spectrum.density
        return kept * band.kept_coefficients / band.coefficients

    def dense(self) -> Tensor:
        """The spectrum (2, F, B, C), differentiable."""
        return self.spectrum if isinstance(self.spectrum, Tensor) else self.spectrum.dense()

    def to_map(self) -> Tensor:
        """The maps (B, C, n1, ..); of a packed spectrum, that alone is kept for their gradient."""
        form = self.form
        if isinstance(self.spectrum, Tensor):
            return form.to_map(self.spectrum)
        options = StageOptions(
            image_bytes=4 * self.channels * math.prod(form.frame.grid), reads=(Maps(form.frame),)
        )
        return run_to_dense(lambda given, *_: form.finish(given[0]), [self.spectrum], (), options)


@dataclass(frozen=True)
class SpectralMap:
    """A batch of maps (B, C, n1, ..) as spectra.

    The channels are in one piece or in several. Concatenation along the channels puts pieces side
    by side and copies nothing.

    Examples:
        >>> x = torch.randn(2, 3, 8, 8)
        >>> m = SpectralMap.of(x)
        >>> m.shape, torch.allclose(m.to_map(), x, atol=1e-5)
        ((2, 3, 8, 8), True)
        >>> SpectralMap.cat([m, m]).shape
        (2, 6, 8, 8)
        >>> torch.allclose((m + m).to_map(), 2 * x, atol=1e-5)
        True
    """

    pieces: tuple[Piece, ...]

    @classmethod
    @run_uncompiled(STORES)
    def of(cls, maps: Tensor, compression: float | None = None) -> "SpectralMap":
        """The spectra of maps (B, C, n1, ..), of a band that discards a fraction `compression`.

        Raises:
            TypeError: The maps are of no real floating type.
            ValueError: They have no spatial axis.
        """
        if not maps.is_floating_point():
            raise TypeError(f"maps are {maps.dtype}, allowed are real floating types")
        if maps.dim() < 3:
            raise ValueError(f"maps have shape {tuple(maps.shape)}, allowed is (B, C, n1, ..)")
        frame = Frame.of(spatial_size(maps), compression=compression)
        return cls.dense(frame, frame.from_map(maps))

    @classmethod
    def dense(cls, frame: Frame, spectrum: Tensor) -> "SpectralMap":
        """The maps of a frame whose spectrum (2, F, B, C) is given."""
        return cls((Piece(Form(frame), spectrum),))

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the maps, (B, C, n1, ..)."""
        first = self.pieces[0]
        return (first.batch, sum(piece.channels for piece in self.pieces), *first.form.size)

    @property
    def dtype(self) -> torch.dtype:
        """That of the spectra; of the first, if they are of several."""
        spectrum = self.pieces[0].spectrum
        return spectrum.dtype if isinstance(spectrum, Tensor) else spectrum.units[0].dtype

    @property
    def stored_bytes(self) -> int:
        """Bytes of the spectra as they are here, dense or packed."""
        return sum(piece.spectrum.nbytes for piece in self.pieces)

    @property
    def density(self) -> float:
        """Fraction of the coefficients of the half-spectra that is not zero."""
        weights = [p.channels * p.form.frame.band.coefficients for p in self.pieces]
        kept = sum(w * p.density for w, p in zip(weights, self.pieces, strict=True))
        return kept / sum(weights)

    @property
    def frame(self) -> Frame:
        """The frame of the spectrum: that of all pieces, or the whole one of their size."""
        forms = {piece.form for piece in self.pieces}
        (form, *others) = forms
        return Frame.of(form.size) if others or form.then is not None else form.frame

    @run_uncompiled(STORES)
    def spectrum(self) -> Tensor:
        """The dense spectrum (2, F, B, C) in `frame`, differentiable."""
        frame = self.frame
        dense = [
            piece.dense() if piece.form == Form(frame) else frame.from_map(piece.to_map())
            for piece in self.pieces
        ]
        return dense[0] if len(dense) == 1 else torch.cat(dense, 3)

    @run_uncompiled(STORES)
    def to_map(self) -> Tensor:
        """The maps (B, C, n1, ..), in memory of their own."""
        maps = [piece.to_map() for piece in self.pieces]
        joined = maps[0] if len(maps) == 1 else torch.cat(maps, 1)
        if is_evaluated_eagerly() and joined._is_view():  # what torch's operators may give
            joined = joined.clone(memory_format=torch.contiguous_format)
        return joined.contiguous()

    @run_uncompiled(STORES)
    def mean(self) -> Tensor:
        """The means over all points, (B, C): global average pooling.

        Of spectra without anything on the map to follow, that is frequency zero.
        """
        means = [
            piece.to_map().flatten(2).mean(2)
            if piece.form.then is not None
            else piece.form.frame.mean(piece.dense())
            for piece in self.pieces
        ]
        return means[0] if len(means) == 1 else torch.cat(means, 1)

    @staticmethod
    def cat(maps: "Sequence[SpectralMap]") -> "SpectralMap":
        """The channels of several, one after the other.

        Raises:
            ValueError: The maps are of different sizes.
        """
        for other in maps:
            _check_size(maps[0], other)
        return SpectralMap(tuple(piece for m in maps for piece in m.pieces))

    @run_uncompiled(STORES)
    def __add__(self, other: "SpectralMap | Tensor | float") -> "SpectralMap":
        """The sum: of maps alike that of the spectra; of others, and of numbers, by the maps."""
        if not isinstance(other, (SpectralMap, Tensor, int, float)):
            return NotImplemented
        if not isinstance(other, SpectralMap):
            return SpectralMap.of(self.to_map() + other)
        if self.shape == other.shape and self.frame == other.frame:
            return SpectralMap.dense(self.frame, self.spectrum() + other.spectrum())
        return SpectralMap.of(self.to_map() + other.to_map())

    __radd__ = __add__


def _check_size(first: SpectralMap, other: SpectralMap) -> None:
    if first.shape[2:] != other.shape[2:]:
        raise ValueError(f"maps are of {first.shape[2:]} and of {other.shape[2:]} points")
