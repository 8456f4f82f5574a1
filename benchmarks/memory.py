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
batch norm, and in DenseNet one scale that later batch norms undo.

The largest batch is found by halving, each trial in a process of its own whose private memory is
limited (RLIMIT_DATA) to what the network itself needs and so many MiB more: whatever cannot be
allocated then is an error, which says that the batch does not fit. Files mapped into memory do not
count, so that what is kept on disk does not.
"""

import argparse
import copy
import csv
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from machine import RESULTS, provenance, write_result
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import passband as pb
from passband.bench.machine import file_stem
from passband.measure.memory import left_bytes, peak_bytes
from passband.measure.timing import alternate
from passband.networks import create_model
from passband.train.evaluation import has_several_points


@dataclass(frozen=True)
class Contender:
    """How a step is made to need less memory."""

    name: str
    compression: float | None = None
    exact: bool = False
    checkpoint: bool = False
    autocast: bool = False
    offload: str | None = None


CONTENDERS = (
    Contender("plain"),
    Contender("checkpoint", checkpoint=True),
    Contender("bf16 autocast", autocast=True),
    Contender("band-limited c=0.5", 0.5),
    Contender("exact c=0.5", 0.5, exact=True),
    Contender("exact c=0.85", 0.85, exact=True),
    Contender("exact c=0.5, checkpoint", 0.5, exact=True, checkpoint=True),
    Contender("exact c=0.5, bf16 autocast", 0.5, exact=True, autocast=True),
    Contender("exact c=0.5, kept on disk", 0.5, exact=True, offload="disk"),
)
NETWORKS = ("resnet18", "vgg16_bn", "densenet121", "fcn")
LIMIT_MIB = 512
FEW = 32  # images that tell how much memory each more needs
COMPARED = 16  # images whose gradients are compared


def make_network(name: str, large: bool = False) -> nn.Module:
    """A network of 10 classes with ReLUs in place, as its authors wrote it."""
    torch.manual_seed(0)
    if large:
        import torchvision

        model = torchvision.models.get_model(name, num_classes=10)
    elif name == "fcn":
        model = create_model("fcn", num_classes=50, in_channels=1, input_size=(270,))
    elif name == "resnet8":
        model = create_model("resnet8", num_classes=10, in_channels=3, input_size=(32, 32))
    else:
        import torchvision

        model = torchvision.models.get_model(name, num_classes=10)
        if name == "resnet18":
            model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            model.maxpool = nn.Identity()
        elif name == "vgg16_bn":
            model.avgpool, model.classifier = nn.Identity(), nn.Linear(512, 10)
        else:
            model.features.conv0 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            model.features.pool0 = nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    return model


def make_batch(name: str, batch: int, large: bool = False) -> tuple[Tensor, Tensor]:
    shape, classes = ((1, 270), 50) if name == "fcn" else ((3, 32, 32), 10)
    if large:
        shape = (3, 224, 224)
    return torch.randn(batch, *shape), torch.randint(classes, (batch,))


def into_parts(model: nn.Module) -> None:
    """Put the layers of a sequence up to each pooling, or a series' ReLU, into one of their own.

    torch.utils.checkpoint goes around those; residual and dense networks have parts already.
    """
    for sequence in [m for m in model.modules() if type(m) is nn.Sequential]:
        kinds = [type(module) for module in sequence]
        end = nn.MaxPool2d if nn.MaxPool2d in kinds else nn.ReLU
        if nn.Conv1d not in kinds and nn.MaxPool2d not in kinds:
            continue
        parts, part = [], []
        for module in sequence:
            part.append(module)
            if type(module) is end:
                parts.append(nn.Sequential(*part))
                part = []
        sequence._modules.clear()
        for index, module in enumerate([*parts, *part]):
            sequence.add_module(str(index), module)


def with_checkpoints(model: nn.Module) -> None:
    """torch.utils.checkpoint where it is usual.

    Around residual blocks; around all but the 3 x 3 convolution of dense layers, as torchvision's
    `memory_efficient` does; around the parts of sequences.
    """
    for parent in list(model.modules()):
        if type(parent).__name__ == "_DenseLayer":
            parent.memory_efficient = True
        elif type(parent).__name__ == "BasicBlock":
            parent.forward = MethodType(_checkpointed, parent)
        elif isinstance(parent, nn.Sequential) and any(
            isinstance(child, (nn.Conv1d, nn.Conv2d)) for child in parent
        ):
            holds_activation = any(isinstance(child, nn.ReLU) for child in parent)
            if holds_activation and not isinstance(parent[-1], nn.Linear):
                parent.forward = MethodType(_checkpointed, parent)


def _checkpointed(self: nn.Module, x: Tensor) -> Any:
    return checkpoint(partial(type(self).forward, self), x, use_reentrant=False)


def make_contender(contender: Contender, plain: nn.Module) -> nn.Module:
    model = copy.deepcopy(plain)
    if contender.checkpoint:
        into_parts(model)
    if contender.compression is not None:
        memory = "exact" if contender.exact else None
        config = pb.BandLimit(contender.compression, memory=memory, offload=contender.offload)
        pb.convert(model, config, filter_fn=has_several_points)
    if contender.checkpoint:
        with_checkpoints(model)
    return model


class Step:
    """A training step of one contender."""

    def __init__(self, contender: Contender, model: nn.Module, x: Tensor, labels: Tensor) -> None:
        order = torch.channels_last if x.dim() == 4 else torch.contiguous_format
        model.to(memory_format=order)
        self.contender, self.model, self.labels = contender, model, labels
        self.x = x.contiguous(memory_format=order)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def of(self, x: Tensor, labels: Tensor) -> "Step":
        """The same of another batch."""
        other = copy.copy(self)
        order = torch.channels_last if x.dim() == 4 else torch.contiguous_format
        other.x, other.labels = x.contiguous(memory_format=order), labels
        return other

    def forward(self) -> Tensor:
        """The loss."""
        autocast = torch.autocast(self.x.device.type, torch.bfloat16)
        with autocast if self.contender.autocast else nullcontext():
            return F.cross_entropy(self.model(self.x), self.labels)

    def __call__(self) -> None:
        """Run it."""
        self.optimizer.zero_grad(set_to_none=True)
        self.forward().backward()
        self.optimizer.step()


def gradient_errors(
    contender: Contender, plain: nn.Module, x: Tensor, labels: Tensor
) -> tuple[float, float]:
    """Largest relative norm of a parameter's difference, in float32 and in float64."""
    single = Contender("", contender.compression)
    x, labels = x[:COMPARED], labels[:COMPARED]
    floats, doubles = (
        [gradients(make_contender(c, plain).to(t), x.to(t), labels) for c in (contender, single)]
        for t in (torch.float32, torch.float64)
    )
    norms = [true.norm().item() for true in doubles[1]]
    errors = []
    for found, expected in (floats, doubles):
        least = 100 * torch.finfo(expected[0].dtype).eps * max(norms)
        pairs = zip(found, expected, norms, strict=True)
        errors.append(max(((p - q).norm() / q.norm()).item() for p, q, n in pairs if n > least))
    return errors[0], errors[1]


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
            errors = [f"{e:.1e}" for e in gradient_errors(contender, plain, x, labels)]
            row |= {"gradient_error": errors[0], "gradient_error_float64": errors[1]}
    return [row | provenance(device) for row in rows.values()]


COLUMNS = (
    "network", "batch", "contender", "kept_bytes", "kept", "peak_bytes", "peak", "step_seconds",
    "time", "gradient_error", "gradient_error_float64",
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


def fits(name: str, contender: Contender, batch: int, limit_mib: int) -> bool:
    """Whether a step with a batch runs in a process of limited memory."""
    words = [name, contender.name, str(batch), str(limit_mib)]
    done = subprocess.run(
        [sys.executable, __file__, "trial", *words], capture_output=True, text=True, check=False
    )
    return "fits" in done.stdout


def trial(name: str, contender: Contender, batch: int, limit_mib: int) -> None:
    """Run a step under the limit; says "fits" if it does."""
    import resource

    step = Step(contender, make_contender(contender, make_network(name)), *make_batch(name, 2))
    step()  # what is lazy, loads, and the optimizer has its memory
    step = step.of(*make_batch(name, batch))
    status = Path("/proc/self/status").read_text()
    bound = 1024 * int(status.partition("VmData:")[2].split()[0]) + limit_mib * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    try:
        step()
    except (RuntimeError, MemoryError):
        print("too large")
        return
    print("fits")


def largest(name: str, contender: Contender, limit_mib: int) -> int:
    """The largest batch that fits, found to a sixteenth.

    The search begins where memory per image would have it.
    """
    step = Step(contender, make_contender(contender, make_network(name)), *make_batch(name, 2))
    step()
    peaks = [peak_bytes(step.of(*make_batch(name, b)), "cpu") for b in (FEW, 2 * FEW)]
    low = high = max(FEW * limit_mib * 2**20 // max(peaks[1] - peaks[0], 1), 1)
    while fits(name, contender, high, limit_mib):
        low, high = high, high + max(high // 4, 1)
    while low == high or (low > 0 and not fits(name, contender, low, limit_mib)):
        low, high = low - max(low // 5, 1), low
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(name, contender, middle, limit_mib) else (low, middle)
    return low


def measure_largest(
    name: str, contenders: tuple[Contender, ...], limit_mib: int
) -> list[dict[str, Any]]:
    """A row for each contender on one network."""
    rows: list[dict[str, Any]] = []
    for contender in contenders:
        batch = largest(name, contender, limit_mib)
        plain = rows[0]["largest_batch"] if rows else batch
        rows.append(
            {
                "network": name,
                "limit_mib": limit_mib,
                "contender": contender.name,
                "largest_batch": batch,
                "times_plain": batch / max(plain, 1),
                **provenance(),
            }
        )
        print(f"{name}: {contender.name}: {batch}", file=sys.stderr, flush=True)
    return rows


def by_name(name: str) -> Contender:
    return next(contender for contender in CONTENDERS if contender.name == name)


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
    one = commands.add_parser("trial", help="one batch under a limit: what `largest` starts")
    for word in ("network", "contender", "batch", "limit_mib"):
        one.add_argument(word)
    given = parser.parse_args()
    if given.command == "trial":
        batch, limit = int(given.batch), int(given.limit_mib)
        trial(given.network, by_name(given.contender), batch, limit)
        return
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
