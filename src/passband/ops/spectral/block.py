"""Stages over the same images, each of which reads all that was there before it: a dense block.

One stage at a time, a spectrum would be unpacked, and transformed, once for every stage that reads
it. Here a few images go through all stages, and in each direction every stored spectrum is unpacked
once. What is computed and kept is the same, but for the order of sums in the gradients.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from passband.ops.conv_block.derivative import differentiable_once
from passband.ops.conv_block.normalisation import Normalised, Sums
from passband.ops.spectral.codec import Codec, Maps
from passband.ops.spectral.norm_gradient import KnownMaps, tells_maps, weak_channels
from passband.ops.spectral.normalised_stage import NormalisedFunction
from passband.ops.spectral.sources import (
    Group,
    Sources,
    StageOptions,
    bare,
    dressed,
    unit_tensors,
)
from passband.ops.spectral.stage import (
    StageFunction,
    StoredSpectrum,
    add_gradient,
    autocast_state,
    encode,
    placeholder,
)
from passband.spectrum.packed import PackedSpectrum

GAMMA, BETA = -4, -3
"""Places of batch norm's scale and shift among a stage's parameters; running moments follow."""


@dataclass(frozen=True)
class Reader:
    """How a stored spectrum becomes channels of what the stages read.

    Args:
        channels: How many.
        codec: Unpacks it.
        finish: What is still to be done then.
        gradient: From the gradient of that and its result, the gradient of what it was given; None
            where the result does not tell.
    """

    channels: int
    codec: Codec
    finish: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor] | None

    def read(self, units: Sequence[PackedSpectrum]) -> Tensor:
        """The channels of some images."""
        return self.finish(self.codec.decode(units))

    def adjoint(
        self, grad: Tensor, channels: Tensor, units: Sequence[PackedSpectrum]
    ) -> list[Tensor]:
        """The gradients of the units' values from that of the channels."""
        if self.gradient is not None:
            own = self.gradient(grad.to(channels.dtype), channels)
        else:
            dense = self.codec.decode(units).detach().requires_grad_()
            with torch.enable_grad():
                finished = self.finish(dense)
            (own,) = torch.autograd.grad(finished, dense, grad.to(finished.dtype))
        found = self.codec.decode_adjoint(own, units)
        return [g.to(unit.dtype) for g, unit in zip(found, units, strict=True)]


@dataclass(frozen=True)
class BlockStage:
    """A stage of a block.

    Args:
        function: What it computes, from all channels before it.
        parameters: How many tensors it uses besides.
        options: How its result is stored.
        reader: How the stages after it read its result; None where there are none.
        gradient_only: From the channels, the parameters and the result, something that has the
            function's gradients; None where there is no such thing.
        normalised: The function in its parts where it ends with a batch norm by the batch's own
            statistics; gamma and beta are at `GAMMA` and `BETA` among the parameters. Else None.
    """

    function: StageFunction
    parameters: int
    options: StageOptions
    reader: Reader | None
    gradient_only: Callable[[list[Tensor], Sequence[Tensor | None], Tensor], Tensor] | None
    normalised: NormalisedFunction | None

    def run(
        self, given: Tensor, parameters: Sequence[Tensor | None]
    ) -> tuple[Tensor, Normalised | None]:
        """What is to be stored, and its batch norm."""
        if self.normalised is None:
            return self.function([given], parameters, True), None
        gamma, beta = parameters[GAMMA], parameters[BETA]
        made = self.normalised.convolve([given], parameters, True)
        made, mean, invstd = self.normalised.norm.forward(made, gamma, beta, in_place=True)
        return made, Normalised(True, mean, invstd, gamma, beta)

    def tells(self, norm: Normalised | None) -> bool:
        """Whether what is stored tells the maps that were normalised."""
        return (
            norm is not None
            and tells_maps(self.options)
            and not len(weak_channels(norm, self.options.storage))
        )


@dataclass(frozen=True)
class Block:
    """The stages, and what they read.

    Args:
        stages: In their order.
        readers: Of the stored spectra that are there before.
        axis: That of the channels.
        layout: How the channels lie in memory.
        copies: Whether a stage copies channels that do not lie side by side, forward and backward.
        options: How images are taken together.
    """

    stages: tuple[BlockStage, ...]
    readers: tuple[Reader, ...]
    axis: int
    layout: torch.memory_format
    copies: bool
    options: StageOptions

    def channels_before(self, stage: int) -> int:
        """Channels that a stage reads."""
        before = [r for r in (*self.readers, *(s.reader for s in self.stages[:stage])) if r]
        return sum(reader.channels for reader in before)

    def of_stages(self, values: Sequence[Any]) -> list[list[Any]]:
        """Parameters, or what belongs to them, by stage."""
        left = iter(values)
        return [[next(left) for _ in range(stage.parameters)] for stage in self.stages]


def run_block(
    block: Block, sources: Sequence[StoredSpectrum], parameters: Sequence[Tensor | None]
) -> list[StoredSpectrum]:
    """The results of all stages.

    Args:
        block: The stages.
        sources: What is there before, of the same images.
        parameters: Those of the first stage, then those of the next.
    """
    placeholders = [p for source in sources for p in source.placeholders]
    shapes = [source.units for source in sources]
    results, *made = _Block.apply(block, shapes, len(placeholders), *placeholders, *parameters)
    left = iter(made)
    return [StoredSpectrum(units, tuple(next(left) for _ in units)) for units in results]


class _Channels:
    """All channels that there are of some images, one piece after the other."""

    def __init__(self, block: Block) -> None:
        self.block, self.count = block, 0
        self.memory: Tensor | None = None
        self._together: Tensor | None = None

    def add(self, piece: Tensor) -> None:
        """Put a piece behind those that are there."""
        axis = self.block.axis
        if self.memory is None:
            shape = list(piece.shape)
            shape[axis] = self.block.channels_before(len(self.block.stages) - 1)
            self.memory = torch.empty(
                shape, dtype=piece.dtype, device=piece.device, memory_format=self.block.layout
            )
        self.memory.narrow(axis, self.count, piece.shape[axis]).copy_(piece)
        self.count += piece.shape[axis]

    def some(self, first: int, count: int) -> Tensor:
        """So many from one on."""
        assert self.memory is not None
        return self.memory.narrow(self.block.axis, first, count)

    def first(self, count: int) -> Tensor:
        """The first ones, for a stage to read; good until others are asked for.

        Where stages copy channels that do not lie side by side they are copied here, always to the
        same memory: tensors of growing size would each leave a hole that is too small for the next.
        """
        own, layout = self.some(0, count), self.block.layout
        if not self.block.copies:
            return own
        if own.is_contiguous(memory_format=layout):
            self._together = None  # all there are: no copy is needed, and much memory beside it is
            return own
        if self._together is None:
            assert self.memory is not None
            self._together = self.memory.new_empty(self.memory.numel())
        strides = torch.empty(own.shape, device="meta", memory_format=layout).stride()
        return self._together.as_strided(own.shape, strides).copy_(own)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: Block, shapes: Any, stored: int, *tensors: Tensor | None) -> Any:
        parameters = block.of_stages(tensors[stored:])
        sources = Sources(shapes, [], block.options)
        results: list[list[PackedSpectrum]] = [[] for _ in block.stages]
        norms: list[Normalised | None] = [None] * len(block.stages)
        for group in sources.groups():
            channels = _Channels(block)
            for reader, units in zip(block.readers, group.units_of_sources(), strict=True):
                channels.add(reader.read(units))
            for place, (stage, own) in enumerate(zip(block.stages, parameters, strict=True)):
                dense, norms[place] = stage.run(channels.first(channels.count), own)
                made = encode(dense, group.images, stage.options)
                results[place] += made
                if stage.reader is not None:
                    channels.add(stage.reader.read(made))
        ctx.normalised = [norm is not None for norm in norms]
        ctx.told = [stage.tells(norm) for stage, norm in zip(block.stages, norms, strict=True)]
        read = [stage.reader is not None for stage in block.stages]
        ctx.whole = [any(reasons) for reasons in zip(read, ctx.told, strict=True)]
        kept = [
            tensor
            for is_whole, result in zip(ctx.whole, results, strict=True)
            for tensor in _kept(is_whole, result)
        ]
        kept += [
            tensor for norm in norms if norm is not None for tensor in (norm.mean, norm.invstd)
        ]
        ctx.save_for_backward(*sources.tensors(), *kept, *tensors[stored:])
        ctx.block, ctx.stored, ctx.sources = block, stored, sources.without_tensors()
        ctx.results = [[bare(unit) for unit in result] for result in results]
        ctx.autocast = autocast_state(tensors)
        ctx.set_materialize_grads(False)
        placeholders = [placeholder(unit) for result in results for unit in result]
        return (tuple(map(tuple, results)), *placeholders)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, _: Any, *grads: Tensor | None) -> Any:
        block: Block = ctx.block
        saved = list(ctx.saved_tensors)
        sources = ctx.sources.with_tensors(saved)  # takes its own from the front
        results = [
            _with_kept(is_whole, result, saved)
            for is_whole, result in zip(ctx.whole, ctx.results, strict=True)
        ]
        moments = [[saved.pop(0) for _ in range(2 * known)] for known in ctx.normalised]
        needs = ctx.needs_input_grad[3:]
        leaves = block.of_stages(
            [
                None if p is None else p.detach().requires_grad_(need)
                for p, need in zip(saved, needs[ctx.stored :], strict=True)
            ]
        )
        norms = [
            Normalised(True, of_batch[0], of_batch[1], own[GAMMA], own[BETA]) if of_batch else None
            for of_batch, own in zip(moments, leaves, strict=True)
        ]
        left = iter(grads)
        of_results = [[next(left) for _ in result] for result in results]
        sums: list[list[Tensor | None]] = [[None] * len(own) for own in leaves]
        of_sources: list[list[Tensor | None]] = [[] for _ in sources.shapes]
        for group in sources.groups():
            own = slice(group.first, group.last)
            of_images = [units[own] for units in results]
            one = _Backward(block, group, of_images, norms, ctx.told, ctx.autocast)
            found = one.run([g[own] for g in of_results], leaves, sums, any(needs[: ctx.stored]))
            for mine, values in zip(of_sources, found, strict=True):
                mine += values
        return (
            *(None,) * 3,
            *sources.placeholder_gradients(of_sources),
            *(grad for own in sums for grad in own),
        )


class _Backward:
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
        self.channels = _Channels(block)
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


def _kept(is_whole: bool, units: Sequence[PackedSpectrum]) -> list[Tensor | None]:
    """What is kept of a result: all of it where the way back reads it, else its bits."""
    return unit_tensors(units) if is_whole else [u.gradient_bits for u in units]


def _with_kept(
    is_whole: bool, units: Sequence[PackedSpectrum], saved: list[Any]
) -> list[PackedSpectrum]:
    """The results with what was kept of them, which is taken from the front of a list."""
    if is_whole:
        return [dressed(unit, saved) for unit in units]
    return [replace(unit, bits=saved.pop(0)) for unit in units]
