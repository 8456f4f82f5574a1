"""Bits, pooling, dropout and storage of blocks, against torch."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from passband.ops.conv_block import pooling
from passband.ops.conv_block.activation import ACTIVATIONS, Activation
from passband.ops.conv_block.bits import pack_bits, unpack_bits
from passband.ops.conv_block.normalisation import Normalised
from passband.ops.conv_block.pooling import Pool, gather
from passband.ops.conv_block.single import dropout, max_pool
from passband.ops.conv_block.storage import offload, round_spectrum, widen_spectrum
from tests.support import random, relative_error


@pytest.mark.parametrize("shape", [(3, 5, 7, 3), (2, 3, 11), (1, 1, 1, 1)])
@pytest.mark.parametrize("last", [False, True])
def test_bits(shape: tuple[int, ...], last: bool) -> None:
    if last and len(shape) != 4:
        return
    mask = random(*shape) > 0
    if last:
        mask = mask.contiguous(memory_format=torch.channels_last)
    packed = pack_bits(mask)
    ordered = last and not mask.is_contiguous()
    assert packed.shape == (shape[0], math.ceil(math.prod(shape[1:]) / 8))
    assert torch.equal(unpack_bits(packed, shape, ordered), mask)
    assert torch.equal(unpack_bits(packed[1:], (shape[0] - 1, *shape[1:]), ordered), mask[1:])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_derivatives(name: str) -> None:
    activation = Activation(name, {"leaky_relu": 0.2, "gelu": "tanh"}.get(name))
    v = (4 * random(1000)).requires_grad_()
    grad = random(1000, seed=1)
    (expected,) = torch.autograd.grad(activation.forward(v.clone()), v, grad)
    found = activation.backward(grad, v.detach())
    assert relative_error(found, expected) <= 1e-12
    if activation.has_kinks_only:
        assert torch.equal(activation.backward_by_side(grad, activation.side(v.detach())), found)


POOLS = [
    Pool("max", (2, 2), (2, 2), (0, 0)),
    Pool("max", (3, 3), (2, 2), (1, 1)),
    Pool("max", (3, 2), (1, 2), (1, 0), (2, 1)),
    Pool("max", (3, 3), (2, 2), (0, 0), ceil_mode=True),
    Pool("max", (5, 5), (1, 1), (2, 2)),
    Pool("max", (3, 2), (3, 2), (0, 0)),
    Pool("max", (1, 9), (1, 9), (0, 0)),
]


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("size", [(9, 11), (6, 13), (32, 34)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)  # float32: by kernels
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("part_bytes", [1, 4 << 20])
def test_maxima_by_a_byte(
    pool: Pool,
    size: tuple[int, int],
    dtype: torch.dtype,
    last: bool,
    part_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pooling, "_PART_BYTES", part_bytes)
    x = (random(2, 3, *size, dtype=dtype) * 3).round()  # the first of equal ones is the maximum
    x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
    arguments = (pool.kernel, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    expected, indices = F.max_pool2d(x, *arguments, return_indices=True)
    output, place = pool.forward(x.detach())
    assert place is not None and place.dtype == torch.uint8
    assert torch.equal(output, expected)
    assert torch.equal(pool.indices(place, size[1]), indices)
    assert torch.equal(gather(x, indices), expected)
    grad = random(*expected.shape, dtype=dtype, seed=1)
    (found,) = torch.autograd.grad(max_pool(x, pool), x, grad)
    assert torch.equal(found, torch.autograd.grad(expected, x, grad)[0])


@pytest.mark.parametrize("window", [(2, 2), (2, 3)])
def test_maxima_of_what_is_not_a_number(window: tuple[int, int]) -> None:
    x = random(7, 5, 6, 6, dtype=torch.float32)
    x[random(7, 5, 6, 6, seed=1) > 1.5] = float("nan")
    expected, indices = F.max_pool2d(x, window, return_indices=True)
    pool = Pool("max", window, window, (0, 0))
    output, place = pool.forward(x)
    assert place is not None
    assert torch.equal(output.nan_to_num(), expected.nan_to_num())
    assert torch.equal(output.isnan(), expected.isnan())
    single = F.avg_pool2d(x.isnan().float(), window, divisor_override=1) <= 1
    assert torch.equal(pool.indices(place, 6)[single], indices[single])  # of several, one is meant


def test_maxima_of_no_image() -> None:
    output, place = POOLS[0].forward(torch.ones(0, 3, 6, 4))
    assert output.shape == (0, 3, 3, 2) and place is not None and place.shape == output.shape


def test_maxima_of_series() -> None:
    pool = Pool("max", (1, 3), (1, 2), (0, 1))
    x = random(2, 3, 10).requires_grad_()
    expected = F.max_pool1d(x, 3, 2, 1)
    grad = random(*expected.shape, seed=1)
    output = max_pool(x, pool)
    assert torch.equal(output, expected)
    found, theirs = (torch.autograd.grad(y, x, grad)[0] for y in (output, expected))
    assert torch.equal(found, theirs)


def test_dropout_draws_its_mask_again() -> None:
    x = random(50, 40).requires_grad_()
    results = []
    for function in (lambda: dropout(x, 0.3), lambda: F.dropout(x, 0.3)):
        torch.manual_seed(5)
        output = function()
        torch.rand(7)  # the generator is somewhere else when the backward pass comes
        following = torch.get_rng_state()
        (grad,) = torch.autograd.grad(output, x, random(50, 40, seed=1))
        assert torch.equal(torch.get_rng_state(), following)
        results.append((output.detach(), grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("last", [False, True])
def test_batch_norm_again_has_the_same_bits(dtype: torch.dtype, last: bool) -> None:
    parameters = torch.float32 if dtype == torch.bfloat16 else dtype
    x = (3 * random(6, 5, 7, 9, seed=1) + 2).to(dtype)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    gamma, beta = random(5, dtype=parameters), random(5, dtype=parameters, seed=2)
    expected, mean, invstd = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.1, 1e-5)
    norm = Normalised(True, mean, invstd, gamma, beta)
    assert torch.equal(norm.apply(x), expected)
    parts: list[Tensor] = [norm.apply(part) for part in x.split(4)]
    assert torch.equal(torch.cat(parts), expected)


def test_rounded_spectra() -> None:
    spectrum = random(20, 3, 4, dtype=torch.float32) * torch.logspace(0, 4, 20).view(-1, 1, 1)
    assert torch.equal(widen_spectrum(round_spectrum(spectrum, None), torch.float32), spectrum)
    for dtype, size, error in (("bfloat16", 2, 2**-8), ("int8", 1, 1e-2)):
        kept = round_spectrum(spectrum, dtype)
        assert kept[0].element_size() == size
        again = widen_spectrum(kept, torch.float32)
        # every frequency by itself, however small it is beside others
        for ours, theirs in zip(again, spectrum, strict=True):
            assert relative_error(ours, theirs) <= error


def test_a_file_leaves_nothing_behind(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    x = random(3, 4, 5)
    stored = offload(x, "disk")
    assert torch.equal(stored.fetch(), x)
    assert not list(__import__("pathlib").Path(str(tmp_path)).iterdir())
