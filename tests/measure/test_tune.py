"""Fitting the constants by which a layer chooses its algorithm."""

from pathlib import Path

import numpy as np
import pytest
import torch

from passband.measure import tune
from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.ops.band_limited_conv.native.library import load_library
from passband.ops.band_limited_conv.speed import (
    FEATURES,
    SHIPPED,
    WAYS,
    Call,
    costs_in_use,
)

TINY = ((2, 3, 4, (7, 8), 3, 1), (1, 4, 2, (20,), 5, 2))


def test_constants_that_made_the_times_are_found() -> None:
    random = np.random.default_rng(1)
    rows = random.uniform(0.1, 1.0, (30, 5)) * 10.0 ** np.arange(0, 10, 2)
    truth = np.array([2e-3, 0.0, 5e-6, 1e-7, 3e-9])
    found = tune._least_squares(rows / (rows @ truth)[:, None])
    # exact data: what is left is the rounding of a small least-squares problem
    assert np.allclose(found, truth, rtol=1e-6, atol=1e-12)


def test_no_constant_is_negative() -> None:
    rows = np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]])
    found = tune._least_squares(rows / np.array([[3.0], [2.0], [1.0]]))  # falls with the first
    assert found[0] == 0
    assert found[1] > 0
    assert tune._least_squares(np.zeros((3, 2))) == [0.0, 0.0]


def test_every_way_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    samples = [s for shape in TINY for s in tune._samples(*shape, 1, seen.append)]
    assert len(seen) == len(TINY)
    expected = {way for way in WAYS if not way.endswith("kernels") or load_library() is not None}
    assert {way for way, _, _ in samples} == expected
    assert all(time > 0 for _, _, time in samples)
    assert {call.training for _, call, _ in samples} == {False, True}
    torch.use_deterministic_algorithms(False)  # with which measured constants are left aside
    costs = tune.measure_costs(shapes=TINY, repeats=1)
    tune.save_costs(costs, tmp_path / "new" / "costs.json")
    monkeypatch.setenv("PASSBAND_COSTS", str(tmp_path / "new" / "costs.json"))
    assert costs_in_use() == costs
    assert all(len(constants) == len(FEATURES) for constants in costs.values())


def test_too_few_samples_leave_the_shipped_constants() -> None:
    call = Call(conv_geometry((4,), (3,)), 1, 1, 1, False)
    assert tune._fit("torch", [("torch", call, 1.0)]) == SHIPPED["torch"]
