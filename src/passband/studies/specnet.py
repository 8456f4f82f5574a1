"""SpecNet: memory and accuracy against the threshold, beside the spatial twins.

Every network is trained as its spatial twin, as the twin with batch norm where there is one, and as
a SpecNet at each threshold, in the paper's mode (activation of coefficients), in that mode with
learned scales, and with the activation on the map. All from the same seeds and for as many epochs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from passband.measure.table import Column, Table
from passband.names import unknown_name
from passband.report import Picture, Section
from passband.report.figures import against_threshold, learning_curves
from passband.report.run_report import read_metrics
from passband.studies.options import numbers
from passband.studies.registry import StudyResult
from passband.studies.results import write_results
from passband.studies.step_memory import StepMemory, step_memory
from passband.studies.steps import step_costs
from passband.studies.trainings import Training, one_thread, status, train_all
from passband.train import TrainConfig
from passband.train.recipes import recipe
from passband.train.run_folder import RunFolder

THRESHOLDS = "0,0.5,0.75,1,1.25,1.5"
TWIN, WITH_NORM = "spatial twin", "twin, batch norm"
HALF, CHECKPOINTED = "twin, bf16", "checkpointed"

DATA = {
    "speclenet": "mnist",
    "specalexnet": "cifar10",
    "specvgg16": "cifar10",
    "specdensenet": "cifar10",
    "specfcn": "ucr:FiftyWords",
}
"""The networks, and what each is trained on."""

MODES: dict[str, dict[str, Any]] = {
    "spectral-tanh": {"activation": "spectral-tanh"},
    "learned scale": {"activation": "spectral-tanh", "learned_scale": True},
    "average pooling": {"activation": "spectral-tanh", "pool": "average"},
    "relu on the map": {"activation": "relu", "pool": "max"},
    "relu, batch norm": {"activation": "relu", "pool": "max", "batch_norm": "keep"},
    "relu, batch norm, int8": {
        "activation": "relu",
        "pool": "max",
        "batch_norm": "keep",
        "storage": "int8",
    },
    "relu, batch norm, int8, backward DFT": {
        "activation": "relu",
        "pool": "max",
        "batch_norm": "keep",
        "storage": "int8",
        "dft_norm": "backward",
    },
    "relu, batch norm, int8, through": {
        "activation": "relu",
        "pool": "max",
        "batch_norm": "keep",
        "storage": "int8",
        "threshold_gradient": "straight-through",
    },
    "relu, through": {
        "activation": "relu",
        "pool": "max",
        "threshold_gradient": "straight-through",
    },
    "relu, cropped": {"activation": "relu", "pool": "spectral"},
    "relu, bfloat16": {"activation": "relu", "pool": "max", "storage": "bfloat16"},
    "relu, int8": {"activation": "relu", "pool": "max", "storage": "int8"},
    "relu, beta last": {"activation": "relu", "pool": "max", "threshold_order": "activation-first"},
}
"""The ways to make a SpecNet, by the names of `modes`.

Where the network has average pooling, "max" is "average"; what keeps batch norm is made of the
network that has it."""

NORMALISED = ("specvgg16", "specdensenet", "specfcn")
"""The networks of which there is one with batch norm."""

DEFAULT_MODES = "spectral-tanh,learned scale,relu on the map"

COLUMNS = (
    Column("network"),
    Column("method", heading="method"),
    Column("threshold", heading="beta"),
    Column("test_accuracy", "fraction", "accuracy"),
    Column("loss_of_accuracy", heading=None),
    Column("discarded", "fraction", "zero"),
    Column("saved_bytes", "bytes", heading=None),
    Column("saved_ratio", "fraction", "kept"),
    Column("mean_bytes", "bytes", heading=None),
    Column("mean_ratio", "fraction", heading="mean"),
    Column("peak_bytes", "bytes", heading=None),
    Column("peak_ratio", "fraction", "peak"),
    Column("resident_bytes", "bytes", heading=None),
    Column("resident_ratio", "fraction", "RSS"),
    Column("step_ratio", heading="time"),
)

NOTES = (
    "accuracy: on the test data, mean over the seeds. zero: coefficients that are not stored.",
    "kept, mean, peak, RSS: bytes kept for the backward pass by the whole network (bits and units "
    "included), allocated on average over a step and at most, and by which a fresh process grows, "
    "as fractions of the twin's, with or without batch norm as the row. time: of a step, as a "
    "multiple of the same twin's.",
)

TITLE = "SpecNet: thresholded spectra instead of maps"


@dataclass(frozen=True)
class Variant:
    """One row of the table: a way to train a network."""

    network: str
    method: str
    threshold: float | None
    config: TrainConfig
    checkpointed: bool = False

    @property
    def has_batch_norm(self) -> bool:
        """Whether it is to be seen beside the twin that has it too."""
        return self.config.model.endswith("-bn")

    @property
    def name(self) -> str:
        """What its run folders are called, but for the seed."""
        words = [self.network, self.method.replace(",", "").replace(" ", "-")]
        return "-".join(words if self.threshold is None else [*words, f"{self.threshold:g}"])


def run(
    out: Path,
    *,
    progress: bool,
    networks: str = "speclenet",
    modes: str = DEFAULT_MODES,
    thresholds: str = THRESHOLDS,
    budget: float = 1.0,
    seeds: int = 1,
    limit_train: int | None = None,
    limit_test: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    quick: bool = False,
) -> StudyResult:
    """Train, measure, and write table.csv, result.json, report.html and PNG files.

    Args:
        out: Folder for all of it; finished trainings in it are used again.
        progress: Show progress.
        networks: Of speclenet, specalexnet, specvgg16, specdensenet and specfcn, with commas
            between.
        modes: With commas between, of "spectral-tanh", "learned scale", "average pooling", "relu on
            the map", "relu, batch norm", "relu, batch norm, int8", "relu, batch norm, int8,
            backward DFT", "relu, batch norm, int8, through", "relu, through", "relu, cropped",
            "relu, bfloat16", "relu, int8" and "relu, beta last".
        thresholds: Numbers with commas between.
        budget: Fraction of the paper's 300 epochs; the learning rate is halved as often.
        seeds: Trainings of each kind.
        limit_train: Use so many training examples only.
        limit_test: Use so many test examples only.
        lr: Another learning rate at the start than the paper's 0.02.
        batch_size: Another number of images per step than the paper's 128.
        quick: One epoch on 128 examples, the first and the last threshold: a trial of the
            machinery.

    Raises:
        ValueError: A name is unknown, or a number is out of range.
    """
    if not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds is {seeds!r}; it must be a whole number, at least 1")
    fields: dict[str, Any] = {**recipe("specnet", budget), "augment": False, "devices": 1}
    fields |= {"limit_train": limit_train, "limit_test": limit_test}
    fields |= {} if lr is None else {"lr": lr}
    fields |= {} if batch_size is None else {"batch_size": batch_size}
    betas = numbers("thresholds", thresholds)
    if quick:
        fields |= {"epochs": 1, "limit_train": 128, "limit_test": 64, "batch_size": 32}
        betas = [betas[0], betas[-1]] if betas[1:] else betas
    chosen = _chosen("network", networks, DATA)
    chosen_modes = _chosen("mode", modes, MODES)
    variants = [v for name in chosen for v in _variants(name, chosen_modes, betas, fields)]
    configs = {
        f"{v.name}-seed{seed}": replace(v.config, seed=seed)
        for v in variants
        for seed in range(seeds)
        if not v.checkpointed
    }
    rows: list[dict[str, Any]] = []
    sections: list[Section] = []
    with one_thread():
        runs = train_all(configs, out / "runs", progress=progress)
        with status("measuring training steps", shown=progress):
            for network in chosen:
                own = [variant for variant in variants if variant.network == network]
                found = _rows(own, runs, seeds, quick)
                rows += found
                sections.append(_section(network, found, runs, own))
    table = Table(COLUMNS, rows, notes=NOTES)
    with status("drawing", shown=progress):
        summary = [str(__doc__).partition("\n\n")[2].replace("\n", " ").strip()]
        return write_results(
            "specnet",
            out,
            table,
            title=TITLE,
            summary=[*summary, *(_best(network, rows) for network in chosen)],
            sections=[Section("Accuracy, memory and time", table=table), *sections],
            options={
                "networks": networks,
                "modes": modes,
                "thresholds": ",".join(f"{beta:g}" for beta in betas),
                "budget": f"{budget:g}",
                "seeds": seeds,
                "limit_train": limit_train,
                "limit_test": limit_test,
                "lr": lr,
                "batch_size": batch_size,
                "quick": quick,
            },
            facts={
                "seeds": ", ".join(map(str, range(seeds))),
                "epochs": str(fields["epochs"]),
                "training examples": str(limit_train or "all"),
            },
            runs=runs,
        )


def _chosen(kind: str, names: str, known: Mapping[str, Any]) -> list[str]:
    """Names with commas between, of which some have commas themselves."""
    rest, found = str(names), []
    while rest:
        fitting = [name for name in known if rest == name or rest.startswith(f"{name},")]
        if not fitting:
            raise unknown_name(kind, rest.partition(",")[0], known)
        found.append(max(fitting, key=len))
        rest = rest[len(found[-1]) + 1 :]
    return found


def _variants(
    network: str, modes: Sequence[str], betas: Sequence[float], fields: dict[str, Any]
) -> list[Variant]:
    """The kinds of training of a network, the twin first."""
    twin = TrainConfig(data=DATA[network], model=network, **fields)
    variants = [
        Variant(network, TWIN, None, twin),
        Variant(network, CHECKPOINTED, None, twin, checkpointed=True),
        Variant(network, HALF, None, replace(twin, precision="bf16-mixed")),
    ]
    if network in NORMALISED:
        variants.append(Variant(network, WITH_NORM, None, replace(twin, model=f"{network}-bn")))
    for mode in modes:
        own = dict(MODES[mode])
        if network == "specdensenet" and own.get("pool") == "max":
            own["pool"] = "average"
        if own.get("batch_norm") == "keep":
            if network not in NORMALISED:
                continue
            own["model"] = f"{network}-bn"
        for beta in betas:
            config = replace(twin, method="specnet", threshold=beta, **own)
            variants.append(Variant(network, mode, beta, config))
    return variants


def _rows(
    variants: Sequence[Variant], runs: Mapping[str, Training], seeds: int, quick: bool
) -> list[dict[str, Any]]:
    """The rows of a network, each beside its twin; a checkpointed twin is trained as the twin."""
    memories, results = [], []
    for variant in variants:
        name = variants[0].name if variant.checkpointed else variant.name
        own = [runs[f"{name}-seed{seed}"] for seed in range(seeds)]
        memories.append(_memory(variant, own[0].folder, with_resident=not quick))
        results.append([training.result for training in own])
    costs = step_costs([variant.config for variant in variants], repeats=1 if quick else 5)
    accuracies = [_mean([r["test_accuracy"] for r in own]) for own in results]
    rows = []
    for i, variant in enumerate(variants):
        twin = next(k for k, v in enumerate(variants) if v.has_batch_norm == variant.has_batch_norm)
        time = f"{costs[i].seconds / costs[twin].seconds:.2f}"
        rows.append(
            {
                "network": variant.network,
                "method": variant.method,
                "threshold": "-" if variant.threshold is None else f"{variant.threshold:g}",
                "test_accuracy": accuracies[i],
                "loss_of_accuracy": f"{100 * (accuracies[twin] - accuracies[i]):.2f}",
                "discarded": results[i][0]["realised_compression"],
                **_memory_fields(memories[i], memories[twin]),
                "step_ratio": "-" if variant.checkpointed else time,
            }
        )
    return rows


def _memory(variant: Variant, run: Path, with_resident: bool) -> StepMemory:
    return step_memory(run, checkpointed=variant.checkpointed, with_resident=with_resident)


def _memory_fields(memory: StepMemory, reference: StepMemory) -> dict[str, float | None]:
    fields: dict[str, float | None] = {}
    for name in ("saved", "mean", "peak", "resident"):
        own, twins = getattr(memory, name), getattr(reference, name)
        fields |= {
            f"{name}_bytes": own,
            f"{name}_ratio": None if own is None or twins is None else own / max(1, twins),
        }
    return fields


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _section(
    network: str,
    rows: Sequence[Mapping[str, Any]],
    runs: Mapping[str, Training],
    variants: Sequence[Variant],
) -> Section:
    """A network's pictures: accuracy and memory against the threshold, and training curves."""
    accuracies = {row["method"]: row["test_accuracy"] for row in rows}
    twins = {name: accuracies[name] for name in (TWIN, WITH_NORM) if name in accuracies}
    curves: dict[str, dict[float, tuple[float, float]]] = {}
    for row in rows:
        if row["threshold"] != "-":
            point = (row["test_accuracy"], row["saved_ratio"])
            curves.setdefault(row["method"], {})[float(row["threshold"])] = point
    figure = against_threshold(curves, title=network, twins=twins)
    caption = "Test accuracy, and bytes kept relative to the twin's, against the threshold."
    pictures = [Picture(f"{network}-threshold", figure, caption)]
    metrics = {
        f"{v.method} {'' if v.threshold is None else f'{v.threshold:g}'}".strip(): read_metrics(
            RunFolder(runs[f"{v.name}-seed0"].folder).metrics
        )
        for v in variants
        if not v.checkpointed and v.threshold in (None, 1.0)
    }
    pictures.append(
        Picture(
            f"{network}-learning",
            learning_curves(metrics, title=f"{network}: learning curves"),
            "Loss and accuracy after each epoch of the first seed.",
        )
    )
    return Section(network, pictures=pictures)


def _best(network: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The least memory within a point of the twin, in a sentence."""
    own = [row for row in rows if row["network"] == network]
    fitting = [r for r in own if r["threshold"] != "-" and float(r["loss_of_accuracy"]) <= 1.0]
    if not fitting:
        return f"{network}: no SpecNet is within one point of its twin."
    best = min(fitting, key=lambda row: row["saved_ratio"])
    return (
        f"{network}: within one point of its twin, the least memory is kept by {best['method']!r} "
        f"at threshold {best['threshold']}: {100 * best['saved_ratio']:.1f} % of the twin's, at "
        f"{100 * best['test_accuracy']:.1f} % accuracy ({best['loss_of_accuracy']} points less)."
    )
