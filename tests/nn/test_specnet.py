import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from passband.measure.memory import SavedBytes
from passband.nn.specnet import SpectralConv1d, SpectralConv2d
from passband.nn.spectral_layers import SpectralActivation, SpectralPool, SpectralThreshold
from passband.nn.spectral_map import SpectralMap
from passband.ops.spectral.frame import self_conjugate_bins
from passband.ops.spectral.pointwise import ODD_ACTIVATIONS
from passband.ops.spectral.stage import StoredSpectrum
from tests.support import assert_close, assert_same_function, properties, random

ON_MAP = ("relu", "tanh", "gelu", "silu", "elu", "leaky-relu", "identity")
activations = st.sampled_from((*ODD_ACTIVATIONS, "relu", "tanh"))


def asymmetry(maps: SpectralMap) -> float:
    """Largest imaginary part of a coefficient that is its own conjugate."""
    return float(maps.spectrum()[1, self_conjugate_bins(maps.frame.band)].detach().abs().amax())


@properties
@given(
    activations,
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(["spectral", "average", "stride"]),
    st.sampled_from([0.0, 0.7]),
    st.sampled_from([None, 0.4]),
)
def test_every_layer_keeps_the_symmetry(
    activation: str, h: int, w: int, pool_mode: str, threshold: float, compression: float | None
) -> None:
    maps = SpectralMap.of(random(2, 3, 2 * h, 2 * w), compression)
    on_map = activation in ON_MAP
    layer = SpectralConv2d(
        3, 4, 3, padding=1, dtype=torch.float64, activation=activation, threshold=threshold,
        pool=2, pool_mode=pool_mode, compression=compression,
    )  # fmt: skip
    # a map's transform leaves rounding where the product leaves zero
    assert asymmetry(layer(maps)) <= (1e-12 if on_map else 0)
    assert asymmetry(SpectralActivation(activation)(maps)) <= (1e-12 if on_map else 0)
    assert asymmetry(SpectralThreshold(threshold)(maps)) == 0
    assert asymmetry(SpectralPool(2, pool_mode)(maps)) == 0
    assert asymmetry(SpectralMap.cat([maps, maps])) == 0
    assert asymmetry(maps + maps) == 0


def by_torch(layer: SpectralConv2d) -> Any:
    """The ordinary layers that a layer with an activation of the map is, at threshold 0."""
    activation = {
        "relu": F.relu, "tanh": torch.tanh, "gelu": F.gelu, "silu": F.silu, "elu": F.elu,
        "leaky-relu": F.leaky_relu, "identity": lambda x: x,
    }[layer.activation or ""]  # fmt: skip

    def function(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = activation(
            F.conv2d(input, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        )
        if layer.pool == (1, 1):
            return y
        pool = F.max_pool2d if layer.pool_mode == "max" else F.avg_pool2d
        return pool(y, layer.pool)

    return function


@pytest.mark.parametrize("activation", ON_MAP)
@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": 1},
        {"padding": 1, "pool": 2, "pool_mode": "max", "order": "activation-first"},
        {"stride": 2, "padding": 2, "groups": 2},
        {"padding": 0, "pool": 2, "pool_mode": "max"},
        {"padding": 2, "dilation": 2, "pool": 3, "pool_mode": "average"},
    ],
)
def test_an_activation_of_the_map_is_exact_at_threshold_zero(
    activation: str, arguments: dict[str, Any]
) -> None:
    layer = SpectralConv2d(4, 6, 3, activation=activation, dtype=torch.float64, **arguments)

    def ours(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        tensors = {"weight": weight, "bias": bias}
        result = torch.func.functional_call(copy.deepcopy(layer), tensors, SpectralMap.of(input))
        assert isinstance(result, SpectralMap)
        return result.to_map()

    tensors = {
        "input": random(11, 4, 9, 8),
        "weight": random(6, 4 // layer.groups, 3, 3, seed=1),
        "bias": random(6, seed=2),
    }
    assert_same_function(ours, by_torch(layer), tensors)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch, of a copy
@pytest.mark.parametrize("kernel", [4, (2, 3), (5, 6)])
def test_an_even_kernel_is_padded_as_in_torch(kernel: Any) -> None:
    plain = nn.Conv2d(3, 4, kernel, padding="same", dtype=torch.float64)
    around = nn.Conv2d(3, 4, kernel, padding="same", padding_mode="circular", dtype=torch.float64)
    x = random(2, 3, 7, 6)
    for layer, activation in ((plain, "identity"), (around, None)):
        spectral = SpectralConv2d(
            3, 4, kernel, padding="same", activation=activation, dtype=torch.float64
        )
        spectral.load_state_dict(layer.state_dict())
        assert_close(spectral(x).to_map(), layer(x))


@pytest.mark.parametrize(
    ("order", "next_padding"),
    [("threshold-first", 0), ("activation-first", 0), ("activation-first", 1)],
)
def test_layers_in_a_row_are_exact_whatever_is_stored_between(
    order: str, next_padding: int
) -> None:
    first = SpectralConv2d(2, 4, 3, padding=1, activation="relu", order=order, dtype=torch.float64)
    second = SpectralConv2d(4, 3, 3, padding=1, activation="tanh", dtype=torch.float64)
    first.next_padding = ((next_padding, next_padding),) * 2
    x = random(3, 2, 7, 6)
    y = F.relu(F.conv2d(x, first.weight, first.bias, padding=1))
    expected = torch.tanh(F.conv2d(y, second.weight, second.bias, padding=1))
    assert_close(second(first(x)).to_map(), expected)
    with torch.no_grad():
        assert_close(second(first(x)).to_map(), expected)


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("activation", ["spectral-tanh", "relu"])
@pytest.mark.parametrize("pool_mode", ["spectral", "average", "stride"])
def test_derivatives_are_exact_at_threshold_zero(
    axes: int, activation: str, pool_mode: str
) -> None:
    kind = SpectralConv2d if axes == 2 else SpectralConv1d
    layer = kind(
        2, 4, 3, padding=1, groups=2, activation=activation, pool=2, pool_mode=pool_mode,
        learned_scale=activation == "spectral-tanh", dtype=torch.float64,
    )  # fmt: skip
    x = random(3, 2, *(4, 6)[:axes]).requires_grad_()

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        maps = layer(SpectralMap.of(x))
        return maps.cat([maps, maps]).to_map()

    assert torch.autograd.gradcheck(function, (x, *layer.parameters()))


def test_the_same_with_and_without_gradients() -> None:
    for activation in ("spectral-tanh", "relu"):
        layer = SpectralConv2d(3, 5, 3, padding=1, activation=activation, threshold=0.8, pool=2)
        x = random(19, 3, 12, 10, dtype=torch.float32)
        trained = layer(x)
        assert 0 < trained.density < 1
        with torch.no_grad():
            evaluated = layer(x)
        # the groups of images are other ones, and products are summed in another order
        assert_close(evaluated.spectrum(), trained.spectrum(), 1e-5)


@pytest.mark.parametrize(
    ("activation", "norm"), [("spectral-tanh", False), ("relu", False), ("relu", True)]
)
def test_what_is_kept_is_the_packed_spectrum(activation: str, norm: bool) -> None:
    model = nn.Sequential(
        SpectralConv2d(3, 8, 3, padding=1, activation=activation, threshold=1.0),
        SpectralConv2d(8, 8, 3, padding=1, activation=activation, threshold=1.0, pool=2),
        SpectralConv2d(8, 8, 3, padding=1, activation=activation, threshold=1.0),
    )
    x = random(16, 3, 16, 16, dtype=torch.float32)
    results: list[SpectralMap] = []
    for layer in model:
        layer.norm_place = (nn.ModuleList([nn.BatchNorm2d(8)]), "0") if norm else None
        layer.register_forward_hook(lambda _, __, result: results.append(result))
    parameters = nn.ModuleList([model, *(n for layer in model for n in layer.norm)])
    with SavedBytes(parameters) as saved:
        model(x)
    (last,) = results[-1].pieces
    assert isinstance(last.spectrum, StoredSpectrum)
    last_bits = sum(unit.bits.nbytes for unit in last.spectrum.units if unit.bits is not None)
    of_last = last.spectrum.nbytes if norm else last_bits  # batch norm's way back reads its result
    between = sum(result.stored_bytes for result in results[:-1])
    statistics = 3 * 2 * 8 * 4 if norm else 0  # mean and 1 / standard deviation per channel
    assert saved.total == x.nbytes + between + of_last + statistics
    assert between < 0.6 * 4 * 16 * 8 * (16 * 16 + 16 * 16)
    with SavedBytes() as saved:  # the way back to the map keeps the spectrum, not the map
        maps = results[-1].to_map()
    assert saved.total == last.spectrum.nbytes < 0.6 * maps.nbytes


def test_sums_and_concatenations() -> None:
    x, y = random(2, 3, 6, 5), random(2, 3, 6, 5, seed=1)
    a = SpectralMap.of(x)
    layer = SpectralConv2d(3, 3, 3, padding=1, activation="relu", dtype=torch.float64)
    b = layer(SpectralMap.of(y))  # of which the activation is still to come
    z = F.relu(F.conv2d(y, layer.weight, layer.bias, padding=1))
    assert_close((a + b).to_map(), x + z)
    assert_close(SpectralMap.cat([a, b]).to_map(), torch.cat([x, z], 1))
    assert_close(
        SpectralMap.cat([a, b]).spectrum(), SpectralMap.of(torch.cat([x, z], 1)).spectrum()
    )
    assert_close(SpectralMap.cat([a, b]).mean(), torch.cat([x, z], 1).mean((2, 3)))


def test_maps_of_another_size_are_refused() -> None:
    a, b = SpectralMap.of(random(2, 3, 6, 5)), SpectralMap.of(random(2, 3, 6, 6))
    with pytest.raises(ValueError, match=r"maps are of \(6, 5\) and of \(6, 6\) points"):
        SpectralMap.cat([a, b])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": -1.0}, "threshold is -1.0, allowed is 0 or more"),
        ({"activation": "sigmoid"}, "activation is 'sigmoid', allowed are spectral-tanh"),
        ({"pool_mode": "median"}, "pool is 'median', allowed are spectral, average, stride, max"),
        ({"pool_mode": "max"}, "pool is 'max', which has no spectral form"),
        ({"storage": "int4"}, "storage is 'int4'"),
        ({"padding": 0}, "padding is .*, but a spectral convolution with a span of"),
        ({"activation": "relu", "learned_scale": True}, "learned_scale is for spectral"),
        ({"pool": 0}, "pool is 0, allowed is at least 1"),
        ({"order": "last"}, "order is 'last', allowed are threshold-first, activation-first"),
        ({"gradient": "none"}, "gradient is 'none', allowed are masked, straight-through"),
        ({"gradient": "straight-through"}, "gradient 'straight-through' is for activations of the"),
        ({"compression": 1.5}, "compression is 1.5"),
        ({"padding_mode": "reflect"}, "padding_mode is 'reflect', allowed with activation None is"),
        ({"padding_mode": "circular", "activation": "relu"}, "padding_mode is 'circular', allowed"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpectralConv2d(3, 4, 3, **{"padding": 1, **arguments})


def test_a_threshold_that_is_no_number_is_refused() -> None:
    with pytest.raises(TypeError, match="threshold must be a number, got 'high'"):
        SpectralConv2d(3, 4, 3, padding=1, threshold="high")  # type: ignore[arg-type]


def test_a_wrong_input_is_refused() -> None:
    layer = SpectralConv2d(3, 4, 3, padding=1)
    with pytest.raises(ValueError, match="input has 2 channels, but the layer takes 3"):
        layer(torch.zeros(1, 2, 8, 8))
    with pytest.raises(ValueError, match=r"input has shape \(3, 8, 8\), allowed are 4 axes"):
        layer(torch.zeros(3, 8, 8))
