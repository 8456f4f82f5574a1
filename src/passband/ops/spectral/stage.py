"""One stage of a network, of which nothing is kept for the backward pass but packed spectra.

A stage is a function from some spectra and parameters to one spectrum. Forward, it runs without
gradients and its result is packed; backward, its inputs are unpacked and it runs again. Its result
has to be known as well, which coefficients of it were kept, and those bits the next stage keeps
anyway. Images are independent of each other, so both directions take a few of them at a time, and
no dense spectrum of the whole batch exists.

Between stages, a spectrum is a `StoredSpectrum`. The tensors that autograd sees of it are
placeholders of the shape of its values, which need no memory; the gradients that come back for
them are those of the kept coefficients alone, or of all where the threshold lets gradients
through. Such a gradient belongs to the stage that it comes
back to, which may use its memory for that of its own source.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from passband.ops.conv_block.derivative import differentiable_once
from passband.ops.spectral.codec import SPECTRA
from passband.ops.spectral.sources import (
    Sources,
    StageOptions,
    bare,
    run_needs,
    unit_sizes,
)
from passband.spectrum.packed import PackedSpectrum, gather, unpack

StageFunction: TypeAlias = Callable[[list[Tensor], Sequence[Tensor | None], bool], Tensor]
"""From dense spectra or maps, parameters, and whether this is the forward pass, to one of them.

In the backward pass the values of the result are not needed, only its gradient's way back."""


@dataclass(frozen=True)
class StoredSpectrum:
    """A packed spectrum (2, F, B, C), in units of a few images, with its place in autograd."""

    units: tuple[PackedSpectrum, ...]
    placeholders: tuple[Tensor, ...]

    @property
    def channels(self) -> int:
        """C."""
        return self.units[0].shape[3]

    @property
    def batch(self) -> int:
        """B."""
        return sum(unit.shape[2] for unit in self.units)

    @property
    def nbytes(self) -> int:
        """Bytes stored, bits and units of 8-bit values included."""
        return sum(unit.nbytes for unit in self.units)

    @property
    def density(self) -> float:
        """Fraction of the coefficients that is kept."""
        return sum(u.density * u.shape[2] for u in self.units) / max(1, self.batch)

    def dense(self) -> Tensor:
        """The spectrum (2, F, B, C), differentiable."""
        dense: Tensor = _Unpack.apply(self.units, *self.placeholders)
        return dense


Source: TypeAlias = "StoredSpectrum | Tensor"
"""What a stage reads: a stored spectrum, or maps (B, C, n1, ..), which are kept as they are."""


def run_stage(
    function: StageFunction,
    sources: Sequence[Source],
    parameters: Sequence[Tensor | None],
    options: StageOptions,
) -> StoredSpectrum:
    """Run a stage where a backward pass may follow.

    Args:
        function: What the stage computes.
        sources: What it reads, all of the same batch.
        parameters: Tensors that it uses besides.
        options: How it runs and stores.
    """
    placeholders, maps, shapes = inputs_of(sources)
    units, *made = _Stage.apply(
        function, shapes, options, len(placeholders), len(maps), *placeholders, *maps, *parameters
    )
    return StoredSpectrum(units, tuple(made))


def run_to_dense(
    function: StageFunction,
    sources: Sequence[Source],
    parameters: Sequence[Tensor | None],
    options: StageOptions,
) -> Tensor:
    """Run a last stage, of which the result is maps (B, ...) and stays as it is."""
    placeholders, maps, shapes = inputs_of(sources)
    result: Tensor = _Stage.apply(
        function, shapes, replace(options, packs=False), len(placeholders), len(maps),
        *placeholders, *maps, *parameters,
    )  # fmt: skip
    return result


def inputs_of(
    sources: Sequence[Source],
) -> tuple[list[Tensor], list[Tensor], list[tuple[PackedSpectrum, ...] | None]]:
    """The sources' placeholders, those that are maps, and the units of each that is stored."""
    placeholders = [p for s in sources if isinstance(s, StoredSpectrum) for p in s.placeholders]
    maps = [s for s in sources if isinstance(s, Tensor)]
    return placeholders, maps, [s.units if isinstance(s, StoredSpectrum) else None for s in sources]


def store(spectrum: Tensor, options: StageOptions) -> StoredSpectrum:
    """Pack a dense spectrum (2, F, B, C), differentiably."""
    units, *made = _Pack.apply(spectrum, options)
    return StoredSpectrum(units, tuple(made))


class _Stage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: StageFunction, shapes: Any, options: StageOptions,
                stored: int, maps: int, *tensors: Tensor | None) -> Any:  # fmt: skip
        given, parameters = tensors[stored : stored + maps], tensors[stored + maps :]
        ctx.function, ctx.options, ctx.counts = function, options, (stored, maps)
        ctx.autocast = autocast_state(tensors)
        results: list[PackedSpectrum] = []
        maps_made: list[Tensor] = []
        sources = Sources(shapes, [m for m in given if m is not None], options)
        for images in sources.groups():
            dense = function(images.dense(), parameters, True)
            if options.packs:
                results += encode(dense, images.images, options)
            else:
                maps_made.append(dense)
        bits = [unit.gradient_bits for unit in results]
        ctx.save_for_backward(*sources.tensors(), *bits, *given, *parameters)
        ctx.sources, ctx.results = sources.without_tensors(), [bare(unit) for unit in results]
        ctx.set_materialize_grads(False)
        if not options.packs:
            return maps_made[0] if len(maps_made) == 1 else torch.cat(maps_made)
        return (tuple(results), *(placeholder(unit) for unit in results))

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, first: Any, *grads: Tensor | None) -> Any:
        stored, maps = ctx.counts
        if first is None and not any(grad is not None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        saved = list(ctx.saved_tensors)
        sources = ctx.sources.with_tensors(saved)  # takes its own from the front
        bits = [saved.pop(0) for _ in ctx.results]
        given, parameters = saved[:maps], saved[maps:]
        sources.maps = given
        needs = ctx.needs_input_grad[5:]
        leaves = [
            p.detach().requires_grad_(need) if p is not None else None
            for p, need in zip(parameters, needs[stored + maps :], strict=True)
        ]
        wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
        sums: list[Tensor | None] = [None] * len(wanted)
        of_sources: list[list[Tensor | None]] = [[] for _ in sources.shapes]
        place = 0
        for images in sources.groups():
            dense = [
                d.detach().requires_grad_(need)
                for d, need in zip(images.dense(), run_needs(sources, needs), strict=True)
            ]
            with torch.enable_grad(), ctx.autocast():
                result = ctx.function(dense, leaves, False)
            if ctx.options.packs:
                own = list(zip(ctx.results, bits, grads, strict=True))
                units = [(u, b, g) for u, b, g in own[place : place + images.units]]
                cotangent = ctx.options.writes.encode_adjoint(units, result.device)
                cotangent, free = cotangent.to(result.dtype), [g for _, _, g in units]
                place += images.units
            else:
                cotangent, free = first.narrow(0, place, len(result)), []
                place += len(result)
            inputs = [d for d in dense if d.requires_grad]
            found = torch.autograd.grad(result, [*inputs, *wanted], cotangent, allow_unused=True)
            del result, cotangent
            for index, grad in enumerate(found[len(inputs) :]):
                add_gradient(sums, index, grad)
            images.collect(dense, list(found[: len(inputs)]), of_sources, free)
        of_parameters = iter(sums)
        return (
            *(None,) * 5,
            *sources.placeholder_gradients(of_sources),
            *sources.map_gradients(of_sources),
            *(
                next(of_parameters) if leaf is not None and leaf.requires_grad else None
                for leaf in leaves
            ),
        )


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, options: StageOptions) -> Any:
        units = encode(spectrum, unit_sizes(spectrum.shape[2]), replace(options, writes=SPECTRA))
        ctx.save_for_backward(*(unit.gradient_bits for unit in units))
        ctx.units, ctx.device = [bare(unit) for unit in units], spectrum.device
        ctx.set_materialize_grads(False)
        return (tuple(units), *(placeholder(unit) for unit in units))

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, _: Any, *grads: Tensor | None) -> Any:
        own = list(zip(ctx.units, ctx.saved_tensors, grads, strict=True))
        return SPECTRA.encode_adjoint(own, ctx.device), None


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, units: tuple[PackedSpectrum, ...], *_: Tensor) -> Tensor:
        ctx.save_for_backward(*(unit.gradient_bits for unit in units))
        ctx.images = [unit.shape[2] for unit in units]
        return torch.cat([unpack(unit) for unit in units], 2)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> Any:
        parts = torch.split(grad, ctx.images, 2)
        found = [gather(g, bits) for g, bits in zip(parts, ctx.saved_tensors, strict=True)]
        return None, *found


def encode(dense: Tensor, images: list[int], options: StageOptions) -> list[PackedSpectrum]:
    """What a stage stores of the images of some units."""
    units = options.writes.encode(dense.detach(), images, options.storage, options.sparse)
    return [replace(unit, passes=True) for unit in units] if options.passes else units


def placeholder(unit: PackedSpectrum) -> Tensor:
    """What autograd knows of a unit: of the shape of its gradient, without memory."""
    zero = torch.zeros((), dtype=unit.dtype, device=unit.values.device)
    return zero.expand(2, unit.gradient_count)


def add_gradient(sums: list[Tensor | None], index: int, grad: Tensor | None) -> None:
    """Add one to a sum, in place."""
    known = sums[index]
    if grad is not None:
        sums[index] = grad if known is None else known.add_(grad)  # no gradient is another's


def autocast_state(tensors: Sequence[Tensor | None]) -> Callable[[], AbstractContextManager[Any]]:
    """What makes autocast in the backward pass what it is now."""
    device = next(t for t in tensors if t is not None).device.type
    available = torch.amp.is_autocast_available(device)
    enabled = available and torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if available else None

    @contextmanager
    def again() -> Iterator[None]:
        if not available:
            yield
            return
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            yield

    return again
