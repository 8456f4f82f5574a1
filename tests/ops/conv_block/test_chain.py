"""A chain equals concatenation, batch norms, activations and convolutions one by one."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import passband as pb
from passband.nn.conv_bn_act import run_chain
from passband.ops.conv_block import convolution
from tests.support import random, relative_error

# Sums over the batch in another order, part by part.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def make_stages(dtype: torch.dtype, activation: Any) -> list[tuple[nn.Module, Any, nn.Module]]:
    torch.manual_seed(0)
    convs = (
        nn.Conv2d(7, 8, 1, bias=False, dtype=dtype),
        pb.BandLimitedConv2d(8, 5, 3, padding=1, compression=0.5, dtype=dtype),
    )
    norms = (nn.BatchNorm2d(7, dtype=dtype), nn.BatchNorm2d(8, dtype=dtype))
    for norm in norms:
        norm.weight.data.normal_()
        norm.bias.data.normal_()
    return [(norm, activation, conv) for norm, conv in zip(norms, convs, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("activation", [nn.ReLU(), ("silu", None), None], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("sizes", [(3, 4), (7,)])
def test_equals_one_by_one(
    dtype: torch.dtype,
    activation: Any,
    training: bool,
    pooled: bool,
    sizes: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(convolution, "_LEAST_IMAGES", 2)
    monkeypatch.setattr(convolution, "_CHUNK_BYTES", 1)
    stages = make_stages(dtype, activation)
    pool = nn.AvgPool2d(2) if pooled else None
    features = [
        random(5, size, 9, 8, dtype=dtype, seed=i).requires_grad_() for i, size in enumerate(sizes)
    ]
    leaves: list[Tensor] = [*features]
    for norm, _, conv in stages:
        norm.train(training)
        leaves += [*norm.parameters(), *conv.parameters()]
    buffers = [buffer for norm, _, _ in stages for buffer in norm.buffers()]
    before = [buffer.clone() for buffer in buffers]
    found = run_chain(features, stages, pool)
    assert found.grad_fn is not None and "ConvChain" in type(found.grad_fn).__name__
    after = [buffer.clone() for buffer in buffers]
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)
    v = torch.cat(features, 1)
    for norm, _, conv in stages:
        v = norm(v)
        if isinstance(activation, nn.Module):
            v = v.relu()
        elif activation is not None:
            v = nn.functional.silu(v)
        v = conv(v)
    expected = v if pool is None else pool(v)
    assert torch.equal(found, expected)
    assert all(torch.equal(a, b) for a, b in zip(after, buffers, strict=True))
    cotangent = random(*expected.shape, dtype=dtype, seed=9)
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, cotangent),
        torch.autograd.grad(expected, leaves, cotangent),
        strict=True,
    ):
        # without an activation the first beta is a constant, which the second batch norm removes:
        # of its gradient nothing but rounding is left
        least = cotangent.norm().item() if activation is None else 0.0
        assert relative_error(ours, theirs, least) <= TOLERANCE[dtype]


def test_keeps_its_inputs_and_little_more() -> None:
    stages = make_stages(torch.float32, nn.ReLU())
    features = [random(4, n, 9, 8, dtype=torch.float32).requires_grad_() for n in (3, 4)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t), lambda t: t):
        kept: list[Tensor] = []
        run_chain(features, stages)
    maps = [t for t in kept if t.dim() == 4 and not isinstance(t, nn.Parameter)]
    assert [t.data_ptr() for t in maps] == [f.data_ptr() for f in features]
