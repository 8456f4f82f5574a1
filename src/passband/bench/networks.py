"""Whole networks: a training step or an inference, converted against native."""

import copy
import statistics
from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband.bench.contenders import Pass
from passband.bench.layers import EAGER, Rounds, Row, digits, time_passes
from passband.bench.machine import Peaks
from passband.bench.work import Work, band_limited_work, native_work
from passband.config import BandLimit
from passband.convert import convert
from passband.measure.layers import observe
from passband.measure.macs import BandLimitedConv, call_geometry
from passband.networks import create_model
from passband.ops.band_limited_conv.geometry import conv_geometry


@dataclass(frozen=True)
class NetworkCase:
    """A network, its input, and what is done with it.

    Args:
        network: Name of the network; see `passband.networks.list_models`.
        shape: Batch, channels and points per axis of the input.
        classes: Outputs of the network.
        training: A whole training step (forward, loss, backward, SGD with momentum), or the forward
            pass in evaluation mode.
        compressions: Bands to convert to; there is one row for each.
    """

    network: str
    shape: tuple[int, ...]
    classes: int
    training: bool
    compressions: tuple[float, ...] = (0.5, 0.85)

    @property
    def name(self) -> str:
        """The case in words."""
        mode = "training step" if self.training else "inference"
        return f"{self.network}, input {'x'.join(map(str, self.shape))}, {mode}"


def network_cases(quick: bool = False, short: bool = False) -> list[NetworkCase]:
    """ResNet-18 in CIFAR form and the FCN on series; inference of ResNet-18 also at batch 1 and 8.

    Args:
        quick: Tiny networks instead.
        short: Without inference at the small batches.

    Examples:
        >>> [case.name for case in network_cases(quick=True)]
        ['resnet8, input 2x3x8x8, training step', 'resnet8, input 2x3x8x8, inference']
    """
    if quick:
        return [
            NetworkCase("resnet8", (2, 3, 8, 8), 10, training, (0.5,)) for training in (True, False)
        ]
    images, series = (3, 32, 32), (64, 1, 270)
    cases = [
        NetworkCase("resnet18", (128, *images), 10, True),
        NetworkCase("resnet18", (128, *images), 10, False),
        NetworkCase("resnet18", (8, *images), 10, False),
        NetworkCase("resnet18", (1, *images), 10, False),
        NetworkCase("fcn", series, 50, True),
        NetworkCase("fcn", series, 50, False),
    ]
    return [case for case in cases if case.shape[0] > 8] if short else cases


def measure_network(
    case: NetworkCase, peaks: Peaks, rounds: Rounds, compiled: bool = False
) -> list[Row]:
    """One row per compression; all contenders in turn, each with its own copy of the weights.

    Args:
        case: The network.
        peaks: What the machine does at most.
        rounds: How often.
        compiled: Measure torch's compiled network too, which takes minutes to compile.

    Returns:
        Medians in milliseconds of the native and the converted network in both memory orders,
        `ratio`, the better of torch's over the better of ours, `winner`, the algorithms of the
        converted layers, the multiplications and bytes of all convolutions and linear layers, and
        the time that the peaks allow for those.
    """
    batch, *rest = case.shape
    native = create_model(
        case.network, num_classes=case.classes, in_channels=rest[0], input_size=tuple(rest[1:])
    )
    example = torch.randn(case.shape)
    labels = torch.randint(case.classes, (batch,))
    models = {"native": native}
    for compression in case.compressions:
        model = copy.deepcopy(native)
        convert(model, BandLimit(compression=compression), example)
        models[f"{compression:g}"] = model
    works = {name: _model_work(model, example, case.training) for name, model in models.items()}
    passes: dict[str, Pass] = {}
    for name, model in models.items():
        passes[name] = _network_pass(model, example, labels, case.training)
        if len(rest) == 3:
            reordered = copy.deepcopy(model).to(memory_format=torch.channels_last)
            maps = example.contiguous(memory_format=torch.channels_last)
            passes[_last(name)] = _network_pass(reordered, maps, labels, case.training)
    note = ""
    if compiled:
        torch.compiler.reset()
        try:
            run = _network_pass(copy.deepcopy(native), example, labels, case.training, compile=True)
            run()
            passes["compiled"] = run
        except Exception as error:  # whatever a compiler may miss; the other contenders go on
            note = f"not compiled: {type(error).__name__}"
    times = time_passes(passes, rounds)
    return [
        {**_row(case, f"{compression:g}", times, works, peaks), "note": note}
        for compression in case.compressions
    ]


def _last(name: str) -> str:
    """Name of a contender's variant in channels-last order."""
    return "channels_last" if name == "native" else f"{name} channels_last"


def _network_pass(
    model: nn.Module, example: Tensor, labels: Tensor, training: bool, compile: bool = False
) -> Pass:
    model.train(training)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    called = torch.compile(model) if compile else model

    def train() -> None:
        optimizer.zero_grad()
        F.cross_entropy(called(example), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def infer() -> None:
        with torch.no_grad():
            called(example)

    return train if training else infer


def _model_work(model: nn.Module, example: Tensor, training: bool) -> tuple[Work, str]:
    """Work of all convolutions and linear layers, and how often each algorithm runs."""
    total, algorithms = Work(0, 0), Counter[str]()
    layers = dict(model.named_modules())
    for name, use in observe(model, example).layers.items():
        layer = layers[name].train(training)
        for maps in use.inputs:
            if isinstance(layer, BandLimitedConv):
                geometry, choice = call_geometry(layer, maps, training)
                algorithm = choice.algorithm
                algorithms[algorithm] += 1
                shape = (maps.shape[0], layer.in_channels, layer.out_channels)
                total += band_limited_work(algorithm, geometry, *shape, training)
            elif isinstance(layer, nn.Linear):
                points = conv_geometry((1,), (1,))
                shape = (maps.shape[0], layer.in_features, layer.out_features)
                total += native_work(points, *shape, training)
            elif isinstance(layer, (nn.Conv1d, nn.Conv2d)):
                geometry = conv_geometry(
                    maps.shape[2:], layer.kernel_size, layer.stride, layer.padding,
                    layer.dilation, layer.groups,
                )  # fmt: skip
                shape = (maps.shape[0], layer.in_channels, layer.out_channels)
                total += native_work(geometry, *shape, training)
    return total, ", ".join(f"{name} {count}" for name, count in sorted(algorithms.items()))


def _row(
    case: NetworkCase,
    compression: str,
    times: dict[str, list[float]],
    works: dict[str, tuple[Work, str]],
    peaks: Peaks,
) -> Row:
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    theirs = [name for name in EAGER if name in medians]
    ours = [name for name in (compression, _last(compression)) if name in medians]
    best, best_ours = (min(names, key=medians.__getitem__) for names in (theirs, ours))
    each = [a / b for a, b in zip(times[best], times[best_ours], strict=True)]
    candidates = [*theirs, *ours, *(["compiled"] if "compiled" in medians else [])]
    winner = min(candidates, key=medians.__getitem__)
    shown = {
        "native": "native",
        "channels_last": "channels_last",
        "compiled": "compiled",
        "converted": compression,
        "converted_channels_last": _last(compression),
    }
    (native, _), (work, algorithms) = works["native"], works[compression]
    return {
        "network": case.network,
        "input": "x".join(map(str, case.shape)),
        "compression": float(compression),
        "mode": "training" if case.training else "inference",
        **{
            f"{column}_ms": digits(1e3 * medians[name]) if name in medians else ""
            for column, name in shown.items()
        },
        "rounds": len(each),
        "ratio": digits(medians[best] / medians[best_ours]),
        "lowest_ratio": digits(min(each)),
        "highest_ratio": digits(max(each)),
        "winner": next(column for column, name in shown.items() if name == winner),
        "algorithms": algorithms,
        "native_multiplications": native.multiplications,
        "multiplications": work.multiplications,
        "native_bytes": native.bytes,
        "bytes": work.bytes,
        "native_bound_ms": digits(1e3 * native.seconds(peaks)),
        "bound_ms": digits(1e3 * work.seconds(peaks)),
        "native_of_bound": digits(native.seconds(peaks) / medians[best]),
        "of_bound": digits(work.seconds(peaks) / medians[best_ours]),
    }
