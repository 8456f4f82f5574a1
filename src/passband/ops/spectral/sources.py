"""What a stage reads: stored spectra and maps, by groups of images; and how it reads and stores."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from passband.ops.spectral.codec import SPECTRA, Codec
from passband.spectrum.packed import PackedSpectrum

UNIT_IMAGES = 8
"""Images packed together; a stage takes one such unit at a time, or several."""

DENSE_BYTES = 4 << 20
"""What the largest dense tensor of a stage should not exceed, where its images can be split; where
its parameters are larger it may have as many bytes as they, since they are read for every split."""


@dataclass(frozen=True)
class StageOptions:
    """How a stage runs and stores.

    Args:
        storage: How values are stored; see `passband.spectrum.packed.pack`.
        sparse: Whether the result has zeros to leave out.
        passes: Whether gradients go to what is left out as well.
        splits: Whether the images are independent of each other.
        image_bytes: Of one image, the largest dense tensor.
        parameter_bytes: Of the parameters.
        dense_bytes: What the largest dense tensor should not exceed.
        packs: Whether the result is stored, or maps that stay.
        reads: How each source is read, if not as a dense spectrum; maps are given as they are.
        writes: How the result is stored.
        bundles: Numbers of neighbouring sources, alike in all but their values, that are read as
            one tensor, the images of one after those of the other; by default each is one.
    """

    storage: str = "float32"
    sparse: bool = True
    passes: bool = False
    splits: bool = True
    image_bytes: int = 0
    parameter_bytes: int = 0
    dense_bytes: int = DENSE_BYTES
    packs: bool = True
    reads: tuple[Codec, ...] | None = None
    writes: Codec = SPECTRA
    bundles: tuple[int, ...] | None = None

    def runs(self, sources: int) -> Iterator[tuple[Codec, slice]]:
        """How so many sources are read: those that are one tensor, and by what."""
        place = 0
        for count in self.bundles or (1,) * sources:
            codec = SPECTRA if self.reads is None else self.reads[place]
            yield codec, slice(place, place + count)
            place += count


class Sources:
    """What a stage reads, by groups of images. Its tensors can be taken out, and put back."""

    def __init__(self, shapes: Any, maps: list[Tensor], options: StageOptions) -> None:
        self.shapes: list[tuple[PackedSpectrum, ...] | None] = shapes
        self.maps: list[Any] = maps
        self.options = options
        first = next((units for units in shapes if units is not None), None)
        batch = sum(u.shape[2] for u in first) if first is not None else maps[0].shape[0]
        self.images = unit_sizes(batch) if first is None else [u.shape[2] for u in first]

    def tensors(self) -> list[Tensor | None]:
        """Those of the stored spectra."""
        return [t for units in self.shapes if units is not None for t in unit_tensors(units)]

    def without_tensors(self) -> "Sources":
        """The same without them, and without maps."""
        shapes = [None if u is None else tuple(map(bare, u)) for u in self.shapes]
        own = Sources.__new__(Sources)
        own.__dict__.update(self.__dict__, shapes=shapes, maps=[])
        return own

    def with_tensors(self, saved: list[Tensor | None]) -> "Sources":
        """The same with tensors that are taken from the front of a list."""
        whole = Sources.__new__(Sources)
        shapes = [
            None if units is None else tuple(dressed(unit, saved) for unit in units)
            for units in self.shapes
        ]
        whole.__dict__.update(self.__dict__, shapes=shapes)
        return whole

    def groups(self) -> Iterator["Group"]:
        """As few as the bytes allow, and of even size: small ones take longer for an image."""
        dense_bytes = max(self.options.dense_bytes, self.options.parameter_bytes)
        most = dense_bytes // max(1, self.options.image_bytes * max(self.images))
        count = math.ceil(len(self.images) / max(1, most)) if self.options.splits else 1
        firsts = [len(self.images) * place // count for place in range(count + 1)]
        for first, last in pairwise(firsts):
            yield Group(self, first, last)

    def placeholder_gradients(self, found: list[list[Tensor | None]]) -> list[Tensor | None]:
        """Of the stored spectra's placeholders, from what `Group.collect` has sorted."""
        return [
            grad
            for units, own in zip(self.shapes, found, strict=True)
            if units is not None
            for grad in own
        ]

    def map_gradients(self, found: list[list[Tensor | None]]) -> list[Tensor | None]:
        """Of the maps."""
        grads = []
        for units, own in zip(self.shapes, found, strict=True):
            if units is None:
                known = [g for g in own if g is not None]
                grads.append(torch.cat(known) if known else None)
        return grads


class Group:
    """Some of the units of a stage's sources."""

    def __init__(self, sources: Sources, first: int, last: int) -> None:
        self.sources, self.first, self.last = sources, first, last

    @property
    def units(self) -> int:
        """How many."""
        return self.last - self.first

    @property
    def images(self) -> list[int]:
        """Images of each."""
        return self.sources.images[self.first : self.last]

    def units_of_sources(self) -> list[tuple[PackedSpectrum, ...]]:
        """The units of each stored spectrum."""
        return [own[self.first : self.last] for own in self.sources.shapes if own is not None]

    def dense(self) -> list[Tensor]:
        """Of each run of sources, spectra (2, F, b, C) or maps (b, C, n1, ..) of these images."""
        start = sum(self.sources.images[: self.first])
        count = sum(self.images)
        maps = iter(self.sources.maps)
        found = []
        for codec, units in self._runs():
            if units is None:
                found.append(next(maps).narrow(0, start, count))
            else:
                found.append(codec.decode([unit for own in units for unit in own]))
        return found

    def collect(
        self,
        dense: list[Tensor],
        found: list[Tensor | None],
        out: list[list[Tensor | None]],
        free: Sequence[Tensor | None],
    ) -> None:
        """Sort the gradients of the dense inputs by source and unit, packed as the inputs are.

        Args:
            dense: The inputs.
            found: Gradients of those that have one.
            out: Of each source the gradients of its units so far.
            free: Gradients of the stage's result that are not needed any more, each in memory of
                its own: it is used again or given back, though autograd still holds the tensors.
        """
        lists = iter(out)
        left = [tensor for tensor in free if tensor is not None]
        for (codec, units), tensor in zip(self._runs(), dense, strict=True):
            grad = found.pop(0) if tensor.requires_grad else None
            if units is None:
                next(lists).append(grad)
                continue
            together = [unit for own in units for unit in own]
            values = iter([None] * len(together) if grad is None else
                          codec.decode_adjoint(grad, together, left))  # fmt: skip
            left = []
            for own in units:
                next(lists).extend(next(values) for _ in own)
        again = {grad.data_ptr() for own in out for grad in own if grad is not None}
        for grad_of_result in free:
            if grad_of_result is not None and grad_of_result.data_ptr() not in again:
                grad_of_result.untyped_storage().resize_(0)

    def _runs(self) -> Iterator[tuple[Codec, list[tuple[PackedSpectrum, ...]] | None]]:
        """The units of each run of sources; None of one that is maps."""
        shapes = self.sources.shapes
        for codec, run in self.sources.options.runs(len(shapes)):
            stored = [units[self.first : self.last] for units in shapes[run] if units is not None]
            yield codec, stored or None


def unit_sizes(batch: int) -> list[int]:
    """Images per unit: one unit at least."""
    return [min(UNIT_IMAGES, batch - start) for start in range(0, batch, UNIT_IMAGES)] or [0]


def unit_tensors(units: Sequence[PackedSpectrum]) -> list[Tensor | None]:
    """Values, bits and scale of each."""
    return [t for unit in units for t in (unit.values, unit.bits, unit.scale)]


def bare(unit: PackedSpectrum) -> PackedSpectrum:
    """Without its tensors, which autograd keeps; those that are None stay so."""
    nothing: Any = None
    return replace(unit, values=nothing, bits=None, scale=None)


def dressed(unit: PackedSpectrum, saved: list[Tensor | None]) -> PackedSpectrum:
    """With its tensors again, which are taken from the front of a list."""
    values, bits, scale = (saved.pop(0) for _ in range(3))
    assert values is not None
    return replace(unit, values=values, bits=bits, scale=scale)


def run_needs(sources: Sources, needs: Sequence[bool]) -> list[bool]:
    """Whether the gradient of each run of sources is asked for."""
    units = sum(len(u) for u in sources.shapes if u is not None)
    of_units, of_maps = iter(needs[:units]), iter(needs[units:])
    wanted = []
    for shape in sources.shapes:
        own = [next(of_units) for _ in shape] if shape is not None else [next(of_maps)]
        wanted.append(any(own))
    return [any(wanted[run]) for _, run in sources.options.runs(len(wanted))]
