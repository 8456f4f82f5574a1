"""torch.export with a dynamic batch: another batch, save and load, gradients."""

import io

import pytest
import torch
from torch import nn

import passband as pb
from tests.compat.networks import ALGORITHMS, assert_same, maps, small_network, training_step
from tests.support import relative_error

# The exported program calls the same operators; batch norm is the same call too.
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
