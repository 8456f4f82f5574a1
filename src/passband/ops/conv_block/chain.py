"""(batch norm -> activation -> convolution) once or several times, as one operation; see README.md.

Kept for the backward pass: the maps that come in, which are features of a dense block before they
are concatenated, and statistics of the channels. Everything else is made again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from passband.ops.band_limited_conv.layout import memory_format
from passband.ops.band_limited_conv.native.memory import fitting_workspace
from passband.ops.conv_block.activation import Activation
from passband.ops.conv_block.convolution import Conv, Kept, chunks, images_at_a_time
from passband.ops.conv_block.derivative import differentiable_once
from passband.ops.conv_block.normalisation import Normalised, NormCall, Sums, add_up
from passband.ops.conv_block.pooling import Pool

PARAMETERS = 4
"""Tensors of a stage: filters, bias, gamma, beta."""


@dataclass(frozen=True)
class Stage:
    """One batch norm, the activation after it, and the convolution after that."""

    norm: NormCall
    activation: Activation | None
    conv: Conv


@dataclass(frozen=True)
class ChainCall:
    """One call of a chain, without its tensors.

    Args:
        stages: The stages in order.
        pool: The average pooling of the last convolution's output, or None.
    """

    stages: tuple[Stage, ...]
    pool: Pool | None = None


def conv_chain(
    call: ChainCall, features: Sequence[Tensor], parameters: Sequence[Tensor | None]
) -> Tensor:
    """The chain's output, differentiable once.

    Args:
        call: What the chain consists of.
        features: Maps (B, C_i, n1, ..), which are concatenated along the channels.
        parameters: Filters, bias, gamma and beta of each stage, one stage after the other.
    """
    output: Tensor = _ConvChain.apply(call, len(features), *features, *parameters)
    return output


class _ConvChain(torch.autograd.Function):
    @staticmethod
    @fitting_workspace()
    def forward(ctx: Any, call: ChainCall, count: int, *tensors: Tensor | None) -> Tensor:
        features = [tensor for tensor in tensors[:count] if tensor is not None]
        parameters = tensors[count:]
        statistics: list[Tensor] = []
        with torch.autocast(features[0].device.type, enabled=False):
            v = _concatenated(features)
            for index, stage in enumerate(call.stages):
                weight, bias, gamma, beta = _of_stage(parameters, index)
                in_place = index > 0 or count > 1
                v, mean, invstd = stage.norm.forward(v, gamma, beta, in_place)
                statistics += [mean, invstd]
                if stage.activation is not None:
                    v = stage.activation.forward(v)
                assert weight is not None
                v, _ = stage.conv.forward(v, weight, bias)
            ctx.shape = v.shape
            if call.pool is not None:
                v, _ = call.pool.forward(v)
        ctx.call, ctx.count = call, count
        ctx.save_for_backward(*tensors, *statistics)
        ctx.set_materialize_grads(False)
        return v

    @staticmethod
    @differentiable_once
    @fitting_workspace()
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        with torch.autocast(grad.device.type, enabled=False):
            return (None, None, *_backward(ctx, grad))


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    call: ChainCall = ctx.call
    saved, count, stages = ctx.saved_tensors, ctx.count, call.stages
    needed = ctx.needs_input_grad[2:]
    parameters = saved[count : count + PARAMETERS * len(stages)]
    statistics = saved[count + PARAMETERS * len(stages) :]
    norms, inputs, kept = _recompute(call, saved[:count], parameters, statistics)
    if call.pool is not None:
        maps = torch.empty(
            ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=memory_format(grad)
        )
        call.pool.backward_average(grad, maps)
        grad = maps
    gradients: list[Tensor | None] = []
    for index in reversed(range(len(stages))):
        needs = needed[count + PARAMETERS * index :][:PARAMETERS]
        # whether anything before this convolution has a gradient
        more = any(needed[: count + PARAMETERS * index]) or needs[2] or needs[3]
        weight = parameters[PARAMETERS * index]
        of_bias = None
        if needs[1]:
            of_bias = grad.sum((0, *range(2, grad.dim())), dtype=weight.dtype)
        maps = inputs.pop()
        of_input = torch.empty_like(maps) if more else None
        of_weight = stages[index].conv.backward(grad, kept.pop(), weight, of_input, needs[0])
        of_gamma = of_beta = None
        if of_input is not None:
            grad = of_input
            of_gamma, of_beta = _through_norm_(grad, maps, norms[index], stages[index])
        gradients = [
            of_weight, of_bias, of_gamma if needs[2] else None, of_beta if needs[3] else None,
            *gradients,
        ]  # fmt: skip
        if not more:
            missing = PARAMETERS * index
            return (*[None] * (count + missing), *gradients)
    sizes = [feature.shape[1] for feature in saved[:count]]
    parts = torch.split(grad, sizes, 1)
    return (*(p if n else None for p, n in zip(parts, needed, strict=False)), *gradients)


def _recompute(
    call: ChainCall,
    features: Sequence[Tensor],
    parameters: Sequence[Tensor],
    statistics: Sequence[Tensor],
) -> tuple[list[Normalised], list[Tensor], list[Kept]]:
    """Norms of the stages, what they were given, and what the convolutions keep."""
    norms, inputs, kept = [], [], []
    maps = _concatenated(features)
    for index, stage in enumerate(call.stages):
        weight, bias, gamma, beta = _of_stage(parameters, index)
        mean, invstd = statistics[2 * index : 2 * index + 2]
        norm = Normalised(stage.norm.batch_statistics, mean, invstd, gamma, beta)
        norms.append(norm)
        inputs.append(maps)
        v = norm.apply(maps)
        if stage.activation is not None:
            v = stage.activation.forward(v)
        if index + 1 < len(call.stages):
            assert weight is not None
            maps, own = stage.conv.forward(v, weight, bias)
        else:
            own = stage.conv.keep(v)
        kept.append(own)
    return norms, inputs, kept


def _through_norm_(grad: Tensor, maps: Tensor, norm: Normalised, stage: Stage) -> Sums:
    """Take a gradient from behind the activation to before the batch norm, in place.

    Returns the gradients of gamma and beta. A part of the batch at a time, so that what lies
    between needs little memory.
    """
    images = images_at_a_time(grad[0].nbytes, len(grad))
    sums: list[Sums] = []
    for start, count in chunks(len(grad), images):
        part, own = grad.narrow(0, start, count), maps.narrow(0, start, count)
        sums.append(norm.reduce(part, own, stage.activation))
    own_sums = add_up(sums)
    averaged = grad.numel() // grad.shape[1]
    total, averaged = stage.norm.over_all(own_sums, averaged)
    for start, count in chunks(len(grad), images):
        part, own = grad.narrow(0, start, count), maps.narrow(0, start, count)
        norm.backward(own, part, total, averaged, stage.activation, part)
    return own_sums


def _concatenated(features: Sequence[Tensor]) -> Tensor:
    return features[0] if len(features) == 1 else torch.cat(list(features), 1)


def _of_stage(parameters: Sequence[Tensor | None], index: int) -> Sequence[Tensor | None]:
    return parameters[PARAMETERS * index : PARAMETERS * (index + 1)]
