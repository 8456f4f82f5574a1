"""The benchmark of SpecNet: what it says of runs, and that its ways compute."""

from dataclasses import replace
from pathlib import Path

import pytest
import specnet

from passband.train import TrainConfig, run


def test_what_runs_reached(tmp_path: Path) -> None:
    twin = TrainConfig(
        data="digits", model="speclenet", limit_train=64, limit_test=40, epochs=1, augment=False
    )
    own = replace(twin, method="specnet", activation="relu", pool="max", threshold=0.5)
    for name, config in (("own", own), ("twin", twin)):
        run(config, tmp_path / name, progress=False)
    first, second = specnet.accuracy([tmp_path])
    assert (first["method"], first["beta"], first["kept"], first["lost"]) == ("twin", "", 1, 0)
    assert (second["method"], second["beta"]) == ("relu, pool max", 0.5)
    assert second["kept"] < 0.8
    assert second["lost"] == first["accuracy"] - second["accuracy"]
    key = specnet.key("speclenet", own.spec_net)
    assert specnet.trained([tmp_path]) == {key: tmp_path / "own"}


@pytest.mark.parametrize("network", specnet.NETWORKS)
def test_the_table_has_both_modes_and_their_rivals(network: str) -> None:
    names = [way.name for way in specnet.ways(network)]
    assert names[0] == "twin"
    assert {"twin, checkpointed", "spectral-tanh, beta 1", "relu on the map, beta 1"} < set(names)
    assert ("twin, memory-efficient" in names) == (network == "specdensenet")
