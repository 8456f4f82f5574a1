"""A dense block computes and keeps what its layers do one by one."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from passband.measure.memory import SavedBytes
from passband.nn import spectral_block
from passband.nn.specnet import SpectralConv, SpectralConv1d, SpectralConv2d
from passband.nn.spectral_block import dense_block
from passband.nn.spectral_map import SpectralMap
from passband.ops.spectral.stage import StoredSpectrum
from tests.support import assert_close, random

CASES: dict[str, dict[str, Any]] = {
    "relu": {"activation": "relu", "threshold": 0.4},
    "gelu": {"activation": "gelu", "threshold": 0.4},
    "batch norm": {"activation": "relu", "bias": False},
    "batch norm, threshold": {"activation": "relu", "threshold": 0.4, "bias": False},
    "batch norm, straight through": {
        "activation": "relu",
        "threshold": 0.4,
        "bias": False,
        "gradient": "straight-through",
    },
    "batch norm, weak gamma": {"activation": "relu", "bias": False},
    "activation first": {"activation": "tanh", "threshold": 0.4, "order": "activation-first"},
    "spectrum": {"activation": "spectral-tanh", "threshold": 0.4},
    "softsign": {"activation": "spectral-softsign", "threshold": 0.4},
    "hardtanh": {"activation": "spectral-hardtanh", "threshold": 0.4},
    "arctan": {"activation": "spectral-arctan", "threshold": 0.4},
    "no activation": {"threshold": 0.4},
    "learned scale": {"activation": "spectral-tanh", "threshold": 0.4, "learned_scale": True},
    "no threshold": {"activation": "relu", "compression": 0.3},
    "straight through": {"activation": "relu", "threshold": 0.4, "gradient": "straight-through"},
    "int8": {"activation": "relu", "threshold": 0.4, "storage": "int8"},
}


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The blocks that ran together, of which every unit of images was a group of its own."""
    ran: list[Any] = []
    run = spectral_block.run_block

    def noted(block: Any, *arguments: Any) -> Any:
        ran.append(block)
        return run(block, *arguments)

    monkeypatch.setattr(spectral_block, "run_block", noted)
    monkeypatch.setattr(spectral_block, "MAP_BYTES", 1)
    monkeypatch.setattr(spectral_block, "SPECTRUM_BYTES", 1)
    return ran


class Layers(nn.Module):
    """A layer before a block, and its layers; the last one pools."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        common = {"padding": 1, "dtype": torch.float64, **CASES[name]}
        self.before = SpectralConv2d(2, 3, 3, **common)
        self.inner = nn.ModuleList([SpectralConv2d(c, 2, 3, **common) for c in (3, 5, 7)])
        mode = "average" if self.before.on_map else "spectral"
        self.last = SpectralConv2d(9, 4, 3, **common, pool=2, pool_mode=mode)
        self.norms = nn.ModuleList()
        if name.startswith("batch norm"):
            for layer in (self.before, *self.inner, self.last):
                norm = nn.BatchNorm2d(layer.out_channels, dtype=torch.float64)
                layer.norm_place = (self.norms, str(len(self.norms)))
                self.norms.append(norm)
        if name.endswith("weak gamma"):
            with torch.no_grad():
                for norm in self.norms:
                    norm.weight[0] = 1e-6

    def forward(self, x: Tensor, with_last: bool = True) -> SpectralMap:
        inner: list[SpectralConv] = list(self.inner)  # type: ignore[arg-type]
        return dense_block(self.before(x), inner, self.last if with_last else None)

    def one_by_one(self) -> "Layers":
        """The same, whose layers somebody watches."""
        other = copy.deepcopy(self)
        for module in other.modules():
            module.register_forward_hook(lambda *_: None)
        return other


def results(model: Layers, x: Tensor, with_last: bool) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    maps = model(x, with_last).to_map()
    (maps * random(*maps.shape, seed=9)).sum().backward()
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"maps": maps, "input": x.grad, **named, **dict(model.named_buffers())}


@pytest.mark.parametrize("with_last", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_the_same_as_one_by_one(name: str, with_last: bool, blocks: list[Any]) -> None:
    model = Layers(name)
    x = random(19, 2, 7, 6) if model.before.on_map else random(19, 2, 8, 6)
    expected = results(model.one_by_one(), x, with_last)
    assert not blocks
    found = results(model, x, with_last)
    assert len(blocks) == 1
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert_close(value.double(), expected[key].double())


def test_synchronised_batch_norm_runs_one_by_one(blocks: list[Any]) -> None:
    model, synchronised = Layers("batch norm"), Layers("batch norm")
    nn.SyncBatchNorm.convert_sync_batchnorm(synchronised)
    x = random(19, 2, 7, 6)
    found = results(synchronised, x, True)
    assert not blocks
    for key, value in results(model, x, True).items():
        assert_close(found[key].double(), value.double())


@pytest.mark.parametrize("name", CASES)
def test_the_same_without_gradients(name: str, blocks: list[Any]) -> None:
    model = Layers(name).eval()
    x = random(10, 2, 8, 6)
    with torch.no_grad():
        expected = model.one_by_one()(x)
        found = model(x)
    assert len(blocks) == (name != "int8")  # without gradients nothing is rounded
    assert_close(found.to_map(), expected.to_map())


@pytest.mark.parametrize("name", ["relu", "batch norm", "spectrum"])
def test_what_is_kept_is_the_same(name: str, blocks: list[Any]) -> None:
    model, x = Layers(name), random(16, 2, 8, 8)
    with SavedBytes(model) as saved:
        result = model(x, with_last=False)
    assert len(blocks) == 1
    other = model.one_by_one()
    with SavedBytes(other) as expected:
        other(x, with_last=False)
    assert len(blocks) == 1
    *inner, last = [piece.spectrum for piece in result.pieces]
    assert isinstance(last, StoredSpectrum)
    assert saved.total == expected.total
    # of batch norm mean and 1 / standard deviation, and its result, which tells its gradient
    moments = [2 * norm.num_features * 8 for norm in other.norms[:-1]]
    of_last = (
        last.nbytes if moments else sum(u.bits.nbytes for u in last.units if u.bits is not None)
    )
    assert saved.total == x.nbytes + sum(s.nbytes for s in inner) + of_last + sum(moments)


@pytest.mark.parametrize("activation", ["relu", "silu", "spectral-tanh"])
def test_derivatives_are_exact_at_threshold_zero(activation: str, blocks: list[Any]) -> None:
    common: dict[str, Any] = {"padding": 1, "activation": activation, "dtype": torch.float64}
    layers = [SpectralConv1d(c, 2, 3, **common) for c in (2, 4)]
    last = SpectralConv1d(6, 2, 3, **common, pool=2, pool_mode="average")
    x = random(3, 2, 6).requires_grad_()

    def function(x: Tensor, *_: Tensor) -> Tensor:
        return dense_block(SpectralMap.of(x), layers, last).to_map()

    parameters = [p for layer in (*layers, last) for p in layer.parameters()]
    assert torch.autograd.gradcheck(function, (x, *parameters))
    assert blocks


def test_only_what_is_asked_for_gets_a_gradient(blocks: list[Any]) -> None:
    model = Layers("relu")
    model.before.requires_grad_(False)
    model.inner[0].requires_grad_(False)
    maps = model(random(3, 2, 6, 6))
    maps.to_map().sum().backward()
    assert blocks
    assert model.inner[0].weight.grad is None
    assert model.inner[1].weight.grad is not None


def test_what_nobody_reads_gets_no_gradient(blocks: list[Any]) -> None:
    model = Layers("relu")
    maps = model(random(3, 2, 6, 6), with_last=False)
    SpectralMap(maps.pieces[:2]).to_map().sum().backward()
    assert blocks
    assert model.inner[0].weight.grad is not None
    assert model.inner[1].weight.grad is None


def test_layers_that_have_nothing_in_common_run_one_by_one(blocks: list[Any]) -> None:
    spectral = SpectralConv2d(2, 3, 3, padding=1, activation="spectral-tanh")
    on_map = SpectralConv2d(5, 2, 3, padding=1, activation="relu")
    x = random(3, 2, 6, 6, dtype=torch.float32)
    found = dense_block(SpectralMap.of(x), [spectral, on_map])
    maps = SpectralMap.of(x)
    maps = SpectralMap.cat([maps, spectral(maps)])
    assert_close(found.to_map(), SpectralMap.cat([maps, on_map(maps)]).to_map())
    assert not blocks


def test_what_the_threshold_left_in_the_padding_counts(blocks: list[Any]) -> None:
    """A layer that reads stored spectra as they are does so before a block as well."""
    first = SpectralConv2d(
        2, 3, 3, padding=1, activation="relu", threshold=0.4, order="activation-first",
        dtype=torch.float64,
    )  # fmt: skip
    first.next_padding = ((1, 1), (1, 1))
    common: dict[str, Any] = {"padding": 1, "activation": "relu", "dtype": torch.float64}
    layers = [SpectralConv2d(c, 2, 3, **common) for c in (3, 5, 7)]
    maps = first(random(5, 2, 6, 6))
    found = dense_block(maps, layers).to_map()
    assert len(blocks[0].stages) == 2
    for layer in layers:
        maps = SpectralMap.cat([maps, layer(maps)])
    assert_close(found, maps.to_map())


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("tracks", [True, False])
def test_statistics_are_those_of_the_batch_whatever_the_layers_mode(
    tracks: bool, grad: bool, blocks: list[Any]
) -> None:
    model = Layers("batch norm").eval()
    if tracks:
        model.norms.train()
    else:
        for norm in model.norms:
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    other = model.one_by_one()
    x = random(19, 2, 7, 6)
    with torch.set_grad_enabled(grad):
        found, expected = model(x).to_map(), other(x).to_map()
    assert blocks
    assert_close(found, expected)
    for name, buffer in model.named_buffers():
        assert_close(buffer.double(), dict(other.named_buffers())[name].double())


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_way_back_is_that_of_the_forward_pass(
    training: bool, together: bool, blocks: list[Any]
) -> None:
    """Whatever is done to the model in between: another mode, and running statistics."""
    model = Layers("batch norm").train(training)
    twin = copy.deepcopy(model)
    model = model if together else model.one_by_one()
    x = random(19, 2, 7, 6)
    found, expected = model(x).to_map(), twin(x).to_map()
    model.train(not training)
    with torch.no_grad():
        model(x + 1)
    weights = [[layer.weight for layer in (m.before, m.last)] for m in (model, twin)]
    wanted = torch.autograd.grad(expected.square().sum(), weights[1])
    own = torch.autograd.grad(found.square().sum(), weights[0])
    assert len(blocks) == (3 if together else 1)
    for a, b in zip(own, wanted, strict=True):
        assert_close(a, b)
