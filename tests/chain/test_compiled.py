"""The native engine against PyTorch, whatever the instruction set."""

import ctypes
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from passband.chain import compiled, steps
from passband.chain.compiled import load_library
from passband.ops import kernel_files
from tests.chain.support import LIBRARIES, ROUNDING, check, engine
from tests.convert.frequency.cases import NETWORKS, maps, trained
from tests.support import relative_error

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(load_library() is None, reason="no kernels were compiled here")


@pytest.mark.parametrize(
    "name", ["vgg8", "resnet20", "resnet18", "wrn-40-2", "densenet121", "mobilenetv2", "unet16"]
)
def test_it_runs_the_chains(name: str) -> None:
    from passband import to_chain

    shape = dict(NETWORKS)[name]
    chain = to_chain(trained(name, shape), maps(shape))
    check(chain, shape)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("size", [(5, 7), (8, 8), (16, 16), (33, 18)], ids=str)
@pytest.mark.parametrize("channels", [1, 2, 5, 9, 17])
def test_convolutions(channels: int, size: tuple[int, int]) -> None:
    torch.manual_seed(channels)
    model = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 7, 1, bias=False),
        nn.Conv2d(7, channels + 1, 5, padding=2), nn.ReLU6(),
    )  # fmt: skip
    check(model, (3, *size))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (12, 6)], ids=str)
def test_strides(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3, 2, 1), nn.Conv2d(6, 4, 1)
    )
    check(model, (2, *size))
    check(nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 6, 1, 2)), (2, *size))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("size", [(8, 10), (8, 8), (4, 4)], ids=str)
@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(2),
        nn.MaxPool2d(2),
        nn.AvgPool2d(3, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 9, 3, padding=1, groups=3),
        nn.Conv2d(6, 6, 3, 2, 1, groups=6),
        nn.Conv2d(6, 6, 5, padding=2, groups=6),
        nn.Conv2d(6, 4, 3, padding=2, dilation=2),
        nn.Conv2d(6, 4, 3),
        nn.Conv2d(6, 4, (3, 2), 2),
        nn.ConvTranspose2d(6, 4, 3, padding=1),
    ],
    ids=lambda layer: str(layer),
)
def test_layers(layer: nn.Module, size: tuple[int, int]) -> None:
    check(nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), layer), (2, *size))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("size", [(16, 16), (4, 32), (8, 8), (4, 4), (9, 7)], ids=str)
def test_inverted_residuals(size: tuple[int, int]) -> None:
    """As MobileNetV2 has them, of maps with and without a border, and an output of each size."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 5, 3, padding=1)
            self.block = nn.Sequential(
                nn.Conv2d(5, 6, 1), nn.ReLU6(), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU6(),
                nn.Conv2d(6, 5, 1),
            )  # fmt: skip
            self.down = nn.Sequential(nn.Conv2d(5, 5, 3, 2, 1, groups=5), nn.ReLU6())
            self.last = nn.Conv2d(5, 7, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            x = torch.add(x, self.block(x))
            y: Tensor = self.last(x)
            return y

    torch.manual_seed(0)
    model = Net().eval()
    check(model, (3, *size))
    check(nn.Sequential(model.first, model.block, model.down), (3, *size))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(6, 4, 2, 2),
        nn.ConvTranspose2d(6, 5, 3, 2, 1, 1, bias=False),
        nn.ConvTranspose2d(6, 3, 4, 2, 1),
        nn.ConvTranspose2d(6, 3, 3, 1, 1),
        nn.ConvTranspose2d(6, 2, 5, 3, dilation=2),
        nn.ConvTranspose2d(6, 9, 2, 3),  # with outputs that no tap reaches
        nn.ConvTranspose2d(6, 4, 1, 2),  # of one point to one
        nn.ConvTranspose2d(6, 4, 2, 3, 0),
    ],
    ids=lambda layer: str(layer),
)
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 4)], ids=str)
def test_transposed_convolutions(layer: nn.Module, size: tuple[int, int]) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), layer, nn.ReLU(), nn.Conv2d(layer.out_channels, 3, 1)
    )
    check(model, (2, *size))


@pytest.mark.usefixtures("library")
def test_batch_norm_sums_and_concatenations() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 3, padding=1)
            self.norm, self.c = nn.BatchNorm2d(8), nn.Conv2d(13, 4, 1)
            self.linear = nn.Linear(4 * 6 * 5, 11)

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            b = self.b(torch.relu(self.norm(a)))
            s = torch.relu(torch.add(a, nn.functional.pad(b, [0, 0, 0, 0, 0, 3])))
            out: Tensor = self.linear(torch.flatten(self.c(torch.cat([s, b], 1)), 1))
            return out

    torch.manual_seed(0)
    model = Net()
    model(torch.randn(8, 3, 6, 5))
    check(model.eval(), (3, 6, 5))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("later", [False, True])
def test_sums_of_unlike_convolutions(later: bool) -> None:
    """The wider map is given before the narrower one, or after it."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 9, 3, padding=1)
            self.wide, self.narrow = nn.Conv2d(9, 19, 3, 2, 1), nn.Conv2d(9, 4, 1, 2)
            self.last = nn.Conv2d(19, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            if later:
                narrow, wide = self.narrow(x), self.wide(x)
            else:
                wide, narrow = self.wide(x), self.narrow(x)
            y = torch.add(nn.functional.pad(narrow, [0, 0, 0, 0, 0, 15]), wide)
            z = torch.add(torch.relu(y), y)  # what is read twice is summed by itself
            out: Tensor = self.last(z)
            return out

    torch.manual_seed(0)
    model = Net().eval()
    check(model, (3, 10, 14))
    for program in engine(model, (3, 10, 14))._programs.values():
        kinds = [step.kind for step in program.program.steps]
        assert kinds.count(steps.ADD) == 1  # the other sum is part of the wider convolution


class DenseBlock(nn.Module):
    """Concatenations of one another, or anew of all parts; with readers in between."""

    def __init__(self, nested: bool) -> None:
        super().__init__()
        self.nested = nested
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        widths = (6, 8, 12)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.points = nn.ModuleList(nn.Conv2d(width, 9, 1) for width in widths)
        self.grow = nn.ModuleList(nn.Conv2d(9, n, 3, padding=1) for n in (2, 4, 1))
        self.down, self.last = nn.Conv2d(8, 5, 3, 2, 1), nn.Conv2d(13, 4, 1)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [torch.relu(self.first(x))]
        whole, half = parts[0], None
        for norm, point, grow in zip(self.norms, self.points, self.grow, strict=True):
            if len(parts) == 2:
                half = self.down(whole)
            new = grow(torch.relu(point(torch.relu(norm(whole)))))
            parts.append(torch.relu(new) if len(parts) == 2 else new)
            whole = torch.cat([whole, parts[-1]] if self.nested else parts, 1)
        assert half is not None
        pooled = torch.cat([self.pool(self.last(whole)), half, half, self.pool(parts[1])], 1)
        out: Tensor = torch.relu(torch.add(pooled, torch.cat([half, self.pool(parts[0]), half], 1)))
        return out


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("nested", [False, True])
def test_dense_blocks(nested: bool) -> None:
    torch.manual_seed(0)
    model = DenseBlock(nested)
    model(torch.randn(8, 3, 10, 14))
    check(model.eval(), (3, 10, 14))


def test_dense_blocks_are_written_in_place() -> None:
    model = DenseBlock(nested=True).eval()
    for lanes in engine(model, (3, 10, 14))._programs.values():
        kinds = [step.kind for step in lanes.program.steps]
        assert kinds.count(steps.AFFINE) == 0  # norm and activation are part of the product
        assert kinds.count(steps.COPY) == 3  # of what is there three times more


@pytest.mark.usefixtures("library")
def test_values_that_are_not_finite_go_through() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1))
    fast = engine(model, (1, 6, 6))
    for batch in (1, 17):
        x = maps((1, 6, 6), batch)
        x[0, 0, 2, 3] = math.nan
        with torch.no_grad():
            assert torch.equal(fast(x).isnan(), model(x).isnan())
        x[0, 0, 2, 3] = 1.0
        with torch.no_grad():  # and leave no trace
            assert relative_error(fast(x), model(x)) < ROUNDING


def test_large_maps_are_computed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(6, 5, 1))
    x = maps((3, 10, 12), 19)
    in_blocks = engine(model, (3, 10, 12))(x)
    monkeypatch.setattr(compiled, "_CACHE_BYTES", 1)
    fast = engine(model, (3, 10, 12))
    blocks = fast._programs[fast.width]
    monkeypatch.setattr(blocks, "run", lambda *_: pytest.fail("they were not"))
    assert relative_error(fast(x), in_blocks) < ROUNDING


def test_nothing_beyond_its_memory_is_touched() -> None:
    names = [path.stem.removeprefix("kernels_") for path in LIBRARIES]
    runnable = [name for name in names if name in kernel_files.runnable()]
    result = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.chain.guard_pages", *runnable],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), *sys.path)))},
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.stdout.split() == ["guarded", *runnable], result.stderr[-3000:]


@pytest.mark.parametrize(
    ("count", "threads", "single"), [(1, 1, 1), (9, 1, 9), (15, 1, 0), (16, 2, 16), (35, 1, 3)]
)
def test_images_are_computed_in_blocks_where_that_is_faster(
    count: int, threads: int, single: int
) -> None:
    fast = engine(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1)), (3, 9, 9))
    blocks, ones = fast._programs[fast.width], fast._programs[1]
    fast.width, fast._programs = 16, {16: blocks, 1: ones}  # whatever this machine has
    plan = fast._planned(torch.Size([count, 3, 9, 9]), threads)
    assert sum(part.images for part in plan.parts) == count
    assert sum(part.images for part in plan.parts if part.program is ones) == single


def test_several_threads_share_out_the_images() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, padding=1))
    fast, x = engine(model, (3, 9, 9)), maps((3, 9, 9), 70)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = fast(x)
        torch.set_num_threads(1)
        assert torch.equal(fast(x), two)
    finally:
        torch.set_num_threads(threads)
    with torch.no_grad():
        assert relative_error(two, model(x)) < ROUNDING
    assert fast(x[:0]).shape == (0, 5, 9, 9)


def test_without_kernels_pytorch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "load_library", lambda: None)
    fast = engine(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 8, 8))
    assert fast.reason == "no kernels were compiled for this machine"
    assert fast(maps((3, 8, 8))).shape == (6, 4, 6, 6)


def test_a_step_is_laid_out_alike_here_and_there() -> None:
    assert load_library().passband_chain_step_bytes() == ctypes.sizeof(steps.Step)
