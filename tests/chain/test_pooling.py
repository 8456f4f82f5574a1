"""Pooling of the native engine against PyTorch."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband.chain import steps
from passband.chain.compiled import load_library
from tests.chain.support import check, engine
from tests.convert.frequency.cases import maps

pytestmark = pytest.mark.skipif(load_library() is None, reason="no kernels were compiled here")


class Pooled(nn.Module):
    """A pooling between convolutions, of values of either sign."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.after = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(self.pool(self.before(x)))
        return out


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("size", [(9, 7), (64, 34), (5, 33)], ids=str)
def test_values_that_are_not_finite_go_through(size: tuple[int, int]) -> None:
    for pool in (
        nn.AvgPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(3, 2), nn.AvgPool2d(3, 1),
        nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1),
    ):  # fmt: skip
        model = Pooled(pool)
        check(model, (2, *size))
        fast = engine(model, (2, *size))
        for batch in (1, 17):
            x = maps((2, *size), batch)
            x[0, 1, 4, 3] = math.nan
            with torch.no_grad():
                assert torch.equal(fast(x).isnan(), model(x).isnan())


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("size", [(9, 8), (16, 16), (7, 33), (12, 3)], ids=str)
@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, 2, 1),  # of values that may all be less than the zeros around
        nn.MaxPool2d(3, 1, 1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d((2, 1), 1, dilation=2),
        nn.MaxPool2d((5, 3), (2, 3), (2, 1)),
        nn.AvgPool2d(3, 1, 1),
        nn.AvgPool2d((3, 1), 2, (1, 0)),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AdaptiveAvgPool2d(3),
        nn.AdaptiveAvgPool2d((5, 7)),
        nn.AdaptiveMaxPool2d((4, None)),
        nn.AdaptiveMaxPool2d(1),
    ],
    ids=str,
)
def test_windows(pool: nn.Module, size: tuple[int, int]) -> None:
    check(Pooled(pool), (2, *size), (1, 3, 17))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "pool",
    [
        lambda y: F.max_pool2d(y, 3, 2, 1),
        lambda y: F.relu(F.avg_pool2d(y, kernel_size=(2, 3), padding=(0, 1))),
        lambda y: F.avg_pool2d(y, 3, 1, 1) + F.max_pool2d(y, 3, 1, 1),
        lambda y: F.relu(F.adaptive_max_pool2d(y, 3)),
        lambda y: F.adaptive_avg_pool2d(y, (2, 1)),
        lambda y: y.mean((2, 3), keepdim=True),
        lambda y: torch.mean(y, [-1, -2], True),
    ],
)
def test_functions(pool: Callable[[Tensor], Tensor]) -> None:
    check(Pooled(pool), (2, 8, 6), (1, 3, 17))


@pytest.mark.usefixtures("library")
def test_means_without_their_axes() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(2, 7, 3), nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(self.conv(x).mean((2, 3)))
            return out

    torch.manual_seed(0)
    check(Net(), (2, 8, 6), (1, 3, 17))


def test_a_window_everywhere_is_one_step() -> None:
    for pool in (nn.MaxPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AdaptiveAvgPool2d(1)):
        for program in engine(Pooled(pool), (2, 10, 12))._programs.values():
            kinds = [step.kind for step in program.program.steps]
            assert sum(kind in (steps.AVERAGE, steps.MAXIMUM) for kind in kinds) == 1


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        (lambda y: F.max_pool2d(y, 2, return_indices=True)[0], "max_pool2d_with_indices"),
        (lambda y: y.mean(1, keepdim=True).expand(-1, 3, -1, -1), "mean"),
        (lambda y: y.mean(), "value of shape ()"),
        (lambda y: F.max_pool2d(y, 2, padding=1, dilation=6), "windows without any point"),
    ],
)
def test_what_it_lacks(pool: Callable[[Tensor], Tensor], reason: str) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return pool(x)

    fast = engine(Net(), (2, 5, 5))
    assert fast.reason is not None and reason in fast.reason
