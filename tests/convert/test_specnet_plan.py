"""What becomes part of a stage: at threshold 0, the converted model is the model, exactly."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import passband as pb
from passband.nn.specnet import SpectralConv2d
from tests.support import assert_close, random, relative_error


class Model(nn.Module):
    """Convolutions a and c of the input, b of 4 channels, and a function of them."""

    def __init__(self, function: Any, **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.a, self.c, self.b = conv(3, 4), conv(3, 4), conv(4, 4)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.function(self, x)
        return y


def conv(channels: int, filters: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, kernel, padding=kernel // 2)


def relu_in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    F.relu(y, inplace=True)
    return m.b(y)  # type: ignore[no-any-return]


def module_in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    m.relu(y)
    return m.b(y)  # type: ignore[no-any-return]


def method_in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x) + m.c(x)
    y.mul_(2)
    return m.b(y)  # type: ignore[no-any-return]


def changed_after_a_concatenation(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    z = torch.cat([y, y], 1)
    y.add_(1)
    return m.b(y) + z.sum()  # type: ignore[no-any-return]


def view_in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y.flatten(2).mul_(2)
    return m.b(y)  # type: ignore[no-any-return]


def part_in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x) + m.c(x)
    m.relu(y[:, 2:])
    return m.b(y)  # type: ignore[no-any-return]


def viewed(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    return y.view(y.size(0), -1)  # type: ignore[no-any-return]


def same_function(model: nn.Module, pool: str, order: str = "threshold-first", **more: Any) -> None:
    """With gradients and without, and the gradients."""
    expected = copy.deepcopy(model.double())
    arguments: dict[str, Any] = {"activation": "keep", "batch_norm": "keep", **more}
    pb.convert(model, pb.SpecNet(0.0, pool=pool, order=order, **arguments))
    x = random(3, 3, 8, 8)
    result, other = model(x), expected(x)
    assert_close(result, other)
    with torch.no_grad():
        assert_close(model(x), other)
    result.square().sum().backward()
    other.square().sum().backward()
    if arguments["batch_norm"] == "keep":
        for p, q in zip(model.parameters(), expected.parameters(), strict=True):
            if q.grad is not None:
                assert p.grad is not None
                # sums over all points; a bias before batch norm has a gradient of rounding alone
                assert relative_error(p.grad, q.grad, least=1.0) <= 1e-11


@pytest.mark.parametrize("order", ["threshold-first", "activation-first"])
@pytest.mark.parametrize(
    "layers",
    [
        [nn.ELU(0.5)],
        [nn.LeakyReLU(0.3)],
        [nn.GELU("tanh")],
        [nn.MaxPool2d(2), nn.GELU()],
        [nn.MaxPool2d(2), nn.ReLU()],
        [nn.MaxPool2d((2, 2), 2), nn.LeakyReLU(0.3)],
        [nn.ReLU(), nn.MaxPool2d(2), nn.Tanh()],
    ],
)
def test_activations_and_pooling(layers: list[nn.Module], order: str) -> None:
    same_function(nn.Sequential(conv(3, 4), *layers, conv(4, 2)), "max", order)


@pytest.mark.parametrize(
    "layers",
    [[nn.AvgPool2d(2), nn.ReLU()], [nn.ReLU(), nn.AvgPool2d(2, divisor_override=3)]],
)
def test_average_pooling(layers: list[nn.Module]) -> None:
    same_function(nn.Sequential(conv(3, 4), *layers, conv(4, 2)), "average")


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.b(F.gelu(m.a(x), approximate="tanh")),
        lambda m, x: m.b(F.leaky_relu(m.a(x), 0.3)),
        lambda m, x: m.b(m.a(x) + 2),
        lambda m, x: m.b(2 + m.a(x)),
        lambda m, x: m.b(sum([m.a(x), m.c(x)])),
        lambda m, x: m.b(m.a(x) + m.c(x).mean((2, 3), keepdim=True)),
        lambda m, x: m.b(m.a(x) + m.c(F.adaptive_avg_pool2d(x, 1))),
        lambda m, x: m.b(torch.add(m.a(x), m.c(x), alpha=2)),
        lambda m, x: m.wide(torch.cat(tensors=[m.a(x), m.c(x)], dim=1)),
        lambda m, x: m.wide(torch.cat((m.a(x), m.c(x)), -3)),
        lambda m, x: m.b(m.pool(m.a(x))[0]),
        relu_in_place,
        module_in_place,
        method_in_place,
        view_in_place,
        part_in_place,
        changed_after_a_concatenation,
        viewed,
    ],
)
def test_what_follows_convolutions(function: Any) -> None:
    parts = {
        "wide": conv(8, 4),
        "relu": nn.ReLU(inplace=True),
        "pool": nn.MaxPool2d(2, return_indices=True),
    }
    same_function(Model(function, **parts), "max")


@pytest.mark.parametrize(
    ("layers", "activation", "pool", "joined"),
    [
        ([nn.MaxPool2d((2, 2), 2), nn.ReLU()], "keep", "max", ("relu", (2, 2))),
        ([nn.MaxPool2d(2), nn.GELU()], "keep", "max", ("identity", (2, 2))),
        ([nn.MaxPool2d(2), nn.GELU()], "keep", "stride", ("gelu", (2, 2))),
        ([nn.MaxPool2d(2), nn.ReLU()], "keep", "average", ("identity", (2, 2))),
        ([nn.MaxPool2d(2), nn.ReLU()], "spectral-tanh", "spectral", ("spectral-tanh", (2, 2))),
        ([nn.MaxPool2d(2), nn.ReLU()], "spectral-tanh", "average", (None, (2, 2))),
        ([nn.ELU(0.5), nn.MaxPool2d(2, 1)], "relu", "max", ("relu", (1, 1))),
        ([nn.ELU(0.5), nn.MaxPool2d(2)], "keep", "max", ("identity", (1, 1))),
    ],
)
def test_what_is_joined(
    layers: list[nn.Module], activation: str, pool: str, joined: tuple[Any, Any]
) -> None:
    model = nn.Sequential(conv(3, 4), *layers)
    pb.convert(model, pb.SpecNet(0.0, activation=activation, pool=pool))
    assert isinstance(model[0], SpectralConv2d)
    assert (model[0].activation, model[0].pool) == joined


def norm(**arguments: Any) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(4, **arguments)
    for parameter in (made.weight, made.bias):
        nn.init.uniform_(parameter, 0.5, 1.5)
    if made.running_mean is not None and made.running_var is not None:
        made.running_mean.uniform_(-1, 1)
        made.running_var.uniform_(0.5, 2)
    return made


def tied() -> nn.Module:
    model = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 4), norm(), nn.ReLU(), conv(4, 4), norm())
    model[5].weight = model[2].weight
    return model


def shared() -> nn.Module:
    both = norm()
    return nn.Sequential(conv(3, 4), both, nn.ReLU(), conv(4, 4), both, nn.ReLU(), conv(4, 3))


def read_elsewhere() -> nn.Module:
    return Model(lambda m, x: F.conv2d(m.norm(m.a(x)), m.a.weight.transpose(0, 1)), norm=norm())


def without_statistics() -> nn.Module:
    return nn.Sequential(conv(3, 4), norm(track_running_stats=False), nn.ReLU(), conv(4, 3))


@pytest.mark.parametrize("make", [tied, shared, read_elsewhere, without_statistics])
@pytest.mark.parametrize("batch_norm", ["remove", "keep"])
def test_batch_norm_that_cannot_be_folded_stays(make: Any, batch_norm: str) -> None:
    torch.manual_seed(0)
    same_function(make().eval(), "max", batch_norm=batch_norm)


def test_optional_arguments() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 4), conv(4, 4)

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            y = self.a(x)
            if mask is not None:
                y = y * mask
            z: Tensor = self.b(y)
            return z

    same_function(Masked(), "max")
