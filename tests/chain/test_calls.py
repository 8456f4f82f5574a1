"""What a compiled chain is called with, and how it is copied."""

import copy
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from passband.chain import CompiledChain, compile_chain
from passband.chain.compiled import load_library
from tests.chain.support import ROUNDING, engine
from tests.convert.frequency.cases import maps
from tests.support import relative_error

SHAPE = (3, 8, 8)

pytestmark = pytest.mark.skipif(load_library() is None, reason="no kernels were compiled here")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip


@pytest.mark.parametrize(
    "view",
    [
        torch._neg_view,
        lambda x: torch.complex(x, x).conj().imag,
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3),
        lambda x: x[:1].expand(20, *SHAPE),
        lambda x: x[:0],
        nn.Parameter,
    ],
)
def test_images_may_lie_anyhow(view: Callable[[Tensor], Tensor]) -> None:
    model = network()
    images = view(maps(SHAPE))
    with torch.no_grad():
        found, wanted = engine(model, SHAPE)(images), model(images)
    assert found.shape == wanted.shape
    assert len(images) == 0 or relative_error(found, wanted) < ROUNDING


def test_tensors_without_memory() -> None:
    fast = engine(network(), SHAPE)
    with pytest.raises(ValueError, match=r"images are torch.float32 on meta; allowed are"):
        fast(torch.zeros(1, *SHAPE, device="meta"))
    zeros = torch._efficientzerotensor(2, *SHAPE)
    assert relative_error(fast(zeros), fast(torch.zeros(2, *SHAPE))) < ROUNDING


def test_errors() -> None:
    fast = engine(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), SHAPE)
    with pytest.raises(
        ValueError, match=r"images have shape \(1, 3, 9, 8\); allowed is \(B, 3, 8,"
    ):
        fast(torch.zeros(1, 3, 9, 8))
    with pytest.raises(TypeError, match="images are ndarray; allowed is a tensor"):
        fast(np.zeros((1, *SHAPE)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"images are torch.float64 on cpu; allowed are, as the"):
        fast(maps(SHAPE).double())
    with pytest.raises(TypeError, match="chain is Conv2d; allowed is what"):
        compile_chain(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("example", "error", "message"),
    [
        (None, TypeError, r"^example_input is NoneType; allowed is a tensor \(B, C, H, W\)$"),
        (torch.zeros(2, 5, 8, 8), ValueError, r"^the chain does not run on maps of .*channels"),
        (torch.zeros(3, 8, 8), ValueError, r"does not run on maps of shape \(2, 8, 8\), which ex"),
    ],
)
def test_examples_that_do_not_fit(
    example: Tensor, error: type[Exception], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error, match=message) as raised:
        compile_chain(fx.symbolic_trace(network()), example)
    assert len(str(raised.value).splitlines()) == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("module", [nn.Identity(), nn.Tanh()], ids=["native", "torch"])
def test_copies(module: nn.Module) -> None:
    fast, x = engine(nn.Sequential(network(), module), SHAPE), maps(SHAPE)
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    for other in (copy.deepcopy(fast), torch.load(file, weights_only=False)):
        assert isinstance(other, CompiledChain) and other.reason == fast.reason
        assert torch.equal(other(x), fast(x))


def test_weights_are_those_at_its_making() -> None:
    model, x = network(), maps(SHAPE, 19)
    fast = engine(model, SHAPE)
    before = fast(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(fast(x), before)


def test_a_chain_elsewhere_is_left_to_pytorch() -> None:
    fast = compile_chain(fx.symbolic_trace(network().to("meta")), torch.zeros(1, *SHAPE))
    assert fast.reason == "the chain is on meta, and the engine runs on the CPU"
    assert fast(torch.zeros(2, *SHAPE, device="meta")).shape == (2, 5)
