from itertools import combinations

import pytest
import torch

from tests.ops.band_limited_conv.cases import Call
from tests.support import assert_close, output_and_gradients, random

# Small, for finite differences of every element; the map is kept in one half, its spectrum in the
# other (see ConvGeometry.keeps_map).
SMALL = {
    "1d": Call((2, 2, 7), (2, 2, 3), {"padding": 1}, {"band": 3}),
    "1d kept map": Call((2, 2, 4), (2, 1, 3), {"padding": 2, "groups": 2}, {"band": 4}),
    "2d": Call((1, 2, 5, 4), (2, 1, 3, 2), {"stride": 2, "padding": 1, "groups": 2}, {"band": 2}),
    "2d full": Call((1, 2, 3, 4), (2, 2, 2, 3), {"padding": (1, 0), "dilation": (2, 1)}, {}),
    "2d one axis full": Call((1, 1, 4, 5), (2, 1, 2, 3), {"padding": "same"}, {"band": (3, 2)}),
    "2d energy": Call((1, 2, 4, 5), (2, 2, 3, 3), {"padding": 1}, {"energy": 0.5}),
    "2d energy, fine": Call(
        (1, 2, 4, 5), (2, 2, 3, 3), {"padding": 1}, {"energy": 0.5, "energy_mode": "fine"}
    ),
    "3d": Call((1, 1, 3, 2, 3), (2, 1, 2, 2, 2), {"padding": 1}, {"band": (2, 1, 2)}),
    "unbatched": Call((2, 5, 4), (2, 2, 3, 3), {"padding": 1}, {"band": 2}),
}
algorithms = pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])  # "auto" is one of them
# torch says that "same" with an even filter copies the map
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


def leaves_of(call: Call) -> dict[str, torch.Tensor]:
    return {name: t.requires_grad_() for name, t in call.tensors(torch.float64).items()}


@algorithms
@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_the_slopes(name: str, algorithm: str) -> None:
    call = SMALL[name]
    leaves, function = leaves_of(call), call.ours(algorithm)
    assert torch.autograd.gradcheck(
        lambda *values: function(**dict(zip(leaves, values, strict=True))), tuple(leaves.values())
    )


@algorithms
@pytest.mark.parametrize("name", SMALL)
def test_second_derivatives_are_the_slopes_of_the_gradients(name: str, algorithm: str) -> None:
    call = SMALL[name]
    leaves, function = leaves_of(call), call.ours(algorithm)
    assert torch.autograd.gradgradcheck(
        lambda *values: function(**dict(zip(leaves, values, strict=True))), tuple(leaves.values())
    )


@algorithms
@pytest.mark.parametrize("name", SMALL)
def test_second_derivatives_are_those_of_the_reference(name: str, algorithm: str) -> None:
    """A gradient penalty, whose own gradient reaches every tensor through the two operators."""

    def penalty_gradients(algorithm: str) -> list[torch.Tensor]:
        leaves = leaves_of(SMALL[name])
        output = SMALL[name].ours(algorithm)(**leaves)
        two = [leaves["input"], leaves["weight"]]
        slopes = torch.autograd.grad(output.sin().sum(), two, create_graph=True)
        return list(torch.autograd.grad(sum(s.square().sum() for s in slopes), two))

    for found, expected in zip(penalty_gradients(algorithm), penalty_gradients("fft"), strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("band", [{"compression": 0.5}, {"band": 6}, {}], ids=str)
@algorithms
@pytest.mark.parametrize("count", [1, 2])
def test_any_subset_of_the_tensors_can_need_gradients(algorithm: str, count: int, band) -> None:
    call = Call((2, 4, 9, 8), (6, 2, 3, 3), {"padding": 1, "groups": 2}, band)
    tensors = call.tensors(torch.float64)
    function = call.ours(algorithm)
    every = output_and_gradients(function, tensors)
    for names in combinations(tensors, count):
        fixed = {n: t for n, t in tensors.items() if n not in names}
        free = {n: t for n, t in tensors.items() if n in names}
        found = output_and_gradients(lambda fixed=fixed, **some: function(**fixed, **some), free)
        assert len(found) == 1 + count
        for name, value in found.items():
            assert_close(value, every[name])


@algorithms
def test_no_gradients_are_asked_for(algorithm: str) -> None:
    call = Call((2, 3, 9, 8), (4, 3, 3, 3), {"padding": 1}, {"compression": 0.5})
    tensors, function = call.tensors(torch.float64), call.ours(algorithm)
    assert not function(**tensors).requires_grad
    leaves = {name: t.requires_grad_() for name, t in tensors.items()}
    with torch.no_grad():
        assert not function(**leaves).requires_grad
    assert function(**leaves).requires_grad


@algorithms
def test_gradients_accumulate_over_several_uses(algorithm: str) -> None:
    """One weight in two calls of different geometry, and a backward pass taken twice."""
    call = Call((2, 3, 9, 8), (3, 3, 3, 3), {"padding": 1}, {"compression": 0.5}, bias=False)
    x, w = call.tensors(torch.float64).values()
    w.requires_grad_()

    def output(algorithm: str) -> torch.Tensor:
        once = call.ours(algorithm)(input=x, weight=w)
        return call.ours(algorithm, band=3)(input=once[..., 1:, :], weight=w)

    cotangent = random(*output("fft").shape, seed=5)
    (expected,) = torch.autograd.grad(output("fft"), w, cotangent)
    found = output(algorithm)
    found.backward(cotangent, retain_graph=True)
    found.backward(cotangent)
    assert_close(w.grad, 2 * expected)
