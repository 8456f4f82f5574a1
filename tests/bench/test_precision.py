import pytest
import torch

from passband.bench import precision
from passband.bench.precision import ALGORITHMS, NUMBERS, precision_rows

# Of float64, float32, bfloat16 and float16 the unit roundoff, times what sums of a few hundred
# products in another order, and transforms, add to it. In float64 the reference's own transforms
# are the largest part: of 274 = 2 x 137 points up to 1.3e-14, by processor (input gradients, where
# both algorithms agree to 1e-15).
CEILING = {"float64": 5e-14, "float32": 5e-6, "bfloat16": 2e-2, "float16": 3e-3}


def test_errors_are_of_the_size_of_the_type() -> None:
    rows = list(precision_rows(quick=True))
    assert {row["algorithm"] for row in rows} == {"torch", *ALGORITHMS}
    assert {row["numbers"] for row in rows} == {numbers.name for numbers in NUMBERS}
    for row in rows:
        for name in ("output", "input_gradient", "weight_gradient"):
            assert 0 <= row[name] < CEILING[row["numbers"].split()[0]], row


def test_the_same_figures_every_time() -> None:
    torch.manual_seed(1)
    first = list(precision_rows(quick=True))
    torch.manual_seed(2)
    assert list(precision_rows(quick=True)) == first


def test_a_type_that_torch_does_not_have_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("\"conv\" not implemented for 'Half'\ndetails")

    monkeypatch.setattr(precision, "convolve", refuse)
    row = next(row for row in precision_rows(quick=True) if row["algorithm"] == "matmul")
    assert row["output"] == ""
    assert row["note"] == "\"conv\" not implemented for 'Half'"
