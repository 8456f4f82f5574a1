"""The benchmark of SpecNet: what it says of runs, and that its ways compute."""

from dataclasses import replace
from pathlib import Path

import pytest
import specnet
import specnet_runs
from machine import write_rows

from passband.studies.specnet import NORMALISED
from passband.train import TrainConfig, run


def test_what_runs_reached(tmp_path: Path) -> None:
    twin = TrainConfig(
        data="digits", model="speclenet", limit_train=64, limit_test=40, epochs=1, augment=False
    )
    own = replace(twin, method="specnet", activation="relu", pool="max", threshold=0.5)
    for name, config in (("own", own), ("twin", twin)):
        run(config, tmp_path / name, progress=False)
    first, second = rows = specnet_runs.accuracy([tmp_path], known=[])
    assert (first["method"], first["beta"], first["kept"], first["lost"]) == ("twin", "", 1, 0)
    assert (second["method"], second["beta"]) == ("relu, pool max", 0.5)
    assert second["kept"] < 0.8
    assert second["lost"] == first["accuracy"] - second["accuracy"]
    key = specnet.key("speclenet", own.spec_net)
    assert specnet.trained([tmp_path]) == {key: tmp_path / "own"}
    write_rows(tmp_path / "rows.csv", rows)
    assert specnet_runs.read_accuracy(tmp_path / "rows.csv") == rows


def test_runs_join_the_rows_that_are_there(tmp_path: Path) -> None:
    config = TrainConfig(
        data="digits", model="speclenet", limit_train=64, limit_test=40, epochs=1, augment=False
    )
    run(config, tmp_path / "twin", progress=False)
    (twin,) = specnet_runs.accuracy([tmp_path], known=[])
    before = twin | {"accuracy": 2.0, "commit": "1e9999"}
    other = before | {"method": "relu, pool max", "beta": 0.5, "accuracy": 0.0, "kept_bytes": 1}
    first, second = specnet_runs.accuracy([tmp_path], known=[other, before])
    assert first == twin, "a run takes the place of the same training"
    assert (second["commit"], second["lost"]) == ("1e9999", twin["accuracy"])
    assert second["kept"] == 1 / twin["kept_bytes"]


def test_seeds_have_twins_of_their_own_and_a_mean(tmp_path: Path) -> None:
    config = TrainConfig(
        data="digits", model="speclenet", limit_train=64, limit_test=40, epochs=1, augment=False
    )
    run(config, tmp_path / "twin", progress=False)
    (twin,) = specnet_runs.accuracy([tmp_path], known=[])
    method = {"method": "relu, pool max", "beta": 0.5}
    known = [
        twin | {"accuracy": 0.5}, twin | method | {"accuracy": 0.25},
        twin | {"accuracy": 0.75, "seed": 1}, twin | method | {"accuracy": 1.0, "seed": 1},
    ]  # fmt: skip
    rows = specnet_runs.accuracy([], known)
    assert [row["lost"] for row in rows] == [0, 0, 0.25, -0.25]
    first, second = specnet_runs.over_seeds(rows)
    assert (first["accuracy"], first["lost"]) == (0.625, 0)
    assert (second["method"], second["accuracy"], second["lost"]) == ("relu, pool max", 0.625, 0)


def test_a_twin_of_less_precision_is_beside_the_twin(tmp_path: Path) -> None:
    config = TrainConfig(
        data="digits", model="speclenet", limit_train=64, limit_test=40, epochs=1, augment=False
    )
    run(replace(config, precision="bf16-mixed"), tmp_path / "a", progress=False)
    run(config, tmp_path / "b", progress=False)
    twin, half = specnet_runs.accuracy([tmp_path], known=[])
    assert (twin["method"], half["method"]) == ("twin", "twin, bf16-mixed")
    assert (twin["lost"], half["lost"]) == (0, twin["accuracy"] - half["accuracy"])


@pytest.mark.parametrize("network", specnet.NETWORKS)
def test_the_table_has_both_modes_and_their_rivals(network: str) -> None:
    found = {(way.name, way.beta) for way in specnet.ways(network, [])}
    pool = "average" if network == "specdensenet" else "max"
    assert specnet.ways(network, [])[0].name == "twin"
    assert {("twin, checkpointed", ""), ("spectral-tanh, pool spectral", 1.0)} < found
    assert {(f"relu, pool {pool}", 0.5), (f"relu, pool {pool}", 1.0)} < found
    assert (("twin, memory-efficient", "") in found) == (network == "specdensenet")
    assert any(way.batch_norm for way in specnet.ways(network, [])) == (network in NORMALISED)


def test_every_run_is_a_row_of_its_network(tmp_path: Path) -> None:
    config = TrainConfig(
        data="digits", model="speclenet", method="specnet", threshold=0.75, activation="relu",
        pool="max", epochs=1, limit_train=32, limit_test=16,
    )  # fmt: skip
    run(config, tmp_path / "own", progress=False)
    of_network, of_another = (
        {(way.name, way.beta) for way in specnet.ways(name, [tmp_path])}
        for name in ("speclenet", "specalexnet")
    )
    assert ("relu, pool max", 0.75) in of_network
    assert ("relu, pool max", 0.75) not in of_another
