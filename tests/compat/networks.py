"""The small networks that these tests compile, export, distribute and copy."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import passband as pb
from tests.support import relative_error

ALGORITHMS = ("auto", "lowpass", "matmul")
SIZES = {1: (19,), 2: (9, 7), 3: (5, 4, 6)}
_LAYERS = {1: pb.BandLimitedConv1d, 2: pb.BandLimitedConv2d, 3: pb.BandLimitedConv3d}
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def layer(axes: int, *args: Any, **kwargs: Any) -> nn.modules.conv._ConvNd:
    return _LAYERS[axes](*args, **kwargs)


def convolution(axes: int, *args: Any, **kwargs: Any) -> nn.modules.conv._ConvNd:
    return _CONVOLUTIONS[axes](*args, **kwargs)


def small_network(
    algorithm: str = "auto", axes: int = 2, compression: float = 0.5
) -> nn.Sequential:
    """Convolution, batch norm, ReLU, and a strided grouped convolution at full band.

    The first has no bias, whose gradient is nothing but rounding in front of a batch norm.
    """
    torch.manual_seed(1)
    return nn.Sequential(
        layer(axes, 4, 6, 3, padding=1, bias=False, compression=compression, algorithm=algorithm),
        _NORMS[axes](6),
        nn.ReLU(),
        layer(axes, 6, 4, 3, stride=2, groups=2, compression=0.0, algorithm=algorithm),
    )


def maps(batch: int = 3, axes: int = 2, size: tuple[int, ...] | None = None) -> Tensor:
    torch.manual_seed(batch)
    return torch.randn(batch, 4, *(size or SIZES[axes]))


def training_step(model: nn.Module, x: Tensor, run: Any = None) -> dict[str, Tensor]:
    """Output and the gradients of input and parameters; `run` is what is called for the model."""
    x = x.detach().requires_grad_()
    model.zero_grad()
    output = (run or model)(x)
    output.float().square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"output": output.detach(), "input": x.grad, **gradients}


def assert_same(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float
) -> None:
    """The same names, and each tensor equal in relative norm."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        error = relative_error(found[name], value)
        assert error <= tolerance, f"{name}: relative error {error:.2e}, allowed {tolerance:.0e}"
