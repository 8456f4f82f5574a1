"""The frequency chain on images: accuracy against speed-up, beside its controls.

For each network and fraction kept: the chain with the paper's corners, the chain with a budget of
multiplications per layer, the same with a dense teacher; for either allocation the plain network of
the same widths trained from scratch, alone and with the teacher; and the dense network pruned to
the budget by DepGraph. All of them see the same data for as many steps. The default is a small
budget, to see that everything runs; the paper's is ``--data cifar10 --epochs 200 --networks
vgg8,vgg13,resnet20,...`` on a GPU.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from passband.chain import to_chain
from passband.chain.compare import model_macs
from passband.convert import FrequencyNetwork
from passband.extras import require
from passband.measure.table import Column, Table
from passband.names import unknown_name
from passband.report import Picture, Section
from passband.report.figures import new_figure
from passband.studies.options import numbers
from passband.studies.pruning import train_pruned
from passband.studies.registry import StudyResult
from passband.studies.results import write_results
from passband.studies.trainings import Training, train_all
from passband.train import TrainConfig, load_run
from passband.train.evaluation import make_model
from passband.train.parts import load_parts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = (
    Column("network"),
    Column("keep", "number"),
    Column("contender"),
    Column("epochs", "number"),
    Column("seeds", "number"),
    Column("macs", "count", "MACs"),
    Column("macs_ratio", "number", "fewer"),
    Column("parameters", "count"),
    Column("test_accuracy", "fraction", "accuracy"),
    Column("step_milliseconds", "number", "ms a step"),
    Column("seconds", "number", "s in all"),
)
_CHAIN, _SMALL, _BUDGET = {"method": "frequency"}, {"method": "small"}, {"per_layer": "macs"}
CONTENDERS: dict[str, dict[str, Any]] = {
    "dense": {},
    "chain": _CHAIN,
    "chain-budget": _CHAIN | _BUDGET,
    "chain-budget-taught": _CHAIN | _BUDGET,
    "small": _SMALL,
    "small-budget": _SMALL | _BUDGET,
    "small-budget-taught": _SMALL | _BUDGET,
    "pruned": {},
}
"""What is compared at each fraction kept, and how it is trained."""

_COLOURS = {
    "dense": "black",
    "chain": "tab:blue",
    "chain-budget": "tab:green",
    "chain-budget-taught": "tab:olive",
    "small": "tab:orange",
    "small-budget": "tab:red",
    "small-budget-taught": "tab:purple",
    "pruned": "tab:brown",
}


def run(
    out: Path,
    *,
    progress: bool,
    data: str = "digits",
    networks: str = "resnet8",
    keeps: str = "0.1,0.02",
    contenders: str = ",".join(list(CONTENDERS)[:-1]),
    epochs: int = 3,
    batch_size: int = 128,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    shrink: str = "cosine",
    shrink_share: float = 0.5,
    seeds: int = 1,
    limit_train: int = 50_000,
    limit_test: int = 10_000,
) -> StudyResult:
    """Train every contender, or take up those that are done; see the module.

    Args:
        out: Folder for everything.
        progress: Show a progress bar.
        data: Data set of images; see `passband list datasets`.
        networks: Names, between commas; see `passband list models`.
        keeps: Fractions kept, between commas.
        contenders: Of these and "pruned", which needs the extra pruning, between commas.
        epochs: Passes over the data, the same for all.
        batch_size: Examples per step.
        lr: Learning rate at the start; it falls along a cosine.
        weight_decay: Weight decay.
        shrink: Schedule of the chains, "geometric", "linear" or "cosine".
        shrink_share: Part of the training in which they shrink.
        seeds: Trainings of each.
        limit_train: Training examples, at most.
        limit_test: Test examples, at most.

    Raises:
        ValueError: A contender is unknown, or an option has a value it cannot have.
        ImportError: A package is missing; the message names the extra.
    """
    chosen = str(contenders).split(",")
    for name in chosen:
        if name not in CONTENDERS:
            raise unknown_name("contender", name, CONTENDERS)
    fractions = numbers("keeps", keeps)
    rows: list[dict[str, Any]] = []
    runs: dict[str, Training] = {}
    for network in str(networks).split(","):
        base = TrainConfig(
            data=data, model=network, epochs=epochs, batch_size=batch_size, lr=lr,
            weight_decay=weight_decay, scheduler="cosine", limit_train=limit_train,
            limit_test=limit_test,
        )  # fmt: skip
        bundle = load_parts(base).bundle
        example = torch.zeros(1, *bundle.input_shape)
        whole = model_macs(make_model(base, bundle).eval(), example)
        seeded = [replace(base, seed=seed) for seed in range(seeds)]
        dense: list[Training] = []
        if any(name == "dense" or name.endswith("taught") for name in chosen):
            names = {f"{network} dense seed {c.seed}": c for c in seeded}
            found = train_all(names, out / "runs", progress=progress)
            runs |= found
            dense = list(found.values())
        if "dense" in chosen:
            rows.append(_row(dense) | {"keep": 1.0, "contender": "dense", "macs_ratio": 1.0})
        for keep in fractions:
            for name in chosen:
                if name == "dense":
                    continue
                if name == "pruned":
                    row = _pruned(seeded, keep, out / "runs", progress)
                else:
                    options = {"keep": keep, **CONTENDERS[name]}
                    if options["method"] == "frequency":
                        options |= {"shrink": shrink, "shrink_share": shrink_share}
                    trained: list[Training] = []
                    for seed, config in enumerate(seeded):
                        if name.endswith("taught"):
                            options["teacher"] = str(dense[seed].folder)
                        one = {f"{network} {name} {keep:g} seed {seed}": replace(config, **options)}
                        found = train_all(one, out / "runs", progress=progress)
                        runs |= found
                        trained += found.values()
                    row = _row(trained)
                row["macs_ratio"] = round(whole / row["macs"], 1)
                rows.append(row | {"keep": keep, "contender": name})
                Table(_COLUMNS, rows).to_csv(out / "table.csv")  # so far
    note = f"{epochs} epochs of {data}, the same for all."
    table = Table(_COLUMNS, rows, None, [note])
    caption = "Accuracy against speed-up: the higher line is better at the same work."
    pictures = [Picture("accuracy", figure(rows), caption)]
    return write_results(
        "frequency",
        out,
        table,
        title="The frequency chain and its controls",
        summary=[f"Accuracy against speed-up. {note}"],
        sections=[Section("Accuracy against speed-up", table=table, pictures=pictures)],
        options={
            "data": data,
            "networks": networks,
            "keeps": keeps,
            "contenders": contenders,
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": lr,
            "weight_decay": weight_decay,
            "shrink": shrink,
            "shrink_share": shrink_share,
            "seeds": seeds,
            "limit_train": limit_train,
            "limit_test": limit_test,
        },
        runs=runs,
    )


def _row(trained: Sequence[Training]) -> dict[str, Any]:
    """What the trainings of all seeds say of one contender."""
    model, config, bundle = load_run(trained[0].folder)
    example = torch.zeros(2, *bundle.input_shape)
    small = to_chain(model, example) if isinstance(model, FrequencyNetwork) else model
    sizes = {
        "macs": model_macs(small, example[:1]),
        "parameters": sum(p.numel() for p in small.parameters()),
    }
    return _mean(config, [training.result for training in trained]) | sizes


def _pruned(
    seeded: Sequence[TrainConfig], keep: float, folder: Path, progress: bool
) -> dict[str, Any]:
    results = [
        train_pruned(f"{config.model} pruned", config, keep, folder, progress=progress)
        for config in seeded
    ]
    sizes = {name: results[0][name] for name in ("macs", "parameters")}
    return _mean(seeded[0], results) | sizes


def _mean(config: TrainConfig, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The columns that are means over the seeds."""

    def mean(name: str) -> float:
        return sum(float(result[name]) for result in results) / len(results)

    return {
        "network": config.model,
        "epochs": config.epochs,
        "seeds": len(results),
        "test_accuracy": mean("test_accuracy"),
        "step_milliseconds": round(mean("step_milliseconds"), 2),
        "seconds": round(mean("seconds"), 1),
    }


def figure(rows: Sequence[dict[str, Any]]) -> "Figure":
    """Accuracy against speed-up, one panel per network and one for their average.

    Args:
        rows: Of the table.

    Raises:
        ImportError: matplotlib is missing; the message names the extra.
    """
    networks = list(dict.fromkeys(row["network"] for row in rows))
    panels = [*networks, "average"] if len(networks) > 1 else networks
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    ticker = require("matplotlib.ticker", extra="report")
    drawn = new_figure(4.5 * columns, 3.6 * lines)
    grid = drawn.subplots(lines, columns, squeeze=False).flat
    for axes, panel in itertools.zip_longest(grid, panels):
        if panel is None:
            axes.set_axis_off()
            continue
        for contender, colour in _COLOURS.items():
            points = _points(rows, contender, networks if panel == "average" else [panel])
            if not points:
                continue
            mark = "o-" if contender != "dense" else "s"
            axes.plot(*zip(*points, strict=True), mark, color=colour, label=contender)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ticker.LogFormatter())
        axes.xaxis.set_minor_formatter(ticker.LogFormatter())
        axes.set_xlabel("times fewer multiplications")
        axes.set_ylabel("test accuracy (%)")
        axes.set_title(panel)
        axes.grid(alpha=0.3)
    drawn.axes[0].legend(fontsize=7)
    return drawn


def _points(
    rows: Sequence[dict[str, Any]], contender: str, networks: Sequence[str]
) -> list[tuple[float, float]]:
    """(times fewer, accuracy) at each fraction kept, the mean over networks.

    A fraction counts where all of the networks have it.
    """
    own = [r for r in rows if r["contender"] == contender and r["network"] in networks]
    points = []
    for keep in dict.fromkeys(row["keep"] for row in own):
        there = [row for row in own if row["keep"] == keep]
        if len(there) < len(networks):
            continue
        fewer = sum(row["macs_ratio"] for row in there) / len(there)
        accuracy = sum(row["test_accuracy"] for row in there) / len(there)
        points.append((fewer, 100 * accuracy))
    return sorted(points)
