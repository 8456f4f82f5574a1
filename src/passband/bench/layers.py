"""One row per layer: every contender's time, what they had to do, and who won."""

import copy
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from passband.bench.cases import ALGORITHMS, LayerCase
from passband.bench.contenders import (
    DownsampledConv,
    Pass,
    TextbookFFTConv,
    band_limited_layer,
    compiled_pass,
    layer_pass,
    native_layer,
    textbook_refusal,
)
from passband.bench.machine import Peaks
from passband.bench.work import band_limited_work, native_work
from passband.measure.macs import call_geometry
from passband.measure.memory import saved_bytes
from passband.measure.timing import time_rounds

Row = dict[str, Any]

EAGER = ("native", "channels_last")
"""torch's convolution in its two memory orders, of which the better one is what ours must beat."""

BASELINES = ("compiled", "textbook", "downsampled")
CONTROL = "downsampled"  # computes another function, so it cannot win


@dataclass(frozen=True)
class Rounds:
    """How often the contenders of a row are timed; see `passband.measure.timing.time_rounds`.

    Args:
        repeats: Rounds,
        shortest: or more, until they have taken so many seconds: of small layers,
        longest: or fewer, but three at least, once they have taken so many: of large ones.
    """

    repeats: int = 7
    shortest: float = 0.2
    longest: float = 2.0


def measure_layers(
    cases: Sequence[LayerCase], peaks: Peaks, rounds: Rounds | None = None
) -> list[Row]:
    """All contenders of cases that differ in their bands only, in turn.

    Args:
        cases: Bands of one layer: torch's convolution, which has none, is measured once for all.
        peaks: What the machine does at most.
        rounds: How often.

    Returns:
        For each the case; `NAME_ms` of every contender, the median over the rounds, or "" where it
        was not measured; `ratio`, the better of torch's eager layouts over `auto`, with the lowest
        and the highest of the rounds; `winner`; `algorithm`, what `auto` ran; multiplications and
        bytes; the bound in time from `peaks`, and the fraction of it that was reached; saved bytes.

    Examples:
        >>> peaks = Peaks(multiplications=1e11, bytes=1e10)
        >>> cases = [LayerCase(1, 2, 2, (8, 8), 3, c, training=False) for c in (0.5, 0.7)]
        >>> rows = measure_layers(cases, peaks, Rounds(1, shortest=0.0))
        >>> [(row["compression"], row["map"], row["ratio"] > 0) for row in rows]
        [(0.5, '8x8', True), (0.7, '8x8', True)]
    """
    shared = cases[0]
    training = shared.training
    maps = torch.randn(shared.batch, shared.in_channels, *shared.size)
    grad = torch.randn(shared.batch, shared.out_channels, *shared.geometry.output_size)
    native = native_layer(shared)
    orders: dict[str, tuple[nn.Module, Tensor, Tensor]] = {"native": (native, maps, grad)}
    if len(shared.size) == 2:
        last = torch.channels_last
        reordered = copy.deepcopy(native).to(memory_format=last)
        orders["channels_last"] = (
            reordered,
            maps.contiguous(memory_format=last),
            grad.contiguous(memory_format=last),
        )
    plain = {name: layer_pass(*order, training) for name, order in orders.items()}
    own = [_own_passes(case, native, orders, maps, grad, plain) for case in cases]
    passes = dict(plain)
    for index, (of_case, _) in enumerate(own):
        passes |= {f"{index} {name}": run for name, run in of_case.items()}
    times = time_passes(passes, rounds or Rounds())
    rows = []
    for index, (case, (of_case, note)) in enumerate(zip(cases, own, strict=True)):
        of_row = {name: times[name] for name in plain}
        of_row |= {name: times[f"{index} {name}"] for name in of_case}
        auto = band_limited_layer(native, case, "auto").train(training)
        algorithm = call_geometry(auto, maps, training)[1].algorithm
        rows.append(
            {
                **_case_columns(case),
                **_time_columns(of_row, algorithm),
                **_work_columns(case, algorithm, of_row, peaks),
                **_saved_columns(native, auto, maps, training),
                "note": note,
            }
        )
    return rows


def _own_passes(
    case: LayerCase,
    native: nn.Conv1d | nn.Conv2d,
    orders: dict[str, tuple[nn.Module, Tensor, Tensor]],
    maps: Tensor,
    grad: Tensor,
    plain: dict[str, Pass],
) -> tuple[dict[str, Pass], str]:
    """The contenders of one band beside torch's eager ones, and a note on who could not run."""
    training, notes = case.training, []
    passes = {
        name: layer_pass(band_limited_layer(native, case, name), maps, grad, training)
        for name in case.algorithms
    }
    if "textbook" in case.baselines:
        if refusal := textbook_refusal(case.geometry, case):
            notes.append(refusal)
        else:
            textbook = TextbookFFTConv(native, case)
            passes["textbook"] = layer_pass(textbook, maps, grad, training)
    if "downsampled" in case.baselines:
        passes["downsampled"] = layer_pass(DownsampledConv(native, case), maps, grad, training)
    if "compiled" in case.baselines:
        compiled = compiled_pass(*orders[_better_layout(plain)], training)
        if isinstance(compiled, str):
            notes.append(compiled)
        else:
            passes["compiled"] = compiled
    return passes, "; ".join(notes)


def _saved_columns(native: nn.Module, auto: nn.Module, maps: Tensor, training: bool) -> Row:
    if not training:
        return {"native_saved_bytes": "", "saved_bytes": ""}
    leaf = maps.detach().requires_grad_()
    return {
        "native_saved_bytes": saved_bytes(lambda: native(leaf), native),
        "saved_bytes": saved_bytes(lambda: auto(leaf), auto),
    }


def time_passes(passes: dict[str, Pass], rounds: Rounds) -> dict[str, list[float]]:
    """Seconds of every pass in each round, run in turn."""
    seconds = time_rounds(
        list(passes.values()), rounds.repeats, shortest=rounds.shortest, longest=rounds.longest
    )
    return dict(zip(passes, seconds, strict=True))


def _better_layout(passes: dict[str, Pass]) -> str:
    """Which of torch's eager layouts to compile: the faster of a few runs."""
    eager = [name for name in EAGER if name in passes]
    rounds = time_rounds([passes[name] for name in eager], repeats=2)
    return min(zip(eager, map(min, rounds), strict=True), key=lambda pair: pair[1])[0]


def _case_columns(case: LayerCase) -> Row:
    return {
        "batch": case.batch,
        "in_channels": case.in_channels,
        "out_channels": case.out_channels,
        "map": "x".join(map(str, case.size)),
        "kernel": case.kernel,
        "compression": case.compression,
        "realised_compression": digits(case.geometry.band.realised_compression),
        "mode": "training" if case.training else "inference",
    }


def _time_columns(times: dict[str, list[float]], algorithm: str) -> Row:
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    eager = {name: medians[name] for name in EAGER if name in medians}
    best = min(eager, key=eager.__getitem__)
    each = [a / b for a, b in zip(times[best], times["auto"], strict=True)]
    row: Row = {f"{name}_ms": "" for name in (*EAGER, *ALGORITHMS, *BASELINES)}
    row |= {f"{name}_ms": digits(1e3 * seconds) for name, seconds in medians.items()}
    able = {name: seconds for name, seconds in medians.items() if name != CONTROL}
    winner = min(able, key=able.__getitem__)
    return {
        **row,
        "rounds": len(each),
        "ratio": digits(medians[best] / medians["auto"]),
        "lowest_ratio": digits(min(each)),
        "highest_ratio": digits(max(each)),
        "winner": algorithm if winner == "auto" else winner,
        "algorithm": algorithm,
    }


def _work_columns(
    case: LayerCase, algorithm: str, times: dict[str, list[float]], peaks: Peaks
) -> Row:
    native = native_work(case.geometry, *case.shape, case.training)
    ours = band_limited_work(algorithm, case.geometry, *case.shape, case.training)
    best = min(statistics.median(times[name]) for name in EAGER if name in times)
    return {
        "native_multiplications": native.multiplications,
        "multiplications": ours.multiplications,
        "native_bytes": native.bytes,
        "bytes": ours.bytes,
        "native_bound_ms": digits(1e3 * native.seconds(peaks)),
        "bound_ms": digits(1e3 * ours.seconds(peaks)),
        "native_of_bound": digits(native.seconds(peaks) / best),
        "of_bound": digits(ours.seconds(peaks) / statistics.median(times["auto"])),
    }


def digits(value: float) -> float:
    """A figure with the four digits that a measurement may have.

    Examples:
        >>> digits(0.0123456)
        0.01235
    """
    return float(f"{value:.4g}")
