"""A block equals its parts one after the other: the same bits forward, the same gradients."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import passband as pb
from passband.measure.memory import peak_bytes
from passband.ops.band_limited_conv.native import memory
from passband.ops.band_limited_conv.native.library import load_library
from passband.ops.conv_block import convolution
from passband.ops.conv_block.activation import ACTIVATIONS, Activation
from passband.ops.conv_block.block import BlockCall, conv_block
from passband.ops.conv_block.convolution import Conv, PlainConv, SpectralConv
from passband.ops.conv_block.normalisation import NormCall
from passband.ops.conv_block.pooling import Pool
from tests.support import random, relative_error

SIZE = (13, 11)
PARAMETERS: dict[str, Any] = {"leaky_relu": 0.1, "gelu": "none"}
# Sums over the batch in another order, part by part; each derivative is of the same bits.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


@pytest.fixture(params=[False, True], ids=["whole", "parts"])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch of five at once, and in parts of two, two and one."""
    if request.param:
        monkeypatch.setattr(convolution, "_LEAST_IMAGES", 2)
        monkeypatch.setattr(convolution, "_CHUNK_BYTES", 1)


def make_conv(algorithm: str | None, stride: int, dtype: torch.dtype, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    arguments = {"padding": 1, "stride": stride, "dtype": dtype, **more}
    if algorithm is None:
        return nn.Conv2d(6, 6, 3, **arguments)
    return pb.BandLimitedConv2d(6, 6, 3, compression=0.5, algorithm=algorithm, **arguments)


def make_call(conv: Any, algorithm: str | None, dtype: torch.dtype) -> Conv:
    if algorithm is None:
        plain = pb.BandLimitedConv2d(6, 6, 3, padding=1, stride=conv.stride)
        return PlainConv(plain.geometry(SIZE), dtype)
    return SpectralConv(conv.geometry(SIZE), algorithm, dtype)


def make_norm(mode: str | None, dtype: torch.dtype) -> nn.BatchNorm2d:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(6, dtype=dtype).train(mode == "batch")
    assert norm.running_mean is not None and norm.running_var is not None
    for values in (norm.weight.data, norm.bias.data, norm.running_mean):
        values.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


def check(
    algorithm: str | None,
    dtype: torch.dtype,
    stride: int = 1,
    activation: str | None = "relu",
    norm_mode: str | None = "batch",
    residual: bool = False,
    pool: str | None = None,
) -> None:
    conv, norm = make_conv(algorithm, stride, dtype), make_norm(norm_mode, dtype)
    call = make_call(conv, algorithm, dtype)
    x = random(5, 6, *SIZE, dtype=dtype).requires_grad_()
    added = random(5, 6, *call.geometry.output_size, dtype=dtype, seed=2).requires_grad_()
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    block = BlockCall(
        call,
        NormCall(norm_mode == "batch", 0.1, norm.eps, mean, var) if norm_mode else None,
        Activation(activation, PARAMETERS.get(activation)) if activation else None,
        Pool(pool, (3, 2), (2, 2), (1, 1)) if pool else None,
    )

    def one_by_one() -> Tensor:
        v = norm(conv(x)) if norm_mode else conv(x)
        v = v + added if residual else v
        if activation == "leaky_relu":
            v = F.leaky_relu(v, 0.1)
        elif activation:
            v = getattr(F, activation)(v)
        if pool == "max":
            return F.max_pool2d(v, (3, 2), 2, 1)
        return F.avg_pool2d(v, (3, 2), 2, 1) if pool else v

    leaves = {"x": x, "weight": conv.weight, "bias": conv.bias}
    leaves |= {"residual": added} if residual else {}
    leaves |= {"gamma": norm.weight, "beta": norm.bias} if norm_mode else {}
    gamma, beta = (norm.weight, norm.bias) if norm_mode else (None, None)
    expected = one_by_one()
    found = conv_block(block, x, added if residual else None, conv.weight, conv.bias, gamma, beta)
    assert torch.equal(found, expected)
    if norm_mode == "batch":
        assert torch.equal(mean, norm.running_mean) and torch.equal(var, norm.running_var)
    cotangent = random(*expected.shape, dtype=dtype, seed=3)
    gradients = zip(
        leaves,
        torch.autograd.grad(found, list(leaves.values()), cotangent),
        torch.autograd.grad(expected, list(leaves.values()), cotangent),
        strict=True,
    )
    for name, ours, theirs in gradients:
        # a bias in front of a batch norm has no gradient but rounding, of sums of about this size
        least = cotangent.norm().item() if name == "bias" and norm_mode == "batch" else 0.0
        error = relative_error(ours, theirs, least)
        assert error <= TOLERANCE[dtype], f"{name}: {error:.1e}"


@pytest.mark.usefixtures("parts")
class TestEveryCombination:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("algorithm", ["matmul", "lowpass", None])
    def test_of_parts(self, algorithm: str | None, dtype: torch.dtype) -> None:
        for stride, norm, residual in itertools.product(
            (1, 2), ("batch", "running", None), (False, True)
        ):
            for activation in (None, "relu", "silu"):
                check(algorithm, dtype, stride, activation, norm, residual)
            for activation in (None, "relu", "silu"):
                for pool in ("max", "average") if not residual else ():
                    check(algorithm, dtype, stride, activation, norm, pool=pool)

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_of_activations(self, activation: str) -> None:
        for norm, residual in itertools.product(("batch", None), (False, True)):
            check("matmul", torch.float64, 1, activation, norm, residual)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("kind", ["max", "average"])
def test_pooled_series(kind: str) -> None:
    conv: Any = pb.BandLimitedConv1d(6, 6, 3, compression=0.4, algorithm="matmul")
    norm = nn.BatchNorm1d(6)
    x = random(5, 6, 19, dtype=torch.float32).requires_grad_()
    call = BlockCall(
        SpectralConv(conv.geometry((19,)), "matmul", torch.float32),
        NormCall(True, 0.1, norm.eps, None, None),
        Activation("relu"),
        Pool(kind, (1, 3), (1, 2), (0, 1)),
    )
    leaves = (x, conv.weight, conv.bias, norm.weight, norm.bias)
    found = conv_block(call, x, None, *leaves[1:])
    pool = F.max_pool1d if kind == "max" else F.avg_pool1d
    expected = pool(norm(conv(x)).relu(), 3, 2, 1)
    assert torch.equal(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), leaves),
        torch.autograd.grad(expected.square().sum(), leaves),
        strict=True,
    ):
        # the bias has no gradient but rounding, of sums of about the size of the output
        least = found.norm().item() if ours.shape == (6,) else 0.0
        assert relative_error(ours, theirs, least) <= TOLERANCE[torch.float32]


def test_groups_and_no_bias() -> None:
    conv: Any = pb.BandLimitedConv2d(
        6, 4, 3, groups=2, bias=False, compression=0.4, algorithm="matmul"
    )
    x = random(4, 6, 9, 10, dtype=torch.float32).requires_grad_()
    call = BlockCall(SpectralConv(conv.geometry((9, 10)), "matmul", torch.float32))
    call = BlockCall(call.conv, activation=Activation("relu"))
    found = conv_block(call, x, None, conv.weight, None, None, None)
    expected = conv(x).relu()
    assert torch.equal(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found.square().sum(), [x, conv.weight]),
        torch.autograd.grad(expected.square().sum(), [x, conv.weight]),
        strict=True,
    ):
        assert relative_error(ours, theirs) <= TOLERANCE[torch.float32]


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("stride", [1, 2])
def test_the_output_is_made_again_once(stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And takes no memory beside that of the input's gradient."""
    images = []
    original = SpectralConv.output

    def noted(self: SpectralConv, kept: Any, weight: Tensor, bias: Any, to: Tensor) -> None:
        images.append(len(to))
        original(self, kept, weight, bias, to)

    monkeypatch.setattr(SpectralConv, "output", noted)
    conv, norm = make_conv("matmul", stride, torch.float32), make_norm("batch", torch.float32)
    x = random(5, 6, *SIZE, dtype=torch.float32).requires_grad_()
    call = BlockCall(
        make_call(conv, "matmul", torch.float32),
        NormCall(True, 0.1, norm.eps, None, None),
        Activation("relu"),
    )
    output = conv_block(call, x, None, conv.weight, conv.bias, norm.weight, norm.bias)
    (grad,) = torch.autograd.grad(output.square().sum(), x)
    assert sum(images) == 5
    assert grad.untyped_storage().nbytes() <= grad.nbytes + 64  # to begin at a cache line


@pytest.mark.parametrize("pool", ["max", "average"])
def test_what_lies_between_is_made_in_pieces(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images the convolution takes at a time."""
    if load_library() is None:
        pytest.skip("no kernels are compiled here, and torch's operators write no part of a map")
    monkeypatch.setattr(convolution, "_CHUNK_BYTES", 1)
    conv, norm = make_conv("matmul", 1, torch.float32), make_norm("batch", torch.float32)
    images = convolution._LEAST_IMAGES
    x = random(images, 6, 60, 62, dtype=torch.float32).requires_grad_()
    call = BlockCall(
        SpectralConv(conv.geometry((60, 62)), "matmul", torch.float32),
        NormCall(True, 0.1, norm.eps, None, None),
        Activation("relu"),
        Pool(pool, (2, 2), (2, 2), (0, 0)),
    )
    leaves = (x, conv.weight, conv.bias, norm.weight, norm.bias)
    output = conv_block(call, x, None, *leaves[1:])
    grad = torch.ones_like(output)
    memory.keep_workspace(True)  # another test may have had freed memory returned
    peak = peak_bytes(lambda: torch.autograd.grad(output, leaves, grad, retain_graph=True))
    kept = memory._kept.memory  # the kernels keep what they work in
    assert kept is not None
    # the output made again, in the place of which the gradient of x is, and of an image a few maps
    assert peak - kept.nbytes <= x.nbytes * (1 + 4 / images)


@pytest.mark.parametrize("needed", range(6))
def test_only_what_is_needed_has_a_gradient(needed: int) -> None:
    conv, norm = make_conv("matmul", 1, torch.float64), make_norm("batch", torch.float64)
    x, added = random(3, 6, *SIZE), random(3, 6, *SIZE, seed=1)
    tensors = [x, added, conv.weight, conv.bias, norm.weight, norm.bias]
    tensors = [t.detach().requires_grad_(i == needed) for i, t in enumerate(tensors)]
    call = BlockCall(
        make_call(conv, "matmul", torch.float64),
        NormCall(True, 0.1, norm.eps, None, None),
        Activation("relu"),
    )
    conv_block(call, *tensors).square().sum().backward()
    assert [t.grad is not None for t in tensors] == [i == needed for i in range(6)]


def test_second_derivative_is_a_clear_error() -> None:
    conv = make_conv("matmul", 1, torch.float64)
    x = random(3, 6, *SIZE).requires_grad_()
    call = BlockCall(make_call(conv, "matmul", torch.float64), activation=Activation("tanh"))
    output = conv_block(call, x, None, conv.weight, conv.bias, None, None)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(output.sum(), x, create_graph=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2e-2), ("int8", 5e-2)])
def test_spectra_in_fewer_bits_are_approximate(dtype: str, tolerance: float) -> None:
    """bfloat16 rounds by 2**-9, int8 by up to a 254th of each frequency's largest coefficient."""
    conv = make_conv("matmul", 1, torch.float32)
    x = random(5, 6, *SIZE, dtype=torch.float32)
    call = SpectralConv(conv.geometry(SIZE), "matmul", torch.float32, dtype)
    found = conv_block(BlockCall(call), x, None, conv.weight, conv.bias, None, None)
    error = relative_error(found, conv(x))
    assert 0 < error <= tolerance


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_kept_elsewhere(where: str) -> None:
    conv = make_conv("matmul", 1, torch.float32)
    x = random(5, 6, *SIZE, dtype=torch.float32).requires_grad_()
    call = make_call(conv, "matmul", torch.float32)
    gradients = []
    for offload in (None, where):
        block = BlockCall(call, activation=Activation("silu"), offload=offload)
        output = conv_block(block, x, None, conv.weight, conv.bias, None, None)
        gradients.append(torch.autograd.grad(output.square().sum(), [x, conv.weight]))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)
