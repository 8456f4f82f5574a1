"""The demo: the same small networks with torch's convolutions and with band-limited ones.

ResNet-8 on scikit-learn's 8 x 8 digits, and the FCN on ItalyPowerDemand, a time series set that
comes with aeon; each as it is, band-limited at compression 0, 0.5 and 0.85, and, as a sceptic's
control, as it is on inputs made smaller by the same fractions. All from the same seeds, for the
same number of steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from passband.data import load_dataset
from passband.measure.table import Column, Table
from passband.report import Section
from passband.studies.demo_pictures import accuracy_picture, band_pictures, learning_picture
from passband.studies.downsampled import downsampled_size, write_downsampled
from passband.studies.registry import StudyResult
from passband.studies.results import write_results
from passband.studies.steps import StepCost, step_costs
from passband.studies.trainings import Training, one_thread, status, train_all
from passband.train import TrainConfig

COMPRESSIONS = (0.0, 0.5, 0.85)
SEEDS = 2
NATIVE, LIMITED, SMALLER = "torch.nn", "band-limited", "smaller input"

TITLE = "Networks trained with band-limited convolutions"
INTRODUCTION = (
    "The same networks, from the same initial weights, in the same order of examples and for as "
    "many steps: with the convolutions of torch.nn, with band-limited ones, and, as a control, "
    "with torch.nn's on inputs resized to fewer points."
)
NOTES = (
    "smaller input: the control, torch.nn's convolutions on inputs resized to fewer points.",
    "asked: compression asked for; discarded: what came of it, the mean over the band-limited "
    "layers, since a band is whole rows and columns; of a smaller input, the points left out.",
    "accuracy: on the test data after the last epoch, mean over the seeds.",
    "step: median time of one training step, all kinds run in turn, one thread.",
    "layers keep: for the backward pass, by the convolutions alone. step keeps: by the whole "
    "network. Batch norm and ReLU keep the maps that a band-limited layer no longer needs, so "
    "there its spectrum comes on top.",
)


@dataclass(frozen=True)
class Case:
    """One network on one data set.

    Args:
        name: Short name of the data set, for tables.
        config: How the network is trained without bands, but for the seed.
    """

    name: str
    config: TrainConfig


CASES = (
    Case(
        "digits",
        TrainConfig(
            data="digits",
            model="resnet8",
            epochs=8,
            lr=0.05,
            scheduler="cosine",
            augment=False,
            devices=1,
        ),
    ),
    Case(
        "ItalyPowerDemand",
        TrainConfig(
            data="ucr:ItalyPowerDemand",
            model="fcn",
            epochs=16,
            batch_size=16,
            lr=0.01,
            scheduler="cosine",
            augment=False,
            devices=1,
        ),
    ),
)

COLUMNS = (
    Column("data"),
    Column("model", heading=None),
    Column("convolutions"),
    Column("compression", "fraction", "asked"),
    Column("discarded", "fraction"),
    Column("test_accuracy", "fraction", "accuracy"),
    Column("lowest_accuracy", "fraction", heading=None),
    Column("highest_accuracy", "fraction", heading=None),
    Column("step_seconds", "seconds", "step"),
    Column("layers_saved_bytes", "bytes", "layers keep"),
    Column("saved_bytes", "bytes", "step keeps"),
)


@dataclass(frozen=True)
class Variant:
    """One row of the table: a way to train a case's network.

    Args:
        case: The network and its data.
        kind: NATIVE, LIMITED or SMALLER.
        compression: Fraction to discard; None for NATIVE.
        config: How it is trained, but for the seed.
        left_out: Fraction of the input's points left out.
    """

    case: Case
    kind: str
    compression: float | None
    config: TrainConfig
    left_out: float = 0.0

    @property
    def name(self) -> str:
        """What its run folders are called, but for the seed."""
        word = {NATIVE: "native", LIMITED: "band-limited", SMALLER: "smaller-input"}[self.kind]
        words = [self.case.name, word]
        return "-".join(words if self.compression is None else [*words, f"{self.compression:g}"])


@dataclass(frozen=True)
class Outcome:
    """What came of a variant: a training per seed, and the cost of a step."""

    variant: Variant
    runs: Sequence[Training]
    cost: StepCost

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy of each seed."""
        return [run.result["test_accuracy"] for run in self.runs]

    @property
    def accuracy(self) -> float:
        """Mean test accuracy."""
        return sum(self.accuracies) / len(self.accuracies)

    @property
    def discarded(self) -> float:
        """Fraction really discarded, of spectra or of points."""
        realised: float | None = self.runs[0].result["realised_compression"]
        return self.variant.left_out if realised is None else realised

    def row(self) -> dict[str, Any]:
        """Its row of the table."""
        return {
            "data": self.variant.case.name,
            "model": self.variant.config.model,
            "convolutions": self.variant.kind,
            "compression": self.variant.compression,
            "discarded": None if self.variant.kind == NATIVE else self.discarded,
            "test_accuracy": self.accuracy,
            "lowest_accuracy": min(self.accuracies),
            "highest_accuracy": max(self.accuracies),
            "step_seconds": self.cost.seconds,
            "layers_saved_bytes": self.cost.layers_saved_bytes,
            "saved_bytes": self.cost.saved_bytes,
        }


def run(out: Path, *, progress: bool, seeds: int = SEEDS, quick: bool = False) -> StudyResult:
    """Train, measure, and write table.csv, result.json, report.html and PNG files.

    Args:
        out: Folder for all of it; finished trainings in it are used again.
        progress: Show progress.
        seeds: Trainings of each kind, which differ in initial weights and order.
        quick: Digits only, one epoch on 200 images: a trial of the machinery, not of the method.

    Raises:
        ValueError: `seeds` is less than 1.
    """
    if not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds is {seeds!r}; it must be a whole number, at least 1")
    cases = tuple(_quick(case) for case in CASES[:1]) if quick else CASES
    variants = [variant for case in cases for variant in _variants(case, out / "data")]
    configs = {
        f"{variant.name}-seed{seed}": replace(variant.config, seed=seed)
        for variant in variants
        for seed in range(seeds)
    }
    outcomes: dict[Case, list[Outcome]] = {}
    # Networks this small gain nothing from more threads, and results then depend on their number.
    with one_thread():
        runs = train_all(configs, out / "runs", progress=progress)
        with status("measuring training steps, all kinds in turn", shown=progress):
            for case in cases:
                own = [variant for variant in variants if variant.case == case]
                costs = step_costs([variant.config for variant in own], repeats=3 if quick else 21)
                outcomes[case] = [
                    Outcome(v, [runs[f"{v.name}-seed{seed}"] for seed in range(seeds)], cost)
                    for v, cost in zip(own, costs, strict=True)
                ]
    rows = [outcome.row() for case in cases for outcome in outcomes[case]]
    table = Table(COLUMNS, rows, notes=NOTES)
    with status("drawing", shown=progress):
        sections = [Section("Accuracy, time and memory", table=table)]
        sections += [_section(case, outcomes[case]) for case in cases]
        return write_results(
            "demo",
            out,
            table,
            title=TITLE,
            summary=[INTRODUCTION, *(_summary(case, outcomes[case]) for case in cases)],
            sections=sections,
            options={"seeds": None if seeds == SEEDS else seeds, "quick": quick},
            facts={"seeds": ", ".join(map(str, range(seeds)))},
            runs=runs,
        )


def _quick(case: Case) -> Case:
    config = replace(case.config, epochs=1, limit_train=200, limit_test=200)
    return replace(case, config=config)


def _variants(case: Case, data: Path) -> list[Variant]:
    """The kinds of training of a case; writes the smaller inputs into a folder."""
    bundle = load_dataset(case.config.data)
    size = bundle.input_shape[1:]
    variants = [Variant(case, NATIVE, None, case.config)]
    for compression in COMPRESSIONS:
        config = replace(case.config, method="band-limited", compression=compression)
        variants.append(Variant(case, LIMITED, compression, config))
    for compression in COMPRESSIONS[1:]:
        smaller = downsampled_size(size, compression)
        path = data / f"{case.name}-{'x'.join(map(str, smaller))}.npz"
        if not path.exists():
            write_downsampled(bundle, smaller, path)
        config = replace(case.config, data=f"npz:{path}")
        left_out = 1 - math.prod(smaller) / math.prod(size)
        variants.append(Variant(case, SMALLER, compression, config, left_out))
    return variants


def _section(case: Case, outcomes: Sequence[Outcome]) -> Section:
    """A case's pictures."""
    native = outcomes[0]
    title = f"{case.name}, {case.config.model}"
    points: dict[str, dict[float, list[float]]] = {LIMITED: {}, SMALLER: {}}
    for outcome in outcomes[1:]:
        points[outcome.variant.kind][outcome.discarded] = outcome.accuracies
    limited = [o for o in outcomes if o.variant.kind == LIMITED]
    limited_runs = {f"c = {o.variant.compression:g}": o.runs[0].folder for o in limited}
    pictures = [
        accuracy_picture(
            case.name,
            title,
            {NATIVE: native.accuracies},
            points,
            native.runs[0].result["test_samples"],
        ),
        learning_picture(case.name, title, {NATIVE: native.runs[0].folder, **limited_runs}),
        *band_pictures(case.name, dict(list(limited_runs.items())[1:])),  # without c = 0
    ]
    return Section(title, pictures=pictures)


def _summary(case: Case, outcomes: Sequence[Outcome]) -> str:
    """The accuracies of a case in a sentence."""
    native, *others = outcomes
    limited = [outcome for outcome in others if outcome.variant.kind == LIMITED]
    smaller = [outcome for outcome in others if outcome.variant.kind == SMALLER]
    return (
        f"{case.name}, {case.config.model}, test accuracy: {_percent([native.accuracy])} with "
        f"torch's own convolutions; {_percent([o.accuracy for o in limited])} band-limited with "
        f"{_percent([o.discarded for o in limited])} of the spectra discarded; "
        f"{_percent([o.accuracy for o in smaller])} on smaller inputs with "
        f"{_percent([o.discarded for o in smaller])} of the points left out."
    )


def _percent(fractions: Sequence[float]) -> str:
    """Fractions in words: "98.0, 99.2 and 90.0 %"."""
    numbers = [f"{100 * fraction:.1f}" for fraction in fractions]
    return " and ".join([", ".join(numbers[:-1]), numbers[-1]] if numbers[1:] else numbers) + " %"
