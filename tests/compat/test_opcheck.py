"""torch.library.opcheck on both operators: schema, fake tensors, autograd, tracing."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from passband.ops.band_limited_conv.geometry import ConvGeometry, conv_geometry
from passband.ops.band_limited_conv.op import IMPLEMENTATIONS, geometry_arguments

# opcheck itself reads .grad of tensors that are no leaves; it silences that where a warning is
# printed, which does not help where a warning is an error.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

FORWARD = torch.ops.passband.band_limited_conv.default
BACKWARD = torch.ops.passband.band_limited_conv_backward.default


@dataclass(frozen=True)
class Case:
    """A call: two groups of two channels to six, and what of it varies."""

    size: tuple[int, ...]
    compression: float
    keeps_map: bool
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format
    stride: int = 1
    dilation: int = 1
    padding: int | str = 1
    bias: bool = True

    def geometry(self) -> ConvGeometry:
        geometry = conv_geometry(
            self.size, (3,) * len(self.size), self.stride, self.padding, self.dilation, 2,
            compression=self.compression,
        )  # fmt: skip
        assert geometry.keeps_map == self.keeps_map
        return geometry

    def tensors(self, grad: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        x = torch.randn(3, 4, *self.size, dtype=self.dtype)
        x = x.to(memory_format=self.memory_format)
        weight = torch.randn(6, 2, *(3,) * len(self.size), dtype=self.dtype)
        bias = torch.randn(6, dtype=self.dtype) if self.bias else None
        for tensor in (x, weight, bias):
            if tensor is not None:
                tensor.requires_grad_(grad)
        return x, weight, bias


CASES = {
    "1d": Case((13,), 0.5, keeps_map=False),
    "1d strided": Case((14,), 0.6, keeps_map=False, stride=3, dilation=2, bias=False),
    "1d full": Case((13,), 0.0, keeps_map=True),
    "2d": Case((7, 9), 0.5, keeps_map=False),
    "2d full": Case((6, 9), 0.0, keeps_map=True),
    "2d same": Case((8, 5), 0.8, keeps_map=False, padding="same", dilation=2),
    "2d bfloat16": Case((9, 7), 0.5, keeps_map=False, dtype=torch.bfloat16),
    "2d float64": Case((9, 7), 0.3, keeps_map=True, dtype=torch.float64),
    "2d channels last": Case(
        (9, 7), 0.5, keeps_map=False, memory_format=torch.channels_last, stride=2
    ),
    "2d channels last, map": Case(
        (5, 6), 0.0, keeps_map=True, memory_format=torch.channels_last, stride=2
    ),
    "3d": Case((4, 5, 6), 0.8, keeps_map=False),
    "3d channels last": Case(
        (4, 3, 5), 0.3, keeps_map=True, memory_format=torch.channels_last_3d, bias=False
    ),
}


@pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])
@pytest.mark.parametrize("name", CASES)
def test_forward(name: str, algorithm: str) -> None:
    case = CASES[name]
    geometry = case.geometry()
    x, weight, bias = case.tensors(grad=True)
    opcheck(FORWARD, (x, weight, bias, *geometry_arguments(geometry), algorithm, None, False))


@pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])
@pytest.mark.parametrize("name", CASES)
def test_backward(name: str, algorithm: str) -> None:
    case = CASES[name]
    geometry = case.geometry()
    x, weight, bias = case.tensors(grad=False)
    arguments = (*geometry_arguments(geometry), algorithm, None, False)
    output, spectrum = FORWARD(x, weight, bias, *arguments)
    kept = x if geometry.keeps_map else spectrum
    grad = torch.randn_like(output)
    for tensor in (grad, kept, weight):
        tensor.requires_grad_()
    opcheck(BACKWARD, (grad, kept, weight, *arguments, True, True))


@pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])
@pytest.mark.parametrize("name", ["1d strided", "2d", "2d full", "3d", "3d channels last"])
def test_from_spectrum(name: str, algorithm: str) -> None:
    case = CASES[name]
    geometry = case.geometry()
    x, weight, bias = case.tensors(grad=False)
    spectrum = IMPLEMENTATIONS[algorithm].analyze(x, geometry).contiguous()
    arguments = (*geometry_arguments(geometry), algorithm, None, True)
    output, kept = FORWARD(spectrum, weight, bias, *arguments)
    assert kept.numel() == 0
    grad = torch.randn_like(output)
    for tensor in (grad, spectrum, weight):
        tensor.requires_grad_()
    opcheck(FORWARD, (spectrum, weight, bias, *arguments))
    opcheck(BACKWARD, (grad, spectrum, weight, *arguments, True, True))


@pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])
@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_backward_of_one_tensor(needs: tuple[bool, bool], algorithm: str) -> None:
    """Where one gradient is not wanted, an empty tensor stands in its place."""
    geometry = CASES["2d"].geometry()
    x, weight, bias = CASES["2d"].tensors(grad=False)
    arguments = (*geometry_arguments(geometry), algorithm, None, False)
    output, spectrum = FORWARD(x, weight, bias, *arguments)
    gradients = BACKWARD(torch.ones_like(output), spectrum, weight, *arguments, *needs)
    assert [g.numel() > 0 for g in gradients] == list(needs)
    opcheck(BACKWARD, (torch.randn_like(output), spectrum, weight, *arguments, *needs))


@pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])
@pytest.mark.parametrize("product", [torch.bfloat16, torch.float16])
def test_product_in_another_type(product: torch.dtype, algorithm: str) -> None:
    """What autocast asks for: float32 tensors, the product and the output in another type."""
    geometry = CASES["2d"].geometry()
    x, weight, bias = CASES["2d"].tensors(grad=True)
    arguments = (*geometry_arguments(geometry), algorithm, product, False)
    output, spectrum = FORWARD(x, weight, bias, *arguments)
    assert output.dtype == spectrum.dtype == product
    opcheck(FORWARD, (x, weight, bias, *arguments))


@pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])
def test_without_gradients(algorithm: str) -> None:
    geometry = CASES["2d"].geometry()
    x, weight, bias = CASES["2d"].tensors(grad=False)
    opcheck(FORWARD, (x, weight, bias, *geometry_arguments(geometry), algorithm, None, False))


@pytest.mark.parametrize("key", ["AutocastCPU", "AutocastCUDA"])
def test_autocast_kernel_is_registered(key: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key("passband::band_limited_conv", key)
