"""SpecNet's layers under torch's tools: second derivatives, torch.compile, torch.func."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap

import passband as pb
from passband.nn.specnet import SpectralConv2d
from passband.nn.spectral_block import dense_block
from passband.nn.spectral_map import SpectralMap
from passband.ops.spectral.sources import StageOptions
from passband.ops.spectral.stage import store
from tests.support import assert_close, random


class Network(nn.Module):
    """A sum, a dense block with batch norm, and global pooling."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4))
        self.inner = nn.ModuleList(nn.Conv2d(c, 4, 3, padding=1) for c in (4, 8))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in self.inner)
        self.relu, self.linear = nn.ReLU(), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.relu(self.first(x))
        x = self.relu(x + self.second(x))
        for conv, norm in zip(self.inner, self.norms, strict=True):
            x = torch.cat([x, self.relu(norm(conv(x)))], 1)
        return self.linear(x.mean((2, 3)))


CONFIGS = {
    "map": pb.SpecNet(0.3, activation="relu", pool="max", batch_norm="keep"),
    "spectrum": pb.SpecNet(0.3),
}


def converted(name: str) -> nn.Module:
    model = Network()
    pb.convert(model, CONFIGS[name])
    return model


def gradients(model: nn.Module, x: Tensor, run: Any) -> list[Tensor]:
    model.zero_grad()
    output = run(x)
    output.square().sum().backward()
    return [output, *(p.grad for p in model.parameters() if p.grad is not None)]


# Forward mode compiles some of torch's own derivatives by what torch itself deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize("pool", ["spectral", "average", "stride"])
@pytest.mark.parametrize("activation", ["relu", "spectral-tanh"])
def test_transforms_of_functions(activation: str, pool: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3, padding=1)
    ).double()
    pb.convert(model, pb.SpecNet(0.1, activation=activation, pool=pool))
    x = random(3, 3, 6, 4)
    output = model(x)
    names = [name for name, _ in model.named_parameters()]
    expected = torch.autograd.grad(output.square().sum(), list(model.parameters()))
    values = {name: p.detach() for name, p in model.named_parameters()}
    found = grad(lambda p: functional_call(model, p, x).square().sum())(values)
    for name, other in zip(names, expected, strict=True):
        assert_close(found[name], other)
    assert_close(vmap(lambda one: model(one[None])[0])(x), output)
    with torch.no_grad():
        assert_close(vmap(lambda one: model(one[None])[0])(x), output)
    jacobian = jacrev(model)(x)
    direction = random(*x.shape, seed=1)
    assert_close(jvp(model, (x,), (direction,))[1], torch.tensordot(jacobian, direction, 4))
    y = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(y).sum(), y)
    assert_close(jacobian.sum((0, 1, 2, 3)), slope)


def test_batch_norm_is_the_one_that_the_model_has() -> None:
    """Also where it is another one than at conversion."""
    model = converted("map").train()
    twin = copy.deepcopy(model).double()
    keys = set(model.state_dict())
    synchronised: Any = nn.SyncBatchNorm.convert_sync_batchnorm(model).double()
    assert set(synchronised.state_dict()) == keys
    for conv, norm, other in zip(
        synchronised.inner, synchronised.norms, twin.get_submodule("norms"), strict=True
    ):
        assert conv.norm == (norm,)
        assert conv.norm != (other,)
    x = random(9, 3, 8, 8)
    found, expected = (gradients(m, x, m) for m in (synchronised, twin))
    for own, twins in zip(found, expected, strict=True):
        assert_close(own, twins, 1e-9)  # batch norm's sums cancel in the convolutions' biases
    for name, buffer in twin.named_buffers():
        assert_close(dict(synchronised.named_buffers())[name].double(), buffer.double())
    synchronised.norms[0], synchronised.norms[1] = nn.Identity(), nn.Tanh()
    assert synchronised.inner[0].norm == ()
    with pytest.raises(
        TypeError, match="'1' is of type Tanh, allowed are batch norms and Identity"
    ):
        synchronised(x)


# what the compiler looks at behind a break of its own
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", CONFIGS)
def test_layers_run_eagerly_between_compiled_graphs(name: str, backend: str) -> None:
    torch.compiler.reset()
    model = converted(name)
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend=backend)
    for batch in (9, 5):
        x = random(batch, 3, 8, 8, dtype=torch.float32)
        found, expected = gradients(model, x, compiled), gradients(twin, x, twin)
        assert len(found) == len(expected) == 1 + len(list(model.parameters()))
        for own, other in zip(found, expected, strict=True):
            assert_close(own, other, 1e-6)  # the same operators, in batch norm perhaps another sum
    with torch.no_grad():
        assert_close(compiled(x), twin(x), 1e-6)
    torch.compiler.reset()


@pytest.mark.parametrize("where", ["stage", "batch norm", "block", "spectrum"])
def test_second_derivative_is_a_clear_error(where: str) -> None:
    """Also of a sum: no second derivative would go through the gradient of the output then."""
    x = random(3, 2, 6, 6).requires_grad_()
    maps = SpectralMap.of(x)
    layer = SpectralConv2d(2, 3, 3, padding=1, activation="tanh", dtype=torch.float64)
    if where == "spectrum":
        maps = SpectralMap.dense(maps.frame, store(maps.spectrum(), StageOptions()).dense())
    elif where == "block":
        maps = dense_block(maps, [layer])
    else:
        if where == "batch norm":
            layer.norm_place = (nn.ModuleList([nn.BatchNorm2d(3, dtype=torch.float64)]), "0")
        maps = layer(maps)
    spectrum = maps.spectrum()
    with pytest.raises(RuntimeError, match=r"create_graph=True, but .* are differentiable once"):
        torch.autograd.grad(spectrum.sum(), x, create_graph=True)
