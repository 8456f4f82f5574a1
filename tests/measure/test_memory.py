import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from passband import BandLimitedConv2d
from passband.measure.memory import SavedBytes, peak_bytes, saved_bytes


def test_nothing_is_logged_while_allocations_are_counted() -> None:
    code = (
        "import os, torch; from passband.measure.memory import peak_bytes; "
        "peak_bytes(lambda: torch.ones(1000).add(1)); assert 'KINETO_LOG_LEVEL' not in os.environ"
    )
    environment = {k: v for k, v in os.environ.items() if k != "KINETO_LOG_LEVEL"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert found.stdout + found.stderr == ""


def test_shared_storages_count_once_in_the_total_and_for_each_module() -> None:
    relu, left, right = nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)
    model = nn.ModuleList([relu, left, right])
    x = torch.randn(2, 4, 9, 9, requires_grad=True)
    with SavedBytes(model) as saved:
        y = relu(x)
        left(y), right(y)
    size = 4 * y.numel()
    assert saved.per_module == {"0": size, "1": size, "2": size}
    assert saved.total == size


def test_views_count_their_whole_storage_once() -> None:
    x = torch.randn(10, 6, requires_grad=True)
    assert saved_bytes(lambda: ((x[:5] * x[5:]).sum(), (x.T @ x).sum())) == 4 * 60


def test_storages_that_are_gone_are_not_taken_for_later_ones() -> None:
    """Memory that is freed and given out again at the same address is kept memory twice."""
    x = torch.randn(1000, requires_grad=True)

    def step() -> None:
        for _ in range(5):
            x.exp()

    assert saved_bytes(step) == 5 * 4000


def test_parameters_and_buffers_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8).eval())
    x = torch.randn(3, 8)
    assert saved_bytes(lambda: model(x), model) == 2 * 4 * 24
    assert saved_bytes(lambda: model(x)) > 2 * 4 * 24


def test_nothing_is_kept_without_gradients() -> None:
    model = nn.Conv2d(3, 4, 3).requires_grad_(False)
    assert saved_bytes(lambda: model(torch.randn(1, 3, 8, 8)), model) == 0


def test_a_band_limited_layer_keeps_its_spectrum() -> None:
    layer = BandLimitedConv2d(6, 6, 3, padding=1, compression=0.85, algorithm="matmul")
    x = torch.randn(2, 6, 19, 17)
    spectrum = 2 * 6 * torch.tensor(layer.geometry((19, 17)).band.real_sizes).prod().item()
    assert saved_bytes(lambda: layer(x), layer) == 4 * spectrum
    assert saved_bytes(lambda: layer.to_conv()(x), layer) == 4 * x.numel()


def test_the_probe_is_gone_afterwards() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ZeroDivisionError), SavedBytes(model):
        model(torch.randn(1, 2))
        _ = 1 / 0
    assert not model._forward_hooks
    assert not model[0]._forward_pre_hooks
    model(torch.randn(1, 2)).sum().backward()
    assert model[0].weight.grad is not None


def test_a_module_that_fails_leaves_the_count_in_order() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with SavedBytes(model) as saved:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            model[0](torch.randn(1, 3))
        model[1](torch.randn(1, 2))
    assert saved.per_module["1"] == 8


def test_differentiating_inside_the_probe_is_refused() -> None:
    x = torch.randn(3, requires_grad=True)
    with SavedBytes(), pytest.raises(RuntimeError, match="run the backward pass outside"):
        x.square().sum().backward()


def test_peak_counts_what_lives_at_once() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.empty(1000)

    def at_once() -> list[torch.Tensor]:
        return [torch.empty(1000) for _ in range(3)]

    assert peak_bytes(one_after_the_other) == 4000
    assert peak_bytes(at_once) == 12000


def test_peak_of_a_training_step_includes_the_gradients() -> None:
    layer = nn.Linear(200, 200, bias=False)
    x = torch.randn(1, 200)
    assert peak_bytes(lambda: layer(x).sum().backward()) >= 4 * 200 * 200


def test_peak_needs_a_device_that_it_can_count_on() -> None:
    with pytest.raises(ValueError, match="device is 'meta', allowed are 'cpu' and 'cuda'"):
        peak_bytes(lambda: None, "meta")
