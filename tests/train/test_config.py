import json
from typing import Any

import pytest

from passband.config import BandLimit, SpecNet
from passband.train import TrainConfig


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        TrainConfig(method="band-limited", compression=0.5, devices=2, limit_train=10),
        TrainConfig(method="band-limited", band=(3, 4), algorithm="matmul", validation=0.1),
        TrainConfig(method="specnet", threshold=0.5, activation="relu", pool="max"),
    ],
)
def test_survives_a_trip_through_json(config: TrainConfig) -> None:
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_gives_the_spec_net() -> None:
    config = TrainConfig(method="specnet", threshold=0.5, storage="int8", compression=0.3)
    assert config.spec_net == SpecNet(0.5, storage="int8", compression=0.3)


def test_gives_the_band_limit() -> None:
    config = TrainConfig(method="band-limited", energy=0.9, algorithm="fft")
    assert config.band_limit == BandLimit(energy=0.9, algorithm="fft")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "bandlimited"}, "method is 'bandlimited'; allowed are native, band-limited"),
        ({"optimizer": "lion"}, "optimizer is 'lion'; allowed are sgd, adam, adamw"),
        ({"scheduler": "exp"}, "scheduler is 'exp'; allowed are none, cosine, plateau, step"),
        ({"precision": "16"}, "precision is '16'; allowed are 32, 64, 16-mixed, bf16-mixed"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"batch_size": -1}, "batch_size is -1; it must be at least 1"),
        ({"limit_train": 0}, "limit_train is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"lr": 0.0}, "lr is 0.0; allowed is above 0"),
        ({"lr": float("nan")}, "lr is nan; allowed is above 0"),
        ({"momentum": 1}, "momentum is 1; allowed is 0 <= momentum < 1"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1; allowed is 0 or more"),
        ({"validation": 1.0}, "validation is 1.0; allowed is 0 <= validation < 1"),
        ({"devices": "gpu"}, "devices is 'gpu'; allowed are 'auto', a number of devices"),
        ({"devices": 0}, "devices is 0; allowed"),
        ({"compression": 0.5}, "method is 'native', which has no compression"),
        ({"threshold": 0.5}, "method is 'native', which has no threshold, activation, pool"),
        ({"method": "specnet", "energy": 0.5}, "method is 'specnet', which has no energy, band"),
        ({"method": "specnet", "threshold": -1.0}, "threshold is -1.0, allowed is 0 or more"),
        ({"method": "band-limited", "compression": 1.0}, "compression is 1.0, allowed is 0 <="),
        (
            {"method": "band-limited", "compression": 0.5, "energy": 0.9},
            "compression and energy are given; give at most one",
        ),
    ],
)
def test_refuses_values_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"lr": "0.1"}, "lr must be a number, got '0.1'"),
    ],
)
def test_refuses_values_of_other_types(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        TrainConfig(**fields)


def test_refuses_what_another_version_wrote() -> None:
    with pytest.raises(ValueError, match="version of the training config is 2; known is 1"):
        TrainConfig.from_dict(TrainConfig().to_dict() | {"version": 2})
    with pytest.raises(ValueError, match="a training config has no field rate"):
        TrainConfig.from_dict(TrainConfig().to_dict() | {"rate": 2})
