"""Where the algorithm runs, where it does not and why, and when it is the automatic choice."""

import re

import pytest
import torch

import passband as pb
from passband.ops.band_limited_conv import triton
from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.ops.band_limited_conv.select import check_algorithm, select_algorithm
from tests.support import random

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def with_triton(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Triton without its interpreter."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from passband.ops.band_limited_conv.triton import launch

    monkeypatch.setattr(launch, "INTERPRETED", False)
    return monkeypatch


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'triton'", name="triton")

    monkeypatch.setattr(triton, "_kernels", missing)
    assert triton.obstacle() == "Triton cannot be imported (No module named 'triton')"


def test_without_a_gpu(with_triton: pytest.MonkeyPatch) -> None:
    with_triton.setattr(torch.cuda, "is_available", lambda: False)
    assert triton.obstacle() == "there is no CUDA device"
    for make in (pb.BandLimitedConv2d, pb.BandLimitedConv1d):
        with pytest.raises(ValueError, match="algorithm 'triton' cannot run here: there is no"):
            make(2, 3, 3, algorithm="triton")


def test_with_a_gpu_tensors_must_be_there(with_triton: pytest.MonkeyPatch) -> None:
    with_triton.setattr(torch.cuda, "is_available", lambda: True)
    check_algorithm("triton")
    check_algorithm("triton", CUDA)
    layer = pb.BandLimitedConv2d(2, 3, 3, algorithm="triton")  # made on the CPU, moved later
    message = (
        "algorithm 'triton' cannot run here: the tensors are on cpu, and its kernels run on CUDA "
        "devices; use 'auto', 'lowpass' or 'matmul'"
    )
    x = torch.ones(1, 2, 5, 5)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        layer(x)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pb.band_limited_conv2d(x, layer.weight, algorithm="triton")


def test_in_the_interpreter_a_cpu_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from passband.ops.band_limited_conv.triton import launch

    monkeypatch.setattr(launch, "INTERPRETED", True)
    check_algorithm("triton", CPU)
    with pytest.raises(ValueError, match="the tensors are on mps"):
        check_algorithm("triton", torch.device("mps"))


@pytest.mark.parametrize(
    ("size", "kernel", "arguments", "expected"),
    [
        ((32, 32), (3, 3), {"compression": 0.85}, "matmul"),
        ((270,), (5,), {"compression": 0.9}, "matmul"),
        ((32, 32), (3, 3), {}, "lowpass"),  # all is kept: torch's own convolution
        ((32, 32), (1, 1), {"compression": 0.3}, "lowpass"),
    ],
)
def test_the_automatic_choice_on_a_gpu(size, kernel, arguments, expected: str) -> None:
    """By the count; what has never run on a GPU has to be asked for."""
    geometry = conv_geometry(size, kernel, **arguments)
    choice = select_algorithm("auto", geometry, 32, 64, 64, CUDA)
    assert choice.algorithm == expected
    assert "not measured" in choice.reason or expected == "lowpass"


def test_a_name_is_not_replaced() -> None:
    geometry = conv_geometry((9, 9), (3, 3), band=2)
    assert select_algorithm("triton", geometry, 2, 3, 3, CUDA).algorithm == "triton"


def test_precision_follows_torchs_setting() -> None:
    """float32 as torch's products of matrices are made; short types always on tensor cores."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from passband.ops.band_limited_conv.triton.launch import precision

    before = torch.get_float32_matmul_precision()
    try:
        for setting, expected in (("highest", "ieee"), ("high", "tf32")):
            torch.set_float32_matmul_precision(setting)
            assert precision(torch.float32) == expected
            assert precision(torch.float32, torch.bfloat16) == "tf32"
            assert precision(torch.float16) == "tf32"
            assert precision(torch.float64) == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)


def test_maps_are_taken_as_they_lie() -> None:
    maps = random(2, 3, 5, 4)
    for order in (torch.contiguous_format, torch.channels_last):
        lying = maps.contiguous(memory_format=order)
        assert triton._positions_first(lying).data_ptr() == lying.data_ptr()
