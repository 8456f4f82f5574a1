"""A few of the random cases that the command checks by the thousand, and the command itself."""

import pytest
import torch

import passband as pb
from tests import fuzz_band_limited_conv as fuzz


def test_random_cases_agree() -> None:
    assert fuzz.run(seed=20, indices=range(60)) == 0


def test_cases_are_drawn_from_every_kind() -> None:
    """So that agreement means something: all dimensions, paddings, bands, layouts, types."""
    cases = [fuzz.draw_case(7, index) for index in range(300)]
    assert {case.axes for case in cases} == {1, 2, 3}
    assert {case.layout for case in cases} == {"contiguous", "channels last", "strided"}
    assert {case.dtype for case in cases} == {torch.float64, torch.float32}
    assert {key for case in cases for key in case.band} == {
        *("compression", "energy", "energy_mode", "band")
    }
    paddings = [case.convolution["padding"] for case in cases]
    assert {"same", "valid"} < {p for p in paddings if isinstance(p, str)} | {"numbers"}
    assert any(isinstance(p, tuple) for p in paddings)
    assert any(case.convolution["groups"] == case.input_shape[1] > 1 for case in cases)
    assert {len(case.input_shape) - case.axes for case in cases} == {1, 2}
    assert any(case.grid["fft_size"] for case in cases)
    assert fuzz.draw_case(7, 11) == cases[11]


def test_the_command_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--count", "5", "--seed", "3"]) == 0
    assert capsys.readouterr().out == "5 passed, 0 failed\n"


def test_the_command_shows_what_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An algorithm that is wrong by one part in ten thousand, and the case that shows it."""

    def wrong(*args: object, **kwargs: object) -> torch.Tensor:
        output = pb.band_limited_conv2d(*args, **kwargs)
        return output if kwargs["algorithm"] != "matmul" else output * (1 + 1e-4)

    monkeypatch.setitem(fuzz.OURS, 2, wrong)
    index = next(i for i in range(100) if fuzz.draw_case(3, i).axes == 2)
    assert fuzz.main(["--case", f"3:{index}"]) == 1
    printed = capsys.readouterr().out
    assert f"FAILED --case 3:{index}" in printed
    assert "matmul: relative error of the output is 1.0e-04" in printed
    assert "auto: " not in printed
    assert repr(fuzz.draw_case(3, index).weight_shape) in printed
    assert printed.endswith("0 passed, 1 failed\n")
