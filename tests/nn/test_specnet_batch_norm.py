"""Batch norm kept in a layer of SpecNet: torch's own, over groups of images and backward."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from passband.nn import specnet, spectral_stage
from passband.nn.specnet import SpectralConv2d
from passband.ops.spectral import normalised_stage
from passband.ops.spectral.normalised_stage import NormalisedFunction
from passband.ops.spectral.sources import StageOptions
from tests.support import assert_close, random


@pytest.mark.parametrize("order", ["threshold-first", "activation-first"])
@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_over_groups_of_images(
    order: str, is_kept: bool, affine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(specnet, "StageOptions", partial(StageOptions, dense_bytes=1))
    function = partial(NormalisedFunction, kept_bytes=1 << 20 if is_kept else 0)
    monkeypatch.setattr(spectral_stage, "NormalisedFunction", function)
    options: dict[str, Any] = {"pool": 2, "pool_mode": "max", "order": order}
    layers = [
        SpectralConv2d(2, 4, 3, padding=1, activation="relu", dtype=torch.float64, **options),
        SpectralConv2d(4, 3, 3, padding=1, activation="relu", dtype=torch.float64),
    ]
    layers[0].next_padding = ((1, 1), (1, 1)) if order == "activation-first" else ((0, 0), (0, 0))
    norms = [nn.BatchNorm2d(c, affine=affine, dtype=torch.float64) for c in (4, 3)]
    plain = nn.Sequential()
    for layer, norm in zip(layers, norms, strict=True):
        layer.norm_place = (nn.ModuleList([norm]), "0")
        plain += nn.Sequential(layer.to_conv(), copy.deepcopy(norm), nn.ReLU())
    plain.insert(3, nn.MaxPool2d(2))
    x = random(19, 2, 6, 6).requires_grad_()
    expected = plain(x)
    found = layers[1](layers[0](x)).to_map()
    assert_close(found, expected)
    cotangent = random(*found.shape, seed=3)
    inputs = [x, *(p for p in plain.parameters() if p.dim() == 4)]
    wanted = torch.autograd.grad(expected, inputs, cotangent, retain_graph=True)
    own = torch.autograd.grad(found, inputs, cotangent, retain_graph=True)
    for a, b in zip(own, wanted, strict=True):
        assert_close(a, b)
    for norm, twin in zip(norms, (plain[1], plain[5]), strict=True):
        assert norm.num_batches_tracked == 1
        assert_close(norm.running_mean, twin.running_mean)
        assert_close(norm.running_var, twin.running_var)
        if affine:
            wanted = torch.autograd.grad(
                expected, list(twin.parameters()), cotangent, retain_graph=True
            )
            own = torch.autograd.grad(found, list(norm.parameters()), cotangent, retain_graph=True)
            for a, b in zip(own, wanted, strict=True):
                assert_close(a, b)


def normalised_gradients(
    storage: str, threshold: float, gammas: list[float], groups: int = 1
) -> dict[str, Tensor]:
    """Of a layer with batch norm, in the type of its kernels."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"padding": 1, "activation": "relu", "storage": storage}
    layer = SpectralConv2d(4, 6, 3, threshold=threshold, groups=groups, **options)
    norm = nn.BatchNorm2d(6)
    norm.weight.data[: len(gammas)] = torch.tensor(gammas)
    nn.init.uniform_(norm.bias, -0.3, 0.3)
    layer.norm_place = (nn.ModuleList([norm]), "0")
    x = random(19, 4, 8, 8, dtype=torch.float32).requires_grad_()
    maps = layer(x).to_map()
    (maps * random(*maps.shape, dtype=torch.float32, seed=9)).sum().backward()
    named = {"x": x, "filters": layer.weight, "bias": layer.bias}
    named |= {"gamma": norm.weight, "beta": norm.bias}
    return {name: p.grad for name, p in named.items() if p is not None and p.grad is not None}


@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(
    ("gammas", "groups", "convolved"),
    [
        ([-0.4], 1, 0),
        ([0.5, 0.0], 1, 1),  # what is multiplied by zero is not known by the result
        ([0.5, 0.0, 1.0, 1e-7], 1, 2),
        ([0.5, 0.0], 2, 6),
        ([0.0, 0.0, 0.0, 0.0], 1, 6),
    ],
)
def test_batch_norm_goes_back_by_what_is_stored(
    gammas: list[float], groups: int, convolved: int, storage: str, threshold: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(specnet, "StageOptions", partial(StageOptions, dense_bytes=1))
    found = normalised_gradients(storage, threshold, gammas, groups)
    run, ran = normalised_stage._Backward, []
    weak_channels = run._weak_channels

    def noted(self: Any) -> Tensor | None:
        weak = weak_channels(self)
        ran.append(6 if weak is None else len(weak))
        return weak

    monkeypatch.setattr(run, "_weak_channels", noted)
    monkeypatch.setattr(
        spectral_stage, "NormalisedFunction", partial(NormalisedFunction, kept_bytes=0)
    )
    again = normalised_gradients(storage, threshold, gammas, groups)
    assert ran == [convolved]
    for key, value in again.items():
        assert torch.equal(value, found[key])
    monkeypatch.setattr(normalised_stage, "tells_maps", lambda _: False)
    expected = normalised_gradients(storage, threshold, gammas, groups)
    # sums are exact but for the rounding of what is stored; the maps lack what was not stored
    rounding = {"float32": 1e-5, "bfloat16": 2**-8, "int8": 2**-6}[storage]
    of_maps = rounding if threshold == 0 else 0.1
    assert found.pop("bias").abs().max() < 1e-3  # a constant does nothing; of 1216 float32 numbers
    for key, value in found.items():
        assert_close(value, expected[key], rounding if key in ("gamma", "beta") else of_maps)


def test_batch_norm_of_a_single_value() -> None:
    layer = SpectralConv2d(2, 4, 1, activation="relu")
    layer.norm_place = (nn.ModuleList([nn.BatchNorm2d(4)]), "0")
    with pytest.raises(ValueError, match="more than one value of each channel"):
        layer(torch.randn(1, 2, 1, 1))
