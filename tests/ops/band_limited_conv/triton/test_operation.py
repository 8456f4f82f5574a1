"""The algorithm "triton" against the reference: shapes, types, memory orders, what calls it."""

import pytest
import torch
from torch.library import opcheck

import passband as pb
from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.ops.band_limited_conv.op import geometry_arguments
from tests.ops.band_limited_conv.cases import Call
from tests.ops.band_limited_conv.triton.device import DEVICE, tolerance
from tests.support import assert_close, output_and_gradients, random, relative_error

pytest.importorskip("triton", reason="Triton is not installed")

# Few frequencies, for the interpreter runs about a hundred programs in a second. Maps of more than
# 256 points are transformed axis by axis, others by one matrix.
CALLS = {
    "1d": Call((2, 3, 13), (4, 3, 5), {}, {"compression": 0.5}),
    "1d strides and groups": Call(
        (3, 4, 12), (6, 2, 3), {"padding": 1, "stride": 2, "dilation": 2, "groups": 2}, {"band": 3}
    ),
    "1d unbatched": Call((3, 9), (4, 3, 2), {"padding": "same"}, {"band": 2}),
    "2d": Call((2, 3, 17, 19), (4, 3, 3, 3), {"padding": 1}, {"band": (2, 3)}),
    "2d no bias": Call((2, 3, 7, 6), (4, 3, 3, 3), {"padding": 1}, {"band": 2}, bias=False),
    "2d oblong": Call(
        (2, 3, 11, 30),
        (4, 3, 5, 2),
        {"padding": (2, 1), "stride": (2, 3), "dilation": (1, 2)},
        {"band": (3, 2)},
    ),
    "2d groups": Call((2, 6, 5, 8), (4, 3, 3, 3), {"groups": 2, "padding": 1}, {"band": 2}),
    "2d depthwise": Call((2, 3, 7, 7), (3, 1, 3, 3), {"groups": 3, "padding": 1}, {"band": 2}),
    "2d full": Call((2, 2, 4, 3), (3, 2, 2, 3), {"padding": (1, 0)}, {}),
    "2d one axis full": Call((2, 3, 4, 20), (4, 3, 3, 3), {"padding": 1}, {"band": (4, 2)}),
    "2d one point": Call((3, 2, 1, 1), (4, 2, 3, 3), {"padding": 1}, {"compression": 0.5}),
    "2d a batch of none": Call((0, 3, 9, 8), (4, 3, 3, 3), {"padding": 1}, {"band": 2}),
    "2d energy, fine": Call((2, 2, 6, 5), (3, 2, 2, 2), {}, {"energy": 0.5, "energy_mode": "fine"}),
    "3d": Call((2, 2, 3, 4, 5), (3, 2, 2, 3, 2), {"padding": 1}, {"compression": 0.5}),
}
TINY = {
    "1d": Call((2, 2, 5), (2, 2, 2), {"padding": 1}, {"band": 2}),
    "2d": Call((1, 2, 5, 4), (2, 2, 3, 2), {"stride": 2, "padding": 1}, {"band": (1, 2)}),
}
# torch says that "same" with an even filter copies the map
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


def compare(call: Call, dtype: torch.dtype) -> None:
    """Output and gradients of a call against those of float64."""
    tensors = call.tensors(dtype)
    on_device = {name: tensor.to(DEVICE) for name, tensor in tensors.items()}
    found = output_and_gradients(lambda **t: call.ours("triton")(**t).cpu(), on_device)
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    for name, value in output_and_gradients(call.ours("fft"), exact).items():
        assert found[name].dtype == dtype
        error = relative_error(found[name].cpu(), value)
        assert error <= tolerance(dtype), f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("name", CALLS)
def test_equals_the_reference(name: str) -> None:
    compare(CALLS[name], torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["1d", "2d groups"])
def test_shorter_types_are_near_to_float64(name: str, dtype: torch.dtype) -> None:
    compare(CALLS[name], dtype)


def test_at_full_band_equals_torch() -> None:
    call = CALLS["2d full"]
    tensors = {name: tensor.to(DEVICE) for name, tensor in call.tensors(torch.float64).items()}
    assert_close(call.ours("triton")(**tensors), call.native()(**tensors))


def test_a_large_sum_does_not_overflow_float16() -> None:
    """The output's constant coefficient is 3000 * sqrt(900) = 90000, more than float16 has."""
    x = torch.full((1, 1, 30, 30), 100.0, dtype=torch.float16, device=DEVICE)
    w = torch.full((1, 1, 1, 1), 30.0, dtype=torch.float16, device=DEVICE)
    found = pb.band_limited_conv2d(x, w, band=1, algorithm="triton")
    assert_close(found, 30 * x, tolerance(torch.float16))


@pytest.mark.parametrize("size", [(5, 4), (17, 19)], ids=["dense", "separable"])
def test_memory_orders(size: tuple[int, int]) -> None:
    """Channels last in, channels last out, in output and gradient; other strides as torch has."""
    call = Call((2, 4, *size), (6, 2, 3, 3), {"padding": 1, "groups": 2}, {"band": (1, 2)})
    tensors = {name: tensor.to(DEVICE) for name, tensor in call.tensors(torch.float64).items()}
    x = tensors.pop("input")
    expected = call.ours("fft")(input=x, **tensors)
    layouts = {
        "contiguous": x,
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.mT.contiguous().mT,
        "expanded": x[:1].expand(x.shape),
    }
    for name, maps in layouts.items():
        leaf = maps.requires_grad_() if maps.is_leaf else maps.detach().requires_grad_()
        output = call.ours("triton")(input=leaf, **tensors)
        last = name == "channels last"
        assert output.is_contiguous(
            memory_format=torch.channels_last if last else torch.contiguous_format
        )
        if name == "expanded":
            assert_close(output, expected[:1].expand(expected.shape))
        else:
            assert_close(output, expected)
        (gradient,) = torch.autograd.grad(output, leaf, torch.ones_like(output))
        assert gradient.is_contiguous(
            memory_format=torch.channels_last if last else torch.contiguous_format
        )


def test_strides_of_weight_and_bias() -> None:
    call = Call((2, 3, 6, 5), (4, 3, 3, 3), {"padding": 1}, {"band": 2})
    tensors = {name: tensor.to(DEVICE) for name, tensor in call.tensors(torch.float64).items()}
    strided = {
        "input": tensors["input"],
        "weight": tensors["weight"].contiguous(memory_format=torch.channels_last),
        "bias": tensors["bias"].repeat_interleave(2)[::2],
    }
    expected = output_and_gradients(call.ours("triton"), tensors)
    for name, value in output_and_gradients(call.ours("triton"), strided).items():
        assert_close(value, expected[name])


def leaves_of(call: Call) -> tuple[torch.Tensor, ...]:
    return tuple(t.to(DEVICE).requires_grad_() for t in call.tensors(torch.float64).values())


def by_position(call: Call):
    function = call.ours("triton")
    return lambda input, weight, bias: function(input=input, weight=weight, bias=bias)


@pytest.mark.parametrize("name", TINY)
def test_gradients_are_the_slopes(name: str) -> None:
    """Along random directions."""
    call = TINY[name]
    assert torch.autograd.gradcheck(by_position(call), leaves_of(call), fast_mode=True)


@pytest.mark.parametrize("name", TINY)
def test_second_derivatives_are_those_of_the_reference(name: str) -> None:
    """Of a gradient penalty, whose own gradient takes both operators with a spectrum as input."""

    def penalty_gradients(algorithm: str) -> tuple[torch.Tensor, ...]:
        x, w, b = leaves_of(TINY[name])
        output = TINY[name].ours(algorithm)(input=x, weight=w, bias=b)
        slopes = torch.autograd.grad(output.sin().sum(), (x, w), create_graph=True)
        return torch.autograd.grad(sum(s.square().sum() for s in slopes), (x, w))

    pairs = zip(penalty_gradients("triton"), penalty_gradients("fft"), strict=True)
    for found, expected in pairs:
        assert_close(found, expected)


def test_the_operator_is_described_as_it_is() -> None:
    """Schema, shapes without values, autograd registration."""
    geometry = conv_geometry((7, 6), (3, 3), padding=1, groups=2, band=2)
    x, w = random(2, 4, 7, 6, dtype=torch.float32), random(6, 2, 3, 3, dtype=torch.float32)
    arguments = (*geometry_arguments(geometry), "triton", None, False)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    tensors = (x.to(DEVICE), w.to(DEVICE), None)
    opcheck(torch.ops.passband.band_limited_conv.default, (*tensors, *arguments), test_utils=tests)


def small_network() -> torch.nn.Module:
    torch.manual_seed(1)
    layers = [
        pb.BandLimitedConv2d(3, 4, 3, padding=1, band=2, algorithm="triton"),
        torch.nn.ReLU(),
        pb.BandLimitedConv2d(4, 2, 3, stride=2, groups=2, band=2, algorithm="triton"),
    ]
    return torch.nn.Sequential(*layers).to(DEVICE)


def test_compiled_it_is_the_same() -> None:
    """In one graph, in which the operators are what runs."""
    model, x = small_network(), random(2, 3, 6, 7, dtype=torch.float32).to(DEVICE)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    outputs = [model(x), compiled(x)]
    gradients = [torch.autograd.grad(o.sum(), list(model.parameters())) for o in outputs]
    assert_close(outputs[1], outputs[0])
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        assert_close(found, expected)


def test_under_autocast() -> None:
    model, x = small_network(), random(2, 3, 6, 7, dtype=torch.float32).to(DEVICE)
    expected = output_and_gradients(lambda x: model(x), {"x": x})
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        output = model(x)
    assert output.dtype == torch.bfloat16
    assert_close(output, expected["output"], tolerance(torch.bfloat16))


def test_under_torch_func_matmul_takes_its_place() -> None:
    call = CALLS["2d groups"]
    x, w, b = leaves_of(call)

    def loss(weight: torch.Tensor, algorithm: str) -> torch.Tensor:
        return call.ours(algorithm)(input=x, weight=weight, bias=b).sin().sum()

    assert torch.equal(torch.func.grad(loss)(w, "triton"), torch.func.grad(loss)(w, "matmul"))


def test_exported_it_is_torchs_own_operations() -> None:
    model, x = small_network(), random(2, 3, 6, 7, dtype=torch.float32).to(DEVICE)
    program = torch.export.export(model, (x,))
    assert not any("passband" in str(node.target) for node in program.graph.nodes)
    assert_close(program.module()(x), model(x))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's, of inf
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_where_it_is(value: float) -> None:
    """Other maps, groups and outputs stay clean."""
    call = Call((3, 4, 6, 5), (6, 2, 3, 3), {"padding": 1, "groups": 2}, {"band": 2})
    tensors = {name: tensor.to(DEVICE) for name, tensor in call.tensors(torch.float64).items()}
    tensors["input"][1, 0, 4, 3] = value
    found = call.ours("triton")(**tensors).isfinite()
    assert not found[1, :3].any()
    assert found[[0, 2]].all()
    assert found[:, 3:].all()
