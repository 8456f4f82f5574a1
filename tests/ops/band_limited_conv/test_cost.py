import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from passband.ops.band_limited_conv import matmul
from passband.ops.band_limited_conv.cost import multiplications, native_multiplications
from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.ops.band_limited_conv.lowpass import BY_TORCH
from tests.ops.band_limited_conv.cases import NATIVE

SHAPES = {
    # batch, input channels, output channels, map, filter, the rest
    "1d": (3, 4, 6, (65,), (5,), {"padding": 2, "compression": 0.5}),
    "2d": (3, 4, 6, (33, 30), (3, 3), {"padding": 1, "compression": 0.5}),
    "2d tiny": (3, 4, 6, (5, 4), (3, 3), {"padding": 1, "compression": 0.5}),
    "2d strides and groups": (
        2, 4, 6, (33, 30), (3, 5), {"stride": 2, "padding": 1, "groups": 2, "compression": 0.8}
    ),
    "2d one axis full": (2, 4, 6, (33, 30), (3, 3), {"padding": 1, "band": (18, 5)}),
    "3d": (2, 2, 3, (9, 12, 11), (3, 3, 3), {"padding": 1, "compression": 0.7}),
}  # fmt: skip


def counted(function) -> int:
    """Multiplications of the matrix products and convolutions in a call: half of torch's count."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", SHAPES)
def test_counts_are_those_of_the_operations_that_run(name: str) -> None:
    batch, inputs, outputs, size, kernel, arguments = SHAPES[name]
    geometry = conv_geometry(size, kernel, **arguments)
    shape = (geometry, batch, inputs, outputs)
    x, w = torch.ones(batch, inputs, *size), torch.ones(outputs, inputs // geometry.groups, *kernel)
    for algorithm, module in (("lowpass", BY_TORCH), ("matmul", matmul)):
        cost = multiplications(algorithm, *shape)
        spectrum = module.analyze(x, geometry)
        transforms = counted(lambda module=module: module.analyze(x, geometry))
        forward = counted(
            lambda module=module, z=spectrum: module.forward(z, w, None, geometry, w.dtype)
        )
        assert transforms + forward == cost.total
    filters = counted(lambda: matmul.prepare_filter(w, geometry, w.dtype))
    assert filters == multiplications("matmul", *shape).filters


@pytest.mark.parametrize("name", SHAPES)
def test_the_native_count_is_that_of_torchs_convolution(name: str) -> None:
    batch, inputs, outputs, size, kernel, arguments = SHAPES[name]
    geometry = conv_geometry(size, kernel, **arguments)
    x, w = torch.ones(batch, inputs, *size), torch.ones(outputs, inputs // geometry.groups, *kernel)
    native = {n: v for n, v in arguments.items() if n not in ("compression", "band")}
    run = counted(lambda: NATIVE[len(size)](x, w, **native))
    assert run == native_multiplications(geometry, batch, inputs, outputs)


def test_the_product_takes_three_multiplications_per_complex_coefficient() -> None:
    """2D, half discarded: 1.5 r N^2 of the 9 N^2 of a 3x3 filter (the design's own figures)."""
    geometry = conv_geometry((128, 128), (3, 3), padding=1, compression=0.5)
    product = multiplications("matmul", geometry, 1, 1, 1).product
    # the nearest band keeps 0.509, and its first column is half redundant, one part in 94
    assert product / 130**2 == pytest.approx(1.5 * 0.5, rel=0.03)
