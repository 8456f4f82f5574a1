"""Registration of the band-limited convolution with torch.library, and its derivatives.

Two operators, each linear in every one of its tensors, so that all derivatives are the same two:

- `band_limited_conv(input, weight, bias, ...) -> (output, spectrum)`
- `band_limited_conv_backward(grad, kept, weight, ...) -> (grad_input, grad_weight)`

`kept` is all of the input that the backward pass needs: the truncated spectrum, or the map itself
where that is no larger (`ConvGeometry.keeps_map`). With `from_spectrum` the input is a spectrum
already, and the gradient returned is that of the spectrum.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from passband.ops.band_limited_conv import matmul, triton
from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.layout import is_under_autocast, memory_format, product_dtype
from passband.ops.band_limited_conv.lowpass import BY_TORCH
from passband.ops.band_limited_conv.native import convolution as native
from passband.ops.band_limited_conv.native import lowpass as native_lowpass
from passband.ops.tracing import run_uncompiled

IMPLEMENTATIONS: dict[str, Any] = {
    "lowpass": BY_TORCH,
    "matmul": matmul,
    "triton": triton,
}

_GEOMETRY = (
    "SymInt[] size, SymInt[] padding, SymInt[] stride, SymInt[] dilation, SymInt groups, "
    "SymInt[] grid, SymInt[] kept, str algorithm, ScalarType? dtype, bool from_spectrum"
)
_FORWARD_SCHEMA = (
    f"(Tensor input, Tensor weight, Tensor? bias, {_GEOMETRY}) -> (Tensor output, Tensor spectrum)"
)
_BACKWARD_SCHEMA = (
    f"(Tensor grad, Tensor kept_input, Tensor weight, {_GEOMETRY}, bool needs_input, "
    "bool needs_weight) -> (Tensor grad_input, Tensor grad_weight)"
)


def _geometry(weight: Tensor, arguments: tuple[Any, ...]) -> ConvGeometry:
    """The geometry from an operator's plain arguments: size to kept, in the schema's order."""
    size, padding, stride, dilation, groups, grid, kept = arguments
    flat = [int(p) for p in padding]
    return ConvGeometry(
        size=tuple(int(n) for n in size),
        padding=tuple(zip(flat[::2], flat[1::2], strict=True)),
        kernel=tuple(int(n) for n in weight.shape[2:]),
        stride=tuple(int(n) for n in stride),
        dilation=tuple(int(n) for n in dilation),
        groups=int(groups),
        grid=tuple(int(n) for n in grid),
        kept=tuple(int(n) for n in kept),
    )


def geometry_arguments(geometry: ConvGeometry) -> tuple[Any, ...]:
    """A geometry as the operators take it: size, padding, stride, dilation, groups, grid, kept."""
    return (
        geometry.size,
        [p for pair in geometry.padding for p in pair],
        geometry.stride,
        geometry.dilation,
        geometry.groups,
        geometry.grid,
        geometry.kept,
    )


def _forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor]:
    *shapes, algorithm, dtype, from_spectrum = arguments
    if algorithm == "matmul":
        geometry = _geometry(weight, tuple(shapes))
        dtype = dtype or weight.dtype
        if native.applies(geometry, dtype, input, weight, bias):
            keeps = not (from_spectrum or geometry.keeps_map)
            return native.forward(input, weight, bias, geometry, dtype, from_spectrum, keeps)
    implementation = _implementation(algorithm, _geometry(weight, tuple(shapes)), input)
    return _forward_by(implementation, input, weight, bias, *arguments)


def evaluate(
    input: Tensor, weight: Tensor, bias: Tensor | None, geometry: ConvGeometry, algorithm: str
) -> Tensor | None:
    """The output by the kernels without an operator around them; None where they do not apply."""
    dtype = product_dtype(weight)
    if algorithm == "matmul" and native.applies(geometry, dtype, input, weight, bias):
        return native.forward(input, weight, bias, geometry, dtype, False, False)[0]
    if algorithm == "lowpass" and native_lowpass.applies(geometry, dtype, input):
        lowpass = native_lowpass.BY_KERNELS
        output = lowpass.forward(lowpass.analyze(input, geometry), weight, bias, geometry, dtype)
        return output.contiguous(memory_format=memory_format(input))
    return None


def _implementation(algorithm: str, geometry: ConvGeometry, maps: Tensor) -> Any:
    """What computes on tensors that are really there."""
    if algorithm == "lowpass" and native_lowpass.applies(geometry, maps.dtype, maps):
        return native_lowpass.BY_KERNELS
    return IMPLEMENTATIONS[algorithm]


def _forward_by_torch(
    input: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor]:
    *_, algorithm, _, _ = arguments
    return _forward_by(IMPLEMENTATIONS[algorithm], input, weight, bias, *arguments)


def _forward_by(
    implementation: Any, input: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor]:
    *shapes, algorithm, dtype, from_spectrum = arguments
    geometry = _geometry(weight, tuple(shapes))
    dtype = dtype or weight.dtype
    spectrum = input if from_spectrum else implementation.analyze(input, geometry)
    order = _output_format(input, from_spectrum)
    output = implementation.forward(
        spectrum, weight, bias, geometry, dtype, **_written_in(order, algorithm)
    )
    output = output.contiguous(memory_format=order)
    if from_spectrum or geometry.keeps_map:
        return output, spectrum.new_empty(0)
    return output, spectrum.to(dtype).contiguous()


def _forward_shapes(
    input: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor]:
    *shapes, algorithm, dtype, from_spectrum = arguments
    geometry, implementation = _geometry(weight, tuple(shapes)), IMPLEMENTATIONS[algorithm]
    dtype = dtype or weight.dtype
    batch = _batch(input, algorithm, from_spectrum)
    output = torch.empty(
        (batch, weight.shape[0], *geometry.output_size),
        dtype=dtype,
        device=input.device,
        memory_format=_output_format(input, from_spectrum),
    )
    kept: tuple[Any, ...] = (0,)
    if not (from_spectrum or geometry.keeps_map):
        kept = implementation.spectrum_shape(geometry, batch, input.shape[1])
        return output, input.new_empty(kept, dtype=dtype)
    return output, input.new_empty(kept)


def _backward(
    grad: Tensor, kept_input: Tensor, weight: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor]:
    *shapes, algorithm, dtype, from_spectrum, needs_input, needs_weight = arguments
    geometry = _geometry(weight, tuple(shapes))
    dtype = dtype or weight.dtype
    order = torch.contiguous_format if from_spectrum else memory_format(grad)
    analyzes = geometry.keeps_map and not from_spectrum
    if algorithm == "matmul" and native.applies(geometry, dtype, grad, kept_input, weight):
        grad_input, grad_weight = native.backward(
            grad, kept_input, weight, geometry, analyzes, from_spectrum, needs_input, needs_weight
        )
    else:
        implementation = _implementation(algorithm, geometry, kept_input)
        spectrum = implementation.analyze(kept_input, geometry) if analyzes else kept_input
        grad_input, grad_weight = implementation.backward(
            grad, spectrum, weight, geometry, dtype, needs_input, needs_weight
        )
        if grad_input is not None and not from_spectrum:
            grad_input = implementation.analyze_adjoint(
                grad_input, geometry, **_written_in(order, algorithm)
            )
    if grad_input is None:
        grad_input = weight.new_empty(0)
    else:
        grad_input = grad_input.to(weight.dtype).contiguous(memory_format=order)
    if grad_weight is None:
        return grad_input, weight.new_empty(0)
    if grad_weight.dtype == weight.dtype and grad_weight.stride() == weight.stride():
        return grad_input, grad_weight
    return grad_input, torch.empty_like(weight).copy_(grad_weight)


def _backward_shapes(
    grad: Tensor, kept_input: Tensor, weight: Tensor, *arguments: Any
) -> tuple[Tensor, Tensor]:
    *shapes, _, _, from_spectrum, needs_input, needs_weight = arguments
    geometry = _geometry(weight, tuple(shapes))
    empty = weight.new_empty(0)
    grad_input = empty
    if needs_input and from_spectrum:
        grad_input = weight.new_empty(kept_input.shape)
    elif needs_input:
        grad_input = torch.empty(
            (grad.shape[0], weight.shape[1] * geometry.groups, *geometry.size),
            dtype=weight.dtype,
            device=weight.device,
            memory_format=memory_format(grad),
        )
    return grad_input, torch.empty_like(weight) if needs_weight else weight.new_empty(0)


def _batch(input: Tensor, algorithm: str, from_spectrum: bool) -> int:
    frequency_major = from_spectrum and algorithm in ("matmul", "triton")
    return input.shape[1 if frequency_major else 0]


def _written_in(order: torch.memory_format, algorithm: str) -> dict[str, torch.memory_format]:
    """The order that maps are to have, for an implementation that writes them in any."""
    return {"memory_format": order} if algorithm == "triton" else {}


def _output_format(input: Tensor, from_spectrum: bool) -> torch.memory_format:
    return torch.contiguous_format if from_spectrum else memory_format(input)


band_limited_conv = torch.library.custom_op(
    "passband::band_limited_conv", _forward, mutates_args=(), schema=_FORWARD_SCHEMA
)
band_limited_conv.register_fake(_forward_shapes)

band_limited_conv_backward = torch.library.custom_op(
    "passband::band_limited_conv_backward", _backward, mutates_args=(), schema=_BACKWARD_SCHEMA
)
band_limited_conv_backward.register_fake(_backward_shapes)


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, weight, bias, *ctx.arguments = inputs
    *shapes, _, _, from_spectrum = ctx.arguments
    ctx.input_kept = from_spectrum or _geometry(weight, tuple(shapes)).keeps_map
    ctx.save_for_backward(input if ctx.input_kept else output[1], weight)
    ctx.has_bias = bias is not None
    ctx.set_materialize_grads(False)


def _differentiate_forward(
    ctx: Any, grad: Tensor | None, grad_spectrum: Tensor | None
) -> tuple[Tensor | None, ...]:
    kept, weight = ctx.saved_tensors
    needs_input, needs_weight, needs_bias, *rest = ctx.needs_input_grad
    grad_input = grad_weight = grad_bias = None
    if grad is not None and (needs_input or needs_weight):
        grad_input, grad_weight = band_limited_conv_backward(
            grad, kept, weight, *ctx.arguments, needs_input, needs_weight
        )
        grad_input = grad_input if needs_input else None
        grad_weight = grad_weight if needs_weight else None
    if grad is not None and needs_bias:
        grad_bias = grad.sum((0, *range(2, grad.dim()))).to(weight.dtype)
    if grad_spectrum is not None and needs_input and not ctx.input_kept:
        # only a second derivative reaches the spectrum, which is analyze(input)
        *shapes, algorithm, _, _ = ctx.arguments
        through = _analyze_adjoint(
            grad_spectrum, weight, _geometry(weight, tuple(shapes)), algorithm
        )
        grad_input = through if grad_input is None else grad_input + through
    return grad_input, grad_weight, grad_bias, *(None for _ in rest)


def _analyze_adjoint(
    spectrum: Tensor, weight: Tensor, geometry: ConvGeometry, algorithm: str
) -> Tensor:
    """The adjoint of `analyze` by the operator itself, so that it can be traced and differentiated.

    A filter of one tap, one for each channel, gives the padded low-passed map.
    """
    channels, ones = weight.shape[1] * geometry.groups, (1,) * geometry.axes
    taps = weight.new_ones(channels, 1, *ones)
    single = replace(geometry, kernel=ones, stride=ones, dilation=ones, groups=channels)
    maps: Tensor
    maps, _ = band_limited_conv(
        spectrum.to(weight.dtype), taps, None, *geometry_arguments(single), algorithm, None, True
    )
    for axis, ((before, _), size) in enumerate(
        zip(geometry.padding, geometry.size, strict=True), 2
    ):
        maps = maps.narrow(axis, before, size)
    return maps


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grad, kept, weight, *ctx.arguments = inputs
    ctx.save_for_backward(grad, kept, weight)
    ctx.set_materialize_grads(False)


def _differentiate_backward(
    ctx: Any, grad_input: Tensor | None, grad_weight: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Derivative of (grad, kept, weight) -> (g_input, g_weight), given cotangents of the two.

    With S(x, w) the convolution, <h, g_input> + <v, g_weight> = <S(h, w) + S(x, v), grad>.
    """
    grad, kept, weight = ctx.saved_tensors
    *arguments, needs_input, needs_weight = ctx.arguments
    *shapes, algorithm, dtype, from_spectrum = arguments
    kept_is_map = _geometry(weight, tuple(shapes)).keeps_map and not from_spectrum
    of_kept = (*shapes, algorithm, dtype, not kept_is_map)
    second_grad = second_kept = second_weight = None
    if grad_input is not None and needs_input:
        second_grad, spectrum = band_limited_conv(grad_input, weight, None, *arguments)
        kept_of_cotangent = grad_input if kept_is_map or from_spectrum else spectrum
        _, second_weight = band_limited_conv_backward(
            grad, kept_of_cotangent, weight, *arguments, False, True
        )
    if grad_weight is not None and needs_weight:
        through_weight, _ = band_limited_conv(kept, grad_weight, None, *of_kept)
        second_grad = through_weight if second_grad is None else second_grad + through_weight
        second_kept, _ = band_limited_conv_backward(grad, kept, grad_weight, *of_kept, True, False)
    return second_grad, second_kept, second_weight, *(None for _ in ctx.arguments)


band_limited_conv.register_autograd(_differentiate_forward, setup_context=_setup_forward)
band_limited_conv_backward.register_autograd(_differentiate_backward, setup_context=_setup_backward)


def _autocast(device: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """The operator under autocast: transforms as they are, the product in the autocast type.

    Inputs keep their types, so that the transforms lose nothing.
    """

    def call(input: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> Any:
        *geometry, dtype, from_spectrum = arguments
        dtype = product_dtype(weight) if dtype is None else dtype
        with torch.autocast(device, enabled=False):
            return band_limited_conv(input, weight, bias, *geometry, dtype, from_spectrum)

    return call


_LIBRARY = torch.library.Library("passband", "FRAGMENT")  # type: ignore[no-untyped-call]
for _device, _key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
    _LIBRARY.impl("band_limited_conv", _autocast(_device), _key)  # type: ignore[no-untyped-call]


@run_uncompiled("torch.func and forward-mode differentiation need torch's own operators")
def band_limited_conv_plainly(
    input: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor]:
    """The operator as a function made of torch's own, for transforms that know no others."""
    *geometry, algorithm, dtype, from_spectrum = arguments
    geometry.append(_of_torchs_operators(algorithm))
    tensors = (input, weight, bias)
    dtype = product_dtype(weight) if dtype is None else dtype
    if not is_under_autocast(weight.device):  # or an exported program would switch it off as well
        return _forward_by_torch(*tensors, *geometry, dtype, from_spectrum)
    with torch.autocast(weight.device.type, enabled=False):
        return _forward_by_torch(*tensors, *geometry, dtype, from_spectrum)


def _decompose(input: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any) -> Any:
    """The operator as matrix products and convolutions, for whoever records them: ONNX export.

    Where shapes are symbolic torch asks the same table for shapes alone; nothing is recorded then.
    """
    *geometry, algorithm, dtype, from_spectrum = arguments
    decomposed = _forward_by_torch if get_proxy_mode() is not None else _forward_shapes
    algorithm = _of_torchs_operators(algorithm)
    return decomposed(input, weight, bias, *geometry, algorithm, dtype, from_spectrum)


def _of_torchs_operators(algorithm: str) -> str:
    """The algorithm itself, or where kernels are its own, the one of the same spectrum."""
    return "matmul" if algorithm == "triton" else algorithm


torch._decomp.register_decomposition(torch.ops.passband.band_limited_conv.default)(_decompose)
