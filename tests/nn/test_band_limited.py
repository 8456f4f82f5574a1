"""The layers are torch.nn's, with a band."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import passband as pb
from tests.ops.band_limited_conv.cases import OURS
from tests.support import assert_close, assert_same_function, random

LAYERS = {1: pb.BandLimitedConv1d, 2: pb.BandLimitedConv2d, 3: pb.BandLimitedConv3d}
NATIVE = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
SIZES = (9, 8, 7)
every_axes = pytest.mark.parametrize("axes", [1, 2, 3])

# torch says that "same" with an even filter copies the map
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

CONSTRUCTORS = {
    "plain": ((4, 6, 3), {}),
    "without bias": ((4, 6, 3), {"bias": False}),
    "positional": ((4, 6, 3, 2, 1, 1, 2, True, "zeros"), {}),
    "stride, dilation": ((4, 6, 2), {"stride": 2, "padding": 2, "dilation": 2}),
    "depthwise": ((4, 8, 3), {"padding": 1, "groups": 4}),
    "same": ((4, 6, 4), {"padding": "same"}),
    "valid": ((4, 6, 3), {"padding": "valid"}),
    **{
        f"{mode}, {padding}": ((4, 6, 4), {"padding": padding, "padding_mode": mode})
        for mode in ("circular", "reflect", "replicate")
        for padding in (2, "same")
    },
    "float64": ((4, 6, 3), {"dtype": torch.float64}),
}


def pair(axes: int, name: str, **band: Any):
    """A band-limited layer and torch's, with the same parameters in float64."""
    arguments, options = CONSTRUCTORS[name]
    ours = LAYERS[axes](*arguments, **options, **band).double()
    native = NATIVE[axes](*arguments, **options).double()
    ours.load_state_dict(native.state_dict())
    return ours, native


def by_parameters(layer: nn.Module):
    """A layer as a function of its input and its parameters."""
    return lambda input, **parameters: torch.func.functional_call(layer, parameters, (input,))


@every_axes
@pytest.mark.parametrize("algorithm", ["fft", "lowpass", "matmul", "auto"])
@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_at_full_band_a_layer_is_torchs(name: str, algorithm: str, axes: int) -> None:
    ours, native = pair(axes, name, algorithm=algorithm)
    tensors = {"input": random(2, 4, *SIZES[:axes]), **dict(native.named_parameters())}
    assert_same_function(by_parameters(ours), by_parameters(native), tensors)


@every_axes
@pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])
@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_with_a_band_a_layer_is_the_function(name: str, algorithm: str, axes: int) -> None:
    """Of the padded map, where the padding is not zeros."""
    ours, native = pair(axes, name, compression=0.5, algorithm=algorithm)

    def expected(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None):
        padding = native.padding
        if native.padding_mode != "zeros":
            before_and_after = native._reversed_padding_repeated_twice
            input, padding = F.pad(input, before_and_after, native.padding_mode), 0
        return OURS[axes](
            input, weight, bias, native.stride, padding, native.dilation, native.groups,
            compression=0.5, algorithm="fft",
        )  # fmt: skip

    tensors = {"input": random(2, 4, *SIZES[:axes]), **dict(native.named_parameters())}
    assert_same_function(by_parameters(ours), expected, tensors)


@every_axes
@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_one_map_without_a_batch(mode: str, axes: int) -> None:
    layer = LAYERS[axes](4, 6, 3, padding=1, padding_mode=mode, compression=0.5).double()
    maps = random(4, *SIZES[:axes])
    assert_close(layer(maps), layer(maps[None])[0])


@every_axes
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_begin_as_torchs(axes: int, bias: bool) -> None:
    torch.manual_seed(3)
    ours = LAYERS[axes](4, 6, 3, groups=2, bias=bias, compression=0.5)
    torch.manual_seed(3)
    native = NATIVE[axes](4, 6, 3, groups=2, bias=bias)
    assert list(ours.state_dict()) == list(native.state_dict())
    for name, value in native.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)


@every_axes
def test_state_dicts_fit_both_ways(axes: int) -> None:
    ours, native = LAYERS[axes](4, 6, 3, compression=0.5), NATIVE[axes](4, 6, 3)
    ours.load_state_dict(native.state_dict(), strict=True)
    assert torch.equal(ours.weight, native.weight)
    other = NATIVE[axes](4, 6, 3)
    other.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(other.weight, native.weight)
    assert torch.equal(other.bias, native.bias)


@every_axes
def test_a_layer_is_an_instance_of_torchs(axes: int) -> None:
    """So that code that looks for convolutions (initialisers, counters) finds it."""
    assert isinstance(LAYERS[axes](2, 3, 3), NATIVE[axes])


@every_axes
def test_from_conv_and_back_keeps_the_very_parameters(axes: int) -> None:
    native = NATIVE[axes](4, 6, 3, stride=2, padding=1, groups=2, padding_mode="circular").double()
    native.bias.requires_grad_(False)
    weight, bias, maps = native.weight, native.bias, random(2, 4, *SIZES[:axes])
    before = native(maps)
    ours = LAYERS[axes].from_conv(native, compression=0.5)
    assert type(ours) is LAYERS[axes]
    assert ours.weight is weight
    assert ours.bias is bias
    assert not ours.bias.requires_grad
    assert (ours.compression, ours.stride, ours.groups) == (0.5, (2,) * axes, 2)
    assert not torch.allclose(ours(maps), before)
    back = ours.to_conv()
    assert type(back) is NATIVE[axes]
    assert back.weight is weight
    assert back.bias is bias
    assert torch.equal(back(maps), before)
    assert vars(back).keys() == vars(NATIVE[axes](2, 3, 3)).keys()
    assert repr(back) == repr(native)


@pytest.mark.parametrize("training", [True, False])
def test_conversion_keeps_the_mode(training: bool) -> None:
    native = nn.Conv2d(2, 3, 3).train(training)
    ours = pb.BandLimitedConv2d.from_conv(native, compression=0.5)
    assert ours.training is training
    assert ours.to_conv().training is training


def test_conversion_keeps_hooks_and_their_handles() -> None:
    calls: list[str] = []
    native = nn.Conv2d(2, 3, 3)
    handles = [
        native.register_forward_pre_hook(lambda *_: calls.append("before")),
        native.register_forward_hook(lambda *_: calls.append("after")),
        native.register_full_backward_hook(lambda *_: calls.append("backward")),
    ]
    ours = pb.BandLimitedConv2d.from_conv(native, compression=0.5)
    for layer in (ours, ours.to_conv()):
        calls.clear()
        layer(torch.ones(1, 2, 5, 5, requires_grad=True)).sum().backward()
        assert calls == ["before", "after", "backward"]
    for handle in handles:
        handle.remove()
    for layer in (ours, ours.to_conv()):
        calls.clear()
        layer(torch.ones(1, 2, 5, 5, requires_grad=True)).sum().backward()
        assert calls == []


def test_an_optimizer_goes_on_after_a_conversion() -> None:
    native = nn.Conv2d(2, 3, 3)
    optimizer = torch.optim.SGD(native.parameters(), lr=0.1)
    ours = pb.BandLimitedConv2d.from_conv(native, compression=0.5)
    before = ours.weight.detach().clone()
    ours(random(1, 2, 5, 5, dtype=torch.float32)).sum().backward()
    optimizer.step()
    assert not torch.equal(ours.weight, before)


class Subclass(nn.Conv2d):
    pass


@pytest.mark.parametrize(
    "conv",
    [nn.Conv1d(2, 3, 3), Subclass(2, 3, 3), nn.Linear(2, 3), pb.BandLimitedConv2d(2, 3, 3)],
    ids=lambda conv: type(conv).__name__,
)
def test_only_torchs_own_layer_of_that_kind_is_taken(conv: nn.Module) -> None:
    message = f"conv is {type(conv).__name__}, allowed is exactly Conv2d"
    with pytest.raises(TypeError, match=message):
        pb.BandLimitedConv2d.from_conv(conv)


def test_set_band_counts_from_the_next_call_on() -> None:
    layer = pb.BandLimitedConv2d(2, 3, 3, padding=1, compression=0.5).double()
    maps = random(1, 2, 9, 8)

    def expected(**band: Any) -> torch.Tensor:
        return pb.band_limited_conv2d(maps, layer.weight, layer.bias, 1, 1, **band)

    assert_close(layer(maps), expected(compression=0.5))
    for training in (True, False):
        layer.train(training)
        for band in ({"compression": 0.8}, {"energy": 0.5}, {"band": (2, 3)}, {"band": 2}, {}):
            layer.set_band(**band)
            with torch.set_grad_enabled(training):
                assert_close(layer(maps), expected(**band))


@pytest.mark.parametrize("mode", ["coarse", "fine"])
def test_the_energy_mode_reaches_the_function(mode: str) -> None:
    layer = pb.BandLimitedConv2d(2, 3, 3, padding=1, energy=0.6, energy_mode=mode).double()
    maps = random(1, 2, 9, 8)
    expected = pb.band_limited_conv2d(
        maps, layer.weight, layer.bias, 1, 1, energy=0.6, energy_mode=mode
    )
    assert_close(layer(maps), expected)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("padding", [2, "same", "valid"])
def test_the_geometry_is_that_of_a_call(mode: str, padding: int | str) -> None:
    layer = pb.BandLimitedConv2d(
        2, 3, 4, padding=padding, padding_mode=mode, compression=0.5, dilation=(1, 2)
    )
    geometry = layer.geometry((9, 8))
    assert geometry.output_size == layer(torch.ones(1, 2, 9, 8)).shape[2:]
    zeros = {2: (4, 4), "same": (3, 6), "valid": (0, 0)}[padding]
    assert geometry.grid == (9 + zeros[0], 8 + zeros[1])
    if mode == "circular" and padding != "valid":
        assert geometry.size == geometry.grid  # what was put around the map is part of it


def test_what_a_layer_says_of_itself() -> None:
    layer = pb.BandLimitedConv2d(2, 3, 3, padding=1, energy=0.9, energy_mode="fine",
                                 fft_size=64, algorithm="matmul")  # fmt: skip
    assert repr(layer) == (
        "BandLimitedConv2d(2, 3, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), energy=0.9, "
        "fft_size=64, algorithm='matmul', energy_mode='fine')"
    )


MESSAGES = {
    "compression": ({"compression": 1.0}, ValueError, "compression is 1.0, allowed is 0 <= "),
    "energy": ({"energy": 0}, ValueError, "energy is 0, allowed is 0 < energy <= 1"),
    "two": ({"energy": 0.5, "band": 2}, ValueError, "energy and band are given; give at most one"),
    "type": ({"compression": "0.5"}, TypeError, "compression must be a number, got '0.5'"),
    "band": ({"band": (2, 0)}, ValueError, "band is (2, 0), allowed is at least 1 coefficient"),
    "axes of band": ({"band": (2, 2, 2)}, ValueError, "band is (2, 2, 2), allowed is one number"),
    "fft_size": ({"fft_size": 0}, ValueError, "fft_size is 0, allowed is at least 1"),
    "type of fft_size": ({"fft_size": 2.5}, TypeError, "fft_size must be a whole number or a tup"),
    "axes of fft_size": ({"fft_size": (8,) * 3}, ValueError, "fft_size is (8, 8, 8), allowed is"),
    "algorithm": ({"algorithm": "fast"}, ValueError, "algorithm is 'fast', allowed are 'auto', "),
    "energy mode": ({"energy_mode": "x"}, ValueError, "energy_mode is 'x', allowed are 'coarse'"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_of_the_constructors(name: str) -> None:
    arguments, error, message = MESSAGES[name]
    with pytest.raises(error, match=re.escape(message)):
        pb.BandLimitedConv2d(2, 3, 3, **arguments)
    with pytest.raises(error, match=re.escape(message)):
        pb.BandLimitedConv2d.from_conv(nn.Conv2d(2, 3, 3), **arguments)


@pytest.mark.parametrize("name", ["compression", "energy", "two", "type", "band", "axes of band"])
def test_a_band_that_is_refused_leaves_the_old_one(name: str) -> None:
    arguments, error, message = MESSAGES[name]
    layer = pb.BandLimitedConv2d(2, 3, 3, compression=0.25)
    with pytest.raises(error, match=re.escape(message)):
        layer.set_band(**arguments)
    assert (layer.compression, layer.energy, layer.band) == (0.25, None, None)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_messages_of_a_call(mode: str, training: bool) -> None:
    layer = pb.BandLimitedConv2d(2, 3, 3, padding=1, padding_mode=mode, compression=0.5)
    layer.train(training)
    channels = "input has 4 channels, but weight of shape (3, 2, 3, 3) with groups 1 needs 2"
    cases = {channels: (1, 4, 9, 8)}
    if mode == "zeros":  # in other modes torch itself refuses to pad such a map
        cases["input has shape (1, 1, 2, 9, 8), allowed are 4 axes"] = (1, 1, 2, 9, 8)
    with torch.set_grad_enabled(training):
        for message, shape in cases.items():
            with pytest.raises(ValueError, match=re.escape(message)):
                layer(torch.ones(shape))
        with pytest.raises(TypeError, match=r"weight is torch.float32, but input is torch.float64"):
            layer(torch.ones(1, 2, 9, 8, dtype=torch.float64))
