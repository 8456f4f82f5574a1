"""Batch norm and activation by the kernels of each instruction set, against torch's operators."""

import ctypes
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from passband.ops.band_limited_conv.native import library
from passband.ops.conv_block import kernels
from passband.ops.conv_block.activation import Activation
from passband.ops.conv_block.bits import pack_bits, unpack_bits
from passband.ops.conv_block.normalisation import Normalised
from passband.ops.kernel_files import open_kernels, runnable
from tests.support import random, relative_error

# odd sizes: parts of registers, parts of bytes, several tasks, one channel, one point
SHAPES = [(3, 5, 7, 3), (2, 67, 9, 11), (4, 130, 1, 1), (5, 1, 6, 6), (2, 19, 33), (1, 64, 40, 40)]
KINKED = [Activation("relu"), Activation("relu6"), Activation("leaky_relu", 0.3)]
TOLERANCE = 1e-5  # float32 sums of up to some thousand terms, in another order


@pytest.fixture(params=["avx512", "avx2", "default"], autouse=True)
def instruction_set(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ctypes.CDLL]:
    path = library._FOLDER / f"kernels_{request.param}.so"
    if request.param not in runnable() or not path.exists():
        pytest.skip("not compiled, or does not run here")
    loaded = open_kernels(path, library.FUNCTIONS)
    monkeypatch.setattr(kernels, "load_library", lambda: loaded)
    kernels.have_torchs_bits.cache_clear()
    yield loaded
    kernels.have_torchs_bits.cache_clear()


def maps(shape: tuple[int, ...], last: bool, seed: int) -> Tensor:
    x = random(*shape, dtype=torch.float32, seed=seed)
    return x.contiguous(memory_format=torch.channels_last) if last and len(shape) == 4 else x


def norm_of(x: Tensor, statistics: bool) -> Normalised:
    channels = x.shape[1]
    gamma, beta = (random(channels, dtype=torch.float32, seed=s) for s in (5, 6))
    _, mean, invstd = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.1, 1e-5)
    return Normalised(statistics, mean, invstd, gamma, beta)


def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "load_library", lambda: None)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("activation", [None, *KINKED, Activation("silu")], ids=str)
@pytest.mark.parametrize("statistics", [False, True])
def test_batch_norm_backward(
    shape: tuple[int, ...],
    last: bool,
    activation: Activation | None,
    statistics: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, grad = maps(shape, last, 0) + 3, maps(shape, last, 1)
    norm, count = norm_of(x, statistics), x.numel() // x.shape[1]
    assert kernels.apply(x, grad)
    sums = norm.reduce(grad, x, activation)
    in_place = x.clone()
    norm.backward(in_place, grad, sums, count, activation, in_place)
    by_torch(monkeypatch)
    expected_sums, expected = norm.reduce(grad, x, activation), torch.empty_like(x)
    norm.backward(x, grad, expected_sums, count, activation, expected)
    least = count**0.5  # of a sum that happens to be nearly zero
    for found, theirs in zip(sums, expected_sums, strict=True):
        assert relative_error(found, theirs, least) <= TOLERANCE
    assert relative_error(in_place, expected, 1.0) <= TOLERANCE


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("activation", KINKED, ids=str)
def test_activation_and_its_bits(
    shape: tuple[int, ...], last: bool, activation: Activation
) -> None:
    x, added, grad = (4 * maps(shape, last, seed) for seed in (0, 1, 2))
    for residual in (None, added):
        expected = x.clone() if residual is None else x + residual
        side = activation.side(expected)
        expected = activation.forward(expected)
        found = x.clone()
        bits = kernels.activate_(found, residual, activation)
        assert torch.equal(found, expected)
        assert torch.equal(bits, pack_bits(side))
    ordered = last and x.dim() == 4 and not x.is_contiguous()
    to = torch.empty_like(grad)
    kernels.mask(grad, bits, activation, to)
    side = unpack_bits(bits, shape, ordered)
    assert torch.equal(to, activation.backward_by_side(grad, side))


def test_what_is_not_a_number_stays() -> None:
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), -0.0, 1.0]])
    for activation in KINKED:
        found = x.clone()
        kernels.activate_(found, None, activation)
        assert torch.equal(found.nan_to_num(7.0), activation.forward(x.clone()).nan_to_num(7.0))


@pytest.mark.parametrize("last", [False, True])
def test_torchs_bits(last: bool, instruction_set: ctypes.CDLL) -> None:
    """Kernels for torch's own instructions round as it does, others are found out."""
    name = instruction_set._name.rpartition("_")[2].removesuffix(".so")
    if {name, runnable()[0]} <= {"avx512", "avx2"}:
        assert kernels.have_torchs_bits(last)
    elif name == "default" and "avx2" in runnable():
        assert not kernels.have_torchs_bits(last)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("activation", KINKED, ids=str)
def test_arguments_that_are_zero_but_for_rounding(last: bool, activation: Activation) -> None:
    """They are on the side that torch's forward pass has them on."""
    x = maps((4, 67, 5, 7), last, 0)
    x[:] = x[:1, :, :1, :1]
    scale = random(67, dtype=torch.float32, seed=3).abs() + 0.1
    norm = Normalised(False, x[0, :, 0, 0].contiguous(), scale, None, None)
    found, ones = torch.empty_like(x), torch.ones_like(x)
    norm.backward(x, ones, None, 1, activation, found)
    expected = activation.backward(ones, norm.apply(x)) * norm.scale.view(1, -1, 1, 1)
    assert torch.equal(found, expected)


def test_what_the_kernels_do_not_take() -> None:
    x = random(2, 3, 4, 5, dtype=torch.float32)
    last = x.contiguous(memory_format=torch.channels_last)
    assert kernels.apply(x, x.clone()) and kernels.apply(last)
    for other in (x.double(), x[:, :, ::2], x[:0], x._neg_view()):
        assert not kernels.apply(other)
    assert not kernels.apply(x, last) and not kernels.apply(x, x[:1])
