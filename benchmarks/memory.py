"""What a training step keeps, its peak and its time: plain torch, its remedies, and memory="exact".

    python benchmarks/memory.py table              # kept bytes, peak, time, gradients: one CSV
    python benchmarks/memory.py largest            # the largest batch under a limit: another
    python benchmarks/memory.py table --quick      # tiny, writes nothing

Networks are torchvision's with the stem that is usual for 32 x 32 images (3 x 3, no pooling; VGG
with one linear layer of 512), and the FCN on series of 270 points. Kept bytes are those that a
forward pass has allocated and not freed when it ends; the peak is the most that a step (forward,
loss, backward, SGD with momentum) has allocated at once above what was there before it, gradients
included. Both are counted by torch's profiler at every allocation on a CPU, by its allocator on a
GPU, and depend on no other load of the machine. Steps are timed in turn, in one process that keeps
freed memory (`passband.keep_freed_memory`). Maps lie channels-last, torch's faster order here.

The gradient's error is that of memory="exact" against the same band-limited network without it: the
largest relative norm of a parameter's difference, where gradients that are nothing but rounding
(below 1e-5 of the largest) count by the largest.

The largest batch is found by halving, each trial in a process of its own whose private memory is
limited (RLIMIT_DATA) to what the network itself needs and so many MiB more: whatever cannot be
allocated then is an error, which says that the batch does not fit. Files mapped into memory do not
count, so that what is kept on disk does not.
"""

import argparse
import copy
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from machine import provenance, write_result
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import passband as pb
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
LIMIT_MIB = 1024


def make_network(name: str) -> nn.Module:
    """A network of 10 classes with ReLUs in place, as its authors wrote it."""
    torch.manual_seed(0)
    if name == "fcn":
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


def make_batch(name: str, batch: int) -> tuple[Tensor, Tensor]:
    shape, classes = ((1, 270), 50) if name == "fcn" else ((3, 32, 32), 10)
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


def gradient_error(model: nn.Module, reference: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Largest relative norm of the difference of a parameter's gradients."""
    for network in (model, reference):
        network.zero_grad(set_to_none=True)
        F.cross_entropy(network(x), labels).backward()
    pairs = [
        (p.grad, q.grad) for p, q in zip(model.parameters(), reference.parameters(), strict=True)
    ]
    least = 1e-5 * max(expected.norm().item() for _, expected in pairs)
    return max((p - q).norm().item() / max(q.norm().item(), least) for p, q in pairs)


def measure(name: str, batch: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """A row for each contender on one network."""
    plain = make_network(name).to(device)
    x, labels = (t.to(device) for t in make_batch(name, batch))
    # mapped files are counted like memory, so that what is on disk shows in `largest` only
    contenders = [contender for contender in CONTENDERS if contender.offload is None]
    steps = {c: Step(c, make_contender(c, plain), x, labels) for c in contenders}
    found: dict[Contender, tuple[int, int]] = {}
    for contender, step in steps.items():
        step()  # memory of the optimizer, and working memory
        step.optimizer.zero_grad(set_to_none=True)
        kept = left_bytes(step.forward, device)
        found[contender] = (kept, peak_bytes(step, device))
        step.optimizer.zero_grad(set_to_none=True)
        print(f"{name}: {contender.name}: kept {kept / 2**20:.1f} MiB", file=sys.stderr, flush=True)
    times = alternate(list(steps.values()), rounds, device=device) if rounds else []
    seconds = dict(zip(steps, times, strict=False))
    first = CONTENDERS[0]
    rows = []
    for contender, (kept, peak) in found.items():
        error: float | str = ""
        if contender.exact and not (
            contender.autocast or contender.checkpoint or contender.offload
        ):
            single = make_contender(Contender("", contender.compression), plain)
            exact = make_contender(contender, plain)
            error = f"{gradient_error(exact, single, x, labels):.1e}"
        rows.append(
            {
                "network": name,
                "batch": batch,
                "contender": contender.name,
                "kept_bytes": kept,
                "kept": kept / found[first][0],
                "peak_bytes": peak,
                "peak": peak / found[first][1],
                "step_seconds": seconds.get(contender, ""),
                "time": seconds[contender] / seconds[first] if seconds else "",
                "gradient_error": error,
                **provenance(device),
            }
        )
    return rows


def fits(name: str, contender: Contender, batch: int, limit_mib: int) -> bool:
    """Whether two steps with a batch run in a process of limited memory."""
    words = [name, contender.name, str(batch), str(limit_mib)]
    done = subprocess.run(
        [sys.executable, __file__, "trial", *words], capture_output=True, text=True, check=False
    )
    return "fits" in done.stdout


def trial(name: str, contender: Contender, batch: int, limit_mib: int) -> None:
    """Run two steps under the limit; says "fits" if they do."""
    import resource

    plain = make_network(name)
    Step(contender, make_contender(contender, plain), *make_batch(name, 2))()  # what is lazy, loads
    step = Step(contender, make_contender(contender, plain), *make_batch(name, batch))
    status = Path("/proc/self/status").read_text()
    bound = 1024 * int(status.partition("VmData:")[2].split()[0]) + limit_mib * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    try:
        step()
        step()
    except (RuntimeError, MemoryError):
        print("too large")
        return
    print("fits")


def largest(name: str, contender: Contender, limit_mib: int, most: int = 1 << 14) -> int:
    """The largest batch that fits, found to a sixteenth."""
    low, high = 0, 16
    while high <= most and fits(name, contender, high, limit_mib):
        low, high = high, 2 * high
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(name, contender, middle, limit_mib) else (low, middle)
    return low


def measure_largest(name: str, limit_mib: int, quick: bool) -> list[dict[str, Any]]:
    """A row for each contender on one network; `quick`: small, for plain torch alone."""
    limit, most = (64, 32) if quick else (limit_mib, 1 << 14)
    rows: list[dict[str, Any]] = []
    for contender in CONTENDERS[:1] if quick else CONTENDERS:
        batch = largest(name, contender, limit, most)
        plain = rows[0]["largest_batch"] if rows else batch
        rows.append(
            {
                "network": name,
                "limit_mib": limit,
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table", help="kept bytes, peak, time and gradients")
    most = commands.add_parser("largest", help="the largest batch under a limit")
    for command in (table, most):
        command.add_argument("--networks", nargs="+", default=NETWORKS)
        command.add_argument("--quick", action="store_true", help="tiny, and nothing is written")
    table.add_argument("--batch", type=int, default=128)
    table.add_argument("--rounds", type=int, default=5, help="timed steps of each; 0 times none")
    table.add_argument(
        "--untimed", nargs="*", default=(), help="networks whose steps take too long"
    )
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
    if given.command == "table":
        pb.keep_freed_memory()
    rows: list[dict[str, Any]] = []
    networks = ("resnet8",) if given.quick else given.networks
    for name in networks:
        if given.command == "table":
            batch, rounds = (4, 1) if given.quick else (given.batch, given.rounds)
            rounds = 0 if name in given.untimed else rounds
            rows += measure(name, batch, rounds, given.device)
        else:
            rows += measure_largest(name, given.limit_mib, given.quick)
        if not given.quick:  # after each network: the next may take long
            write_result("memory" if given.command == "table" else "memory-largest", rows)
    if given.quick:
        print(*rows, sep="\n")


if __name__ == "__main__":
    main()
