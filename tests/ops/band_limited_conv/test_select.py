import re

import pytest
import torch

import passband as pb
from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.ops.band_limited_conv.native.library import load_library
from passband.ops.band_limited_conv.select import ALGORITHMS, check_algorithm, select_algorithm
from passband.ops.band_limited_conv.speed import Call, seconds
from tests.support import random


@pytest.mark.parametrize("algorithm", ["winograd", "", "FFT", None, 3])
def test_an_unknown_algorithm(algorithm: object) -> None:
    message = (
        f"algorithm is {algorithm!r}, allowed are 'auto', 'fft', 'lowpass', 'matmul', 'triton'"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        check_algorithm(algorithm)


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a not in ("auto", "triton")])
def test_a_named_algorithm_is_the_one(algorithm: str) -> None:
    geometry = conv_geometry((9, 8), (3, 3), compression=0.5)
    assert select_algorithm(algorithm, geometry, 2, 3, 4).algorithm == algorithm


CASES = [
    ((32, 64, 64, 32, 3), {"padding": 1, "compression": 0.5}),
    ((32, 64, 64, 32, 3), {"padding": 1, "compression": 0.85}),
    ((32, 64, 64, 32, 7), {"padding": 3, "compression": 0.5}),
    ((1, 512, 512, 7, 3), {"padding": 1, "compression": 0.5}),
    ((1, 8, 8, 8, 3), {"padding": 1, "compression": 0.9, "groups": 8}),
    ((4, 3, 16, 17, 1), {"compression": 0.5}),
]


@pytest.mark.parametrize(("shape", "arguments"), CASES)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_auto_takes_the_less_time_by_the_model(shape, arguments, training, dtype) -> None:
    batch, inputs, outputs, size, taps = shape
    geometry = conv_geometry((size, size), (taps, taps), **arguments)
    call = Call(geometry, batch, inputs, outputs, training)
    low_passed = dtype == torch.float32 and load_library() is not None
    by_kernels = low_passed and geometry.groups == 1
    times = {
        "matmul": seconds("matmul kernels" if by_kernels else "matmul", call),
        "lowpass": seconds("lowpass kernels" if low_passed else "lowpass", call),
    }
    choice = select_algorithm(
        "auto", geometry, batch, inputs, outputs, dtype=dtype, training=training
    )
    assert choice.algorithm == min(times, key=times.__getitem__)
    for time in times.values():
        assert f"{1e3 * time:.3g} ms" in choice.reason


def test_the_choice_depends_on_the_call() -> None:
    """Or the model would be of no use: many images go by frequency, one of many channels not."""
    geometry = conv_geometry((7, 7), (3, 3), padding=1, compression=0.5)
    assert select_algorithm("auto", geometry, 1, 512, 512).algorithm == "lowpass"
    geometry = conv_geometry((32, 32), (3, 3), padding=1, compression=0.85)
    assert select_algorithm("auto", geometry, 32, 64, 64).algorithm == "matmul"


def test_a_traced_choice_knows_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = conv_geometry((7, 7), (3, 3), padding=1, compression=0.5)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    choices = {select_algorithm("auto", geometry, batch, 512, 512) for batch in (1, 8, 256)}
    assert len(choices) == 1


def test_auto_is_torchs_convolution_at_full_band() -> None:
    x, w, b = (random(*shape, dtype=torch.float32) for shape in ((2, 3, 9, 8), (4, 3, 3, 3), (4,)))
    ours = pb.band_limited_conv2d(x, w, b, 2, 1)
    assert torch.equal(ours, torch.nn.functional.conv2d(x, w, b, 2, 1))
