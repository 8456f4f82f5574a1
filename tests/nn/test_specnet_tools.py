"""SpecNet's layers under torch's tools: second derivatives, torch.compile, torch.func."""

import pytest
import torch
from torch import nn

from passband.nn.specnet import SpectralConv2d
from passband.nn.spectral_block import dense_block
from passband.nn.spectral_map import SpectralMap
from passband.ops.spectral.sources import StageOptions
from passband.ops.spectral.stage import store
from tests.support import random


@pytest.mark.parametrize("where", ["stage", "batch norm", "block", "spectrum"])
def test_second_derivative_is_a_clear_error(where: str) -> None:
    """Also of a sum: no second derivative would go through the gradient of the output then."""
    x = random(3, 2, 6, 6).requires_grad_()
    maps = SpectralMap.of(x)
    layer = SpectralConv2d(2, 3, 3, padding=1, activation="tanh", dtype=torch.float64)
    if where == "spectrum":
        maps = SpectralMap.dense(maps.frame, store(maps.spectrum(), StageOptions()).dense())
    elif where == "block":
        maps = dense_block(maps, [layer])
    else:
        layer.norm = (nn.BatchNorm2d(3, dtype=torch.float64),) if where == "batch norm" else ()
        maps = layer(maps)
    spectrum = maps.spectrum()
    with pytest.raises(RuntimeError, match="create_graph=True, but .* are differentiable once"):
        torch.autograd.grad(spectrum.sum(), x, create_graph=True)
