"""The whole benchmark within a stated time."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from passband.allocator import can_keep_freed_memory, keep_freed_memory
from passband.bench.cases import (
    LayerCase,
    bands_of_layers,
    cost,
    growth_cases,
    layer_cases,
    short_layer_cases,
)
from passband.bench.layers import Rounds, Row, digits, measure_layers
from passband.bench.machine import Peaks, measure_peaks, provenance
from passband.bench.networks import measure_network, network_cases
from passband.bench.precision import precision_rows

# Fraction of the time for each kind of result; precision takes the few seconds that it takes.
SHARES = {"layers": 0.74, "networks": 0.16, "growth": 0.1, "precision": 0.0}
KINDS = tuple(SHARES)

KEPT, DEFAULT = "kept", "default"
"""What becomes of freed memory: see `passband.keep_freed_memory`."""

# Fraction of a kind's time for what is measured first with the C library's own settings.
_DEFAULT_SHARES = {"layers": 0.1, "networks": 0.4}

_PRECISION_SECONDS = 20.0


@dataclass(frozen=True)
class Settings:
    """How the benchmark is run.

    Args:
        minutes: Time that the rounds of all rows may take together, roughly: every row takes at
            least three rounds, and what a row saves, later ones may use.
        quick: Tiny layers and networks, one round: to see that everything runs.
        compiled: Compile torch's networks and more of its layers, which takes minutes more.
        short: Of layers and networks only those that are compared under both memory settings.

    Raises:
        ValueError: `minutes` is not above 0.
    """

    minutes: float = 12.0
    quick: bool = False
    compiled: bool = False
    short: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise ValueError(f"minutes is {self.minutes:g}; it must be above 0")

    def rounds(self, repeats: int, longest: float) -> Rounds:
        """The rounds of a row that may take so many seconds."""
        return Rounds(1, 0.0) if self.quick else Rounds(repeats, longest=longest)


def run_benchmark(
    kinds: Sequence[str] = KINDS,
    settings: Settings | None = None,
    progress: Callable[[str], None] = print,
) -> Iterator[tuple[str, list[Row]]]:
    """Measure on the CPU, one kind after the other. Torch's generator is seeded.

    Args:
        kinds: Of "layers", "networks", "growth" and "precision".
        settings: How.
        progress: Called with a line of text per row.

    Yields:
        Each kind and its rows, which end with the machine's measured peaks and the provenance.

    Raises:
        ValueError: A kind is unknown.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"cannot measure {unknown[0]!r}; allowed are {', '.join(KINDS)}")
    return _results(kinds, settings or Settings(), progress)


def _results(
    kinds: Sequence[str], settings: Settings, progress: Callable[[str], None]
) -> Iterator[tuple[str, list[Row]]]:
    torch.manual_seed(0)
    origin = provenance("cpu")  # before the first result makes the checkout a changed one
    peaks = measure_peaks(settings.quick)
    progress(
        f"{origin['machine']}, torch {origin['torch']}: {peaks.multiplications / 1e9:.0f} G "
        f"multiplications/s, {peaks.bytes / 1e9:.1f} GB/s"
    )
    end = {
        "peak_multiplications_per_second": digits(peaks.multiplications),
        "peak_bytes_per_second": digits(peaks.bytes),
        **origin,
    }
    whole = sum(SHARES[kind] for kind in kinds) or 1.0
    seconds = 60 * settings.minutes - (_PRECISION_SECONDS if "precision" in kinds else 0)
    shares = {kind: seconds * SHARES[kind] / whole for kind in kinds}
    first: dict[str, list[Row]] = {}
    if can_keep_freed_memory():  # which cannot be undone, so the default comes first
        for kind in kinds:
            if kind in _DEFAULT_SHARES:
                share = shares[kind] * _DEFAULT_SHARES[kind]
                shares[kind] -= share
                progress(f"{kind} with the C library's own settings")
                rows = _MEASURES[kind](replace(settings, short=True), peaks, share, progress)
                first[kind] = [{**row, "freed_memory": DEFAULT} for row in rows]
    freed = KEPT if keep_freed_memory() else DEFAULT
    progress(f"freed memory: {freed}")
    for kind in kinds:
        rows = _MEASURES[kind](settings, peaks, shares[kind], progress)
        rows = [{**row, "freed_memory": freed} for row in rows]
        yield kind, [{**row, **end} for row in (*rows, *first.get(kind, ()))]


def _layers(
    settings: Settings, peaks: Peaks, seconds: float, progress: Callable[[str], None]
) -> list[Row]:
    cases = (
        short_layer_cases(settings.quick)
        if settings.short
        else layer_cases(settings.quick, settings.compiled)
    )
    return _layer_rows(cases, settings, peaks, seconds, progress)


def _growth(
    settings: Settings, peaks: Peaks, seconds: float, progress: Callable[[str], None]
) -> list[Row]:
    named = growth_cases(peaks, settings.quick)
    rows = _layer_rows([case for _, case in named], settings, peaks, seconds, progress)
    return [{"axis": axis, **row} for (axis, _), row in zip(named, rows, strict=True)]


def _layer_rows(
    cases: Sequence[LayerCase],
    settings: Settings,
    peaks: Peaks,
    seconds: float,
    progress: Callable[[str], None],
) -> list[Row]:
    groups = bands_of_layers(cases)

    def measure(index: int, longest: float) -> list[Row]:
        rounds = settings.rounds(7, longest)
        return measure_layers([cases[i] for i in groups[index]], peaks, rounds)

    order = sorted(range(len(groups)), key=lambda index: cost(cases[groups[index][0]]))
    names = [cases[group[0]].name.rpartition(", c=")[0] for group in groups]
    rows = iter(_in_order(order, names, measure, seconds, progress))
    placed = {i: next(rows) for group in groups for i in group}
    return [placed[i] for i in range(len(cases))]


def _networks(
    settings: Settings, peaks: Peaks, seconds: float, progress: Callable[[str], None]
) -> list[Row]:
    cases = network_cases(settings.quick, settings.short)

    def measure(index: int, longest: float) -> list[Row]:
        rounds = settings.rounds(5, longest)
        return measure_network(cases[index], peaks, rounds, settings.compiled)

    smallest_first = range(len(cases))[::-1]
    return _in_order(smallest_first, [case.name for case in cases], measure, seconds, progress)


def _precision(
    settings: Settings, peaks: Peaks, seconds: float, progress: Callable[[str], None]
) -> list[Row]:
    rows = list(precision_rows(settings.quick))
    progress(f"precision: {len(rows)} rows")
    return rows


_MEASURES = {
    "layers": _layers,
    "networks": _networks,
    "growth": _growth,
    "precision": _precision,
}


def _in_order(
    order: Sequence[int],
    names: Sequence[str],
    measure: Callable[[int, float], list[Row]],
    seconds: float,
    progress: Callable[[str], None],
) -> list[Row]:
    """Rows of all cases, in their own order, measured in another: what is short comes first.

    Each case gets an equal share of the time that is left when its turn comes, so that what the
    short ones leave over goes to the long ones.
    """
    end = time.perf_counter() + seconds
    rows: dict[int, list[Row]] = {}
    for done, index in enumerate(order):
        share = max(0.0, end - time.perf_counter()) / (len(order) - done)
        rows[index] = measure(index, share)
        for row in rows[index]:
            progress(
                f"{done + 1}/{len(order)} {names[index]}, {row['mode']}, c={row['compression']:g}: "
                f"ratio {row['ratio']:.2f}, won by {row['winner']}"
            )
    return [row for index in sorted(rows) for row in rows[index]]
