import dataclasses
from pathlib import Path

import pytest
import torch

from passband import BandLimitedConv2d
from passband.train import TrainConfig, evaluate, load_run, run
from passband.train.evaluation import make_model
from passband.train.parts import load_parts

TINY = TrainConfig(model="lenet5", limit_train=96, limit_test=60, epochs=2, lr=0.05)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("native")
    run(TINY, out, progress=False)
    return out


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("limited")
    config = dataclasses.replace(TINY, method="band-limited", compression=0.5)
    run(config, out, progress=False)
    return out


def test_by_itself_measures_what_was_trained(limited: Path) -> None:
    found = evaluate(limited)
    assert found["compression"] == 0.5
    assert found["test_samples"] == 60
    assert found["test_accuracy"] == (evaluate(limited, compression=0.5))["test_accuracy"]


def test_the_band_can_be_another_at_test_time(limited: Path) -> None:
    found = [evaluate(limited, compression=c) for c in (0.0, 0.5, 0.9)]
    realised = [entry["realised_compression"] for entry in found]
    assert realised[0] == 0
    assert realised == sorted(set(realised))
    assert len({entry["test_loss"] for entry in found}) == 3
    assert evaluate(limited, energy=0.8)["energy"] == 0.8
    assert evaluate(limited, band=2)["band"] == 2


def test_a_native_network_is_converted(native: Path) -> None:
    plain, full = evaluate(native), evaluate(native, compression=0.0)
    assert plain["realised_compression"] is None
    assert full["realised_compression"] == 0
    # The full band is the plain convolution but for rounding, which stays far below the loss.
    assert full["test_loss"] == pytest.approx(plain["test_loss"], rel=1e-4)
    assert evaluate(native, compression=0.8)["test_loss"] != plain["test_loss"]


def test_loads_the_network_as_it_was_trained(limited: Path) -> None:
    model, config, bundle = load_run(limited)
    assert config.compression == 0.5
    assert bundle.name == "digits"
    assert not model.training
    layers = [module for module in model.modules() if isinstance(module, BandLimitedConv2d)]
    assert [layer.compression for layer in layers] == [0.5, 0.5]
    fresh = make_model(config, load_parts(config).bundle)
    trained = dict(model.named_parameters())
    assert not any(torch.equal(value, trained[name]) for name, value in fresh.named_parameters())


def test_the_best_epoch_can_be_asked_for(limited: Path) -> None:
    assert evaluate(limited, checkpoint="best")["test_samples"] == 60
    with pytest.raises(ValueError, match="checkpoint is 'first'; allowed are 'last' and 'best'"):
        evaluate(limited, checkpoint="first")


def test_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no run: there is no config\.json in it"):
        evaluate(tmp_path)


def test_at_most_one_band(limited: Path) -> None:
    with pytest.raises(ValueError, match="compression and energy are given"):
        evaluate(limited, compression=0.5, energy=0.5)


def test_every_convolution_of_more_than_one_point_is_band_limited() -> None:
    config = TrainConfig(model="resnet8", method="band-limited", compression=0.0)
    model = make_model(config, load_parts(config).bundle)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            assert isinstance(module, BandLimitedConv2d) == (module.kernel_size != (1, 1))
