"""The compiled product over channels, of each instruction set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from passband.ops.kernel_files import open_kernels
from passband.ops.spectral.native import product as kernels
from tests.ops.spectral.product_cases import CASES, FOLDER, NAMES, RUNNABLE, Case, check, results
from tests.support import random

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=NAMES)
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param not in RUNNABLE:
        pytest.skip("of another processor")
    library = open_kernels(FOLDER / f"kernels_{request.param}.so", kernels.FUNCTIONS)
    monkeypatch.setattr(kernels, "load_library", lambda: library)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_is_the_product_of_float64(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_channels_may_be_some_of_more_and_images_apart(case: Case) -> None:
    def within(tensor: Tensor) -> Tensor:
        more = torch.full((*tensor.shape[:-1], tensor.shape[-1] + 9), float("nan"))
        part = more[..., 4:-5]
        return part.copy_(tensor)

    check(case, lambda tensor: within(tensor) if tensor.shape[0] == 2 else tensor)
    check(case, lambda tensor: tensor.mT.contiguous().mT)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    tensors = (
        random(2, 41, 5, 30, dtype=torch.float32),
        random(20, 30, 3, 3, dtype=torch.float32),
        random(2, 41, 5, 20, dtype=torch.float32),
    )
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(results(*tensors, (8, 10), (1, 1)))
    finally:
        torch.set_num_threads(threads)
    for one, *others in zip(*found, strict=True):
        assert all(torch.equal(one, other) for other in others)


def test_nothing_beyond_its_memory_is_touched() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.ops.spectral.product_guard_pages",
         *RUNNABLE],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), *sys.path)))},
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.stdout.split() == ["guarded", *RUNNABLE], result.stderr[-3000:]
