"""The threshold for coefficients of differently normalised DFTs."""

import math
from typing import Any

import pytest
import torch

from passband.nn.specnet import SpectralConv2d
from passband.nn.spectral_layers import SpectralThreshold
from passband.nn.spectral_map import SpectralMap
from tests.support import assert_close, random

IN_SPECTRUM = {"activation": "spectral-tanh", "pool": 2, "stride": 2}
ON_MAP = {"activation": "relu", "pool": 2, "pool_mode": "max"}


@pytest.mark.parametrize("dft_norm", ["backward", "forward"])
def test_it_is_compared_with_the_coefficients_of_that_dft(dft_norm: str) -> None:
    """torch.fft's own, of the same name."""
    x = random(2, 3, 7, 9)
    coefficients = torch.fft.rfft2(x, norm=dft_norm)
    beta = 1.001 * float(coefficients.abs().median())  # which is one of them
    kept = torch.where(coefficients.abs() >= beta, coefficients, 0)
    result = SpectralThreshold(beta, dft_norm)(SpectralMap.of(x))
    assert_close(result.to_map(), torch.fft.irfft2(kept, s=x.shape[2:], norm=dft_norm))


@pytest.mark.parametrize("dft_norm", ["backward", "forward"])
@pytest.mark.parametrize(
    ("arguments", "points"),
    [(IN_SPECTRUM, 6 * 5), (ON_MAP, 12 * 10), (ON_MAP | {"gradient": "straight-through"}, 12 * 10)],
)
def test_a_layer_is_that_of_the_orthonormal_threshold(
    arguments: dict[str, Any], points: int, dft_norm: str
) -> None:
    scale = math.sqrt(points) if dft_norm == "backward" else 1 / math.sqrt(points)
    results = []
    for options in ({"threshold": 0.4}, {"threshold": 0.4 * scale, "dft_norm": dft_norm}):
        torch.manual_seed(0)
        layer = SpectralConv2d(3, 4, 3, padding=1, dtype=torch.float64, **arguments, **options)
        x = random(2, 3, 12, 10, seed=1).requires_grad_()
        result = layer(x)
        assert 0 < result.density < 0.95
        y = result.to_map()
        gradients = torch.autograd.grad((y**2).sum(), [x, *layer.parameters()])
        results.append([y, *gradients])
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize("arguments", [IN_SPECTRUM, ON_MAP])
def test_calibration_is_in_its_unit(arguments: dict[str, Any]) -> None:
    layer = SpectralConv2d(3, 4, 3, padding=1, dft_norm="backward", **arguments)
    x = random(4, 3, 12, 10, dtype=torch.float32)
    layer.threshold = layer.threshold_for(x, 0.3)
    dense = SpectralConv2d(3, 4, 3, padding=1, **arguments)
    dense.load_state_dict(layer.state_dict())
    dense.threshold = dense.threshold_for(x, 0.3)
    assert layer.threshold > 4 * dense.threshold > 0
    assert torch.equal(layer(x).to_map(), dense(x).to_map())


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(ValueError, match="dft_norm is 'unitary', allowed are ortho, backward"):
        SpectralConv2d(3, 4, 3, padding=1, dft_norm="unitary")
