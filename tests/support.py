"""What the tests of numerics share: a relative norm, tolerances with their reasons, gradients."""

from collections.abc import Callable, Mapping

import torch
from hypothesis import settings
from torch import Tensor

# Largest relative norm of the difference between two exact algorithms.
TOLERANCE = {
    # Unit roundoff 1.1e-16; sums of up to a few thousand terms, in two orders, lose three digits.
    torch.float64: 1e-12,
    # Unit roundoff 6e-8, the same sums.
    torch.float32: 1e-5,
    # Three values are rounded on the way (spectrum or map, filter, result; in a test of gradients
    # the cotangent), each by one unit roundoff at most; sums are taken in float32.
    torch.bfloat16: 3 * 2**-8,
    torch.float16: 3 * 2**-11,
}

# Property tests draw the same examples in every run, on any machine, however slow.
properties = settings(derandomize=True, deadline=None, max_examples=60)


def relative_error(found: Tensor, expected: Tensor, least: float = 0.0) -> float:
    """|found - expected| / |expected|: elementwise quotients near zero would mean nothing.

    Where |expected| is below `least`, it is divided by that.
    """
    assert found.shape == expected.shape, (found.shape, expected.shape)
    found, expected = found.detach().double(), expected.detach().double()
    difference, size = (found - expected).norm().item(), max(expected.norm().item(), least)
    if difference == 0:
        return 0.0
    return difference / size if size else float("inf")


def assert_close(found: Tensor, expected: Tensor, tolerance: float | None = None) -> None:
    """The relative error is within the tolerance, by default that of the type found."""
    tolerance = TOLERANCE[found.dtype] if tolerance is None else tolerance
    error = relative_error(found, expected)
    assert error <= tolerance, f"relative error {error:.2e}, allowed {tolerance:.0e}"


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Normal numbers that depend on the seed alone; a type's numbers are those of float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def output_and_gradients(
    function: Callable[..., Tensor], tensors: Mapping[str, Tensor], positive: bool = False
) -> dict[str, Tensor]:
    """The output of function(**tensors), and the gradient of each tensor by its name.

    The gradients are those of the output's product with fixed numbers, so that every element of the
    output counts differently; `positive` ones where a sum over few elements must not cancel.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in tensors.items()}
    output = function(**leaves)
    cotangent = random(*output.shape, dtype=output.dtype, seed=99)
    cotangent = cotangent.abs() if positive else cotangent
    gradients = torch.autograd.grad(output, list(leaves.values()), cotangent)
    named = {f"gradient of {name}": g for name, g in zip(leaves, gradients, strict=True)}
    return {"output": output.detach(), **named}


def assert_same_function(
    function: Callable[..., Tensor],
    expected: Callable[..., Tensor],
    tensors: Mapping[str, Tensor],
    tolerance: float | None = None,
) -> None:
    """Output and every gradient agree."""
    wanted = output_and_gradients(expected, tensors)
    for name, value in output_and_gradients(function, tensors).items():
        allowed = TOLERANCE[value.dtype] if tolerance is None else tolerance
        error = relative_error(value, wanted[name])
        assert error <= allowed, f"{name}: relative error {error:.2e}, allowed {allowed:.0e}"
