"""What autograd keeps of a call until the backward pass, in bytes of distinct storages."""

import math

import pytest
import torch

import passband as pb
from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.spectrum.energy import band_from_energy
from tests.ops.band_limited_conv.cases import OURS
from tests.support import random

MAPS = {
    # input, weight, padding, stride, compression, whether the map is smaller than the spectrum
    "1d": ((3, 2, 270), (4, 2, 5), 2, 1, 0.5, False),
    "2d, half": ((3, 2, 32, 32), (4, 2, 3, 3), 1, 1, 0.5, False),
    "2d, most": ((3, 2, 32, 31), (4, 2, 3, 3), 1, 2, 0.85, False),
    "2d, small": ((3, 2, 8, 8), (4, 2, 3, 3), 1, 1, 0.5, False),
    "2d, tiny": ((3, 2, 2, 2), (4, 2, 3, 3), 1, 1, 0.3, True),
    "2d, full": ((3, 2, 9, 8), (4, 2, 3, 3), 1, 1, 0.0, True),
    "3d": ((2, 2, 6, 7, 8), (3, 2, 3, 3, 3), 1, 1, 0.7, False),
}
algorithms = pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])


def kept_storages(function, *known: torch.Tensor) -> dict[int, int]:
    """Bytes by address of the storages that a call keeps, but for those of the known tensors."""
    tensors = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensors.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = function()
    assert output.requires_grad
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    for tensor in known:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return storages


@algorithms
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_the_truncated_spectrum_is_kept_and_nothing_else(name, dtype, algorithm) -> None:
    """Or the map, where that is no larger: one real number per degree of freedom of the band."""
    input_shape, weight_shape, padding, stride, compression, small_map = MAPS[name]
    x = random(*input_shape, dtype=dtype).requires_grad_()
    w = random(*weight_shape, dtype=dtype, seed=1).requires_grad_()
    b = random(weight_shape[0], dtype=dtype, seed=2).requires_grad_()
    storages = kept_storages(
        lambda: OURS[len(input_shape) - 2](
            x, w, b, stride, padding, compression=compression, algorithm=algorithm
        ),
        w,
        b,
    )
    kept = conv_geometry(
        input_shape[2:], weight_shape[2:], stride, padding, compression=compression
    ).kept
    freedom = [
        n + 2 * padding if k == (n + 2 * padding) // 2 + 1 else 2 * k - 1
        for n, k in zip(input_shape[2:], kept, strict=True)
    ]
    assert (math.prod(freedom) >= math.prod(input_shape[2:])) == small_map
    if small_map:
        assert set(storages) == {x.untyped_storage().data_ptr()}
    else:
        assert x.untyped_storage().data_ptr() not in storages
        expected = math.prod(input_shape[:2]) * math.prod(freedom) * x.element_size()
        assert list(storages.values()) == [expected]


@pytest.mark.parametrize(
    ("size", "compression", "part"),
    [(32, 0.5, 0.61), (32, 0.85, 0.17), (16, 0.5, 0.66), (16, 0.85, 0.19), (8, 0.5, 0.77)],
)
@algorithms
def test_parts_of_the_map_that_the_design_promises(size, compression, part, algorithm) -> None:
    x, w = random(1, 1, size, size), random(1, 1, 3, 3).requires_grad_()
    storages = kept_storages(
        lambda: pb.band_limited_conv2d(
            x, w, padding=1, compression=compression, algorithm=algorithm
        ),
        w,
    )
    assert sum(storages.values()) / (8 * x.numel()) == pytest.approx(part, abs=0.005)  # two digits


@algorithms
@pytest.mark.parametrize("mode", ["coarse", "fine"])
def test_energy_modes_keep_the_spectrum_of_the_band_they_choose(algorithm: str, mode: str) -> None:
    """And in the fine mode matrices, which do not grow with the batch."""
    one = random(3, 2, 16, 15)
    w = random(4, 2, 3, 3, seed=1).requires_grad_()
    kept = []
    for copies in (1, 2):  # of the same maps: of the same band
        x = one.repeat(copies, 1, 1, 1).requires_grad_()
        storages = kept_storages(
            lambda x=x: pb.band_limited_conv2d(
                x, w, padding=1, energy=0.4, energy_mode=mode, algorithm=algorithm
            ),
            w,
        )
        assert x.untyped_storage().data_ptr() not in storages
        kept.append(sum(storages.values()))
    rows, columns = band_from_energy(one, (18, 17), 0.4).band.real_sizes
    assert kept[1] - kept[0] == 3 * 2 * rows * columns * 8


@algorithms
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_a_layer_keeps_the_spectrum_only(algorithm: str, padding_mode: str) -> None:
    layer = pb.BandLimitedConv2d(
        2, 4, 3, padding=1, padding_mode=padding_mode, compression=0.5, algorithm=algorithm
    )
    x = random(3, 2, 32, 32, dtype=torch.float32).requires_grad_()
    storages = kept_storages(lambda: layer(x), *layer.parameters())
    assert list(storages.values()) == [3 * 2 * 25 * 25 * 4]


def test_a_batch_axis_of_one_map_is_no_copy() -> None:
    x, w = random(2, 32, 32), random(4, 2, 3, 3).requires_grad_()
    storages = kept_storages(
        lambda: pb.band_limited_conv2d(x, w, padding=1, compression=0.5, algorithm="lowpass"), w
    )
    assert list(storages.values()) == [2 * 25 * 25 * 8]


def test_the_gradient_is_exact_all_the_same() -> None:
    """Changing what the band discards of the map, after the forward pass, changes no gradient."""
    x, w = random(2, 3, 16, 16), random(4, 3, 3, 3).requires_grad_()
    for algorithm in ("lowpass", "matmul"):
        output = pb.band_limited_conv2d(x, w, padding=1, compression=0.5, algorithm=algorithm)
        (before,) = torch.autograd.grad(output.square().sum(), w, retain_graph=True)
        original = x.clone()
        x.zero_()  # nobody needs the map any more
        (after,) = torch.autograd.grad(output.square().sum(), w)
        x.copy_(original)
        assert torch.equal(before, after)
