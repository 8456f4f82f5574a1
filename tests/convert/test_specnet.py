import copy
import operator
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import passband as pb
from passband.convert import calibrate_threshold
from passband.nn.specnet import SpectralConv1d, SpectralConv2d
from passband.nn.spectral_network import SpectralNetwork
from tests.support import assert_close, random


class Branches(nn.Module):
    """Concatenation, addition, functions instead of layers, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.left = nn.Conv2d(4, 4, 3, padding=1)
        self.right = nn.Conv2d(4, 4, 5, padding=2)
        self.mix = nn.Conv2d(8, 6, 1)
        self.pool = nn.AvgPool2d(2)
        self.last = nn.Conv2d(6, 6, 3, padding=1)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        left, right = self.left(x).tanh(), torch.tanh(self.right(x))
        left = left + x
        x = self.pool(torch.relu(self.mix(torch.cat([left, right], dim=1))))
        y: Tensor = self.linear(self.mean(self.last(x)).flatten(1))
        return y


def sequential() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 16, 3),
    )


def trained(model: nn.Module) -> nn.Module:
    """A model with statistics of its own, in evaluation mode."""
    with torch.no_grad():
        model.train()(random(32, 2, 8, 8, dtype=torch.float32, seed=7))
    return model.eval()


@pytest.mark.parametrize("make", [sequential, Branches])
@pytest.mark.parametrize("batch_norm", ["remove", "keep"])
def test_the_same_function_at_threshold_zero(make: Any, batch_norm: str) -> None:
    model = trained(make())
    x = random(9, 2, 8, 8, dtype=torch.float32)
    expected = model(x)
    pool = "max" if make is sequential else "average"
    config = pb.SpecNet(0.0, activation="keep", pool=pool, batch_norm=batch_norm)
    report = pb.convert(model, config)
    assert all(layer.converted for layer in report.layers)
    assert_close(model(x), expected)  # with gradients: stored
    with torch.no_grad():
        assert_close(model(x), expected)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == (batch_norm == "keep")


def test_the_model_stays_what_it_was_besides() -> None:
    model = sequential()
    weight, container = model[0].weight, type(model)
    pb.convert(model, pb.SpecNet(1.0))
    assert isinstance(model, SpectralNetwork)
    assert isinstance(model, container)
    assert isinstance(model[0], SpectralConv2d)
    assert model[0].weight is weight
    assert model[0].pool == (2, 2)
    assert copy.deepcopy(model)(torch.zeros(1, 2, 8, 8)).shape == (1, 3)


def test_revert() -> None:
    model = sequential()
    pb.convert(model, pb.SpecNet(0.0, activation="relu", pool="max", learned_scale=False))
    x = random(3, 2, 8, 8, dtype=torch.float32)
    expected = model(x)
    pb.revert(model)
    assert type(model) is nn.Sequential
    assert [type(m) for m in model[:3]] == [nn.Conv2d, nn.Identity, nn.ReLU]
    assert_close(model(x), expected)


def test_it_can_be_converted_anew() -> None:
    model = sequential()
    pb.convert(model, pb.SpecNet(1.0, learned_scale=True))
    assert model[0].scale is not None
    pb.convert(model, pb.SpecNet(0.5, activation="relu"))
    assert (model[0].threshold, model[0].activation, model[0].scale) == (0.5, "relu", None)


def test_the_report_counts_what_is_kept() -> None:
    model = sequential()
    report = pb.convert(model, pb.SpecNet(0.3), torch.randn(16, 2, 8, 8))
    assert [layer.result for layer in report.layers] == ["converted: spectrum"] * 2
    for layer in report.layers:
        assert layer.realised_compression is not None
        assert 0.3 < layer.realised_compression < 1
    # the transform of the first layer's maps, of two channels only, does not pay
    first, second = report.layers
    assert (second.macs_after or 0) < (second.macs_before or 0) < (first.macs_after or 0)
    assert report.saved_bytes_before is not None
    assert report.saved_bytes_after is not None
    assert report.saved_bytes_after < 0.5 * report.saved_bytes_before


def test_a_filter_leaves_layers() -> None:
    model = sequential()
    report = pb.convert(model, pb.SpecNet(0.5), filter_fn=lambda name, _: name == "0")
    assert report.converted == ("0",)
    assert isinstance(model[0], SpectralConv2d)
    assert type(model[4]) is nn.Conv2d
    assert model(torch.zeros(2, 2, 8, 8)).shape == (2, 3)


def test_layers_that_cannot_be_converted() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(2, 2, 3, padding=1)
            self.b = nn.Conv2d(2, 2, 3)
            self.c = nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")
            self.d = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.d(self.c(self.b(self.a(self.a(x)))))
            return y

    report = pb.convert(Twice(), pb.SpecNet())
    assert [layer.result for layer in report.layers] == [
        "left: not once",
        "left: size",
        "left: padding",
        "converted",
    ]


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="model cannot be traced by torch"):
        pb.convert(Deciding(), pb.SpecNet())
    with pytest.raises(ValueError, match="model is a single layer"):
        pb.convert(nn.Conv2d(1, 1, 1), pb.SpecNet())


@pytest.mark.parametrize("mode", [True, False])
def test_functional_dropout_follows_the_mode(mode: bool) -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(2, 4, 3, padding=1)
            self.b = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.b(F.dropout(F.relu(self.a(x)), 0.5, self.training))
            return y

    model, x = Dropping().train(mode), random(3, 2, 8, 8, dtype=torch.float32)
    pb.convert(model, pb.SpecNet(0.0, activation="relu"))
    model.eval()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": -0.1}, "threshold is -0.1, allowed is 0 or more"),
        ({"batch_norm": "fold"}, "batch_norm is 'fold', allowed are 'remove' and 'keep'"),
        ({"batch_norm": "keep"}, "batch_norm is 'keep', which has no spectral form"),
        ({"compression": 1.0}, "compression is 1.0"),
        ({"activation": "maxout"}, "activation is 'maxout', allowed are"),
        ({"pool": "max"}, "pool is 'max', which has no spectral form"),
        ({"storage": "int2"}, "storage is 'int2'"),
    ],
)
def test_bad_configs_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pb.convert(sequential(), pb.SpecNet(**arguments))


def test_series() -> None:
    model = nn.Sequential(
        nn.Conv1d(1, 8, 9, padding="same"), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(8, 4, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2),
    )  # fmt: skip
    x = random(5, 1, 40, dtype=torch.float32)
    expected = model(x)
    pb.convert(model, pb.SpecNet(0.0, activation="relu", pool="max"))
    assert isinstance(model[0], SpectralConv1d)
    assert_close(model(x), expected)


@pytest.mark.parametrize("activation", ["spectral-tanh", "relu"])
@pytest.mark.parametrize("density", [0.1, 0.4])
def test_calibration_reaches_a_density(activation: str, density: float) -> None:
    model = sequential()
    pb.convert(model, pb.SpecNet(activation=activation, pool="average"))
    x = random(64, 2, 8, 8, dtype=torch.float32)
    table = calibrate_threshold(model, [x[:32], x[32:]], density=density)
    assert [row["layer"] for row in table.rows] == ["0", "4"]
    found = []
    for layer in (model[0], model[4]):
        layer.register_forward_hook(lambda _, __, result: found.append(result.density))
    model(x)
    # folded after the threshold, four coefficients become one
    ceiling = 4 * density if activation == "spectral-tanh" else 1.2 * density
    assert 0.7 * density < found[0] < ceiling
    assert found[1] == pytest.approx(density, rel=0.3)


def test_calibration_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="density is 0, allowed is 0 < density <= 1"):
        calibrate_threshold(sequential(), [], density=0)
    with pytest.raises(ValueError, match="model has no stages of SpecNet"):
        calibrate_threshold(sequential(), [torch.zeros(1, 2, 8, 8)], density=0.5)


def test_calibration_takes_batches_as_loaders_give_them() -> None:
    model, x = sequential(), random(4, 2, 8, 8, dtype=torch.float32)
    pb.convert(model, pb.SpecNet())
    expected = calibrate_threshold(model, [x], density=0.3).rows
    loader = torch.utils.data.DataLoader([(image, 0) for image in x], batch_size=4)
    assert calibrate_threshold(model, loader, density=0.3).rows == expected
    with pytest.raises(TypeError, match="batches is a tensor, allowed are several"):
        calibrate_threshold(model, x, density=0.3)


def test_a_conversion_that_fails_changes_nothing() -> None:
    model = trained(sequential())
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match="points"):
        pb.convert(model, pb.SpecNet(pool="average"), random(2, 2, 9, 9, dtype=torch.float32))
    assert str(model) == str(before)
    assert type(model) is nn.Sequential
    x = random(3, 2, 8, 8, dtype=torch.float32)
    assert torch.equal(model(x), before(x))
    pb.convert(model, pb.SpecNet())
    converted = model(x)
    with pytest.raises(ValueError, match="activation is 'maxout'"):
        pb.convert(model, pb.SpecNet(activation="maxout"))
    assert torch.equal(model(x), converted)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.scale = sequential(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.scale(self.body(x))
        return y


def test_a_part_that_was_converted_by_itself(tmp_path: Path) -> None:
    model, x = Wrapped().eval(), random(3, 2, 8, 8, dtype=torch.float32)
    pb.convert(model.body, pb.SpecNet(0.5))
    model.body[0].threshold = 0.7
    pb.save(model, tmp_path / "net.safetensors")
    same = pb.load(tmp_path / "net.safetensors", Wrapped())
    assert isinstance(same.body, SpectralNetwork)
    assert torch.equal(same.eval()(x), model(x))
    pb.convert(model, pb.SpecNet(0.0, activation="relu", pool="max"))
    assert type(model.body) is nn.Sequential
    assert isinstance(model, SpectralNetwork)
    pb.revert(model)
    pb.convert(model.body, pb.SpecNet(0.5))
    pb.revert(model)
    assert [type(m) for m in (model, model.body, model.body[0])] == [
        Wrapped,
        nn.Sequential,
        nn.Conv2d,
    ]


def test_a_part_of_a_converted_model_is_refused() -> None:
    model = Wrapped()
    pb.convert(model, pb.SpecNet())
    with pytest.raises(ValueError, match=r"layer .0. of model is a SpectralConv2d"):
        pb.convert(model.body, pb.SpecNet())


def test_a_model_of_another_method_is_refused() -> None:
    model = sequential()
    pb.convert(model, pb.BandLimit(compression=0.5), filter_fn=lambda *_: True)
    with pytest.raises(ValueError, match=r"by method 'band-limited'; call passband.revert\(model"):
        pb.convert(model, pb.SpecNet())


@pytest.mark.parametrize("activation", ["spectral-tanh", "relu"])
def test_save_and_load(tmp_path: Path, activation: str) -> None:
    model = sequential()
    scaled = activation == "spectral-tanh"
    pb.convert(model, pb.SpecNet(0.7, activation=activation, learned_scale=scaled))
    pb.save(model, tmp_path / "net.safetensors")
    x = random(3, 2, 8, 8, dtype=torch.float32)
    for fresh in (sequential(), copy.deepcopy(model)):
        same = pb.load(tmp_path / "net.safetensors", fresh)
        assert isinstance(same, SpectralNetwork)
        assert same.spectral_config == model.spectral_config  # type: ignore[attr-defined]
        assert torch.equal(same(x), model(x))


def test_filters_and_calibrated_thresholds_come_back(tmp_path: Path) -> None:
    model, x = sequential(), random(3, 2, 8, 8, dtype=torch.float32)
    pb.convert(model, pb.SpecNet(0.5), filter_fn=lambda name, _: name == "0")
    calibrate_threshold(model, [x], density=0.3)
    pb.save(model, tmp_path / "net.safetensors")
    same = pb.load(tmp_path / "net.safetensors", sequential())
    assert type(same[4]) is nn.Conv2d
    assert same[0].threshold == model[0].threshold != 0.5
    assert torch.equal(same(x), model(x))


def test_a_saved_network_of_this_package_is_made_anew(tmp_path: Path) -> None:
    from passband.networks import create_model

    model = create_model("speclenet", num_classes=3, in_channels=1, input_size=(8, 8))
    pb.convert(model, pb.SpecNet(0.5))
    pb.save(model, tmp_path / "net.safetensors")
    x = random(3, 1, 8, 8, dtype=torch.float32)
    assert torch.equal(pb.load(tmp_path / "net.safetensors")(x), model(x))


class Pools(nn.Module):
    """Functions of torch, of its C++ parts and of Python between the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.first(x))), 2)
        x = F.gelu(self.second(x)) + torch.sigmoid(x)
        return operator.mul(x, 2.0).flatten(1)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("make", [sequential, Pools])
def test_copies_and_pickles_of_a_converted_model(make: Any, way: Any) -> None:
    model = make()
    pb.convert(model, pb.SpecNet(0.3, activation="relu", pool="max", batch_norm="keep"))
    x = random(3, 2, 8, 8, dtype=torch.float32)
    same = way(model)
    assert type(same) is type(model)
    for _ in range(2):  # in training and in evaluation
        assert torch.equal(same(x), model(x))
        model.eval(), same.eval()
    norms = [m for m in same.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [n for m in same.modules() if isinstance(m, SpectralConv2d) for n in m.norm] == norms
    pb.revert(same)
    assert type(same) is type(make())
