"""SpecNet beside its twins and the other ways to save memory: accuracy of runs, and training steps.

    python benchmarks/specnet.py accuracy RUNS [RUNS ...]   # what finished runs reached: a CSV
    python benchmarks/specnet.py memory [--runs RUNS ...]   # memory and time of steps: another
    python benchmarks/specnet.py figures [RUNS ...] --network NAME     # curves, for the docs

RUNS are the run folders of `passband study specnet` (OUT/runs), or of `passband train`. `accuracy`
adds what they reached to the CSV that is there, in place of the same trainings; every row says on
which machine and commit that was. `figures` draws that CSV against beta, and the learning
curves of the runs, if any are given. `memory` measures the SpecNets among them with the weights
they have, since what is kept depends on them; of the ways it names itself and finds no run of, the
weights are the first ones, and the table says so.

Fractions are those of the twin of the same kind, with or without batch norm. Kept: bytes that the
forward pass leaves for the backward pass, every bit and unit included. Mean and peak: allocated
over a step (forward, loss, backward, SGD with momentum) above what was there before it, the
weights' gradients included. Resident: by how much a fresh process grows over two steps, as the
operating system counts it; code that a step with two images has loaded is there before. For all of
these freed memory is returned at once, as by `passband train` for SpecNets. Steps are timed in
turn, in one process, with freed memory kept (`time`) and with it returned (`time_returned`); both
are ratios to the twin's time with memory kept. Data from PASSBAND_DATA, in the paper's batches of
128.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import provenance, write_result, write_rows
from specnet_runs import ACCURACY, accuracy, described, draw, read_accuracy, runs_in
from torch import Tensor
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import passband as pb
from passband.data import load_dataset
from passband.measure.memory import allocated_bytes, saved_bytes
from passband.measure.resident import resident_growth
from passband.measure.timing import alternate
from passband.networks import create_model
from passband.networks.specnet import DenseLayer
from passband.studies.specnet import DATA, NORMALISED
from passband.train import TrainConfig, load_run

NETWORKS = ("speclenet", "specalexnet", "specvgg16", "specdensenet")
MEMORY = ("kept", "mean", "peak", "resident")


@dataclass(frozen=True)
class Way:
    """How a network is trained with less memory, or its twin."""

    name: str
    config: pb.SpecNet | pb.BandLimit | None = None
    batch_norm: bool = False
    autocast: bool = False
    checkpointed: str | None = None
    order: torch.memory_format = torch.contiguous_format

    @property
    def beta(self) -> float | str:
        """A SpecNet's threshold."""
        return self.config.threshold if isinstance(self.config, pb.SpecNet) else ""

    @property
    def is_twin(self) -> bool:
        """Whether it is what torch does unless told otherwise, which the others are measured by."""
        plain = self.order == torch.contiguous_format
        return plain and not (self.config or self.autocast or self.checkpointed)


def spec_way(config: pb.SpecNet) -> Way:
    """A SpecNet's row."""
    return Way(described(config), config, batch_norm=config.batch_norm == "keep")


def ways(network: str, runs: list[Path]) -> list[Way]:
    """The rows of a network's table, the twin first, then what else there is to do about memory."""
    dense = network == "specdensenet"
    pool = "average" if dense else "max"
    on_map = partial(pb.SpecNet, activation="relu", pool=pool)
    normalised = partial(on_map, batch_norm="keep")
    exact = pb.BandLimit(compression=0.5, memory="exact")
    last = torch.channels_last
    others = [
        Way("twin"),
        Way("twin, batch norm", batch_norm=True),
        Way("twin, channels last", order=last),
        Way("twin, batch norm, channels last", batch_norm=True, order=last),
        Way("twin, checkpointed", checkpointed="segments"),
        Way("twin, bf16", autocast=True),
        *([Way("twin, memory-efficient", checkpointed="dense layers")] if dense else []),
        Way("exact-memory band-limited", exact, batch_norm=network in NORMALISED),
    ]
    spec_nets = [
        *(on_map(beta) for beta in (0.5, 1.0)),
        *(on_map(beta, storage="int8") for beta in (0.0, 1.0)),
        normalised(1.0),
        normalised(0.0, storage="int8"),
        normalised(0.5, storage="int8", gradient="straight-through"),
        pb.SpecNet(1.0),
    ]
    configs = [TrainConfig.from_dict(fields) for _, fields, _ in runs_in(runs)]
    spec_nets += [
        config.spec_net
        for config in configs
        if config.method == "specnet" and config.model.removesuffix("-bn") == network
    ]
    found = {(described(config), config.threshold): spec_way(config) for config in spec_nets}
    all_ways = [*others, *(found[name] for name in sorted(found))]
    return [way for way in all_ways if network in NORMALISED or not way.batch_norm]


@cache
def images(name: str, batch: int) -> tuple[Tensor, Tensor]:
    """The first images of a data set and their labels."""
    data = load_dataset(name)
    items = [data.train[i] for i in range(batch)]
    return torch.stack([x for x, _ in items]), torch.tensor([label for _, label in items])


class Step:
    """A training step."""

    def __init__(
        self, network: str, way: Way, batch: tuple[Tensor, Tensor], runs: dict[str, Path]
    ) -> None:
        torch.manual_seed(0)
        name = f"{network}-bn" if way.batch_norm else network
        self.way = way
        run = runs.get(key(name, way.config)) if isinstance(way.config, pb.SpecNet) else None
        self.weights = "first" if run is None else "trained"
        self.x, self.labels = batch
        if run is not None:
            self.model = load_run(run)[0]
        else:
            channels, *size = self.x.shape[1:]
            self.model = create_model(
                name, num_classes=10, in_channels=channels, input_size=tuple(size)
            )
            if way.config is not None:
                pb.convert(self.model, way.config, self.x[:2])
        self.x = self.x.contiguous(memory_format=way.order)
        self.model.to(memory_format=way.order)
        self.model.train()
        if way.checkpointed == "dense layers":
            for layer in self.model.modules():
                if isinstance(layer, DenseLayer):
                    layer.forward = partial(_checkpointed, layer)  # type: ignore[method-assign]
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0, momentum=0.95)
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()

    def forward(self) -> Tensor:
        """The loss."""
        with torch.autocast("cpu", torch.bfloat16) if self.way.autocast else nullcontext():
            if self.way.checkpointed == "segments":
                layers = list(self.model.children())
                parts = max(2, round(len(layers) ** 0.5))
                scores = checkpoint_sequential(
                    layers, parts, self.x.detach().requires_grad_(), use_reentrant=False
                )
            else:
                scores = self.model(self.x)
            return F.cross_entropy(scores.float(), self.labels)

    def load_code(self) -> None:
        """Run it with two images, so that the libraries' code is in memory."""
        x, labels = self.x, self.labels
        self.x, self.labels = x[:2], labels[:2]
        self()
        self.x, self.labels = x, labels

    def __call__(self) -> None:
        """Run it."""
        self.optimizer.zero_grad()
        self.forward().backward()
        self.optimizer.step()


def _checkpointed(layer: DenseLayer, x: Tensor) -> Tensor:
    """What torchvision's `memory_efficient` does: the layer's maps are computed again."""
    return checkpoint(partial(DenseLayer.forward, layer), x, use_reentrant=False)


def key(model: str, config: pb.SpecNet) -> str:
    """What a run must have in common with a way."""
    return f"{model}: {described(config)}, {config.threshold:g}"


def trained(folders: list[Path]) -> dict[str, Path]:
    """Runs of SpecNets by `key`."""
    found = {}
    for run, fields, _ in runs_in(folders):
        config = TrainConfig.from_dict(fields)
        if config.method == "specnet":
            found[key(config.model, config.spec_net)] = run
    return found


def resident(network: str, way: int, batch: int, runs: list[Path]) -> int:
    """By how much this process grows over the first steps of one of `ways`."""
    pb.return_freed_memory()
    data = images(DATA[network], batch)
    step = Step(network, ways(network, runs)[way], data, trained(runs))
    step.load_code()
    step.optimizer.zero_grad()  # gradients of a step before would count as there already
    return resident_growth(step)


def measure(network: str, batch: int, rounds: int, runs: list[Path]) -> list[dict[str, Any]]:
    """A row for each way to train a network."""
    rows: list[dict[str, Any]] = []
    pb.return_freed_memory()
    known = trained(runs)
    steps = [Step(network, way, images(DATA[network], batch), known) for way in ways(network, runs)]
    with ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as fresh:
        grown = [fresh.submit(resident, network, i, batch, runs) for i in range(len(steps))]
        sizes = [size.result() for size in grown]
    for step, size in zip(steps, sizes, strict=True):
        row = {"network": network, "method": step.way.name, "beta": step.way.beta, "batch": batch}
        row |= {"weights": step.weights, "kept_bytes": saved_bytes(step.forward, step.model)}
        step()
        step.optimizer.zero_grad()  # gradients of a step before would count as there already
        allocated = allocated_bytes(step)
        step.optimizer.zero_grad()
        row |= {"mean_bytes": allocated.mean, "peak_bytes": allocated.peak}
        rows.append(row | {"resident_bytes": size})
        print(rows[-1], file=sys.stderr, flush=True)
    for row, kept, returned in zip(rows, *times(steps, rounds), strict=True):
        row |= {"step_seconds": kept, "step_seconds_returned": returned}
    twins = {
        step.way.batch_norm: dict(row)
        for step, row in zip(steps, rows, strict=True)
        if step.way.is_twin
    }
    for step, row in zip(steps, rows, strict=True):
        twin = twins[step.way.batch_norm]
        row["time"] = row["step_seconds"] / twin["step_seconds"]
        row["time_returned"] = row["step_seconds_returned"] / twin["step_seconds"]
        row |= {name: row[f"{name}_bytes"] / twin[f"{name}_bytes"] for name in MEMORY}
        row |= provenance()
    return rows


def times(steps: list[Step], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of each step with freed memory kept, and with it returned."""

    def settle(set_memory: Callable[[], bool]) -> None:
        set_memory()
        steps[0]()  # the process grows again, or gives back what it has

    turns: list[Callable[[], None]] = [
        partial(settle, pb.keep_freed_memory), *steps,
        partial(settle, pb.return_freed_memory), *steps,
    ]  # fmt: skip
    seconds = alternate(turns, rounds, warm_up=0)
    count = len(steps)
    return seconds[1 : 1 + count], seconds[2 + count :]


def main() -> None:
    """Collect or measure what was asked for, and write its CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    reached = commands.add_parser("accuracy", help="what finished runs reached")
    reached.add_argument("runs", nargs="+", type=Path)
    memory = commands.add_parser("memory", help="memory and time of training steps")
    memory.add_argument("--batch", type=int, default=128)
    memory.add_argument("--rounds", type=int, default=3, help="timed steps of each")
    memory.add_argument("--runs", nargs="*", type=Path, default=[])
    memory.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    figures = commands.add_parser("figures", help="curves of finished runs, for the docs")
    figures.add_argument("runs", nargs="*", type=Path)
    figures.add_argument("--network", required=True)
    given = parser.parse_args()
    if given.command == "figures":
        draw(given.network, read_accuracy(ACCURACY), given.runs)
    elif given.command == "accuracy":
        write_rows(ACCURACY, accuracy(given.runs, read_accuracy(ACCURACY)))
    else:
        for name in given.networks:
            rows = measure(name, given.batch, given.rounds, given.runs)
            write_result(f"memory-{name}", rows)


if __name__ == "__main__":
    main()
