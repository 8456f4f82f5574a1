"""What the kernels read, write and keep."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from passband.ops.band_limited_conv import matmul
from passband.ops.band_limited_conv.geometry import conv_geometry
from passband.ops.band_limited_conv.native import convolution, library
from passband.ops.band_limited_conv.native.tables import conv_tables
from tests.ops.band_limited_conv.cases import Call
from tests.ops.band_limited_conv.native.cases import draw_call
from tests.ops.band_limited_conv.native.conftest import load
from tests.support import assert_close, output_and_gradients, random, relative_error

ROOT = Path(__file__).parents[4]
UNTOUCHED = 12345.0
PACKAGE = "tests.ops.band_limited_conv.native"


HALF = {"compression": 0.5}
BOTH = ["forward", "backward"]


def test_the_input_is_not_written_to(kernels: list[str]) -> None:
    """Nor is anything else that is read."""
    call = Call((5, 17, 9, 8), (65, 17, 3, 3), {"padding": 1}, HALF)
    tensors = call.tensors(torch.float32)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    output_and_gradients(call.ours("matmul"), tensors)
    assert all(torch.equal(tensors[name], before[name]) for name in before)
    assert kernels == BOTH


def test_results_do_not_share_memory(kernels: list[str]) -> None:
    """What one call returns is not written to by the next, which takes its working memory over."""
    call = Call((5, 17, 9, 8), (65, 17, 3, 3), {"padding": 1}, HALF)
    tensors = call.tensors(torch.float32)
    first = output_and_gradients(call.ours("matmul"), tensors)
    copies = {name: value.clone() for name, value in first.items()}
    other = {name: tensor + 1 for name, tensor in tensors.items()}
    output_and_gradients(call.ours("matmul"), other)
    assert all(torch.equal(first[name], copies[name]) for name in first)
    assert kernels == BOTH * 2


def test_two_threads_at_once(kernels: list[str]) -> None:
    """Of Python: each has working memory of its own."""
    calls = [draw_call(index) for index in range(300, 306)]
    tensors = [call.tensors(torch.float32) for call in calls]
    expected = [
        output_and_gradients(call.ours("matmul"), t) for call, t in zip(calls, tensors, strict=True)
    ]
    worst: dict[int, float] = {}

    def run(number: int) -> None:
        torch.set_num_threads(1 + number % 2)
        worst[number] = max(
            relative_error(value, expected[i][name])
            for _ in range(5)
            for i, call in enumerate(calls)
            for name, value in output_and_gradients(call.ours("matmul"), tensors[i]).items()
        )

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # order of sums may differ with the number of threads
    assert len(worst) == 4 and max(worst.values()) < 1e-5


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="asks Linux for the memory in use"
)
def test_threads_that_end_leave_no_memory_behind(kernels: list[str]) -> None:
    """A thread takes 6 MB here, for itself and for Python: forty would leave 240 MB."""
    call = Call((2000, 1, 16), (1, 1, 3), {"padding": 1}, HALF, bias=False)
    x, w = call.tensors(torch.float32).values()

    def used() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def run() -> None:
        torch.set_num_threads(1)
        call.ours("matmul")(input=x, weight=w)

    def run_in_threads(count: int) -> None:
        for _ in range(count):
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()

    run_in_threads(5)
    before = used()
    run_in_threads(40)
    assert used() - before < 60e6
    assert kernels == ["forward"] * 45


def run_module(name: str, *arguments: str) -> str:
    """What a module of these tests prints, run on its own."""
    path = os.pathsep.join(filter(None, (str(ROOT), *sys.path)))
    result = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", f"{PACKAGE}.{name}", *arguments],
        env={**os.environ, "PYTHONPATH": path}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_nothing_beyond_a_tensor_is_touched() -> None:
    """Each tensor ends right before a page that may not be touched, then starts right after one."""
    if library.load_library() is None:
        pytest.skip("no kernels are compiled here")
    loadable = [name for name in ("avx512", "avx2", "default") if load(name) is not None]
    assert run_module("guard_pages", *loadable).split() == ["guarded", *loadable]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_workers_that_are_forked_after_use() -> None:
    """As torch's DataLoader forks its own."""
    if library.load_library() is None:
        pytest.skip("no kernels are compiled here")
    assert run_module("forked_workers") == "equal\n"


@pytest.mark.parametrize("channels", [3, 16, 70])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
def test_nothing_between_the_results_is_written_to(
    order: torch.memory_format, channels: int, kernels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where results are a part of what lies there: every step writes its own numbers alone."""
    monkeypatch.setattr(convolution, "_CACHED_BYTES", 1)
    geometry = conv_geometry((9, 8), (3, 3), padding=1, compression=0.5)
    tables, steps = conv_tables(geometry), convolution._Kernels()
    x = random(5, channels, 9, 8, dtype=torch.float32).contiguous(memory_format=order)
    frequencies = matmul.spectrum_shape(geometry, 5, channels)[0]

    # spectra of three images of five
    spectrum = torch.full((frequencies, 5, channels), UNTOUCHED)
    part = convolution._Spectrum.of(spectrum).block(1)
    steps.analyze(x, 1, 3, tables.inputs, part)
    assert_close(spectrum[:, 1:4], matmul.analyze(x[1:4].double(), geometry))
    assert (spectrum[:, [0, 4]] == UNTOUCHED).all()

    # maps of three images of five, as a part of the rows, columns and channels of larger maps
    larger = torch.full((5, channels + 16, 12, 13), UNTOUCHED).contiguous(memory_format=order)
    maps = larger[:, 3 : channels + 3, 1:10, 2:10]
    steps.synthesize(part, maps, 1, 3, tables.inputs)
    expected = matmul.analyze_adjoint(spectrum[:, 1:4].double(), geometry)
    assert_close(maps[1:4], expected)
    assert (larger == UNTOUCHED).sum() == larger.numel() - expected.numel()

    # the product with the filters, for three images of five
    weight = random(70, channels, 3, 3, dtype=torch.float32)
    blocks = convolution._Blocks.of(3, frequencies, 70, channels, tables)
    taps = torch.empty(blocks.packed(70, channels))
    products = torch.full((frequencies, 5, 70), UNTOUCHED)
    y = convolution._Spectrum.of(products).block(1)
    steps.multiply(part, 3, y, weight, geometry, tables, blocks, taps, None, False)
    assert (products[:, [0, 4]] == UNTOUCHED).all()
    assert (products[:, 1:4] != UNTOUCHED).all()

    # the filters' gradient, as a part of the outputs
    several = torch.full((75, channels, 3, 3), UNTOUCHED)
    steps.correlate(part, y, 3, several[2:72], tables, blocks, taps, False)
    assert (several[[0, 1, 72, 73, 74]] == UNTOUCHED).all()
    assert (several[2:72] != UNTOUCHED).all()
