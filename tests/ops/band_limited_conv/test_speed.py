"""The model of time behind "auto": features by hand, and the file of measured constants."""

import json
import re
from pathlib import Path

import pytest
import torch

from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.ops.band_limited_conv.speed import (
    FEATURES,
    SHIPPED,
    VERSION,
    WAYS,
    Call,
    costs_in_use,
    costs_path,
    features,
    seconds,
)

GEOMETRY = conv_geometry((8, 8), (3, 3), padding=1, band=2)
INFERENCE, TRAINING = (Call(GEOMETRY, 2, 4, 5, training) for training in (False, True))


@pytest.fixture
def costs_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "costs.json"
    monkeypatch.setenv("PASSBAND_COSTS", str(path))
    torch.use_deterministic_algorithms(False)  # with which measured constants are left aside
    return path


def test_features_of_torchs_convolution() -> None:
    product, transforms, filters, moved, calls = features("torch", INFERENCE)
    assert product == 2 * 4 * 5 * 9 * 64
    assert transforms == filters == 0
    assert moved == 4 * (2 * (4 + 5) * 64 + 4 * 5 * 9)
    assert calls == 1
    product_of_training, *_, calls = features("torch", TRAINING)
    assert (product_of_training, calls) == (3 * product, 3)


def test_features_of_the_kernels() -> None:
    """Three real products for each of five complex frequencies: 3 x 3 real degrees of freedom."""
    product, _, filters, _, _ = features("matmul kernels", INFERENCE)
    assert product == 2 * 4 * 5 * 3 * 5
    assert filters == 4 * 5 * (4 * 9 + 3 * 3 + 5 * (3 + 6))


@pytest.mark.parametrize("way", WAYS)
def test_more_work_takes_longer(way: str) -> None:
    assert seconds(way, TRAINING) > seconds(way, INFERENCE) > 0
    assert seconds(way, Call(GEOMETRY, 4, 4, 5, False)) > seconds(way, INFERENCE)


def write(path: Path, **changes: object) -> None:
    costs = {way: [1.0, 0.0, 0.0, 0.0, 0.0] for way in WAYS}
    path.write_text(json.dumps({"version": VERSION, "costs": costs, **changes}))


def test_measured_constants_are_used(costs_file: Path) -> None:
    assert costs_path() == costs_file
    assert costs_in_use() is SHIPPED
    other = costs_file.with_name("other.json")  # what is read once is kept
    write(other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PASSBAND_COSTS", str(other))
        assert seconds("torch", INFERENCE) == features("torch", INFERENCE)[0]
        torch.use_deterministic_algorithms(True)
        try:
            assert costs_in_use() is SHIPPED
        finally:
            torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "changes",
    [
        {"version": VERSION + 1},
        {"costs": {}},
        {"costs": {way: [1.0] for way in WAYS}},
        {"costs": {way: [float("nan")] * len(FEATURES) for way in WAYS}},
        {"costs": {way: [-1.0] * len(FEATURES) for way in WAYS}},
    ],
    ids=["version", "missing", "short", "nan", "negative"],
)
def test_a_file_that_says_something_else(changes: dict, costs_file: Path) -> None:
    write(costs_file, **changes)
    with pytest.raises(ValueError, match=re.escape(f"{costs_file} holds no constants")):
        costs_in_use()


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PASSBAND_COSTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert costs_path() == tmp_path / "passband" / "costs.json"
