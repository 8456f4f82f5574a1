"""conv -> batch norm -> addition -> activation -> pooling as one operation; see README.md.

Every part but the convolution may be missing. Kept for the backward pass: what the convolution
keeps of its input, the statistics of the channels, after an addition one bit per element (or the
sum, where the activation has no kinks only), and of a maximum a byte per output.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, starmap
from typing import Any

import torch
from torch import Tensor

from passband.ops.band_limited_conv.layout import memory_format
from passband.ops.band_limited_conv.native.memory import fitting_workspace
from passband.ops.conv_block import kernels
from passband.ops.conv_block.activation import Activation
from passband.ops.conv_block.bits import pack_bits, unpack_bits
from passband.ops.conv_block.convolution import Conv, Kept, chunks, images_at_a_time
from passband.ops.conv_block.derivative import differentiable_once
from passband.ops.conv_block.normalisation import Normalised, NormCall, Sums, add_up
from passband.ops.conv_block.overlaid import Overlaid
from passband.ops.conv_block.pooling import Pool, gather
from passband.ops.conv_block.storage import offload


@dataclass(frozen=True)
class BlockCall:
    """One call of a block, without its tensors.

    Args:
        conv: The convolution.
        norm: The batch norm, or None.
        activation: The activation, or None.
        pool: The pooling, or None.
        offload: Where what the convolution keeps is moved to: None, "cpu" or "disk".
    """

    conv: Conv
    norm: NormCall | None = None
    activation: Activation | None = None
    pool: Pool | None = None
    offload: str | None = None


def conv_block(
    call: BlockCall,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
) -> Tensor:
    """The block's output, differentiable once.

    Args:
        call: What the block consists of.
        x: Maps (B, C, n1, ..).
        residual: Maps to be added before the activation, or None.
        weight: Filters.
        bias: Of the convolution, or None.
        gamma: Scale of the batch norm, or None.
        beta: Shift of the batch norm, or None.
    """
    output: Tensor = _ConvBlock.apply(call, x, residual, weight, bias, gamma, beta)
    return output


class _ConvBlock(torch.autograd.Function):
    @staticmethod
    @fitting_workspace()
    def forward(
        ctx: Any,
        call: BlockCall,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        gamma: Tensor | None,
        beta: Tensor | None,
    ) -> Tensor:
        act, pool = call.activation, call.pool
        bits = value = place = mean = invstd = None
        with torch.autocast(x.device.type, enabled=False):
            v, kept = call.conv.forward(x, weight, bias)
            ctx.dtype = v.dtype
            if call.norm is not None:
                v, mean, invstd = call.norm.forward(v, gamma, beta, True)
            made_again = residual is None and call.norm is not None and not call.conv.samples
            if act is not None and act.has_kinks_only and not made_again:
                v, bits = _activated(v, residual, act)
            else:
                v = v if residual is None else _added(v, residual)
                value = v.clone() if act is not None and residual is not None else None
                v = v if act is None else act.forward(v)
            ctx.order, ctx.shape, ctx.input_shape = memory_format(v), v.shape, x.shape
            if pool is not None:
                v, place = pool.forward(v)
        ctx.call, ctx.offloaded = call, ()
        if call.offload is not None:
            ctx.offloaded, kept = tuple(offload(tensor, call.offload) for tensor in kept), ()
        ctx.save_for_backward(weight, bias, gamma, beta, mean, invstd, bits, value, place, *kept)
        ctx.set_materialize_grads(False)
        return v

    @staticmethod
    @differentiable_once
    @fitting_workspace()
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 7
        with torch.autocast(grad.device.type, enabled=False):
            return _Backward(ctx).run(grad)


class _Backward:
    """The backward pass of one block, a part of the batch at a time.

    Of a part, what lies between the convolution and the block's output is made piece by piece.

    The output of the convolution is made again in the memory that the gradient of its input will
    take: see `Overlaid`.
    """

    def __init__(self, ctx: Any) -> None:
        self.call: BlockCall = ctx.call
        self.shape, self.input_shape, self.order = ctx.shape, ctx.input_shape, ctx.order
        self.dtype: torch.dtype = ctx.dtype
        self.weight, self.bias, gamma, beta, mean, invstd, *rest = ctx.saved_tensors
        self.bits, self.value, self.place, *kept = rest
        self.kept: Kept = tuple(kept) or tuple(tensor.fetch() for tensor in ctx.offloaded)
        _, self.needs_input, self.needs_residual, *needs = ctx.needs_input_grad
        self.needs_weight, self.needs_bias, self.needs_gamma, self.needs_beta = needs
        self.needs_conv = self.needs_input or self.needs_weight or self.needs_bias
        self.norm: Normalised | None = None
        if self.call.norm is not None:
            statistics = self.call.norm.batch_statistics
            self.norm = Normalised(statistics, mean, invstd, gamma, beta)
        self.per_image = 4 * max(math.prod(self.shape[1:]), math.prod(self.input_shape[1:]))
        batch, least = self.shape[0], self.call.conv.least_images
        self.parts = chunks(batch, images_at_a_time(self.per_image, batch, least))
        # values of each channel that the batch norm has averaged
        self.averaged = batch * math.prod(self.shape[2:])
        # whether the sums over the batch are needed that the batch norm's gradients are
        self.reduces = self.norm is not None and (
            self.needs_gamma or self.needs_beta or (self.norm.batch_statistics and self.needs_conv)
        )
        # whether the derivative of the activation is told by the output of the convolution
        told = self.bits is not None or self.value is not None
        self.remakes = self.call.activation is not None and not told
        # the activation that gradients go through together with the batch norm
        self.joined = self.call.activation
        if self.norm is None or told or self.place is not None:
            self.joined = None
        self.memory = Overlaid(
            (self.shape, self.dtype), (self.input_shape, self.weight.dtype), self.needs_input,
            self.order, self.weight.device,
        )  # fmt: skip
        self._made = 0

    def _pieces(self, start: int, count: int) -> Iterator[tuple[int, int]]:
        """First image and number of images of the pieces that what lies between is made of."""
        for first, images in chunks(count, images_at_a_time(self.per_image, count)):
            yield start + first, images

    def _maps(self, start: int, count: int) -> Tensor:
        """The output of the convolution, of some images; made when first asked for, in order."""
        for first, images in self.parts:
            if self._made <= first < start + count:
                kept = self.call.conv.narrow(self.kept, first, images)
                to = self.memory.first(first, images)
                self.call.conv.output(kept, self.weight, self.bias, to)
                self._made = first + images
        return self.memory.first(start, count)

    def run(self, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of call, x, residual, weight, bias, gamma and beta."""
        sums = grad_residual = None
        is_other = self.call.activation is not None or self.call.pool is not None
        if self.needs_residual:
            grad_residual = grad
            if is_other:
                grad_residual = self._empty(self.shape[0], grad.dtype)
        of_residual = grad_residual if is_other else None
        if of_residual is not None or self.reduces:
            sums = self._first_pass(grad, of_residual)
        grad_input = grad_weight = grad_bias = None
        if self.needs_conv:
            total = sums
            if sums is not None and self.call.norm is not None:
                total, self.averaged = self.call.norm.over_all(sums, self.averaged)
            grad_input, grad_weight, grad_bias = self._of_conv(grad, of_residual, total)
        grad_gamma, grad_beta = sums if sums is not None else (None, None)
        return (
            None, grad_input, grad_residual, grad_weight, grad_bias,
            grad_gamma if self.needs_gamma else None, grad_beta if self.needs_beta else None,
        )  # fmt: skip

    def _first_pass(self, grad: Tensor, of_residual: Tensor | None) -> Sums | None:
        """Write the residual's gradient, and add up the gradients of gamma and beta.

        Behind a maximum the gradient is zero elsewhere, so that sums over the maxima are sums over
        the maps.
        """
        added = []
        for start, count in chain.from_iterable(starmap(self._pieces, self.parts)):
            part = None
            if of_residual is not None or self.place is None:
                to = None if of_residual is None else of_residual.narrow(0, start, count)
                part = self._of_activated(grad, start, count, to)
            if not self.reduces:
                continue
            assert self.norm is not None
            if self.place is not None:
                part, maps = self._of_maxima(grad, start, count)
                assert maps is not None
                added.append(self.norm.reduce(part.to(self.dtype), maps))
            else:
                assert part is not None
                maps = self._maps(start, count)
                added.append(self.norm.reduce(self._as_maps(part), maps, self.joined))
        return add_up(added) if added else None

    def _of_maxima(self, grad: Tensor, start: int, count: int) -> tuple[Tensor, Tensor | None]:
        """Gradient of what stands at the maxima, before the activation, of some images.

        With it the output of the convolution there, if it is needed.
        """
        part, act = grad.narrow(0, start, count), self.call.activation
        maps, indices = None, self._indices(start, count).view(part.shape)
        if self.reduces or self.remakes:
            maps = gather(self._maps(start, count), indices)
        if act is not None and self.bits is not None:
            part = act.backward_by_side(part, gather(self._side(start, count), indices))
        elif act is not None:
            assert maps is not None
            part = act.backward(part, maps if self.norm is None else self.norm.apply(maps))
        return part.contiguous(), maps

    def _of_activated(
        self, grad: Tensor, start: int, count: int, to: Tensor | None = None
    ) -> Tensor:
        """Gradient of what the activation is given, of some images; written to `to`, if any.

        Of what a `joined` activation makes.
        """
        part = grad.narrow(0, start, count)
        pool, act = self.call.pool, self.call.activation
        if pool is not None and self.place is not None:
            part, _ = self._of_maxima(grad, start, count)
            is_type = to is not None and to.dtype == part.dtype
            maps = to if to is not None and is_type else self._empty(count, part.dtype)
            pool.backward_max(part, self.place.narrow(0, start, count), maps)
            return maps if to is None or is_type else to.copy_(maps)
        if pool is not None:
            maps = self._empty(count, part.dtype)
            pool.backward_average(part, maps)
            part = maps
        part = part.contiguous(memory_format=self.order)
        if act is not None and self.bits is not None:
            to = torch.empty_like(part) if to is None else to
            if kernels.apply(part, to):
                kernels.mask(part, self.bits.narrow(0, start, count), act, to)
                return to
            part = act.backward_by_side(part, self._side(start, count))
        elif act is not None and self.value is not None:
            part = act.backward(part, self.value.narrow(0, start, count))
        elif act is not None and self.norm is None:
            part = act.backward(part, self._maps(start, count))
        return part if to is None else to.copy_(part)

    def _empty(self, count: int, dtype: torch.dtype) -> Tensor:
        """Room for the block's maps before pooling, of some images."""
        return torch.empty(
            (count, *self.shape[1:]), dtype=dtype, device=self.weight.device,
            memory_format=self.order,
        )  # fmt: skip

    def _as_maps(self, part: Tensor) -> Tensor:
        """A gradient in the type and order of the convolution's output."""
        return part.to(self.dtype).contiguous(memory_format=self.order)

    def _of_output(
        self, grad: Tensor, of_residual: Tensor | None, sums: Sums | None, start: int, count: int
    ) -> Tensor:
        """Gradient of the convolution's output, of some images."""
        is_through = of_residual is not None or (
            self.call.activation is None and self.call.pool is None
        )
        grad = grad if of_residual is None else of_residual
        if self.norm is None and is_through:
            return self._as_maps(grad.narrow(0, start, count))
        has_maps = self.remakes or (self.norm is not None and self.norm.batch_statistics)
        to = self._maps(start, count) if has_maps else self._empty(count, self.dtype)
        for first, images in self._pieces(start, count):
            own = to.narrow(0, first - start, images)
            if self.norm is None:
                self._of_activated(grad, first, images, own)
                continue
            part = grad.narrow(0, first, images)
            part = self._as_maps(part if is_through else self._of_activated(grad, first, images))
            maps = own if has_maps else part
            self.norm.backward(maps, part, sums, self.averaged, self.joined, own)
        return to

    def _of_conv(
        self, grad: Tensor, of_residual: Tensor | None, sums: Sums | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of the convolution's input, filters and bias."""
        grad_weight = grad_bias = None
        for start, count in self.parts:
            part = self._of_output(grad, of_residual, sums, start, count)
            if self.needs_bias and not (self.norm is not None and self.norm.batch_statistics):
                added = part.sum((0, *range(2, part.dim())), dtype=self.weight.dtype)
                grad_bias = added if grad_bias is None else grad_bias.add_(added)
            kept = self.call.conv.narrow(self.kept, start, count)
            to = self.memory.second(start, count) if self.needs_input else None
            of_weight = self.call.conv.backward(part, kept, self.weight, to, self.needs_weight)
            if of_weight is not None:
                grad_weight = of_weight if grad_weight is None else grad_weight.add_(of_weight)
        if self.needs_bias and grad_bias is None:  # the batch norm takes any constant away
            grad_bias = self.weight.new_zeros(self.shape[1])
        grad_input = self.memory.second(0, self.shape[0]) if self.needs_input else None
        return grad_input, grad_weight, grad_bias

    def _indices(self, start: int, count: int) -> Tensor:
        """Where the maxima of some images stand."""
        assert self.place is not None and self.call.pool is not None
        return self.call.pool.indices(self.place.narrow(0, start, count), self.shape[-1])

    def _side(self, start: int, count: int) -> Tensor:
        """The bits of some images, unpacked."""
        assert self.bits is not None
        packed = self.bits.narrow(0, start, count)
        last = self.order != torch.contiguous_format
        return unpack_bits(packed, (count, *self.shape[1:]), last)


def _activated(v: Tensor, residual: Tensor | None, act: Activation) -> tuple[Tensor, Tensor]:
    """The activation of the sum, in place, and the bits of its derivative."""
    if kernels.apply(v, *(() if residual is None else (residual,))):
        return v, kernels.activate_(v, residual, act)
    v = v if residual is None else _added(v, residual)
    bits = pack_bits(act.side(v))
    return act.forward(v), bits


def _added(v: Tensor, residual: Tensor) -> Tensor:
    return v.add_(residual) if v.dtype == residual.dtype else v + residual
