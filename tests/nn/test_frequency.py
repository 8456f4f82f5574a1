"""Layers with DCT coefficients for weights, against the layers that they stand for."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from passband.nn.frequency import (
    FrequencyConv1d,
    FrequencyConv2d,
    FrequencyConvTranspose2d,
    FrequencyLinear,
)
from passband.nn.frequency_layer import FrequencyLayer, frequency_ranks
from passband.spectrum.dct import dct, idct
from tests.support import assert_close, random

# layer, its dual, a map of odd sizes
LAYERS: list[tuple[nn.Module, type[FrequencyLayer], tuple[int, ...]]] = [
    (nn.Conv1d(5, 7, 3, stride=2, padding=1), FrequencyConv1d, (2, 5, 11)),
    (nn.Conv2d(5, 7, 3, padding=1), FrequencyConv2d, (2, 5, 9, 6)),
    (nn.Conv2d(5, 7, (3, 5), 2, dilation=2, padding=4, bias=False), FrequencyConv2d, (2, 5, 9, 11)),
    (nn.Conv2d(5, 7, 3, padding="same"), FrequencyConv2d, (1, 5, 9, 6)),
    (nn.Conv2d(5, 7, 3, padding=1, padding_mode="circular"), FrequencyConv2d, (1, 5, 9, 6)),
    (nn.Conv2d(5, 7, 3, padding=1, padding_mode="reflect"), FrequencyConv2d, (1, 5, 9, 6)),
    (nn.ConvTranspose2d(5, 7, 2, 2), FrequencyConvTranspose2d, (2, 5, 4, 3)),
    (nn.ConvTranspose2d(5, 7, 3, 2, 1, 1, bias=False), FrequencyConvTranspose2d, (2, 5, 4, 3)),
    (nn.Linear(5, 7), FrequencyLinear, (2, 5)),
]
IDS = [f"{i}-{type(layer).__name__}" for i, (layer, _, _) in enumerate(LAYERS)]


def made(index: int, **options: Any) -> tuple[nn.Module, FrequencyLayer, Tensor]:
    """A torch layer with fixed weights, its dual, and a map, in float64."""
    template, kind, shape = LAYERS[index]
    layers = []
    for _ in range(2):
        layer = type(template).__new__(type(template))
        layer.__dict__.update(template.__dict__)
        layer._parameters = {}
        for seed, (name, value) in enumerate(template._parameters.items()):
            fresh = None if value is None else nn.Parameter(random(*value.shape, seed=seed))
            layer._parameters[name] = fresh
        layers.append(layer)
    return layers[0], kind.from_layer(layers[1], **options), random(*shape, seed=9)


@pytest.mark.parametrize("index", range(len(LAYERS)), ids=IDS)
def test_with_everything_kept_it_is_the_layer_between_transforms(index: int) -> None:
    """yh = D_out y for xh = D_in x: mathematics, no approximation."""
    layer, dual, x = made(index)
    assert_close(dual(dct(x, 1)), dct(layer(x), 1))


@pytest.mark.parametrize("index", range(len(LAYERS)), ids=IDS)
def test_in_the_spatial_domain_it_is_the_layer(index: int) -> None:
    layer, dual, x = made(index, domain="spatial")
    assert_close(dual(x), layer(x))


@pytest.mark.parametrize("order", ["shells", "zigzag"])
@pytest.mark.parametrize("index", range(len(LAYERS)), ids=IDS)
def test_what_is_cut_is_zero(index: int, order: str) -> None:
    """The cut layer is the torch layer with weights whose dropped coefficients are zero."""
    _, dual, x = made(index, order=order)
    dual.keep_count(dual.corner.count // 3)
    assert 1 < dual.in_kept <= 5 and 1 < dual.out_kept <= 7
    cut = dual(dct(x, 1)[:, : dual.in_kept])
    assert cut.shape[1] == dual.out_kept
    assert_close(dual(dct(x, 1)), cut)  # what is beyond is not read
    _, whole, _ = made(index, order=order)
    whole.keep_count(dual.corner.count)
    plain = whole.to_layer()
    expected = dct(plain(x), 1)
    assert_close(expected[:, : dual.out_kept], cut)
    # zero but for rounding
    assert expected[:, dual.out_kept :].norm() < 1e-12 * expected.norm()


@pytest.mark.parametrize("index", range(len(LAYERS)), ids=IDS)
def test_gradients_reach_the_kept_coefficients_alone(index: int) -> None:
    _, dual, x = made(index)
    dual.keep_count(dual.corner.count // 3)
    dual(dct(x, 1)).square().sum().backward()
    grad = dual.weight.grad
    assert grad is not None
    box = tuple(map(slice, dual.corner.extents))
    mask = dual.corner.mask()
    kept = torch.zeros_like(grad, dtype=torch.bool)
    kept[box] = True if mask is None else mask
    assert not grad[~kept].any()
    assert (grad[kept] != 0).all()


@pytest.mark.parametrize("index", range(len(LAYERS)), ids=IDS)
def test_cutting_changes_memory_and_not_the_function(index: int) -> None:
    _, dual, x = made(index)
    dual.keep_count(dual.corner.count // 4)
    before = dual(dct(x, 1))
    dual.cut()
    assert tuple(dual.weight.shape) == dual.corner.extents
    assert torch.equal(dual(dct(x, 1)), before)


def test_what_comes_back_begins_at_zero() -> None:
    for cut in (False, True):
        _, dual, x = made(1)
        everything = dual.corner
        dual.keep_count(40)
        if cut:
            dual.cut()
        before = dual(dct(x, 1))
        dual.keep(everything)
        after = dual(dct(x, 1))
        channels = before.shape[1]
        assert_close(after[:, :channels], before)
        assert dual.bias is not None
        bias = dual.bias[channels:].view(1, -1, 1, 1)
        assert_close(after[:, channels:], bias.expand_as(after[:, channels:]))


def test_weights_start_as_torchs_do() -> None:
    torch.manual_seed(3)
    dual = FrequencyConv2d(40, 60, 3)
    torch.manual_seed(3)
    native = nn.Conv2d(40, 60, 3)
    # an orthonormal transform there and back, in float32
    assert_close(dual.spatial_weight(), native.weight)
    assert_close(idct(dual.bias, 0), native.bias)  # type: ignore[arg-type]


def test_concatenated_maps_have_a_transform_each() -> None:
    layer = nn.Conv2d(7, 6, 3, padding=1).double()
    x = random(2, 7, 5, 4)
    expected = dct(layer(x), 1)
    dual = FrequencyConv2d.from_layer(layer, in_blocks=(4, 3))
    xh = torch.cat([dct(x[:, :4], 1), dct(x[:, 4:], 1)], 1)
    order = [k if block == 0 else 4 + k for block, k in frequency_ranks((4, 3))]
    assert order == [0, 4, 1, 5, 2, 6, 3]
    dual.input_index = torch.arange(7)
    dual.weight_index = torch.tensor([order.index(channel) for channel in range(7)])
    assert_close(dual(xh), expected)


def test_a_linear_layer_after_a_map_is_a_convolution_of_its_size() -> None:
    layer = nn.Linear(5 * 3 * 2, 4).double()
    x = random(2, 5, 3, 2)
    expected = dct(layer(x.flatten(1)), 1)
    dual = FrequencyLinear.from_layer(layer, positions=(3, 2))
    assert dual.sizes == (4, 5, 3, 2)
    assert_close(dual(dct(x, 1).flatten(1)), expected)
    dual.keep_count(2**4)
    kept = dct(x, 1)[:, : dual.in_kept].flatten(1)
    assert_close(dual(kept), dual(dct(x, 1).flatten(1)))


def test_multiplications_are_those_of_the_kept_channels() -> None:
    dual = FrequencyConv2d(64, 128, 3, padding=1)
    dual.keep_count(516)
    assert dual.macs((2, 64, 16, 16)) == 2 * 16 * 16 * 8 * 8 * 9
    assert dual.macs((2, 5, 16, 16)) == 2 * 16 * 16 * 5 * 8 * 9
    assert dual.macs((2, 5, 16, 16), dense=True) == 2 * 16 * 16 * 64 * 128 * 9
    assert FrequencyConvTranspose2d(8, 4, 2, 2).macs((1, 8, 5, 5)) == 25 * 8 * 4 * 4


def test_the_state_brings_the_corner_along() -> None:
    _, dual, x = made(1)
    dual.keep_count(40)
    dual.cut()
    _, fresh, _ = made(1)
    fresh.load_state_dict(dual.state_dict())
    assert fresh.corner == dual.corner
    assert torch.equal(fresh(dct(x, 1)), dual(dct(x, 1)))
    other = FrequencyConv2d(4, 7, 3).double()
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        other.load_state_dict(made(1)[1].state_dict())


def test_kept_coefficients_are_all_there_is() -> None:
    for order in ("shells", "zigzag"):
        _, dual, x = made(1, order=order)
        dual.keep_count(50)
        _, other, _ = made(1, order=order)
        other.make_room(dual.corner)
        other.weight.data = other.box_of(dual.kept_coefficients())
        assert len(dual.kept_coefficients()) == 50
        assert torch.equal(other(dct(x, 1)), dual(dct(x, 1)))


def test_moves_and_casts_as_modules_do() -> None:
    layer = FrequencyConv2d(5, 7, 3)
    layer.keep_count(50)
    assert layer.double()(random(1, 5, 4, 4)).dtype == torch.float64


def test_what_has_no_dual_is_refused() -> None:
    with pytest.raises(ValueError, match=r"groups is 2, which has no dual .* use 1, or domain"):
        FrequencyConv2d(4, 4, 3, groups=2)
    with pytest.raises(ValueError, match="domain is 'time'; allowed are channel, spatial"):
        FrequencyConv2d(4, 4, 3, domain="time")
    with pytest.raises(TypeError, match="layer is Conv1d, allowed is exactly Conv2d"):
        FrequencyConv2d.from_layer(nn.Conv1d(1, 1, 1))
    x = random(1, 4, 5, 5)
    layer = nn.Conv2d(4, 6, 3, groups=2).double()
    expected = layer(x)
    assert_close(FrequencyConv2d.from_layer(layer, domain="spatial")(x), expected)
