"""What the native engine takes a chain's operations for, and which it leaves to PyTorch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband.chain.compiled import load_library
from tests.chain.support import check, engine
from tests.convert.frequency.cases import maps

pytestmark = pytest.mark.skipif(load_library() is None, reason="no kernels were compiled here")


class Branches(nn.Module):
    """A function of two maps (B, 3, H, W), which convolutions give."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any], padding: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        size = (3, 1 + 2 * padding)
        self.a, self.b = (nn.Conv2d(2, 3, size, padding=padding) for _ in range(2))
        for conv in (self.a, self.b):
            nn.init.normal_(conv.weight, std=3)  # values far beyond 6
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.a(x), self.b(x))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("size", [(9, 1), (20, 1), (1, 9), (3, 1)], ids=str)
def test_activations_of_thin_maps_without_borders(size: tuple[int, int]) -> None:
    kernel = (3, 1) if size[1] == 1 else (1, 3)
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, kernel), nn.Conv2d(8, 8, 1)
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            out: Tensor = self.norm(self.b(torch.relu(y)) + y)
            return out

    model = Net().eval()
    model.norm.running_mean = torch.randn(8)
    check(model, (3, *size), (1, 3, 16, 17))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: F.relu(F.relu6(a)) + a,
        lambda a, b: F.relu6(F.relu(a)) + a,
        lambda a, b: F.relu6(torch.relu(F.adaptive_avg_pool2d(a, 1))),
        lambda a, b: torch.relu(torch.flatten(a, 1)),
        lambda a, b: torch.relu(torch.flatten(torch.cat([a, b], 1), 1)),
    ],
)
def test_activations_one_after_the_other(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    for size in ((8, 8), (5, 7)):
        check(Branches(function), (2, *size), (1, 3, 17))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 5, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.ConvTranspose2d(4, 5, 3, padding=1),
        nn.ConvTranspose2d(4, 5, 4, 2),
    ],
    ids=lambda layer: str(layer),
)
def test_convolutions_of_single_points_with_zeros_around(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), layer)
    check(model, (3, 6, 5), (1, 3, 17))


@pytest.mark.usefixtures("library")
def test_in_place_of_what_nothing_else_reads() -> None:
    model = Branches(lambda a, b: F.relu(a, inplace=True) + F.relu6(b, True).relu_())
    check(model, (2, 5, 7), (1, 17))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("size", [(8, 8), (4, 4), (5, 7), (3, 33)], ids=str)
@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: 0.5 * a + b * 3,
        lambda a, b: F.relu(1 - a) + torch.sub(b, 0.25),
        lambda a, b: torch.mul(F.relu(a), -2) + (b + 1.5) / 3,
        lambda a, b: F.relu6(F.max_pool2d(2 - torch.cat([a, b], 1), 3, 1, 1)),
        lambda a, b: 2 * a.mean((2, 3)) + 1,
    ],
)
def test_numbers(function: Callable[[Tensor, Tensor], Tensor], size: tuple[int, int]) -> None:
    check(Branches(function), (2, *size), (1, 3, 17))


@pytest.mark.usefixtures("library")
def test_numbers_before_convolutions() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 4, 1)
            self.c, self.drop = nn.Conv2d(4, 3, 3, padding=1), nn.Dropout()

        def forward(self, x: Tensor) -> Tensor:
            y = self.b(F.relu(self.a(x / 255 - 0.5) + 0.3))
            out: Tensor = self.drop(self.c(F.dropout(y, training=False) * 0.1)).flatten(1)
            return out

    torch.manual_seed(0)
    check(Net().eval(), (2, 9, 7), (1, 3, 17))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda a, b: F.relu(a, inplace=True) + a, "relu in place of a value that is read again"),
        (lambda a, b: (F.relu6(a, True), a)[1], "relu6 in place of a value that is read again"),
        (lambda a, b: F.relu(torch.flatten(a, 1), True) + torch.flatten(a, 1), "relu in place"),
        (lambda a, b: torch.relu_(b) + b.relu(), "relu_ in place of a value that is read again"),
        (lambda a, b: a * b, "mul"),
        (lambda a, b: 1 / a, "truediv"),
        (lambda a, b: torch.add(a, b, alpha=3), "sum other than of two values of one shape"),
        (lambda a, b: a + F.adaptive_avg_pool2d(b, 1), "sum other than of two values of one shape"),
        (lambda a, b: a + b.mean(1, keepdim=True), "mean"),
        (lambda a, b: F.pad(a, [0, 0, 0, 0, 0, 2], value=1.0), "padding other than zeros"),
        (lambda a, b: F.pad(a, [1, -1, 0, 0]), "padding other than zeros of channels"),
        (lambda a, b: F.pad(a, [0, 0, 0, 0, 0, -1]), "padding other than zeros of channels"),
        (lambda a, b: F.pad(a, [0, 0, 0, 0, 1, 1]), "padding other than zeros of channels"),
        (lambda a, b: torch.flatten(a, 0, 2), "only maps (B, C, H, W) and (B, C)"),
        (lambda a, b: torch.cat([torch.flatten(a, 1), torch.flatten(b, 1)], 1), "cat after"),
        (lambda a, b: torch.flatten(a, 1) + torch.flatten(b, 1), "add after torch.flatten"),
        (lambda a, b: torch.cat([a, b], 2), "concatenation along axis 2"),
    ],
)
def test_arguments_that_it_lacks(function: Callable[[Tensor, Tensor], Tensor], reason: str) -> None:
    check_torch(Branches(function), (2, 3, 4), reason)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.AvgPool2d(2, divisor_override=1), "AvgPool2d with divisor_override"),
        (lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * 64)), "BatchNorm1d after torch."),
    ],
)
def test_modules_with_arguments_that_it_lacks(make: Callable[[], nn.Module], reason: str) -> None:
    check_torch(nn.Sequential(nn.Conv2d(2, 3, 1), make()).eval(), (2, 8, 8), reason)


def check_torch(model: nn.Module, shape: tuple[int, ...], reason: str) -> None:
    """PyTorch computes it, for the reason given."""
    fast = engine(model, shape)
    assert fast.reason is not None and reason in fast.reason
    x = maps(shape)
    with torch.no_grad():
        assert torch.equal(fast(x), model(x))


class Padded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, [0, 1, 0, 0, 0, 0])


class Gated(nn.Module):
    """Squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * self.gate(x)
        return out


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()), "the engine has no Tanh"),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), "padding_mode reflect"),
        (nn.ConvTranspose2d(3, 6, 2, 2, groups=3), "the engine has no ConvTranspose2d with groups"),
        (nn.ConvTranspose2d(3, 6, 2, (2, 1)), "ConvTranspose2d with unlike strides"),
        (Padded(), "padding other than zeros of channels"),
        (nn.Linear(8, 8), "Linear along the last axis"),
        (nn.Flatten(2), "only maps (B, C, H, W) and (B, C)"),
        (Gated(), "the engine has no Sigmoid; PyTorch runs the chain, and ONNX Runtime"),
    ],
)
def test_what_it_cannot_run_pytorch_does(model: nn.Module, reason: str) -> None:
    check_torch(nn.Sequential(model), (3, 8, 8), reason)
