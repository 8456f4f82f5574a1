import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passband.ops.spectral.pointwise import ODD_ACTIVATIONS, activate, threshold
from tests.support import properties, random


@properties
@given(st.sampled_from(sorted(ODD_ACTIVATIONS)), st.floats(-50, 50), st.booleans())
def test_activations_are_odd_and_keep_zero(name: str, value: float, scaled: bool) -> None:
    scale = torch.tensor([1.7], dtype=torch.float64) if scaled else None
    x = torch.tensor([value, -value, 0.0, 0.0], dtype=torch.float64).view(2, 2, 1, 1)
    up, down, zero, _ = activate(x, name, scale).flatten().tolist()
    assert up == -down
    assert zero == 0
    assert (up > 0) == (value > 0)


@pytest.mark.parametrize("name", sorted(ODD_ACTIVATIONS))
def test_activations_rise(name: str) -> None:
    x = torch.linspace(-4, 4, 101).view(1, -1, 1, 1).expand(2, -1, 1, 1)
    assert (activate(x, name).diff(dim=1) >= 0).all()


def test_a_large_scale_is_linear() -> None:
    x = random(2, 5, 1, 3)
    found = activate(x, "spectral-tanh", torch.full((3,), 1e6, dtype=torch.float64))
    assert torch.allclose(found, x)


@properties
@given(st.floats(0, 3), st.integers(0, 20))
def test_the_threshold_drops_whole_coefficients(beta: float, seed: int) -> None:
    x = random(2, 9, 2, 3, seed=seed)
    found = threshold(x, beta)
    dropped = (found == 0).all(0)
    assert torch.equal(dropped, x.square().sum(0) < beta**2)
    assert torch.equal(found[:, ~dropped], x[:, ~dropped])
    assert torch.equal(threshold(found, beta), found)


def test_gradients_pass_what_is_kept() -> None:
    x = random(2, 9, 2, 3).requires_grad_()
    found = threshold(x, 1.0)
    found.sum().backward()
    assert torch.equal(x.grad, (found != 0).any(0).expand(2, -1, -1, -1).to(x))
