"""channels_last in, channels_last out; other orders of memory as torch has them."""

import pytest
import torch
from torch import Tensor

import passband as pb
from tests.compat.networks import SIZES, convolution, layer, maps
from tests.support import relative_error

FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
ALGORITHMS = ("auto", "lowpass", "matmul")
# The same products in another order, in float32.
TOLERANCE = 1e-5


def is_channels_last(x: Tensor) -> bool:
    return not x.is_contiguous() and x.is_contiguous(memory_format=FORMATS[x.dim() - 2])


@pytest.mark.parametrize("compression", [0.0, 0.5])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("axes", [2, 3])
def test_output_and_gradient(axes: int, algorithm: str, compression: float) -> None:
    """In training and in evaluation, of maps, whatever the order of the weights."""
    torch.manual_seed(0)
    module = layer(axes, 4, 6, 3, padding=1, compression=compression, algorithm=algorithm)
    expected = module(maps(3, axes))
    gradient = torch.autograd.grad(expected.square().sum(), module.weight)[0]
    for memory_format in (torch.contiguous_format, FORMATS[axes]):
        module.to(memory_format=memory_format)
        x = maps(3, axes).to(memory_format=FORMATS[axes]).requires_grad_()
        output = module(x)
        assert is_channels_last(output)
        assert relative_error(output, expected) <= TOLERANCE
        gradients = torch.autograd.grad(output.square().sum(), (x, module.weight))
        assert is_channels_last(gradients[0])
        assert relative_error(gradients[1], gradient) <= TOLERANCE
        with torch.no_grad():
            module.eval()
            assert is_channels_last(module(x))
            assert relative_error(module(x), expected) <= TOLERANCE
            module.train()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("compression", [0.0, 0.5])
def test_contiguous_stays_contiguous(algorithm: str, compression: float) -> None:
    """As in torch's own convolution also of maps whose order is both: one channel, one pixel."""
    module = pb.BandLimitedConv2d(1, 1, 3, padding=1, compression=compression, algorithm=algorithm)
    for shape in ((3, 1, 9, 7), (3, 1, 1, 1)):
        for x in (torch.randn(shape), torch.randn(shape).to(memory_format=torch.channels_last)):
            assert (
                module(x).is_contiguous() == torch.nn.Conv2d(1, 1, 3, padding=1)(x).is_contiguous()
            )


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "fft"])
def test_any_strides(algorithm: str) -> None:
    """Slices, transposes, expanded and negative-step views."""
    torch.manual_seed(0)
    module = pb.BandLimitedConv2d(4, 6, 3, padding=1, compression=0.5, algorithm=algorithm)
    base = torch.randn(5, 8, 12, 14)
    views = {
        "slice": base[1:4, ::2, 1:-1, ::2],
        "transpose": base[:, :4].transpose(2, 3),
        "expanded map": base[:, :4, :1, :1].expand(5, 4, 9, 7),
        "expanded batch": base[:1, :4].expand(3, 4, 12, 14),
        "flipped": base[:, :4].flip(-1),
    }
    for name, view in views.items():
        expected = module(view.contiguous())
        assert relative_error(module(view), expected) <= TOLERANCE, name


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_strides_of_evaluation_are_those_of_training(axes: int) -> None:
    """The two ways to compute `matmul` agree in layout, which compiled code relies on."""
    module = layer(axes, 4, 6, 3, compression=0.5, algorithm="matmul").eval()
    orders = [torch.contiguous_format] + ([FORMATS[axes]] if axes in FORMATS else [])
    for order in orders:
        x = maps(3, axes).to(memory_format=order)
        with torch.no_grad():
            kept = module(x)
        assert kept.stride() == module(x).stride() == convolution(axes, 4, 6, 3)(x).stride()


def test_sizes_are_all_odd() -> None:
    """Guard of this file: sizes that could hide a mix-up of axes would be equal ones."""
    assert all(len(set(size)) == len(size) for size in SIZES.values())
