"""What a training step keeps, its peak and its time: plain torch, its remedies, and memory="exact".

    python benchmarks/memory.py table              # kept bytes, peak, time, gradients: one CSV
    python benchmarks/memory.py table --large      # the same of images of 224 x 224: another
    python benchmarks/memory.py largest            # the largest batch under a limit: another
    python benchmarks/memory.py table --quick      # tiny, writes nothing

`--networks`, `--contenders` and `--parts` measure a part of a table and leave its other cells.

Networks are torchvision's with the stem that is usual for 32 x 32 images (3 x 3, no pooling; VGG
with one linear layer of 512), and the FCN on series of 270 points. With `--large` they are
torchvision's own. Kept bytes are those that a
forward pass has allocated and not freed when it ends; the peak is the most that a step (forward,
loss, backward, SGD with momentum) has allocated at once above what was there before it, gradients
included. Both are counted by torch's profiler at every allocation on a CPU, by its allocator on a
GPU, and depend on no other load of the machine. Steps are timed in turn, in one process that keeps
freed memory (`passband.keep_freed_memory`). Maps lie channels-last, torch's faster order here.

The gradient's error is that of memory="exact" against the same band-limited network without it: of
all parameters the largest relative norm of the difference, in float32 and in float64, with 16
images of the batch. Parameters whose gradient is zero but for rounding are left out, for a
relative error of rounding means nothing: those whose gradient, computed in float64, is below 100
times the resolution of the type, relative to the largest gradient. Those are the biases before a
batch norm, and in DenseNet one scale that later batch norms undo. How large the error of rounding
is shows beside it: that of the network without memory="exact" against itself, when the images of
the batch come in reverse order.

How the largest batch is found: memory_largest.py.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from machine import RESULTS, provenance, write_result
from memory_contenders import (
    CONTENDERS,
    NETWORKS,
    Contender,
    Step,
    by_name,
    make_batch,
    make_contender,
    make_network,
)
from memory_largest import measure_largest
from torch import Tensor, nn

import passband as pb
from passband.bench.machine import file_stem
from passband.measure.memory import left_bytes, peak_bytes
from passband.measure.timing import alternate

LIMIT_MIB = 512
COMPARED = 16  # images whose gradients are compared
ERRORS = ("gradient_error", "reordered_error")


def gradient_errors(
    contender: Contender, plain: nn.Module, x: Tensor, labels: Tensor
) -> dict[str, str]:
    """Largest relative norm of a parameter's difference, in float32 and in float64.

    Of the contender, and of the network without memory="exact" on the images in reverse order.
    """
    single = Contender("", contender.compression)
    x, labels = x[:COMPARED], labels[:COMPARED]
    runs = [(single, x, labels), (contender, x, labels), (single, x.flip(0), labels.flip(0))]
    floats, doubles = (
        [gradients(make_contender(c, plain).to(t), maps.to(t), of) for c, maps, of in runs]
        for t in (torch.float32, torch.float64)
    )
    norms = [true.norm().item() for true in doubles[0]]
    errors = {}
    for kind, (expected, *others) in (("", floats), ("_float64", doubles)):
        least = 100 * torch.finfo(expected[0].dtype).eps * max(norms)
        for column, found in zip(ERRORS, others, strict=True):
            pairs = zip(found, expected, norms, strict=True)
            largest = max(((p - q).norm() / q.norm()).item() for p, q, n in pairs if n > least)
            errors[column + kind] = f"{largest:.1e}"
    return errors


def gradients(model: nn.Module, x: Tensor, labels: Tensor) -> list[Tensor]:
    """The gradient of each parameter."""
    step = Step(Contender(""), model, x, labels)
    step.forward().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


@dataclass(frozen=True)
class Wanted:
    """What is to be measured of each network."""

    contenders: tuple[Contender, ...]
    parts: tuple[str, ...]
    batch: int
    rounds: int
    device: str
    large: bool


PARTS = ("memory", "time", "gradients")


def measure(name: str, wanted: Wanted) -> list[dict[str, Any]]:
    """A row for each contender on one network."""
    device = wanted.device
    plain = make_network(name, wanted.large).to(device)
    x, labels = (t.to(device) for t in make_batch(name, wanted.batch, wanted.large))
    steps = {c: Step(c, make_contender(c, plain), x, labels) for c in wanted.contenders}
    rows: dict[Contender, dict[str, Any]] = {
        c: {"network": name, "batch": wanted.batch, "contender": c.name} for c in steps
    }
    for contender, step in steps.items() if "memory" in wanted.parts else ():
        step()  # memory of the optimizer, and working memory
        step.optimizer.zero_grad(set_to_none=True)
        kept = left_bytes(step.forward, device)
        row, peak = rows[contender], peak_bytes(step, device)
        step.optimizer.zero_grad(set_to_none=True)
        row |= {"kept_bytes": kept, "peak_bytes": peak}
        print(f"{name}: {contender.name}: kept {kept / 2**20:.1f} MiB", file=sys.stderr, flush=True)
    if "time" in wanted.parts:
        seconds = alternate(list(steps.values()), wanted.rounds, device=device)
        for row, taken in zip(rows.values(), seconds, strict=True):
            row["step_seconds"] = taken
    for contender, row in rows.items() if "gradients" in wanted.parts else ():
        if contender.exact and not (contender.autocast or contender.checkpoint):
            row |= gradient_errors(contender, plain, x, labels)
    return [row | provenance(device) for row in rows.values()]


COLUMNS = (
    "network", "batch", "contender", "kept_bytes", "kept", "peak_bytes", "peak", "step_seconds",
    "time", *(error + kind for error in ERRORS for kind in ("", "_float64")),
)  # fmt: skip
RATIOS = {"kept": "kept_bytes", "peak": "peak_bytes", "time": "step_seconds"}  # to plain torch


def merged(name: str, rows: list[dict[str, Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows with the cells that an earlier run has written and this one did not measure.

    Ratios are to plain torch, of whichever run. Times are only taken in one run for all.
    """
    file = RESULTS / f"{file_stem(name)}.csv"
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    earlier = list(csv.DictReader(file.open(newline=""))) if file.exists() else []
    for row in [*earlier, *rows]:
        key = (row["network"], str(row.get("batch")), row["contender"])
        found[key] = found.get(key, dict.fromkeys(columns, "")) | row
    for (network, batch, _), row in found.items():
        plain = found.get((network, batch, CONTENDERS[0].name), {})
        for ratio, of in RATIOS.items() if columns else ():
            known = row[of] not in ("", None) and plain.get(of)
            row[ratio] = float(row[of]) / float(plain[of]) if known else ""
    return sorted(found.values(), key=lambda row: NETWORKS.index(row["network"]))


def main() -> None:
    """Measure what was asked for and write its CSV."""
    names = [contender.name for contender in CONTENDERS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="kept bytes, peak, time and gradients")
    most = commands.add_parser("largest", help="the largest batch under a limit")
    for command in (table, most):
        command.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
        command.add_argument("--contenders", nargs="+", choices=names, default=names)
        command.add_argument("--quick", action="store_true", help="tiny, and nothing is written")
    table.add_argument("--batch", type=int, default=128)
    table.add_argument("--rounds", type=int, default=5, help="timed steps of each")
    table.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    table.add_argument("--large", action="store_true", help="images of 224 x 224")
    table.add_argument("--device", default="cpu")
    most.add_argument("--limit-mib", type=int, default=LIMIT_MIB)
    given = parser.parse_args()
    contenders = tuple(by_name(name) for name in given.contenders)
    if given.command == "largest":
        for name in ("resnet8",) if given.quick else given.networks:
            chosen, limit = (contenders[:1], 64) if given.quick else (contenders, given.limit_mib)
            finish("memory-largest", measure_largest(name, chosen, limit), (), given.quick)
        return
    pb.keep_freed_memory()
    # mapped files are counted like memory, so that what is on disk shows in `largest` only
    contenders = tuple(contender for contender in contenders if contender.offload is None)
    batch, rounds = (4, 1) if given.quick else (given.batch, given.rounds)
    wanted = Wanted(
        contenders, tuple(given.parts), batch, rounds, given.device, given.large and not given.quick
    )
    for name in ("resnet8",) if given.quick else given.networks:
        result = "memory-large" if given.large else "memory"
        finish(result, measure(name, wanted), COLUMNS, given.quick)


def finish(result: str, rows: list[dict[str, Any]], columns: Sequence[str], quick: bool) -> None:
    """Write the rows of a network into the result, or say them."""
    if quick:
        print(*rows, sep="\n")
    else:  # after each network: the next may take long
        write_result(result, merged(result, rows, columns))


if __name__ == "__main__":
    main()
