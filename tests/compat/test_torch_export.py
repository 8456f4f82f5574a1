"""torch.export with a dynamic batch: another batch, save and load, gradients."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import passband as pb
from tests.compat.networks import ALGORITHMS, assert_same, maps, small_network, training_step
from tests.support import relative_error

# The exported program does the same operations, in the same order.
TOLERANCE = 1e-6


def exported(model: nn.Module, axes: int = 2, strict: bool = False) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    shapes = ({0: batch},)
    return torch.export.export(model, (maps(3, axes),), dynamic_shapes=shapes, strict=strict)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_other_batches_and_through_a_file(axes: int, algorithm: str) -> None:
    model = small_network(algorithm, axes).eval()
    file = io.BytesIO()
    torch.export.save(exported(model, axes), file)
    file.seek(0)
    program = torch.export.load(file).module()
    for batch in (1, 3, 7):
        x = maps(batch, axes)
        assert relative_error(program(x), model(x)) <= TOLERANCE


@pytest.mark.parametrize("under_autocast", [False, True])
@pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])
def test_runs_without_this_package(algorithm: str, under_autocast: bool, tmp_path: Path) -> None:
    """A program of torch's own operations, in the types that the model would have used."""
    if under_autocast and torch.__version__ < (2, 7):
        pytest.skip("this torch cannot save a program that has autocast in it")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = small_network(algorithm)

        def forward(self, x: Tensor) -> Any:
            if not under_autocast:
                return self.network(x)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.network(x)

    model = Model().eval()
    program = exported(model)
    operations = [str(node.target) for node in program.graph.nodes]
    assert not any("passband" in name for name in operations)
    assert under_autocast or not any("autocast" in name for name in operations)
    torch.export.save(program, tmp_path / "net.pt2")
    torch.save({"x": maps(5), "y": model(maps(5)).detach()}, tmp_path / "expected.pt")
    # the program multiplies in bfloat16, the kernels in float32: four layers' roundings apart
    tolerance = 2**-6 if under_autocast else 1e-6
    code = (
        "import sys, torch; expected = torch.load('expected.pt')\n"
        "found = torch.export.load('net.pt2').module()(expected['x'])\n"
        "assert found.dtype == expected['y'].dtype, found.dtype\n"
        f"assert (found - expected['y']).norm() <= {tolerance} * expected['y'].norm()\n"
        "assert 'passband' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_strict(algorithm: str) -> None:
    """The export that traces bytecode instead of running the model."""
    model = small_network(algorithm).eval()
    program = exported(model, strict=True).module()
    assert relative_error(program(maps(5)), model(maps(5))) <= TOLERANCE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gradients_of_the_exported_program(algorithm: str) -> None:
    """It can be fine-tuned: exported for training, decomposed to core operators, differentiated."""
    model = small_network(algorithm)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
            norm.num_batches_tracked = None
    program = exported(model).run_decompositions()
    assert_same(training_step(program.module(), maps(5)), training_step(model, maps(5)), TOLERANCE)


def test_sizes_are_those_of_the_example() -> None:
    """A band belongs to one map size, so that a size cannot be dynamic, and torch says so."""
    model = pb.BandLimitedConv2d(4, 6, 3, compression=0.5).eval()
    shapes = ({2: torch.export.Dim("height", min=4, max=64)},)
    with pytest.raises(Exception, match=r"(?s)height.*(specialized|constant)"):
        torch.export.export(model, (maps(),), dynamic_shapes=shapes, strict=False)


def test_energy_says_what_to_do() -> None:
    model = pb.BandLimitedConv2d(4, 6, 3, energy=0.9).eval()
    with pytest.raises(RuntimeError, match=r"energy is 0.9.* passband.calibrate"):
        exported(model)
