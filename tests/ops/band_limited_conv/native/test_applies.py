"""What is left to torch, and what is turned into plain memory before the kernels meet it."""

import pytest
import torch
from torch import Tensor

import passband as pb
from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.ops.band_limited_conv.native import convolution, memory
from tests.ops.band_limited_conv.cases import Call
from tests.ops.band_limited_conv.native.cases import assert_right
from tests.support import assert_close, random

HALF = {"compression": 0.5}
BOTH = ["forward", "backward"]


def tensors_that_torch_computes() -> dict[str, Tensor]:
    class Special(Tensor):
        pass

    return {
        "float64": random(2, 3, 9, 8),
        "a subclass": random(2, 3, 9, 8, dtype=torch.float32).as_subclass(Special),
        "negated when it is read": torch.randn(2, 3, 9, 8, dtype=torch.complex64).conj().imag,
        "zeros without memory": torch._efficientzerotensor((2, 3, 9, 8)),
    }


@pytest.mark.parametrize("name", tensors_that_torch_computes())
def test_tensors_that_are_not_plain_memory(name: str, kernels: list[str]) -> None:
    """Are computed by torch, or turned into plain memory by it on the way to the operator."""
    x = tensors_that_torch_computes()[name]
    w = random(4, 3, 3, 3, dtype=x.dtype, seed=1)
    geometry = conv_geometry((9, 8), (3, 3), padding=1, **HALF)
    assert not convolution.applies(geometry, x.dtype, x, w)
    found = pb.band_limited_conv2d(x, w, padding=1, **HALF, algorithm="matmul")
    plain = (x + 0.0).as_subclass(Tensor)
    assert_close(found, pb.band_limited_conv2d(plain, w, padding=1, **HALF, algorithm="fft"))


def test_groups_and_three_axes_are_torchs(kernels: list[str]) -> None:
    for call in (
        Call((2, 4, 9, 8), (6, 2, 3, 3), {"padding": 1, "groups": 2}, HALF),
        Call((2, 4, 5, 6, 7), (6, 4, 3, 3, 3), {"padding": 1}, HALF),
    ):
        assert_right(call)
    assert kernels == []


def test_the_default_device_does_not_matter(kernels: list[str]) -> None:
    """Memory is taken where the tensors are, not where new ones would go."""
    call = Call((3, 5, 9, 8), (6, 5, 3, 3), {"padding": 1}, HALF)
    tensors = call.tensors(torch.float32)
    expected = call.ours("matmul")(**tensors)
    leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
    memory._kept.memory = None
    with torch.device("meta"):
        output = call.ours("matmul")(**leaves)
        output.backward(output.detach())
    assert torch.equal(output, expected)
    assert kernels == ["forward", *BOTH]
