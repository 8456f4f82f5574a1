import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from passband import BandLimitedConv1d, BandLimitedConv2d
from passband.measure.macs import band_limited_macs, call_geometry, layer_macs
from passband.ops.band_limited_conv import matmul
from passband.ops.band_limited_conv.lowpass import BY_TORCH

NATIVE = [
    (nn.Conv1d(6, 9, 5, stride=2, padding=3, groups=3), (2, 6, 31)),
    (nn.Conv2d(4, 6, (3, 5), padding=(1, 0), dilation=(2, 1)), (3, 4, 13, 17)),
    (nn.Conv2d(4, 6, (2, 3), padding="same", padding_mode="circular"), (1, 4, 11, 9)),
    (nn.Conv3d(2, 4, 3, stride=(1, 2, 1), padding=1), (2, 2, 5, 7, 6)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 7, 5)),
    (nn.Linear(7, 5), (2, 3, 7)),
]


@pytest.mark.parametrize(("layer", "shape"), NATIVE, ids=lambda v: type(v).__name__)
def test_native_layers_as_torch_counts_them(layer: nn.Module, shape: tuple[int, ...]) -> None:
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(shape))
    assert 2 * layer_macs(layer, shape) == counter.get_total_flops()


def test_one_map_is_a_batch_of_one() -> None:
    conv = nn.Conv2d(4, 6, 3)
    assert layer_macs(conv, (4, 9, 8)) == layer_macs(conv, (1, 4, 9, 8))


@pytest.mark.parametrize("compression", [0.5, 0.85])
def test_lowpass_as_torch_counts_its_products(compression: float) -> None:
    layer = BandLimitedConv2d(5, 6, 3, stride=2, padding=1, compression=compression)
    x = torch.randn(2, 5, 15, 12)
    geometry = layer.geometry((15, 12))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        spectrum = BY_TORCH.analyze(x, geometry)
        BY_TORCH.forward(spectrum, layer.weight, None, geometry, torch.float32)
    macs = band_limited_macs(layer, geometry, tuple(x.shape), "lowpass")
    assert 2 * macs == counter.get_total_flops()


@pytest.mark.parametrize("groups", [1, 2])
def test_matmul_as_torch_counts_its_products(groups: int) -> None:
    layer = BandLimitedConv2d(4, 6, 3, padding=1, groups=groups, compression=0.5)
    x = torch.randn(2, 4, 15, 12)
    geometry = layer.geometry((15, 12))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        prepared = matmul.prepare_filter(layer.weight, geometry, torch.float32)
    filters = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        spectrum = matmul.analyze(x, geometry)
        matmul.forward_prepared(spectrum, prepared, None, geometry)
    shape = tuple(x.shape)
    without = band_limited_macs(layer, geometry, shape, "matmul", filters=False)
    assert 2 * without == counter.get_total_flops()
    with_filters = band_limited_macs(layer, geometry, shape, "matmul")
    assert 2 * (with_filters - without) == filters


def test_a_band_limited_layer_counts_the_algorithm_that_runs() -> None:
    layer = BandLimitedConv2d(8, 8, 3, padding=1, compression=0.5, algorithm="lowpass")
    native = layer_macs(layer.to_conv(), (2, 8, 20, 20))
    assert layer_macs(layer, (2, 8, 20, 20)) > native
    layer.algorithm = "matmul"
    assert layer_macs(layer, (2, 8, 20, 20), filters=False) < native


def test_full_band_lowpass_is_the_native_convolution() -> None:
    layer = BandLimitedConv2d(8, 8, 3, padding=1, padding_mode="reflect")
    assert layer_macs(layer, (2, 8, 9, 9)) == layer_macs(layer.to_conv(), (2, 8, 9, 9))


def test_energy_finds_the_band_of_the_values() -> None:
    layer = BandLimitedConv1d(1, 4, 3, padding=2, padding_mode="circular", energy=0.99)
    flat = torch.ones(2, 1, 20)
    geometry, _ = call_geometry(layer, flat)
    assert (geometry.grid, geometry.kept) == ((24,), (1,))  # still constant when it is padded
    layer.padding_mode = "zeros"
    assert call_geometry(layer, flat)[0].kept[0] > 1
    layer.energy_mode = "fine"
    assert call_geometry(layer, flat)[1].algorithm == "matmul"


def test_other_layers_are_refused() -> None:
    with pytest.raises(TypeError, match="layer is ReLU, allowed are Conv1d"):
        layer_macs(nn.ReLU(), (1, 2))
