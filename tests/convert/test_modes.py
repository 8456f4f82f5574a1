from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from passband.convert.modes import LINE, trace_both_modes


class Model(nn.Module):
    """A model of a function of itself and its input."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Noise(nn.Module):
    """Something else in each mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones_like(x) if self.training else x


def rebuilt(model: nn.Module) -> fx.GraphModule:
    """What the traced graph computes."""
    return fx.GraphModule(model, trace_both_modes(model))


@pytest.mark.parametrize("mode", [True, False])
def test_functional_dropout_follows_the_mode(mode: bool) -> None:
    inner = Model(lambda m, x: F.dropout2d(x, 0.5, training=m.training))
    model = Model(lambda m, x: F.dropout(m.inner(x), 0.5, m.training), inner=inner).train(mode)
    made = rebuilt(model)
    assert model.training is mode
    x = torch.ones(2, 64, 3, 3)
    made.eval()
    assert torch.equal(made(x), x)
    made.train()
    assert 0.6 < float((made(x) == 0).float().mean()) < 0.9
    made.get_submodule("inner").eval()
    assert 0.3 < float((made(x) == 0).float().mean()) < 0.7


def test_dropout_that_is_always_on_stays_so() -> None:
    graph = trace_both_modes(Model(lambda _, x: F.dropout(x, 0.5, training=True)))
    assert [node.kwargs.get("training") for node in graph.nodes] == [None, True, None]


def test_submodules_that_differ_are_left_whole() -> None:
    model = Model(lambda m, x: m.norm(m.layers(x)), norm=nn.BatchNorm2d(2))
    model.layers = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh(), Noise()), Noise())
    targets = [n.target for n in trace_both_modes(model).nodes if n.op == "call_module"]
    assert targets == ["layers.0", "layers.1.0", "layers.1.1", "layers.2", "norm"]
    x = torch.zeros(2, 2, 3, 3)
    made = rebuilt(model).eval()
    assert torch.equal(made(x), model.eval()(x))
    assert torch.equal(made.train()(x), model.train()(x))


def test_batch_norm_of_timm_is_not_looked_into() -> None:
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(nn.Conv2d(2, 3, 1), layers.BatchNormAct2d(3), layers.DropPath(0.5))
    targets = [n.target for n in trace_both_modes(model).nodes if n.op == "call_module"]
    assert targets == ["0", "1", "2"]
    assert int(model[1].num_batches_tracked) == 0


def aux(model: Any, x: Tensor) -> Tensor:
    if model.training:
        x = model.extra(x)
    return x.relu()


@pytest.mark.parametrize("mode", [True, False])
def test_a_model_that_differs_itself_is_refused(mode: bool) -> None:
    model = Model(aux, extra=nn.Sequential(nn.ReLU())).train(mode)
    with pytest.raises(ValueError, match=r"in training than in evaluation at line .*x = model.ext"):
        trace_both_modes(model)
    assert model.training is mode


def test_constants_are_put_on_the_model_once() -> None:
    model = Model(lambda _, x: x + torch.tensor([1.0, 2.0]))
    made = rebuilt(model)
    assert [name for name in model.__dict__ if "constant" in name] == ["_tensor_constant0"]
    assert torch.equal(made(torch.zeros(2)), torch.tensor([1.0, 2.0]))


class Masked(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, flip: Tensor | None = None) -> Any:
        if mask is not None:
            x = x * mask
        return x.relu() if flip is None else x


class Beside(nn.Module):
    def forward(self, x: Tensor, y: Any = None) -> Tensor:
        return torch.cat([x, y])


def test_arguments_that_are_none_are_not_given() -> None:
    made, x = rebuilt(Masked()), torch.tensor([-1.0, 1.0])
    for arguments in ({}, {"mask": None}, {"flip": None}):
        assert torch.equal(made(x, **arguments), x.relu())
    with pytest.raises(AssertionError, match="mask has been specialized to have value None"):
        made(x, x)
    assert torch.equal(rebuilt(Beside())(x, x), torch.cat([x, x]))  # needs it


def test_lines() -> None:
    (node,) = (n for n in trace_both_modes(Masked()).nodes if n.target == "relu")
    assert node.meta[LINE].endswith("(return x.relu() if flip is None else x)")
    with pytest.raises(ValueError, match=r"traced by torch.fx at line \d+ of .*x if x.sum\(\) > 0"):
        trace_both_modes(Model(lambda _, x: x if x.sum() > 0 else -x))
