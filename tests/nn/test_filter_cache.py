"""In evaluation the transformed filters are kept between calls, and never outlive their weights."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import passband as pb
from passband.ops.band_limited_conv import matmul
from passband.ops.band_limited_conv.native import convolution as native
from tests.support import TOLERANCE, assert_close, random

MAPS = random(2, 4, 9, 8, dtype=torch.float32)


@pytest.fixture(autouse=True)
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without kernels, which transform filters anew in every call."""
    monkeypatch.setattr(native, "applies", lambda *_: False)


@pytest.fixture
def layer() -> pb.BandLimitedConv2d:
    return pb.BandLimitedConv2d(4, 6, 3, padding=1, compression=0.5, algorithm="matmul").eval()


@pytest.fixture
def transforms(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Grows by an entry whenever filters are transformed."""
    calls: list[tuple[int, ...]] = []
    original = matmul.prepare_filter

    def counted(weight: torch.Tensor, *arguments: object) -> torch.Tensor:
        calls.append(tuple(weight.shape))
        return original(weight, *arguments)

    monkeypatch.setattr(matmul, "prepare_filter", counted)
    return calls


def expected(layer: pb.BandLimitedConv2d, maps: torch.Tensor = MAPS) -> torch.Tensor:
    """The function of the weights as they are, by another algorithm."""
    with torch.no_grad():
        return pb.band_limited_conv2d(
            maps, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation,
            layer.groups, compression=layer.compression, band=layer.band, energy=layer.energy,
            algorithm="lowpass",
        )  # fmt: skip


def evaluate(layer: pb.BandLimitedConv2d, maps: torch.Tensor = MAPS) -> torch.Tensor:
    with torch.no_grad():
        return layer(maps)


def test_filters_are_transformed_once(layer, transforms) -> None:
    outputs = [evaluate(layer) for _ in range(3)]
    assert len(transforms) == 1
    for output in outputs:
        assert_close(output, expected(layer))
    evaluate(layer, MAPS[:1])  # another batch
    with torch.inference_mode():
        layer(MAPS)
    assert len(transforms) == 1


@pytest.mark.parametrize("algorithm", ["auto", "matmul"])
def test_a_series_and_a_volume_use_it_too(algorithm: str, transforms) -> None:
    cases = {pb.BandLimitedConv1d: (64,), pb.BandLimitedConv3d: (9, 8, 10)}
    for kind, size in cases.items():
        layer = kind(8, 8, 3, padding=1, compression=0.9, algorithm=algorithm).eval()
        transforms.clear()
        for _ in range(3):
            evaluate(layer, random(2, 8, *size, dtype=torch.float32))
        assert len(transforms) == 1


@pytest.mark.parametrize("algorithm", ["fft", "lowpass"])
def test_algorithms_without_filters_to_transform_are_left_alone(algorithm, transforms) -> None:
    layer = pb.BandLimitedConv2d(4, 6, 3, padding=1, compression=0.5, algorithm=algorithm).eval()
    assert_close(evaluate(layer), expected(layer))
    assert transforms == []


def test_gradients_flow_in_evaluation(layer) -> None:
    evaluate(layer)
    maps = MAPS.clone().requires_grad_()
    layer(maps).sum().backward()
    assert maps.grad is not None
    assert layer.weight.grad is not None


def test_training_does_not_use_it(layer, transforms) -> None:
    evaluate(layer)
    layer.train()
    with torch.no_grad():
        layer(MAPS)
        layer(MAPS)
    assert len(transforms) == 3


def step(layer: pb.BandLimitedConv2d, optimizer: torch.optim.Optimizer) -> None:
    with torch.enable_grad():
        layer(MAPS).square().sum().backward()
    optimizer.step()


def load(layer: nn.Module, assign: bool) -> None:
    state = {name: value.clone() * 2 for name, value in layer.state_dict().items()}
    layer.load_state_dict(state, assign=assign)


def replace(layer: nn.Module) -> None:
    layer.weight = nn.Parameter(layer.weight.detach() * 2)


def swap_data(layer: nn.Module) -> None:
    layer.weight.data = layer.weight.data * 2


def swap_back_and_forth(layer: pb.BandLimitedConv2d) -> None:
    """Averaged weights for evaluation, as moving averages do it: through .data, and back."""
    original = layer.weight.data.clone()
    layer.weight.data.copy_(original * 2)
    assert_close(evaluate(layer), expected(layer))
    layer.weight.data.copy_(original)


def train_a_little(layer: pb.BandLimitedConv2d) -> None:
    layer.train()
    step(layer, torch.optim.SGD(layer.parameters(), lr=0.1))
    layer.eval()


CHANGES: dict[str, Callable[[pb.BandLimitedConv2d], object]] = {
    "SGD": lambda layer: step(layer, torch.optim.SGD(layer.parameters(), lr=0.1)),
    "Adam": lambda layer: step(layer, torch.optim.Adam(layer.parameters(), lr=0.1)),
    "fused AdamW": lambda layer: step(layer, torch.optim.AdamW(layer.parameters(), fused=True)),
    "SGD, one by one": lambda layer: step(
        layer, torch.optim.SGD(layer.parameters(), lr=0.1, foreach=False)
    ),
    "in place": lambda layer: layer.weight.mul_(2),
    "in place, one element": lambda layer: layer.weight[0, 0, 0].add_(1),
    "through .data": lambda layer: layer.weight.data.mul_(2),
    "through detach": lambda layer: layer.weight.detach().mul_(2),
    "through numpy": lambda layer: layer.weight.detach().numpy().__imul__(2),
    "new data": swap_data,
    "new parameter": replace,
    "an average and back": swap_back_and_forth,
    "vector": lambda layer: nn.utils.vector_to_parameters(
        2 * nn.utils.parameters_to_vector(layer.parameters()), layer.parameters()
    ),
    "load": lambda layer: load(layer, assign=False),
    "load and assign": lambda layer: load(layer, assign=True),
    "initialise": lambda layer: layer.reset_parameters(),
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "parametrize": lambda layer: parametrizations.weight_norm(layer),
    "train": train_a_little,
    "bias": lambda layer: layer.bias.add_(1),
    "band": lambda layer: layer.set_band(compression=0.8),
    "stride": lambda layer: setattr(layer, "stride", (2, 1)),
    "padding": lambda layer: setattr(layer, "padding", (0, 2)),
    "channels last": lambda layer: layer.to(memory_format=torch.channels_last),
    "nothing": lambda layer: None,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_weights_is_never_missed(name: str, layer) -> None:
    assert_close(evaluate(layer), expected(layer))
    with torch.no_grad():
        CHANGES[name](layer)
    assert_close(evaluate(layer), expected(layer))
    assert_close(evaluate(layer), expected(layer))


def test_a_parametrized_weight_follows_its_parameters(layer) -> None:
    """It is a new tensor in every call, which may lie where the last one lay."""
    parametrizations.weight_norm(layer)
    for _ in range(3):
        assert_close(evaluate(layer), expected(layer))
        with torch.no_grad():
            layer.parametrizations.weight.original0.mul_(2)
    parametrize.remove_parametrizations(layer, "weight")
    assert_close(evaluate(layer), expected(layer))


def test_a_weight_lent_for_a_call_is_used(layer) -> None:
    evaluate(layer)
    for factor in (2, 3):
        weight = layer.weight.detach() * factor
        with torch.no_grad():
            found = torch.func.functional_call(layer, {"weight": weight}, (MAPS,))
            assert_close(found, pb.band_limited_conv2d(MAPS, weight, layer.bias, 1, 1,
                                                       compression=0.5))  # fmt: skip
    assert_close(evaluate(layer), expected(layer))


def test_off_the_cpu_nothing_is_kept(transforms) -> None:
    """To see that a fused optimizer has changed the weights would mean to wait for the device."""
    layer = pb.BandLimitedConv2d(4, 6, 3, compression=0.5, algorithm="matmul", device="meta").eval()
    assert evaluate(layer, MAPS.to("meta")).shape == (2, 6, 7, 6)
    assert transforms == []  # the operator, of which the meta device takes the shapes only


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_moving_to_another_type_and_back(dtype: torch.dtype, layer) -> None:
    evaluate(layer)
    layer.to(dtype)
    maps = MAPS.to(dtype)
    found = evaluate(layer, maps)
    assert found.dtype == dtype
    assert_close(found, expected(layer.double(), maps.double()), TOLERANCE[dtype])
    layer.float()
    assert_close(evaluate(layer), expected(layer))


def test_maps_of_other_sizes(layer) -> None:
    for size in ((9, 8), (12, 7), (9, 8), (3, 3), (8, 9)):
        maps = random(2, 4, *size, dtype=torch.float32)
        assert_close(evaluate(layer, maps), expected(layer, maps))


def test_autocast_on_and_off(layer) -> None:
    exact = expected(layer)
    for _ in range(2):
        assert_close(evaluate(layer), exact)
        with torch.autocast("cpu", torch.bfloat16):
            short = evaluate(layer)
            assert short.dtype == torch.bfloat16
            assert_close(short, exact)
        with torch.autocast("cpu", torch.float16):
            assert_close(evaluate(layer), exact, TOLERANCE[torch.float16])


def test_with_and_without_the_cache_types_and_layouts_are_the_same(layer) -> None:
    maps = MAPS.contiguous(memory_format=torch.channels_last)
    with_gradients, cached = layer(maps), evaluate(layer, maps)
    assert cached.is_contiguous(memory_format=torch.channels_last)
    assert with_gradients.is_contiguous(memory_format=torch.channels_last)
    assert_close(cached, with_gradients)
    with torch.autocast("cpu", torch.bfloat16):
        assert evaluate(layer, maps).dtype == layer(maps).dtype


def test_after_inference_mode_training_goes_on(layer) -> None:
    with torch.inference_mode():
        layer(MAPS)
    assert_close(evaluate(layer), expected(layer))
    layer.train()
    layer(MAPS).sum().backward()
    assert layer.weight.grad is not None


def test_it_is_not_copied_and_not_pickled(layer, transforms) -> None:
    before = pickle.dumps(layer)
    evaluate(layer)
    assert pickle.dumps(layer) == before
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    copies = [
        copy.deepcopy(layer),
        copy.copy(layer),
        pickle.loads(before),
        torch.load(buffer, weights_only=False),
    ]
    for other in copies:
        transforms.clear()
        assert_close(evaluate(other), expected(layer))
        assert len(transforms) == 1
    transforms.clear()
    evaluate(layer)
    assert transforms == []  # the original has kept its own


def test_it_is_no_part_of_the_state(layer) -> None:
    names, buffers = list(layer.state_dict()), list(layer.buffers())
    evaluate(layer)
    assert list(layer.state_dict()) == names == ["weight", "bias"]
    assert list(layer.buffers()) == buffers == []
