"""Dropout and maximum pooling on their own: the generator's state, a byte per output."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from passband.ops.band_limited_conv.layout import memory_format
from passband.ops.conv_block.convolution import chunks, images_at_a_time
from passband.ops.conv_block.derivative import differentiable_once
from passband.ops.conv_block.pooling import Pool


def dropout(x: Tensor, probability: float) -> Tensor:
    """Dropout in training that keeps the state of the random generator instead of a mask."""
    output: Tensor = _Dropout.apply(x, probability)
    return output


def max_pool(x: Tensor, pool: Pool) -> Tensor:
    """Maximum pooling that keeps a byte per output instead of the map and 64-bit indices."""
    output: Tensor = _MaxPool.apply(x, pool)
    return output


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, probability: float) -> Tensor:
        ctx.probability = probability
        ctx.save_for_backward(_generator_state(x.device))
        return F.dropout(x, probability, training=True)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (state,) = ctx.saved_tensors
        present = _generator_state(grad.device)
        try:
            _set_generator_state(grad.device, state)
            return F.dropout(grad, ctx.probability, training=True), None
        finally:
            _set_generator_state(grad.device, present)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pool: Pool) -> Tensor:
        output, place = pool.forward(x)
        ctx.pool, ctx.shape, ctx.order = pool, x.shape, memory_format(x)
        ctx.save_for_backward(place)
        return output

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        maps = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=ctx.order)
        # a part at a time, because 64-bit indices need much memory
        for start, count in chunks(len(grad), images_at_a_time(maps[:1].nbytes, len(grad))):
            own, part, to = (t.narrow(0, start, count) for t in (place, grad, maps))
            ctx.pool.backward_max(part, own, to)
        return maps, None


def _generator_state(device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()


def _set_generator_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
