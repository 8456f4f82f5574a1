"""Memory of training steps: kept for the backward pass, peak and mean of a step, resident size."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband.allocator import return_freed_memory
from passband.measure.memory import allocated_bytes, saved_bytes
from passband.measure.resident import resident_growth
from passband.ops.band_limited_conv.native.memory import keep_workspace
from passband.train import TrainConfig, load_run
from passband.train.evaluation import autocast
from passband.train.parts import load_parts
from passband.train.sampling import fetch


@dataclass(frozen=True)
class StepMemory:
    """Memory of one training step of a trained network, in bytes.

    Args:
        saved: Kept by the forward pass for the backward pass, every index and unit included.
        peak: Most that is allocated at once, above what was there before the step.
        mean: Allocated on average over the time of the step.
        resident: By how much a process grows over its first steps, as the operating system counts
            it; weights, momentum, data and the libraries' code are there before and do not count.
            None: not measured.
    """

    saved: int
    peak: int
    mean: int
    resident: int | None


def step_memory(run: Path, *, checkpointed: bool = False, with_resident: bool = True) -> StepMemory:
    """The memory of a training step of a run's network, on the CPU.

    Args:
        run: The run's folder.
        checkpointed: Have torch's gradient checkpointing keep a few maps, and compute the others.
        with_resident: Measure the resident size as well, in a fresh process.
    """
    step, forward, model = _step(run, checkpointed)
    step()
    model.zero_grad()  # gradients of a step before would count as there already
    keep_workspace(False)  # as it is where freed memory is returned
    allocated = allocated_bytes(step)
    keep_workspace(True)
    resident = _resident_growth_of_a_process(run, checkpointed) if with_resident else None
    return StepMemory(saved_bytes(forward, model), allocated.peak, allocated.mean, resident)


def _resident_growth_of_a_process(run: Path, checkpointed: bool) -> int:
    script = (
        "import sys, json; from pathlib import Path;"
        "from passband.studies.step_memory import resident_growth_of_run;"
        "print(json.dumps(resident_growth_of_run(Path(sys.argv[1]), sys.argv[2] == 'True')))"
    )
    command = [sys.executable, "-c", script, str(run), str(checkpointed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def resident_growth_of_run(run: Path, checkpointed: bool) -> int:
    """By how much this process grows over the first training steps of a run's network.

    Freed memory is returned at once, as `passband train` has it for SpecNets.
    """
    return_freed_memory()
    _step(run, checkpointed, images=2)[0]()  # the libraries' code is in memory then
    step, _, model = _step(run, checkpointed)
    model.zero_grad()  # gradients of a step before would count as there already
    return resident_growth(step)


def _step(
    run: Path, checkpointed: bool, images: int | None = None
) -> tuple[Callable[[], None], Callable[[], Tensor], nn.Module]:
    """A training step, its forward pass, and the network."""
    model, config, _ = load_run(run)
    model.train()
    inputs, labels = (tensor[:images] for tensor in _batch(config))
    optimizer = torch.optim.SGD(model.parameters(), 0.0, config.momentum)
    for parameter in model.parameters():  # momentum is there in every step but the first
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    def forward() -> Tensor:
        with autocast(inputs.device, config.precision):
            scores: Tensor = _checkpointed(model, inputs) if checkpointed else model(inputs)
            return scores

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(forward().float(), labels))
        optimizer.step()

    return step, forward, model


def _batch(config: TrainConfig) -> tuple[Tensor, Tensor]:
    items = fetch(load_parts(config).train, list(range(config.batch_size)))
    inputs = torch.stack([input for input, _ in items])
    return inputs, torch.tensor([label for _, label in items])


def _checkpointed(model: nn.Module, inputs: Tensor) -> Tensor:
    from torch.utils.checkpoint import checkpoint_sequential

    assert isinstance(model, nn.Sequential)
    scores: Tensor = checkpoint_sequential(  # type: ignore[no-untyped-call]
        list(model), max(2, round(len(model) ** 0.5)), inputs.requires_grad_(), use_reentrant=False
    )
    return scores
