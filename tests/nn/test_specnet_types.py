"""SpecNet's layers in other types than float32, and under autocast."""

import pytest
import torch
from torch import nn

import passband as pb
from passband.nn.specnet import SpectralConv2d
from passband.nn.spectral_map import SpectralMap
from tests.support import assert_close, random, relative_error


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)  # float32: by kernels
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("activation", ["identity", "relu", "spectral-tanh"])
@pytest.mark.parametrize("batch", [3, 9])
def test_maps_have_memory_of_their_own(
    dtype: torch.dtype, grad: bool, activation: str, batch: int
) -> None:
    layer = SpectralConv2d(2, 3, 3, padding=1, activation=activation, dtype=dtype)
    x = random(batch, 2, 6, 5, dtype=dtype)
    for given in (layer(x), SpectralMap.of(x)):
        with torch.set_grad_enabled(grad):
            maps = given.to_map()
        flat = maps.view(batch, -1)
        expected = maps.detach().clone().relu()
        maps.relu_()
        assert torch.equal(maps, expected)
        assert torch.equal(flat, expected.flatten(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_maps_are_changed_in_place_before_they_are_differentiated(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = [SpectralConv2d(2, 3, 3, padding=1, activation="identity", dtype=dtype) for _ in "ab"]
    x = random(3, 2, 6, 5, dtype=dtype)
    found = (layers[0](x) + layers[1](x)).to_map()
    expected = (layers[0].to_conv()(x) + layers[1].to_conv()(x)).relu()
    weights = [layer.weight for layer in layers]
    wanted = torch.autograd.grad(expected.square().sum(), weights)
    for own, other in zip(
        torch.autograd.grad(found.relu_().square().sum(), weights), wanted, strict=True
    ):
        assert_close(own, other)


def test_eight_bits_under_autocast() -> None:
    """Gradients or not: with them, spectra in autocast's type are stored in 8 bits."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(SpectralConv2d(c, 16, 3, padding=1, activation="relu", storage="int8") for c in (3, 16))
    )
    x = random(9, 3, 8, 8, dtype=torch.float32)
    with torch.no_grad():
        expected = model(x).to_map()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x).to_map()
    # two layers, each half a step of 1/127 of the largest value, and bfloat16's roundoff of 1/256
    assert relative_error(found, expected) < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("activation", ["relu", "spectral-tanh"])
def test_a_batch_without_images(activation: str, storage: str, dtype: torch.dtype) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(), nn.Flatten(), nn.Linear(256, 2),
    ).to(dtype)  # fmt: skip
    norms = "keep" if activation == "relu" else "remove"
    config = pb.SpecNet(0.1, activation=activation, storage=storage, batch_norm=norms)
    pb.convert(model, config)
    x = torch.zeros(0, 3, 8, 8, dtype=dtype)
    output = model(x)
    assert output.shape == model.eval()(x).shape == (0, 2)
    output.sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()
    for buffer in model.buffers():
        assert buffer.isfinite().all()


@pytest.mark.parametrize("activation", ["relu", "spectral-tanh"])
def test_an_input_of_another_type_is_refused(activation: str) -> None:
    layer = SpectralConv2d(3, 4, 3, padding=1, activation=activation)
    x = random(2, 3, 8, 8)
    for dtype in (torch.float64, torch.float16, torch.uint8, torch.complex64):
        message = f"input is {dtype}, but weights are torch.float32: use input.to"
        with pytest.raises(TypeError, match=message):
            layer(x.to(dtype))
    with pytest.raises(TypeError, match=r"input is torch.float64, but weights are torch.float32"):
        layer(SpectralMap.of(x))
    with pytest.raises(TypeError, match="input is of type ndarray, allowed are tensors and"):
        layer(x.numpy())
    with pytest.raises(TypeError, match=r"weights are torch.bfloat16, .* use torch.autocast"):
        layer.bfloat16()(x.bfloat16())
    with pytest.raises(ValueError, match=r"maps have shape \(8, 8\), allowed is \(B, C, n1, ..\)"):
        SpectralMap.of(x[0, 0])
    with pytest.raises(TypeError, match=r"maps are torch.uint8, allowed are real floating types"):
        SpectralMap.of(x.byte())


def test_sums_with_numbers_and_by_broadcasting() -> None:
    x, y = random(2, 3, 6, 5), random(1, 3, 1, 1, seed=1)
    maps = SpectralMap.of(x)
    for found, expected in [
        (maps + 2, x + 2), (2.5 + maps, x + 2.5), (maps + y, x + y), (y + maps, x + y),
        (maps + SpectralMap.of(y), x + y), (SpectralMap.of(x[:1, :1]) + maps, x + x[:1, :1]),
        (sum([maps, maps]), 2 * x),
    ]:  # fmt: skip
        assert isinstance(found, SpectralMap)
        assert_close(found.to_map(), expected)
    with pytest.raises(TypeError, match="unsupported operand"):
        maps + "1"
