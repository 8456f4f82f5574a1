"""What a dense block is: its stages, what they read, and the channels of some images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from passband.ops.conv_block.normalisation import Normalised
from passband.ops.spectral.codec import Codec
from passband.ops.spectral.norm_gradient import tells_maps, weak_channels
from passband.ops.spectral.normalised_stage import NormalisedFunction
from passband.ops.spectral.sources import StageOptions
from passband.ops.spectral.stage import StageFunction
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


class Channels:
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
