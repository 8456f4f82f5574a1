"""The backward pass of a dense block, for some images."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from passband.ops.conv_block.normalisation import Normalised, Sums
from passband.ops.spectral.block_stages import BETA, GAMMA, Block, Channels, Reader
from passband.ops.spectral.codec import Maps
from passband.ops.spectral.norm_gradient import KnownMaps
from passband.ops.spectral.sources import Group
from passband.ops.spectral.stage import add_gradient
from passband.spectrum.packed import PackedSpectrum


class BlockGradient:
    """The backward pass of some images."""

    def __init__(
        self,
        block: Block,
        group: Group,
        results: list[list[PackedSpectrum]],
        norms: list[Normalised | None],
        told: list[bool],
        autocast: Callable[[], Any],
    ) -> None:
        self.block, self.group, self.results = block, group, results
        self.norms, self.told, self.autocast = norms, told, autocast
        self.channels = Channels(block)
        for reader, units in self._readers():
            self.channels.add(reader.read(units))
        self.grad: Tensor | None = None
        """Of the channels that a stage has read already."""

    def run(
        self,
        grads: list[list[Tensor | None]],
        leaves: list[list[Tensor | None]],
        sums: list[list[Tensor | None]],
        needs_sources: bool,
    ) -> list[list[Tensor | None]]:
        """Add up the parameters' gradients; returns those of the sources' values, by unit."""
        block = self.block
        for place in reversed(range(len(block.stages))):
            stage, units = block.stages[place], self.results[place]
            of_values = grads[place]
            if stage.reader is not None and self.grad is not None:
                inner = self._taken(block.channels_before(place), stage.reader, units)
                of_values = [
                    i if o is None else i + o for i, o in zip(inner, of_values, strict=True)
                ]
            if all(grad is None for grad in of_values):
                continue
            needed = needs_sources or any(
                leaf is not None and leaf.requires_grad for own in leaves[:place] for leaf in own
            )
            self._through(place, of_values, leaves[place], sums[place], needed)
        found: list[list[Tensor | None]] = []
        at = 0
        for reader, own in zip(block.readers, self.group.units_of_sources(), strict=True):
            if self.grad is None or not needs_sources:
                found.append([None] * len(own))
            else:
                found.append(list(self._taken(at, reader, own)))
            at += reader.channels
        return found

    def _through(
        self,
        place: int,
        of_values: list[Tensor | None],
        leaves: list[Tensor | None],
        sums: list[Tensor | None],
        needed: bool,
    ) -> None:
        """A stage's backward pass, from the gradients of the values that it has stored."""
        stage = self.block.stages[place]
        count = self.block.channels_before(place)
        given = self.channels.first(count).detach().requires_grad_(needed)
        wanted = [leaf for leaf in (given, *leaves) if leaf is not None and leaf.requires_grad]
        if not wanted:
            return
        with torch.enable_grad(), self.autocast():
            if stage.normalised is not None:
                result = stage.normalised.convolve([given], leaves, not self.told[place])
            elif stage.gradient_only is None or stage.reader is None:
                result = stage.function([given], leaves, False)
            else:
                known = self.channels.some(count, stage.reader.channels)
                result = stage.gradient_only([given], leaves, known)
        cotangent, of_norm = self._cotangent(place, of_values, result.detach())
        cotangent = cotangent.to(result.dtype)
        found = iter(torch.autograd.grad(result, wanted, cotangent, allow_unused=True))
        del result, cotangent
        of_channels = next(found) if needed else None
        if of_channels is not None:
            if self.grad is None:
                self.grad = of_channels
            else:
                self.grad.narrow(self.block.axis, 0, count).add_(of_channels)
        for index, leaf in enumerate(leaves):
            if leaf is not None and leaf.requires_grad:
                add_gradient(sums, index, next(found))
        for index, grad in zip((GAMMA, BETA), of_norm or (), strict=False):
            leaf = leaves[index]
            if leaf is not None and leaf.requires_grad:
                add_gradient(sums, index, grad)

    def _cotangent(
        self, place: int, of_values: list[Tensor | None], made: Tensor
    ) -> tuple[Tensor, Sums | None]:
        """The gradient of what a stage makes, from those of the values that it has stored.

        With a batch norm it is that of the convolution's maps; and there are those of gamma and
        beta. The maps are only looked at where what is stored does not tell them.
        """
        stage, units, norm = self.block.stages[place], self.results[place], self.norms[place]
        own = [(u, u.gradient_bits, g) for u, g in zip(units, of_values, strict=True)]
        codec = stage.options.writes
        if norm is not None and self.told[place]:
            assert stage.normalised is not None and isinstance(codec, Maps)
            known = KnownMaps(stage.normalised.norm, norm, codec, units, own)
            sums, of_maps = known.sums()
            *_, mixture = known.over_all(sums, of_maps)
            return known.gradient(slice(None), mixture), sums
        cotangent = codec.encode_adjoint(own, made.device)
        if norm is None:
            return cotangent, None
        cotangent = cotangent.to(made.dtype)
        sums = norm.reduce(cotangent, made)
        norm.backward(made, cotangent, sums, made.numel() // made.shape[1], None, cotangent)
        return cotangent, sums

    def _taken(self, first: int, reader: Reader, units: Sequence[PackedSpectrum]) -> list[Tensor]:
        assert self.grad is not None
        grad = self.grad.narrow(self.block.axis, first, reader.channels)
        return reader.adjoint(grad, self.channels.some(first, reader.channels), units)

    def _readers(self) -> Iterator[tuple[Reader, Sequence[PackedSpectrum]]]:
        """All that is read, in the order of the channels."""
        yield from zip(self.block.readers, self.group.units_of_sources(), strict=True)
        for stage, made in zip(self.block.stages, self.results, strict=True):
            if stage.reader is not None:
                yield stage.reader, made
