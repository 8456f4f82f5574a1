"""What people do with torch.nn modules works with these layers."""

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

import passband as pb
from tests.compat.networks import (
    ALGORITHMS,
    SIZES,
    assert_same,
    convolution,
    layer,
    maps,
    small_network,
    training_step,
)
from tests.support import relative_error

# Float32 sums over a batch in another order.
TOLERANCE = 1e-5


def evaluate(model: nn.Module, x: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(x)


def pickled(model: nn.Module) -> Any:
    return pickle.loads(pickle.dumps(model))


def saved(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("clone", [copy.deepcopy, pickled, saved])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_copies_are_equal_and_independent(
    algorithm: str, clone: Callable[[nn.Module], nn.Module]
) -> None:
    model = small_network(algorithm)
    output = evaluate(model, maps())
    twin = clone(model)
    assert torch.equal(evaluate(twin, maps()), output)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(evaluate(twin, maps()), output)
    assert repr(twin) == repr(model)


def test_transformed_filters_are_not_copied() -> None:
    model = small_network("matmul")
    before = len(pickle.dumps(model))
    evaluate(model, maps())
    assert len(pickle.dumps(model)) == before


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_state_dict_is_that_of_torch(axes: int) -> None:
    """Strictly, both ways, through a file that holds nothing but tensors."""
    arguments: dict[str, Any] = {"stride": 2, "padding": 1, "dilation": 2, "groups": 2}
    for bias in (True, False):
        ours = layer(axes, 4, 6, 3, bias=bias, **arguments, compression=0.5)
        theirs = convolution(axes, 4, 6, 3, bias=bias, **arguments)
        again = layer(axes, 4, 6, 3, bias=bias, **arguments, energy=0.9)
        for source, target in ((ours, theirs), (theirs, again)):
            file = io.BytesIO()
            torch.save(source.state_dict(), file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
            assert target.load_state_dict(state, strict=True) == ([], [])
            assert all(torch.equal(target.state_dict()[k], v) for k, v in state.items())


def test_functional_call() -> None:
    model, other = small_network("matmul"), small_network("matmul")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    weights = dict(other.named_parameters()) | dict(other.named_buffers())
    for network in (model, other):
        network.eval()
    with torch.no_grad():
        own = model(maps())
        assert torch.equal(torch.func.functional_call(model, weights, (maps(),)), other(maps()))
        assert torch.equal(model(maps()), own)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_checkpointing(algorithm: str) -> None:
    """Activations recomputed in the backward pass: the same gradients."""
    model = small_network(algorithm)

    def run(x: Tensor) -> Any:
        return checkpoint(model, x, use_reentrant=False)

    model.eval()  # batch norm would count the batch twice
    assert_same(training_step(model, maps(), run), training_step(model, maps()), 0.0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_saved_tensors_can_be_moved(algorithm: str) -> None:
    model = small_network(algorithm)

    def run(x: Tensor) -> Any:
        with torch.autograd.graph.save_on_cpu():
            return model(x)

    assert_same(training_step(model, maps(), run), training_step(model, maps()), 0.0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gradient_accumulation(algorithm: str) -> None:
    model = small_network(algorithm).eval()  # batch norm without statistics of the batch
    x = maps(6)
    model.zero_grad()
    model(x).square().sum().backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for part in x.split([4, 2]):
        model(part).square().sum().backward()
    assert_same({name: p.grad for name, p in model.named_parameters()}, whole, TOLERANCE)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_weight_norm(algorithm: str) -> None:
    """A weight made anew at each access, in training and in evaluation."""
    torch.manual_seed(0)
    ours = parametrizations.weight_norm(
        pb.BandLimitedConv2d(4, 6, 3, padding=1, algorithm=algorithm)
    )
    theirs = parametrizations.weight_norm(nn.Conv2d(4, 6, 3, padding=1))
    theirs.load_state_dict(ours.state_dict())
    assert_same(training_step(ours, maps()), training_step(theirs, maps()), TOLERANCE)
    ours.set_band(compression=0.5)
    for scale in (1.0, 2.0):
        with torch.no_grad():
            ours.parametrizations.weight.original0.mul_(scale)
        expected = pb.band_limited_conv2d(
            maps(), ours.weight, ours.bias, padding=1, compression=0.5, algorithm=algorithm
        )
        assert relative_error(evaluate(ours, maps()), expected) <= TOLERANCE
    parametrize.remove_parametrizations(ours, "weight")
    assert relative_error(evaluate(ours, maps()), expected) <= TOLERANCE


def test_spectral_norm_iterates_once_a_step() -> None:
    """Its power iteration runs whenever the weight is read in training."""
    states = []
    for create in (pb.BandLimitedConv2d, nn.Conv2d):
        torch.manual_seed(0)
        module = parametrizations.spectral_norm(create(4, 6, 3))
        module(maps())
        states.append(module.state_dict())
    assert_same(states[0], states[1], 0.0)


def test_pruning() -> None:
    torch.manual_seed(0)
    module = pb.BandLimitedConv2d(4, 6, 3, compression=0.5, algorithm="matmul")
    dense = evaluate(module, maps())
    prune.l1_unstructured(module, "weight", 0.5)
    sparse = evaluate(module, maps())
    assert relative_error(sparse, dense) > 0.1
    prune.remove(module, "weight")
    assert (module.weight == 0).float().mean() == 0.5
    assert torch.equal(evaluate(module, maps()), sparse)


def test_averaged_weights() -> None:
    """Changed in place, by one fused operation for all of them, after filters have been kept."""
    model = small_network("matmul")
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    )
    average.update_parameters(model)
    evaluate(average, maps())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    average.update_parameters(model)
    fresh = copy.deepcopy(average.module)
    assert torch.equal(evaluate(average, maps()), evaluate(fresh, maps()))


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "fft"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_shapes_without_values(axes: int, algorithm: str) -> None:
    """On the meta device and with fake tensors, in training and in evaluation."""
    shape = small_network("lowpass", axes)(maps(3, axes)).shape
    x = torch.empty(3, 4, *SIZES[axes], device="meta")
    with torch.device("meta"):
        model = small_network(algorithm, axes)
    assert all(p.is_meta for p in model.parameters())
    training_step(model, x)
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())
    output = evaluate(model, x)
    assert output.shape == shape
    assert output.is_meta
    with FakeTensorMode():
        model = small_network(algorithm, axes)
        training_step(model, maps(3, axes))
        assert evaluate(model, maps(3, axes)).shape == shape


def test_from_the_meta_device_to_weights() -> None:
    """The way large models are loaded: built without memory, then given their weights."""
    source = small_network("matmul")
    with torch.device("meta"):
        model = small_network("matmul")
    evaluate(model, torch.empty(3, 4, *SIZES[2], device="meta"))
    model.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(evaluate(model, maps()), evaluate(source, maps()))


def test_one_module_in_several_threads() -> None:
    """Threads ask for different sizes, whose transformed filters displace each other's."""
    model = small_network("matmul").eval()
    inputs = [maps(2, size=(8 + i % 4, 9 + i % 3)) + i for i in range(48)]
    expected = [evaluate(model, x) for x in inputs]
    with ThreadPoolExecutor(6) as pool:
        for found, wanted in zip(
            pool.map(lambda x: evaluate(model, x), inputs), expected, strict=True
        ):
            assert torch.equal(found, wanted)
