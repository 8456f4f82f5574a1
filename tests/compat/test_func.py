"""torch.func, forward-mode differentiation and torch.fx, by torch's own operations."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vmap

import passband as pb
from tests.compat.networks import ALGORITHMS, maps, small_network
from tests.support import relative_error

# Forward mode compiles some of torch's own derivatives by what torch itself deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")

EXACT = ("auto", "lowpass", "matmul", "fft")
# Sums over a batch in another order, in float32.
TOLERANCE = 1e-5


def convolution(algorithm: str, compression: float = 0.5) -> Callable[..., Tensor]:
    def function(x: Tensor, weight: Tensor) -> Tensor:
        return pb.band_limited_conv2d(
            x, weight, padding=1, compression=compression, algorithm=algorithm
        )

    return function


def weight() -> Tensor:
    return torch.randn(6, 4, 3, 3)


@pytest.mark.parametrize("algorithm", EXACT)
def test_grad_and_jacobian(algorithm: str) -> None:
    function, x, w = convolution(algorithm), maps(), weight()

    def loss(w: Tensor) -> Tensor:
        return function(x, w).square().sum()

    expected = torch.autograd.grad(loss(w.requires_grad_()), w)[0]
    assert relative_error(grad(loss)(w.detach()), expected) <= TOLERANCE
    # linear in the filter: the Jacobian times the filter is the output
    jacobian = jacrev(function, argnums=1)(x[:1], w.detach())
    assert relative_error(torch.tensordot(jacobian, w, 4), function(x[:1], w)) <= TOLERANCE


@pytest.mark.parametrize("compression", [0.0, 0.5])
@pytest.mark.parametrize("algorithm", EXACT)
def test_forward_mode(algorithm: str, compression: float) -> None:
    """Linear in maps and in filters, so that the tangents are known."""
    function, x, w = convolution(algorithm, compression), maps(), weight()
    dx, dw = torch.randn_like(x), torch.randn_like(w)
    _, tangent = jvp(function, (x, w), (dx, dw))
    assert relative_error(tangent, function(dx, w) + function(x, dw)) <= TOLERANCE
    layer = pb.BandLimitedConv2d(4, 6, 3, compression=compression, algorithm=algorithm, bias=False)
    layer.eval()
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        layer(x)  # keeps filters
        output = layer(torch.autograd.forward_ad.make_dual(x, dx))
        tangent = torch.autograd.forward_ad.unpack_dual(output).tangent
    assert relative_error(tangent, layer(dx)) <= TOLERANCE


@pytest.mark.parametrize("algorithm", EXACT)
def test_hessian(algorithm: str) -> None:
    """Of a quadratic function it is constant, and along the filter twice the function's value."""
    function, x, w = convolution(algorithm), maps(2, size=(4, 5)), torch.randn(1, 4, 3, 3)

    def loss(w: Tensor) -> Tensor:
        return function(x, w).square().sum()

    second = hessian(loss)(w).reshape(w.numel(), w.numel())
    assert relative_error(w.flatten() @ second @ w.flatten(), 2 * loss(w)) <= TOLERANCE


@pytest.mark.parametrize("algorithm", EXACT)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_vmap(algorithm: str, memory_format: torch.memory_format) -> None:
    """Over maps, over filters, and over both: as one call after the other."""
    function = convolution(algorithm)
    x = torch.stack([maps(2).to(memory_format=memory_format) + i for i in range(3)], 1)
    w = torch.stack([weight() for _ in range(3)])
    for dims, calls in (
        ((1, None), [(x[:, i], w[0]) for i in range(3)]),
        ((None, 0), [(x[:, 0], w[i]) for i in range(3)]),
        ((1, 0), [(x[:, i], w[i]) for i in range(3)]),
    ):
        arguments = [
            v if d is not None else v.select(1 - i, 0)
            for i, (v, d) in enumerate(zip((x, w), dims, strict=True))
        ]
        found = vmap(function, in_dims=dims)(*arguments)
        expected = torch.stack([function(*call) for call in calls])
        assert relative_error(found, expected) <= TOLERANCE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gradients_per_sample(algorithm: str) -> None:
    model = small_network(algorithm).eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())
    x = maps(3)

    def loss(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(model, (parameters, buffers), (sample[None],)).square().sum()

    each = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    model.zero_grad()
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert each[name].shape == (3, *parameter.shape)
        assert parameter.grad is not None
        assert relative_error(each[name].sum(0), parameter.grad) <= TOLERANCE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ensemble(algorithm: str) -> None:
    """Several networks as one, in evaluation, where a network of its own would keep filters."""
    models = [small_network(algorithm).eval() for _ in range(2)]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.add_(0.1)
        parameters, buffers = stack_module_state(models)

        def call(parameters: Any, buffers: Any, x: Tensor) -> Any:
            return functional_call(models[0], (parameters, buffers), (x,))

        found = vmap(call, in_dims=(0, 0, None))(parameters, buffers, maps())
        expected = torch.stack([model(maps()) for model in models])
    assert relative_error(found, expected) <= TOLERANCE


@pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])
def test_constants_first_needed_inside(algorithm: str) -> None:
    """What a transform builds is kept, and sound outside; no other test has this size."""
    function, w, x = convolution(algorithm), torch.randn(1, 4, 3, 3), maps(1, size=(7, 10))

    def loss(w: Tensor) -> Tensor:
        return function(x, w).square().sum()

    assert torch.equal(hessian(loss)(w), hessian(loss)(w))
    loss(w.requires_grad_()).backward()


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Any:
    return grad(lambda x: function(x).square().sum())(x)


def tangent(function: Callable[[Tensor], Tensor], x: Tensor) -> Any:
    return jvp(function, (x,), (torch.ones_like(x),))[1]


def mapped(function: Callable[[Tensor], Tensor], x: Tensor) -> Any:
    return vmap(function)(x[None])


@pytest.mark.parametrize("transform", [gradient, tangent, mapped])
@pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])
def test_compiled_transforms_run_outside(
    algorithm: str, transform: Callable[[Callable[[Tensor], Tensor], Tensor], Any]
) -> None:
    """Not in one graph, which would take the operator's tangent for zero; right in several."""
    w = weight()

    def function(x: Tensor) -> Tensor:
        return convolution(algorithm)(x, w)

    torch.compiler.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="band_limited_conv_plainly"):
        torch.compile(transform, backend="aot_eager", fullgraph=True)(function, maps())
    torch.compiler.reset()
    found = torch.compile(transform, backend="aot_eager")(function, maps())
    assert relative_error(found, transform(function, maps())) <= TOLERANCE


def test_autocast_inside() -> None:
    """Transforms of maps stay in float32 where the weights are of autocast's type already."""
    function, x, w = convolution("matmul"), maps().bfloat16(), weight().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = function(x, w)
        found, tangent = jvp(lambda x: function(x, w), (x,), (x,))
    assert found.dtype == tangent.dtype == torch.bfloat16
    assert torch.equal(tangent, found)  # linear, and the same roundings
    # torch's products are rounded to bfloat16 on the way; the kernels round the result alone
    assert relative_error(found, expected) <= 2**-7


class Tracer(torch.fx.Tracer):
    """Takes the layers as they are: they look at types and sizes, which a tracer does not know."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        ours = (pb.BandLimitedConv1d, pb.BandLimitedConv2d, pb.BandLimitedConv3d)
        return isinstance(module, ours) or super().is_leaf_module(module, name)


def test_fx_takes_the_layers_as_leaves() -> None:
    model = small_network().eval()
    traced = torch.fx.GraphModule(model, Tracer().trace(model))
    assert [node.op for node in traced.graph.nodes].count("call_module") == 4
    assert torch.equal(traced(maps()), model(maps()))
    torch.fx.passes.shape_prop.ShapeProp(traced).propagate(maps())
    last = next(node for node in reversed(traced.graph.nodes) if node.op == "call_module")
    assert last.meta["tensor_meta"].shape == model(maps()).shape
