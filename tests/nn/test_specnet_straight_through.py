"""Gradients that pass the threshold of a layer of SpecNet."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband.measure.memory import SavedBytes
from passband.nn.specnet import SpectralConv2d
from tests.support import assert_close, random


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)  # float32: by kernels
@pytest.mark.parametrize("storage", ["float32", "int8"])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("order", ["threshold-first", "activation-first"])
def test_straight_through_gradients(
    order: str, norm: bool, storage: str, dtype: torch.dtype
) -> None:
    """They are those of maps to which something has been added that is no function of them."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"padding": 1, "order": order, "storage": storage, "dtype": dtype}
    options |= {"activation": "relu", "threshold": 0.7, "gradient": "straight-through"}
    layers = [SpectralConv2d(c, 4, 3, **options) for c in (3, 4)]
    norms = [nn.BatchNorm2d(4, dtype=dtype) for _ in layers]
    if norm:
        for layer, own in zip(layers, norms, strict=True):
            layer.norm_place = (nn.ModuleList([own]), "0")
            nn.init.uniform_(own.weight, 0.5, 1.5)
            nn.init.uniform_(own.bias)
    x = random(11, 3, 6, 6, dtype=dtype).requires_grad_()
    first = layers[0](x)
    found = layers[1](first).to_map()
    assert first.density < 0.8

    def step(maps: Tensor, index: int, stored: Tensor) -> Tensor:
        maps = layers[index].to_conv()(maps)
        if norm:
            own = norms[index]
            maps = F.batch_norm(maps, None, None, own.weight, own.bias, training=True)
        if order == "threshold-first":
            return F.relu(maps + (stored - maps).detach())
        maps = F.relu(maps)
        return maps + (stored - maps).detach()

    (piece,) = first.pieces
    between = step(x, 0, piece.form.frame.to_map(piece.dense().detach()))
    (last,) = layers[1](first).pieces
    expected = step(between, 1, last.form.frame.to_map(last.dense().detach()))
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4  # of two layers
    assert_close(found, expected, tolerance)
    cotangent = random(*found.shape, dtype=dtype, seed=3)
    inputs = [x, *(layer.weight for layer in layers)]
    inputs += [p for own in norms for p in (own.weight, own.bias)] if norm else []
    wanted = torch.autograd.grad(expected, inputs, cotangent)
    for own, others in zip(torch.autograd.grad(found, inputs, cotangent), wanted, strict=True):
        assert_close(own, others, tolerance)


def test_straight_through_gradients_of_a_dense_spectrum() -> None:
    layers = [
        SpectralConv2d(3, 4, 3, padding=1, activation="relu", threshold=threshold,
                       gradient="straight-through", dtype=torch.float64)
        for threshold in (0.0, 0.7)
    ]  # fmt: skip
    layers[1].load_state_dict(layers[0].state_dict())
    x = random(5, 3, 6, 6).requires_grad_()
    results = [layer._stage(x)([x], layer.stage_parameters(), True) for layer in layers]
    whole, kept = results
    assert torch.equal(kept, whole * (whole.square().sum(0) >= 0.7**2))
    grads = [torch.autograd.grad(made, x, random(*made.shape, seed=1))[0] for made in results]
    assert torch.equal(*grads)


def test_what_passes_is_kept_no_more_than_what_does_not() -> None:
    x, totals = random(16, 3, 8, 8, dtype=torch.float32), []
    for gradient in ("masked", "straight-through"):
        torch.manual_seed(0)
        options: dict[str, Any] = {"activation": "relu", "threshold": 0.7, "gradient": gradient}
        model = nn.Sequential(*(SpectralConv2d(c, 4, 3, padding=1, **options) for c in (3, 4)))
        with SavedBytes(model) as saved:
            model(x)
        totals.append(saved.total)
    assert totals[1] <= totals[0]  # not even the last one's bits
