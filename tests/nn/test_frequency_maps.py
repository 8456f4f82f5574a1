import pytest
import torch
from torch import nn

from passband.nn.frequency_maps import (
    ChannelDCT,
    CoefficientConv2d,
    FrequencyBatchNorm,
    add_maps,
    pad_channels,
)
from passband.spectrum.dct import dct
from tests.support import assert_close, random


def test_the_transform_and_back() -> None:
    x = random(2, 5, 3, 4)
    assert_close(ChannelDCT(5)(x), dct(x, 1))
    assert_close(ChannelDCT(5, inverse=True)(dct(x, 1)), x)
    scores = random(3, 7)
    assert_close(ChannelDCT(7, inverse=True)(dct(scores, 1)), scores)


def test_the_inverse_takes_missing_channels_for_zeros() -> None:
    x = random(2, 3, 4, 4)
    back = ChannelDCT(5, inverse=True)
    assert_close(back(x), back(pad_channels(x, 5)))


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(("affine", "track"), [(True, True), (False, False), (True, False)])
def test_batch_norm_of_some_channels_is_torchs_of_those(
    affine: bool, track: bool, momentum: float | None
) -> None:
    norm = FrequencyBatchNorm(7, momentum=momentum, affine=affine, track_running_stats=track)
    native = nn.BatchNorm2d(4, momentum=momentum, affine=affine, track_running_stats=track)
    for seed in range(3):
        x = random(3, 4, 5, 2, dtype=torch.float32, seed=seed)
        assert torch.equal(norm(x), native(x))
    norm.eval(), native.eval()
    assert torch.equal(norm(x), native(x))
    if track:
        assert norm.running_mean is not None and native.running_mean is not None
        assert torch.equal(norm.running_mean[:4], native.running_mean)
        assert not norm.running_mean[4:].any()


def test_batch_norm_of_concatenated_maps_keeps_the_right_statistics() -> None:
    norm, native = FrequencyBatchNorm(7), nn.BatchNorm2d(4)
    index = [0, 1, 4, 5]
    norm.channel_index = torch.tensor(index)
    for seed in range(2):
        x = random(3, 4, 5, 2, dtype=torch.float32, seed=seed)
        assert torch.equal(norm(x), native(x))
    assert norm.running_var is not None and native.running_var is not None
    assert torch.equal(norm.running_var[index], native.running_var)
    assert (norm.running_var[[2, 3, 6]] == 1).all()


def test_sums_of_unlike_widths() -> None:
    a, b = random(2, 5, 3, 3), random(2, 2, 3, 3, seed=1)
    expected = a.clone()
    expected[:, :2] += b
    assert torch.equal(add_maps(a, b), expected)
    assert torch.equal(add_maps(b, a), expected)
    assert torch.equal(add_maps(a, a), 2 * a)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_depthwise_on_the_coefficients_that_there_are(mode: str) -> None:
    layer = CoefficientConv2d(6, 6, 3, 2, 1, groups=6, padding_mode=mode).double()
    x = random(2, 6, 7, 5)
    assert_close(layer(x[:, :4]), nn.Conv2d.forward(layer, x)[:, :4])
    assert layer.macs((2, 4, 7, 5)) == 2 * 4 * 3 * 4 * 9
    assert layer.macs((2, 4, 7, 5), dense=True) == 2 * 4 * 3 * 6 * 9


def test_groups_take_all_coefficients() -> None:
    layer = CoefficientConv2d(6, 4, 3, padding=1, groups=2).double()
    x = random(2, 6, 7, 5)
    whole = x.clone()
    whole[:, 4:] = 0
    assert_close(layer(x[:, :4]), nn.Conv2d.forward(layer, whole))
    assert layer.macs((1, 4, 7, 5)) == 35 * 9 * 6 * 4 // 2
