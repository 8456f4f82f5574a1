"""Stages over the same images, each of which reads all that was there before it: a dense block.

One stage at a time, a spectrum would be unpacked, and transformed, once for every stage that reads
it. Here a few images go through all stages, and in each direction every stored spectrum is unpacked
once. What is computed and kept is the same, but for the order of sums in the gradients.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from passband.ops.conv_block.derivative import differentiable_once
from passband.ops.conv_block.normalisation import Normalised
from passband.ops.spectral.block_gradient import BlockGradient
from passband.ops.spectral.block_stages import BETA, GAMMA, Block, Channels
from passband.ops.spectral.sources import Sources, bare, dressed, unit_tensors
from passband.ops.spectral.stage import StoredSpectrum, autocast_state, encode, placeholder
from passband.spectrum.packed import PackedSpectrum


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


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, block: Block, shapes: Any, stored: int, *tensors: Tensor | None) -> Any:
        parameters = block.of_stages(tensors[stored:])
        sources = Sources(shapes, [], block.options)
        results: list[list[PackedSpectrum]] = [[] for _ in block.stages]
        norms: list[Normalised | None] = [None] * len(block.stages)
        for group in sources.groups():
            channels = Channels(block)
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
            one = BlockGradient(block, group, of_images, norms, ctx.told, ctx.autocast)
            found = one.run([g[own] for g in of_results], leaves, sums, any(needs[: ctx.stored]))
            for mine, values in zip(of_sources, found, strict=True):
                mine += values
        return (
            *(None,) * 3,
            *sources.placeholder_gradients(of_sources),
            *(grad for own in sums for grad in own),
        )


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
