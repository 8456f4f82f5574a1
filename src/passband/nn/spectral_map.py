"""What SpecNet's layers pass on: a batch of maps as spectra, dense or packed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from passband.ops.spectral.frame import Frame
from passband.ops.spectral.stage import StoredSpectrum


@dataclass(frozen=True)
class SpectralMap:
    """A batch of maps (B, C, n1, ..) as spectra.

    The channels are in one part or in several, each a dense spectrum (2, F, B, C) or a packed one.
    Concatenation along the channels puts parts side by side and copies nothing.

    Args:
        frame: Which coefficients of which grid.
        parts: The spectra, all of one batch.

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

    frame: Frame
    parts: tuple[Tensor | StoredSpectrum, ...]

    @classmethod
    def of(cls, maps: Tensor, compression: float | None = None) -> "SpectralMap":
        """The spectra of maps (B, C, n1, ..), of a band that discards a fraction `compression`."""
        frame = Frame.of(maps.shape[2:], compression=compression)
        return cls(frame, (frame.from_map(maps),))

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the maps, (B, C, n1, ..)."""
        first = self.parts[0]
        batch = first.shape[2] if isinstance(first, Tensor) else first.batch
        channels = sum(p.shape[3] if isinstance(p, Tensor) else p.channels for p in self.parts)
        return (batch, channels, *self.frame.size)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the spectra as they are here, dense or packed."""
        return sum(part.nbytes for part in self.parts)

    @property
    def density(self) -> float:
        """Fraction of the coefficients that are not zero."""
        total = 0.0
        for part in self.parts:
            if isinstance(part, Tensor):
                total += float((part != 0).any(0).float().mean()) * part.shape[3]
            else:
                total += part.density * part.channels
        return total / self.shape[1]

    def spectrum(self) -> Tensor:
        """The dense spectrum (2, F, B, C), differentiable."""
        dense = [part if isinstance(part, Tensor) else part.dense() for part in self.parts]
        return dense[0] if len(dense) == 1 else torch.cat(dense, 3)

    def to_map(self) -> Tensor:
        """The maps (B, C, n1, ..)."""
        return self.frame.to_map(self.spectrum())

    def mean(self) -> Tensor:
        """The means over all points, (B, C): global average pooling, which is frequency zero."""
        return self.frame.mean(self.spectrum())

    @staticmethod
    def cat(maps: "Sequence[SpectralMap]") -> "SpectralMap":
        """The channels of several, one after the other.

        Raises:
            ValueError: The maps are of different sizes.
        """
        frame = maps[0].frame
        return SpectralMap(frame, tuple(p for m in maps for p in m.in_frame(frame).parts))

    def __add__(self, other: "SpectralMap") -> "SpectralMap":
        """The sum, which is that of the spectra."""
        return SpectralMap(self.frame, (self.spectrum() + other.in_frame(self.frame).spectrum(),))

    def in_frame(self, frame: Frame) -> "SpectralMap":
        """The same maps in another padding or band.

        Raises:
            ValueError: The maps are of another size.
        """
        if frame == self.frame:
            return self
        if frame.size != self.frame.size:
            raise ValueError(f"maps are of {self.frame.size} and of {frame.size} points")
        return SpectralMap(frame, (frame.from_map(self.to_map()),))
