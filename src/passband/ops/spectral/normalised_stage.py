"""A stage with batch norm: its statistics need the whole batch, its maps a few images at a time.

Forward it goes through the images twice: first for mean and variance, then for what it gives. What
the first time makes is kept for the second one where it is small; what is larger is made again.

Backward, what is stored tells sums and maps where it can (see `norm_gradient`). Channels whose
gamma is too small for that are convolved again, in a pass of their own through the images. Where
more is done before the spectrum is stored, or most gammas are small, all channels are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from passband.ops.conv_block.derivative import differentiable_once
from passband.ops.conv_block.normalisation import Moments, Normalised, NormCall, Sums, add_up
from passband.ops.spectral.codec import Maps
from passband.ops.spectral.norm_gradient import KnownMaps, tells_maps, weak_channels
from passband.ops.spectral.sources import (
    Group,
    Sources,
    StageOptions,
    bare,
    dressed,
    run_needs,
    unit_tensors,
)
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
        splits_channels: Whether some rows of the parameters make the maps of as many channels,
            as they do where there are no groups.
    """

    convolve: StageFunction
    norm: NormCall
    finish: Finish | None = None
    kept_bytes: int = KEPT_BYTES
    splits_channels: bool = True


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
        own = (norm.mean, norm.invstd, gamma, beta)
        ctx.by_result = function.finish is None and tells_maps(options)
        bits = [unit.gradient_bits for unit in results]
        of_results = unit_tensors(results) if ctx.by_result else bits
        ctx.save_for_backward(*sources.tensors(), *of_results, *own, *given, *parameters)
        ctx.function, ctx.options, ctx.counts = function, options, (stored, maps)
        ctx.autocast = autocast_state(tensors)
        ctx.sources, ctx.results = sources.without_tensors(), [bare(unit) for unit in results]
        ctx.set_materialize_grads(False)
        return (tuple(results), *(placeholder(unit) for unit in results))

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, _: Any, *grads: Tensor | None) -> Any:
        if all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        run = _Backward(ctx, grads)
        of_gamma, of_beta = run.by_images() if run.weak is None else run.by_result(run.weak)
        of_parameters = iter(run.sums)
        return (
            *(None,) * 5,
            None if run.norm.gamma is None else of_gamma,
            None if run.norm.beta is None else of_beta,
            *run.sources.placeholder_gradients(run.of_sources),
            *run.sources.map_gradients(run.of_sources),
            *(
                next(of_parameters) if leaf is not None and leaf.requires_grad else None
                for leaf in run.leaves
            ),
        )


class _Backward:
    """One backward pass; `sums` and `of_sources` become the gradients of parameters and sources."""

    def __init__(self, ctx: Any, grads: Sequence[Tensor | None]) -> None:
        stored, maps = ctx.counts
        self.function: NormalisedFunction = ctx.function
        self.options: StageOptions = ctx.options
        self.autocast = ctx.autocast
        saved = list(ctx.saved_tensors)
        self.sources: Sources = ctx.sources.with_tensors(saved)  # takes its own from the front
        if ctx.by_result:
            self.stored = [dressed(unit, saved) for unit in ctx.results]
        else:
            self.stored = [replace(unit, bits=saved.pop(0)) for unit in ctx.results]
        self.units = [(u, u.bits, g) for u, g in zip(self.stored, grads, strict=True)]
        mean, invstd, gamma, beta = (saved.pop(0) for _ in range(4))
        self.norm = Normalised(True, mean, invstd, gamma, beta)
        self.weak = self._weak_channels() if ctx.by_result else None
        self.sources.maps, parameters = saved[:maps], saved[maps:]
        self.needs = ctx.needs_input_grad[7:]
        self.leaves = [
            p.detach().requires_grad_(need) if p is not None else None
            for p, need in zip(parameters, self.needs[stored + maps :], strict=True)
        ]
        self.wanted = [leaf for leaf in self.leaves if leaf is not None and leaf.requires_grad]
        self.sums: list[Tensor | None] = [None] * len(self.wanted)
        self.of_sources: list[list[Tensor | None]] = [[] for _ in self.sources.shapes]

    def by_result(self, weak: Tensor) -> Sums:
        """Go through the images once; returns the gradients of gamma and beta.

        Args:
            weak: Channels that are convolved again, for which one goes through the images before.
        """
        codec = self.options.writes
        assert isinstance(codec, Maps)
        known = KnownMaps(self.function.norm, self.norm, codec, self.stored, self.units)
        sums, of_maps = known.sums()
        again = _Weak(self, weak) if len(weak) else None
        if again is not None:
            for of_all, of_weak in zip(sums, again.sums, strict=True):
                of_all.index_copy_(0, weak, of_weak)
        over_all, values, mixture = known.over_all(sums, of_maps)
        scale, second, constant = (
            number.index_fill(0, weak, in_weak)
            for number, in_weak in zip(mixture, (1, 0, 0), strict=True)
        )
        for group in self.sources.groups():
            dense, own = group.dense(), slice(group.first, group.last)

            def gradient(_: Tensor, dense: Any = dense, own: Any = own) -> Tensor:
                found = known.gradient(own, (scale, second, constant))
                if again is not None:
                    again.backward(dense, found, over_all, values)
                return found

            self._through(group, dense, False, gradient)
        return sums

    def by_images(self) -> Sums:
        """Go through the images twice, and convolve; returns the gradients of gamma and beta."""
        parts, values = [], 0
        kept = _Kept(self.function.kept_bytes, self.sources)
        for group in self.sources.groups():
            dense = group.dense()
            with self.autocast():
                made = self.function.convolve(dense, self.leaves, True)
            cotangent = self.of_normalised(group, made)
            parts.append(self.norm.reduce(cotangent, made))
            values += made.numel() // made.shape[1]
            kept.put([made, cotangent, *dense])
            del dense, made, cotangent
        sums = add_up(parts)
        over_all, values = self.function.norm.over_all(sums, values)
        for group in self.sources.groups():
            known = kept.take()

            def of_maps(made: Tensor, group: Group = group, known: Any = known) -> Tensor:
                made = known[0] if known else made
                cotangent = known[1] if len(known) > 1 else self.of_normalised(group, made)
                self.norm.backward(made, cotangent, over_all, values, None, cotangent)
                return cotangent

            self._through(group, known[2:] or group.dense(), not known, of_maps)
        return sums

    def _through(
        self,
        group: Group,
        given: list[Tensor],
        is_needed: bool,
        gradient: Callable[[Tensor], Tensor],
    ) -> None:
        """The way back through the convolution of a group.

        Args:
            group: Whose.
            given: What the convolution reads.
            is_needed: Whether the convolution's maps are to be made.
            gradient: Gives the gradient of these maps.
        """
        dense = [
            d.detach().requires_grad_(need)
            for d, need in zip(given, run_needs(self.sources, self.needs), strict=True)
        ]
        with torch.enable_grad(), self.autocast():
            result = self.function.convolve(dense, self.leaves, is_needed)
        cotangent = gradient(result.detach()).to(result.dtype)
        inputs = [d for d in dense if d.requires_grad]
        found = torch.autograd.grad(result, [*inputs, *self.wanted], cotangent, allow_unused=True)
        del result, cotangent
        for index, grad in enumerate(found[len(inputs) :]):
            add_gradient(self.sums, index, grad)
        free = [grad for _, _, grad in self.units[group.first : group.last]]
        group.collect(dense, list(found[: len(inputs)]), self.of_sources, free)

    def of_normalised(self, group: Group, made: Tensor) -> Tensor:
        """The gradient of the normalised maps, given the convolution's."""
        units = self.units[group.first : group.last]
        own = self.options.writes.encode_adjoint(units, made.device)
        if self.function.finish is None:
            return own.to(made.dtype)
        with torch.enable_grad():
            normalised = self.norm.apply(made).requires_grad_()
            finished = self.function.finish(normalised)
        return torch.autograd.grad(finished, normalised, own.to(finished.dtype))[0]

    def _weak_channels(self) -> Tensor | None:
        """Channels whose normalised maps cannot be told from what is stored; None: take all."""
        weak = weak_channels(self.norm, self.options.storage)
        channels = len(self.norm.mean)
        too_many = len(weak) > (channels // 2 if self.function.splits_channels else 0)
        return None if too_many else weak


class _Weak:
    """Channels of a backward pass that are convolved again; `sums` are those of their gradients."""

    def __init__(self, run: _Backward, channels: Tensor) -> None:
        self.run, self.channels = run, channels
        own = (
            None if t is None else t.detach().index_select(0, channels)
            for t in (run.norm.mean, run.norm.invstd, run.norm.gamma, run.norm.beta)
        )
        self.norm = Normalised(True, *own)  # type: ignore[arg-type]  # mean is no None
        self.parameters = [
            None if p is None else p.detach().index_select(0, channels) for p in run.leaves
        ]
        self.kept = _Kept(run.function.kept_bytes, run.sources)
        parts = []
        for group in run.sources.groups():
            made = self._convolve(group.dense())
            grad = run.of_normalised(group, made).index_select(1, channels)
            parts.append(self.norm.reduce(grad.contiguous(), made))
            self.kept.put([made])
        self.sums = add_up(parts)

    def backward(self, dense: list[Tensor], grad: Tensor, over_all: Sums, values: int) -> None:
        """Replace in these channels the gradient of the normalised maps by that of the maps."""
        made = (self.kept.take() or [self._convolve(dense)])[0]
        own = grad.index_select(1, self.channels).to(made.dtype)
        sums = [of_all.index_select(0, self.channels) for of_all in over_all]
        self.norm.backward(made, own, (sums[0], sums[1]), values, None, own)
        grad.index_copy_(1, self.channels, own.to(grad.dtype))

    def _convolve(self, dense: list[Tensor]) -> Tensor:
        with self.run.autocast():
            return self.run.function.convolve(dense, self.parameters, True)


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
