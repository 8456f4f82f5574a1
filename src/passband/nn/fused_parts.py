"""What torch's modules are to a fused block: convolutions, batch norms, activations, poolings."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from passband.nn.band_limited import BandLimitedConv1d, BandLimitedConv2d, BandLimitedConv3d
from passband.ops.band_limited_conv.geometry import conv_geometry, per_axis
from passband.ops.band_limited_conv.layout import product_dtype
from passband.ops.band_limited_conv.select import select_algorithm
from passband.ops.conv_block.activation import Activation
from passband.ops.conv_block.convolution import Conv, PlainConv, SpectralConv
from passband.ops.conv_block.normalisation import NormCall
from passband.ops.conv_block.pooling import Pool
from passband.spectrum.energy import band_from_energy

BAND_LIMITED = (BandLimitedConv1d, BandLimitedConv2d, BandLimitedConv3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *BAND_LIMITED)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

_ACTIVATIONS: dict[type[nn.Module], Callable[[Any], Activation]] = {
    nn.ReLU: lambda _: Activation("relu"),
    nn.ReLU6: lambda _: Activation("relu6"),
    nn.LeakyReLU: lambda module: Activation("leaky_relu", float(module.negative_slope)),
    nn.SiLU: lambda _: Activation("silu"),
    nn.Hardswish: lambda _: Activation("hardswish"),
    nn.Tanh: lambda _: Activation("tanh"),
    nn.GELU: lambda module: Activation("gelu", str(module.approximate)),
}


def is_convolution(module: nn.Module) -> bool:
    """Whether a module is a convolution that a block can begin with."""
    return type(module) in CONVOLUTIONS and getattr(module, "padding_mode", "") == "zeros"


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm, perhaps with an activation in it as timm has them."""
    return type(module) in NORMS or _is_timm_norm(module)


def _is_timm_norm(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm.layers")


def norm_activation(norm: Any) -> nn.Module | None:
    """The activation inside a batch norm of timm's; None where there is none."""
    if not _is_timm_norm(norm):
        return None
    activation = norm.act
    assert isinstance(activation, nn.Module)
    return None if type(activation) is nn.Identity else activation


def is_plain_norm(norm: Any) -> bool:
    """Whether a batch norm does nothing else: no dropout, an activation that is known."""
    if not _is_timm_norm(norm):
        return True
    activation = norm_activation(norm)
    known = activation is None or activation_of(activation) is not None
    return known and type(norm.drop) is nn.Identity


def activation_of(module: nn.Module) -> Activation | None:
    """The activation that a module is, or None."""
    make = _ACTIVATIONS.get(type(module))
    return None if make is None else make(module)


def pool_of(module: Any) -> Pool | None:
    """The pooling of one or two axes that a module is, or None."""
    kind = type(module)
    axes = 1 if kind in (nn.MaxPool1d, nn.AvgPool1d) else 2

    def pair(value: Any, row: int) -> tuple[int, int]:
        """One number per axis; of a series, and of its one row."""
        numbers = per_axis("pooling", value, axes, 0)
        return (row, numbers[0]) if axes == 1 else (numbers[0], numbers[1])

    pool: Pool | None = None
    if kind in (nn.MaxPool1d, nn.MaxPool2d) and not module.return_indices:
        pool = Pool(
            "max", pair(module.kernel_size, 1), pair(module.stride, 1), pair(module.padding, 0),
            pair(module.dilation, 1), bool(module.ceil_mode),
        )  # fmt: skip
    elif kind in (nn.AvgPool1d, nn.AvgPool2d):
        pool = Pool(
            "average", pair(module.kernel_size, 1), pair(module.stride, 1), pair(module.padding, 0),
            (1, 1), bool(module.ceil_mode), bool(module.count_include_pad),
            getattr(module, "divisor_override", None),
        )  # fmt: skip
    return pool if pool is not None and pool.fits else None


def conv_call(conv: Any, x: Tensor, spectrum_dtype: str | None) -> Conv | None:
    """A convolution's call on maps, or None where a block cannot make it."""
    dtype = product_dtype(conv.weight)
    shapes = (
        tuple(x.shape[2:]),
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
    )
    if type(conv) not in BAND_LIMITED:
        return PlainConv(conv_geometry(*shapes), dtype)
    geometry = conv_geometry(
        *shapes, compression=conv.compression, band=conv.band, fft_size=conv.fft_size
    )
    if conv.energy is not None:
        if conv.energy_mode != "coarse":
            return None
        chosen = band_from_energy(x, geometry.grid, conv.energy, conv.energy_mode)
        geometry = replace(geometry, kept=chosen.band.kept)
    algorithm = select_algorithm(
        conv.algorithm, geometry, len(x), conv.in_channels, conv.out_channels, conv.weight.device,
        dtype, True,
    ).algorithm  # fmt: skip
    if algorithm == "fft":
        return None
    if algorithm == "lowpass" and geometry.band.is_full:
        return PlainConv(conv_geometry(*shapes), dtype)
    return SpectralConv(geometry, algorithm, dtype, spectrum_dtype)


def norm_call(norm: Any) -> NormCall:
    """A batch norm's call, counted as torch's modules count theirs."""
    factor = 0.0 if norm.momentum is None else norm.momentum
    updates = norm.training and norm.track_running_stats
    if updates and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            factor = 1.0 / float(norm.num_batches_tracked)
    statistics = takes_batch_statistics(norm)
    tracked = not norm.training or norm.track_running_stats
    mean, var = (norm.running_mean, norm.running_var) if tracked else (None, None)
    return NormCall(statistics, factor, norm.eps, mean, var, joint_group(norm))


def takes_batch_statistics(norm: nn.modules.batchnorm._BatchNorm) -> bool:
    """Whether a batch norm takes the batch's own mean and variance in this call."""
    return norm.training or (norm.running_mean is None and norm.running_var is None)


def joint_group(norm: nn.Module) -> "torch.distributed.ProcessGroup | None":
    """The processes over which a batch norm averages in this call; None where it is this alone."""
    if not (isinstance(norm, nn.SyncBatchNorm) and norm.training):
        return None
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    group = norm.process_group or torch.distributed.group.WORLD
    return group if torch.distributed.get_world_size(group) > 1 else None


def output_points(conv: Conv) -> Sequence[int]:
    """Points of a convolution's output per axis."""
    return conv.geometry.output_size
