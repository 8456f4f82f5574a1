"""Convolution, batch norm, activation and pooling as one block that keeps little memory.

The modules stay what they are; where gradients are asked for, a block runs them as one operation
(`passband.ops.conv_block`), elsewhere and where it cannot, one after the other.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from passband.nn.fused_parts import (
    activation_of,
    conv_call,
    is_convolution,
    is_norm,
    is_plain_norm,
    joint_group,
    norm_activation,
    norm_call,
    output_points,
    pool_of,
)
from passband.nn.probes import has_other_hooks, probed
from passband.ops.band_limited_conv.layout import is_under_autocast
from passband.ops.conv_block import single
from passband.ops.conv_block.activation import Activation
from passband.ops.conv_block.block import BlockCall, conv_block
from passband.ops.conv_block.chain import ChainCall, Stage, conv_chain
from passband.ops.conv_block.convolution import Conv
from passband.ops.tracing import is_transformed, run_uncompiled

EAGER = "an exact-memory block chooses what it keeps by itself, which a compiler would do as well"

ActivationLike = nn.Module | tuple[str, Any] | None


class ConvBlock(nn.Module):
    """conv -> batch norm -> (+ residual) -> activation -> pooling that keeps a spectrum only.

    In training the ordinary layers keep the convolution's input, its output and the activation's.
    This block keeps what the convolution needs of its input (of a band-limited one the truncated
    spectrum), makes the output again in the backward pass, and its gradients are the same, to
    rounding.

    Args:
        conv: A convolution, band-limited or torch's.
        norm: A batch norm, or None.
        activation: torch.nn.ReLU, ReLU6, LeakyReLU, SiLU, Hardswish, Tanh or GELU, or None.
        pool: Maximum or average pooling of one or two axes, or None.
        spectrum_dtype: "bfloat16" or "int8" keeps spectra in fewer bits: approximate.
        offload: "cpu" or "disk" moves what is kept out of the device's memory: slower.

    Raises:
        TypeError: A module is of another type.

    Examples:
        >>> from passband import BandLimitedConv2d
        >>> conv = BandLimitedConv2d(16, 16, 3, padding=1, compression=0.5)
        >>> block = ConvBlock(conv, nn.BatchNorm2d(16), nn.ReLU())
        >>> x = torch.randn(4, 16, 32, 32, requires_grad=True)
        >>> torch.equal(block(x), torch.relu(nn.BatchNorm2d(16)(conv(x))))
        True
    """

    def __init__(
        self,
        conv: nn.Module,
        norm: nn.Module | None = None,
        activation: nn.Module | None = None,
        pool: nn.Module | None = None,
        *,
        spectrum_dtype: str | None = None,
        offload: str | None = None,
    ) -> None:
        super().__init__()
        known = {
            "conv": is_convolution(conv),
            "norm": norm is None or is_norm(norm),
            "activation": activation is None or activation_of(activation) is not None,
            "pool": pool is None or pool_of(pool) is not None,
        }
        for name, fits in known.items():
            if not fits:
                raise TypeError(
                    f"{name} is {type(locals()[name]).__name__}, which an exact-memory block does "
                    "not know; use the modules one by one"
                )
        self.conv, self.norm, self.activation, self.pool = conv, norm, activation, pool
        self.spectrum_dtype, self.offload = spectrum_dtype, offload

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The block's output; `residual` is added before the activation."""
        return run_block(
            x, residual, self.conv, self.norm, self.activation, self.pool,
            self.spectrum_dtype, self.offload,
        )  # fmt: skip


def run_block(
    x: Tensor,
    residual: Tensor | None,
    conv: nn.Module,
    norm: nn.Module | None,
    activation: ActivationLike,
    pool: nn.Module | None,
    spectrum_dtype: str | None = None,
    offload: str | None = None,
) -> Tensor:
    """A block of modules as one operation, or where that is not possible one after the other."""
    if not _may_be_differentiated():
        return _one_by_one(x, residual, conv, norm, activation, pool)
    output: Tensor = _run_block(x, residual, conv, norm, activation, pool, spectrum_dtype, offload)
    return output


@run_uncompiled(EAGER)
def _run_block(
    x: Tensor,
    residual: Tensor | None,
    conv: nn.Module,
    norm: nn.Module | None,
    activation: ActivationLike,
    pool: nn.Module | None,
    spectrum_dtype: str | None,
    offload: str | None,
) -> Tensor:
    modules = [m for m in (conv, norm, activation, pool) if isinstance(m, nn.Module)]
    call = _conv_of_block(x, conv, norm, modules, spectrum_dtype)
    if call is None or (residual is not None and not _adds(x, residual, conv, call)):
        return _one_by_one(x, residual, conv, norm, activation, pool)
    block = BlockCall(
        call,
        None if norm is None else norm_call(norm),
        _activation(norm, activation),
        None if pool is None else pool_of(pool),
        offload,
    )
    gamma, beta = (None, None) if norm is None else (norm.weight, norm.bias)
    with probed(conv, x):
        return conv_block(block, x, residual, conv.weight, conv.bias, gamma, beta)  # type: ignore[arg-type]


def run_chain(
    features: Tensor | Sequence[Tensor],
    stages: Sequence[tuple[nn.Module, ActivationLike, nn.Module]],
    pool: nn.Module | None = None,
) -> Tensor:
    """(batch norm, activation, convolution) of each stage as one operation, or one by one.

    Args:
        features: Maps, or several that are concatenated along the channels.
        stages: Batch norm, activation or None, and convolution of each stage.
        pool: Average pooling at the end, or None.
    """
    given = [features] if isinstance(features, Tensor) else list(features)
    if not _may_be_differentiated():
        return _stages_one_by_one(given, stages, pool)
    output: Tensor = _run_chain(given, stages, pool)
    return output


@run_uncompiled(EAGER)
def _run_chain(
    given: list[Tensor],
    stages: Sequence[tuple[nn.Module, ActivationLike, nn.Module]],
    pool: nn.Module | None,
) -> Tensor:
    modules = [m for stage in stages for m in stage if isinstance(m, nn.Module)]
    inputs: list[Tensor] = []
    calls = _convs_of_chain(given, stages, modules, inputs)
    if calls is None:
        return _stages_one_by_one(given, stages, pool)
    chain = ChainCall(
        tuple(
            Stage(norm_call(norm), _activation(norm, activation), call)
            for (norm, activation, _), call in zip(stages, calls, strict=True)
        ),
        None if pool is None else pool_of(pool),
    )
    parameters: list[Any] = []
    for norm, _, conv in stages:
        parameters += [conv.weight, conv.bias, norm.weight, norm.bias]
    with ExitStack() as stack:
        for (_, _, conv), x in reversed(list(zip(stages, inputs, strict=True))):
            stack.enter_context(probed(conv, x))
        return conv_chain(chain, given, parameters)


def run_max_pool(x: Tensor, pool: Any) -> Any:
    """Maximum pooling that keeps a byte per output."""
    return _run_max_pool(x, pool) if _may_be_differentiated() else pool(x)


@run_uncompiled(EAGER)
def _run_max_pool(x: Tensor, pool: Any) -> Any:
    call = pool_of(pool)
    if call is None or not _is_differentiated(x, [pool]) or x.dim() < 3:
        return pool(x)
    axes = 1 if isinstance(pool, nn.MaxPool1d) else 2
    return single.max_pool(x, call) if x.dim() == axes + 2 else pool(x)


def run_dropout(x: Tensor, module: Any) -> Any:
    """Dropout that keeps the state of the random generator."""
    return _run_dropout(x, module) if _may_be_differentiated() else module(x)


@run_uncompiled(EAGER)
def _run_dropout(x: Tensor, module: Any) -> Any:
    if not module.training or not 0 < module.p < 1 or not _is_differentiated(x, [module]):
        return module(x)
    return single.dropout(x, module.p)


def _conv_of_block(
    x: Tensor,
    conv: nn.Module,
    norm: nn.Module | None,
    modules: Sequence[nn.Module],
    spectrum_dtype: str | None,
) -> Conv | None:
    """The convolution's call, if the block can run as one operation."""
    if not _is_differentiated(x, modules) or not _fits(x, conv):
        return None
    if norm is not None and not _normalises(norm):
        return None
    call = conv_call(conv, x, spectrum_dtype)
    if call is None or (norm is not None and _is_single_value(norm, len(x), output_points(call))):
        return None
    return call


def _convs_of_chain(
    features: Sequence[Tensor],
    stages: Sequence[tuple[nn.Module, ActivationLike, nn.Module]],
    modules: Sequence[nn.Module],
    inputs: list[Tensor],
) -> list[Conv] | None:
    """The convolutions' calls, if the chain can run as one operation.

    Maps of the shapes that they are given, without values, are added to `inputs`.
    """
    first, shape = features[0], features[0].shape
    calls: list[Conv] = []
    if not _is_differentiated(first, modules, *features[1:]):
        return None
    if any(f.shape[2:] != shape[2:] or f.dtype != first.dtype for f in features):
        return None
    channels, size = sum(f.shape[1] for f in features), tuple(shape[2:])
    for norm, _, conv in stages:
        x = first.detach().new_empty(()).expand(shape[0], channels, *size)
        if not _normalises(norm) or not _fits(x, conv):
            return None
        if getattr(conv, "energy", None) is not None:
            return None  # the band would depend on maps that are not there yet
        call = conv_call(conv, x, None)
        if call is None or _is_single_value(norm, len(x), x.shape[2:]):
            return None
        calls.append(call)
        inputs.append(x)
        channels, size = conv.out_channels, tuple(output_points(call))  # type: ignore[assignment]
    return calls


def _may_be_differentiated() -> bool:
    """Whether gradients are recorded, and by nobody who needs torch's own operators.

    A compiler and an export follow the modules one by one otherwise.
    """
    return torch.is_grad_enabled() and not is_transformed()


def _is_differentiated(x: Tensor, modules: Sequence[nn.Module], *more: Tensor) -> bool:
    """Whether plain gradients of plain modules are asked for."""
    return (
        all(type(t) in (Tensor, nn.Parameter) for t in (x, *more))
        and not any(has_other_hooks(module) for module in modules)
        and (
            any(t.requires_grad for t in (x, *more))
            or any(p.requires_grad for module in modules for p in module.parameters(False))
        )
    )


def _fits(x: Tensor, conv: Any) -> bool:
    """Whether a convolution is one that blocks know, and takes these maps."""
    weight = conv.weight
    return (
        is_convolution(conv)
        and type(weight) in (Tensor, nn.Parameter)
        and x.dim() == weight.dim()
        and x.shape[1] == conv.in_channels
        and x.device == weight.device
        and (x.dtype == weight.dtype or is_under_autocast(x.device))
        and len(x) > 0
    )


def _normalises(norm: nn.Module) -> bool:
    return is_norm(norm) and is_plain_norm(norm)


def _is_single_value(norm: nn.Module, images: int, points: Sequence[int]) -> bool:
    """Whether a channel has one value, of which torch's batch norm says that it has no variance."""
    is_one = images == 1 and all(n == 1 for n in points)
    return norm.training and is_one and joint_group(norm) is None


def _adds(x: Tensor, residual: Tensor, conv: Any, call: Conv) -> bool:
    """Whether the residual is as large as the convolution's output."""
    shape = (len(x), conv.out_channels, *output_points(call))
    return type(residual) is Tensor and tuple(residual.shape) == shape


def _activation(norm: nn.Module | None, activation: ActivationLike) -> Activation | None:
    if norm is not None and activation is None:
        activation = norm_activation(norm)
    if activation is None:
        return None
    if isinstance(activation, tuple):
        return Activation(*activation)
    return activation_of(activation)


def _activate(v: Tensor, activation: ActivationLike) -> Tensor:
    if activation is None:
        return v
    return Activation(*activation).forward(v) if isinstance(activation, tuple) else activation(v)


def _stages_one_by_one(
    given: list[Tensor],
    stages: Sequence[tuple[nn.Module, ActivationLike, nn.Module]],
    pool: nn.Module | None,
) -> Tensor:
    v = given[0] if len(given) == 1 else torch.cat(given, 1)
    for norm, activation, conv in stages:
        v = conv(_activate(norm(v), activation))
    result: Tensor = v if pool is None else pool(v)
    return result


def _one_by_one(
    x: Tensor,
    residual: Tensor | None,
    conv: nn.Module,
    norm: nn.Module | None,
    activation: ActivationLike,
    pool: nn.Module | None,
) -> Tensor:
    v = conv(x) if norm is None else norm(conv(x))
    v = v if residual is None else v + residual
    v = _activate(v, activation)
    return v if pool is None else pool(v)
