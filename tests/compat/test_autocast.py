"""Autocast: transforms in float32, the product over channels and the result in autocast's type."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import passband as pb
from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.ops.band_limited_conv.op import IMPLEMENTATIONS, geometry_arguments
from tests.support import random, relative_error

F32 = torch.float32

# The largest relative error of rounding to a type: half a unit of the last of 8 or 11 bits. The
# root mean square is 0.42 of that.
ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}

# How much larger our error may be than that of torch's convolution under autocast, which rounds
# three times: map, filter, result.
LARGER = {
    # It does the same; the gradient of the weight also sees the rounding of the saved spectrum.
    "lowpass": 1.3,
    # Spectrum, filter's spectrum and the three products; each part of the result is a difference of
    # two products, whose errors add.
    "matmul": 1.8,
}


def gradients(
    function: Callable[..., Tensor], tensors: dict[str, Tensor], dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Output and gradients by name, under autocast to `dtype`; one cotangent for all."""
    leaves = {name: value.detach().requires_grad_() for name, value in tensors.items()}
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        output = function(**leaves)
    cotangent = random(*output.shape, seed=9).to(output.dtype)
    values = torch.autograd.grad(output, list(leaves.values()), cotangent)
    return {"output": output.detach(), **dict(zip(leaves, values, strict=True))}


def tensors(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """One layer's, with a filter that keeps the scale of the map."""
    return {
        "input": random(4, 32, 15, 18, dtype=dtype, seed=1),
        "weight": random(24, 32, 3, 3, dtype=dtype, seed=2) / math.sqrt(32 * 9),
        "bias": random(24, dtype=dtype, seed=3),
    }


def ours(algorithm: str, compression: float) -> Callable[..., Tensor]:
    def function(**tensors: Tensor) -> Tensor:
        return pb.band_limited_conv2d(
            **tensors, padding=1, compression=compression, algorithm=algorithm
        )

    return function


def native(**tensors: Tensor) -> Tensor:
    return F.conv2d(**tensors, padding=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compression", [0.0, 0.5])
@pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])
def test_error_is_that_of_torch(algorithm: str, compression: float, dtype: torch.dtype) -> None:
    """Types of output and gradients are torch's, errors against float64 nearly so."""
    exact = gradients(ours("fft", compression), tensors(torch.float64))
    found = gradients(ours(algorithm, compression), tensors(), dtype)
    exact_native = gradients(native, tensors(torch.float64))
    found_native = gradients(native, tensors(), dtype)
    for name, value in found.items():
        assert value.dtype == found_native[name].dtype == (dtype if name == "output" else F32)
        error = relative_error(value, exact[name])
        error_native = relative_error(found_native[name], exact_native[name])
        assert error <= LARGER[algorithm] * error_native, name
        if algorithm == "lowpass":  # the kernels of "matmul" round once, at the end
            # more than one rounding: the product is in the smaller type, or nothing were gained
            assert name == "bias" or error >= 0.5 * ROUNDING[dtype], name


@pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])
def test_transforms_are_computed_in_float32(algorithm: str) -> None:
    """The saved spectrum is that of float64, rounded to bfloat16 once."""
    geometry = conv_geometry((15, 18), (3, 3), padding=1, compression=0.5)
    assert not geometry.keeps_map
    maps, weight = tensors()["input"], tensors()["weight"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, spectrum = torch.ops.passband.band_limited_conv(
            maps, weight, None, *geometry_arguments(geometry), algorithm, None, False
        )
    assert output.dtype == spectrum.dtype == torch.bfloat16
    exact = IMPLEMENTATIONS[algorithm].analyze(maps.double(), geometry)
    allowed = ROUNDING[torch.bfloat16] * exact.abs() + 1e-5  # and that of float32, of a few units
    assert torch.all((spectrum.double() - exact).abs() <= allowed)


@pytest.mark.parametrize("algorithm", ["auto", "lowpass", "matmul", "fft"])
def test_float64_is_left_alone(algorithm: str) -> None:
    function = ours(algorithm, 0.5)
    plain = gradients(function, tensors(torch.float64))
    under_autocast = gradients(function, tensors(torch.float64), torch.bfloat16)
    for name, value in plain.items():
        assert under_autocast[name].dtype == torch.float64
        assert torch.equal(under_autocast[name], value)


@pytest.mark.parametrize("algorithm", ["auto", "lowpass", "matmul", "fft"])
def test_disabled_inside(algorithm: str) -> None:
    """autocast(enabled=False) inside of autocast is float32 again, to the bit."""

    def disabled(**tensors: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return ours(algorithm, 0.5)(**tensors)

    plain = gradients(ours(algorithm, 0.5), tensors())
    nested = gradients(disabled, tensors(), torch.bfloat16)
    for name, value in plain.items():
        assert nested[name].dtype == torch.float32
        assert torch.equal(nested[name], value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"compression": 0.5, "algorithm": "fft"},
        {"energy": 0.9},
        {"energy": 0.9, "energy_mode": "fine"},
        {"energy": 0.9, "algorithm": "fft"},
    ],
    ids=str,
)
def test_everything_else_gives_the_same_type(arguments: dict[str, Any]) -> None:
    def function(**tensors: Tensor) -> Tensor:
        return pb.band_limited_conv2d(**tensors, padding=1, **arguments)

    exact = gradients(function, tensors(torch.float64))
    error = {
        name: relative_error(gradients(native, tensors(), torch.bfloat16)[name], value)
        for name, value in gradients(native, tensors(torch.float64)).items()
    }
    for name, value in gradients(function, tensors(), torch.bfloat16).items():
        assert value.dtype == (torch.bfloat16 if name == "output" else torch.float32)
        assert relative_error(value, exact[name]) <= LARGER["matmul"] * error[name]


@pytest.mark.parametrize("algorithm", ["auto", "lowpass", "matmul", "fft"])
def test_maps_in_bfloat16_and_weights_in_float32(algorithm: str) -> None:
    """What a layer gets from the one before it; gradients take the type of what they belong to."""
    given = tensors()
    given["input"] = given["input"].bfloat16()
    found = gradients(ours(algorithm, 0.5), given, torch.bfloat16)
    types = [value.dtype for value in found.values()]
    assert types == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    with pytest.raises(TypeError, match=r"weight is torch.float32, but input is torch.bfloat16"):
        ours(algorithm, 0.5)(**given)


def test_training_with_master_weights() -> None:
    """A network under autocast: weights and their gradients stay in float32, and it learns."""
    torch.manual_seed(0)
    model = nn.Sequential(
        pb.BandLimitedConv2d(3, 8, 3, padding=1, compression=0.5, algorithm="matmul"),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        pb.BandLimitedConv2d(8, 4, 3, padding=1, compression=0.5, algorithm="lowpass"),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, losses = torch.randn(8, 3, 12, 11), []
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (model(x).float() - x.mean(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert all(
            p.grad is not None and p.grad.dtype == p.dtype == F32 for p in model.parameters()
        )
    assert losses[-1] < 0.7 * losses[0]


def test_cached_filters_follow_autocast() -> None:
    """In evaluation, with and without autocast in turn: each finds filters of its own type."""
    torch.manual_seed(0)
    layer = pb.BandLimitedConv2d(8, 6, 3, padding=1, compression=0.5, algorithm="matmul").eval()
    x = torch.randn(2, 8, 11, 12)
    with torch.no_grad():
        plain = layer(x)
        for dtype in (torch.bfloat16, torch.float16, torch.bfloat16):
            with torch.autocast("cpu", dtype=dtype):
                rounded = layer(x)
                with torch.enable_grad():  # does not use the cache
                    assert torch.equal(rounded, layer(x))
                with torch.autocast("cpu", enabled=False):
                    assert torch.equal(layer(x), plain)
            assert rounded.dtype == dtype
            assert torch.equal(layer(x), plain)
