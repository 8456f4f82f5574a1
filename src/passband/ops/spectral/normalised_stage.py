"""A stage with batch norm: its statistics need the whole batch, its maps a few images at a time.

Both directions go through the images twice: first for the sums over the batch (mean and variance
forward, the gradients of gamma and beta backward), then for what the stage gives. What the first
time makes is kept for the second one where it is small; what is larger is made again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from passband.ops.conv_block.normalisation import Moments, Normalised, NormCall, add_up
from passband.ops.spectral.sources import Group, Sources, StageOptions, bare, run_needs
from passband.ops.spectral.stage import (
    Source,
    StageFunction,
    StoredSpectrum,
    add_gradient,
    autocast_state,
    encode,
    inputs_of,
    placeholder,
)
from passband.spectrum.packed import PackedSpectrum

KEPT_BYTES = 32 << 20
"""What maps of the whole batch may have to be kept between the first time and the second."""

Finish: TypeAlias = Callable[[Tensor], Tensor]
"""What is done to the normalised maps before they are stored."""


@dataclass(frozen=True)
class NormalisedFunction:
    """What a stage with batch norm computes: ``finish(norm(convolve(sources, parameters)))``.

    Args:
        convolve: Makes maps (b, C, n1, ..) of sources and parameters, of images on their own.
        norm: The batch norm, with the batch's own statistics.
        finish: What is done to the normalised maps before they are stored; None is nothing.
        kept_bytes: What each of the stage's maps of the whole batch may have to be kept for a
            while: the convolution's alone, or where they fit together what goes into it and their
            gradient as well.
    """

    convolve: StageFunction
    norm: NormCall
    finish: Finish | None = None
    kept_bytes: int = KEPT_BYTES


def run_normalised_stage(
    function: NormalisedFunction,
    sources: Sequence[Source],
    parameters: Sequence[Tensor | None],
    gamma: Tensor | None,
    beta: Tensor | None,
    options: StageOptions,
) -> StoredSpectrum:
    """Run a stage with batch norm where a backward pass may follow; see `run_stage`.

    Args:
        function: What the stage computes.
        sources: What it reads, all of the same batch.
        parameters: Tensors that the convolution uses.
        gamma: Batch norm's scale, or None.
        beta: Batch norm's shift, or None.
        options: How it runs and stores.
    """
    placeholders, maps, shapes = inputs_of(sources)
    units, *made = _NormalisedStage.apply(
        function, shapes, options, len(placeholders), len(maps), gamma, beta, *placeholders, *maps,
        *parameters,
    )  # fmt: skip
    return StoredSpectrum(units, tuple(made))


class _NormalisedStage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: NormalisedFunction, shapes: Any, options: StageOptions,
                stored: int, maps: int, gamma: Tensor | None, beta: Tensor | None,
                *tensors: Tensor | None) -> Any:  # fmt: skip
        given, parameters = tensors[stored : stored + maps], tensors[stored + maps :]
        sources = Sources(shapes, [m for m in given if m is not None], options)
        moments, kept = [], _Kept(function.kept_bytes, sources)
        for group in sources.groups():
            made = function.convolve(group.dense(), parameters, True)
            moments.append(Moments.of(made))
            kept.put([made])
        mean, var = function.norm.take(Moments.joined(moments))
        invstd = (var + function.norm.eps).rsqrt()
        dtype = made.dtype if gamma is None else gamma.dtype
        norm = Normalised(True, mean.to(dtype), invstd.to(dtype), gamma, beta)
        results: list[PackedSpectrum] = []
        for group in sources.groups():
            known = kept.take() or [function.convolve(group.dense(), parameters, True)]
            made = norm.apply(known[0])
            if function.finish is not None:
                made = function.finish(made)
            results += encode(made, group.images, options)
        bits = [unit.bits for unit in results]
        own = (norm.mean, norm.invstd, gamma, beta)
        ctx.save_for_backward(*sources.tensors(), *bits, *own, *given, *parameters)
        ctx.function, ctx.options, ctx.counts = function, options, (stored, maps)
        ctx.autocast = autocast_state(tensors)
        ctx.sources, ctx.results = sources.without_tensors(), [bare(unit) for unit in results]
        ctx.set_materialize_grads(False)
        return (tuple(results), *(placeholder(unit) for unit in results))

    @staticmethod
    def backward(ctx: Any, _: Any, *grads: Tensor | None) -> Any:
        stored, maps = ctx.counts
        function: NormalisedFunction = ctx.function
        if all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        saved = list(ctx.saved_tensors)
        sources = ctx.sources.with_tensors(saved)  # takes its own from the front
        bits = [saved.pop(0) for _ in ctx.results]
        mean, invstd, gamma, beta = (saved.pop(0) for _ in range(4))
        norm = Normalised(True, mean, invstd, gamma, beta)
        sources.maps, parameters = saved[:maps], saved[maps:]
        needs = ctx.needs_input_grad[7:]
        leaves = [
            p.detach().requires_grad_(need) if p is not None else None
            for p, need in zip(parameters, needs[stored + maps :], strict=True)
        ]
        units = list(zip(ctx.results, bits, grads, strict=True))

        def gradient(group: Group, made: Tensor) -> Tensor:
            """Of the normalised maps."""
            own: Tensor = ctx.options.writes.encode_adjoint(
                units[group.first : group.last], made.device
            )
            if function.finish is None:
                return own.to(made.dtype)
            with torch.enable_grad():
                normalised = norm.apply(made).requires_grad_()
                finished = function.finish(normalised)
            return torch.autograd.grad(finished, normalised, own.to(finished.dtype))[0]

        parts, values, kept = [], 0, _Kept(function.kept_bytes, sources)
        for group in sources.groups():
            dense = group.dense()
            with ctx.autocast():
                made = function.convolve(dense, parameters, True)
            cotangent = gradient(group, made)
            parts.append(norm.reduce(cotangent, made))
            values += made.numel() // made.shape[1]
            kept.put([made, cotangent, *dense])
            del dense, made, cotangent
        own_sums = add_up(parts)
        over_all, values = function.norm.over_all(own_sums, values)

        wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
        sums: list[Tensor | None] = [None] * len(wanted)
        of_sources: list[list[Tensor | None]] = [[] for _ in sources.shapes]
        for group in sources.groups():
            known = kept.take()
            dense = [
                d.detach().requires_grad_(need)
                for d, need in zip(known[2:] or group.dense(), run_needs(sources, needs), strict=True)
            ]
            with torch.enable_grad(), ctx.autocast():
                result = function.convolve(dense, leaves, not known)
            made = known[0] if known else result.detach()
            cotangent = known[1] if len(known) > 1 else gradient(group, made)
            norm.backward(made, cotangent, over_all, values, None, cotangent)
            inputs = [d for d in dense if d.requires_grad]
            found = torch.autograd.grad(result, [*inputs, *wanted], cotangent, allow_unused=True)
            del known, result, made, cotangent
            for index, grad in enumerate(found[len(inputs) :]):
                add_gradient(sums, index, grad)
            group.collect(dense, list(found[: len(inputs)]), of_sources)
        of_parameters = iter(sums)
        return (
            *(None,) * 5,
            None if gamma is None else own_sums[0],
            None if beta is None else own_sums[1],
            *sources.placeholder_gradients(of_sources),
            *sources.map_gradients(of_sources),
            *(
                next(of_parameters) if leaf is not None and leaf.requires_grad else None
                for leaf in leaves
            ),
        )


class _Kept:
    """What was made of the groups, in their order, where what it is of the whole batch is small."""

    def __init__(self, most: int, sources: Sources) -> None:
        self._most, self._images = most, sum(sources.images)
        self._of_groups: list[list[Tensor]] = []

    def put(self, maps: list[Tensor]) -> None:
        """Keep as much of the next group as may be kept: all, the first, or nothing."""
        images = maps[0].shape[0]
        for candidates in (maps, maps[:1]):
            if sum(m.nbytes for m in candidates) * self._images <= self._most * images:
                self._of_groups.append(candidates)
                return

    def take(self) -> list[Tensor]:
        """What was kept of the next group, and is kept no longer."""
        return self._of_groups.pop(0) if self._of_groups else []
