"""Finished trainings of SpecNets: what they reached, as rows of a CSV, and the docs' curves."""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from machine import RESULTS, provenance

import passband as pb
from passband.train import TrainConfig

ACCURACY = RESULTS / "accuracy-specnet.csv"  # of any machine: it does not say how fast
BUDGET = ("train_samples", "epochs", "batch_size", "lr")
MODE = ("network", "method", "beta", *BUDGET)
TRAINING = (*MODE, "seed")
TWINS = ("twin", "twin, batch norm")


def described(config: pb.SpecNet) -> str:
    """A mode of SpecNet, without its threshold."""
    words = [config.activation]
    words += ["learned scale"] if config.learned_scale else []
    words += [f"pool {config.pool}"]
    words += ["batch norm kept"] if config.batch_norm == "keep" else []
    words += [config.storage] if config.storage != "float32" else []
    words += [config.gradient] if config.gradient != "masked" else []
    words += [f"{config.dft_norm} DFT"] if config.dft_norm != "ortho" else []
    return ", ".join(words)


def runs_in(folders: list[Path]) -> Iterator[tuple[Path, dict[str, Any], dict[str, Any]]]:
    """Finished runs with their config and result."""
    for folder in folders:
        for result in sorted(folder.glob("*/result.json")):
            config = json.loads((result.parent / "config.json").read_text())
            yield result.parent, config["config"], json.loads(result.read_text())


def _method(fields: dict[str, Any]) -> tuple[str, float | str]:
    """What a run's row is called, and its threshold."""
    config = TrainConfig.from_dict(fields)
    if config.method == "native":
        name = TWINS[config.model.endswith("-bn")]
        return name if config.precision == "32" else f"{name}, {config.precision}", ""
    return described(config.spec_net), config.threshold


def accuracy(folders: list[Path], known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each finished training, twins first, beside the twin of its kind and seed.

    Args:
        folders: Where runs are.
        known: Rows of before; a run takes the place of the same training's.
    """
    rows = {tuple(row[name] for name in TRAINING): row for row in known}
    for _, config, result in runs_in(folders):
        method, beta = _method(config)
        row = {
            "network": config["model"].removesuffix("-bn"),
            "method": method,
            "beta": beta,
            "accuracy": result["test_accuracy"],
            "zero": result.get("realised_compression") or "",
            "kept_bytes": result["saved_bytes"],
            "epochs": config["epochs"],
            "batch_size": config["batch_size"],
            "lr": config["lr"],
            "train_samples": result["train_samples"],
            "seed": config["seed"],
            "test_samples": result["test_samples"],
            "parameters": result["parameters"],
            "lost": 0.0,  # the columns' order; beside a twin these two have their values
            "kept": 1.0,
        }
        rows[tuple(row[name] for name in TRAINING)] = row | provenance()
    twins = {_kind(row): row for row in rows.values() if row["method"] in TWINS}
    found = []
    for row in sorted(rows.values(), key=_place):
        twin = twins[_kind(row)]
        ratios = {
            "lost": twin["accuracy"] - row["accuracy"],
            "kept": row["kept_bytes"] / twin["kept_bytes"],
        }
        found.append(row | ratios)
    return found


def over_seeds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with one row for the trainings that differ by their seed alone: the means."""
    modes: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        modes.setdefault(tuple(row[name] for name in MODE), []).append(row)
    means = ("accuracy", "lost", "kept")
    return [
        own[0] | {name: fmean(float(row[name]) for row in own) for name in means}
        for own in modes.values()
    ]


def _kind(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a network and its twin have in common."""
    return row["network"], budget(row), row["seed"], "norm" in row["method"]


def budget(row: dict[str, Any]) -> tuple[float, ...]:
    """How long a network was trained; larger ones compare as larger."""
    return tuple(float(row[name]) for name in BUDGET)


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    """Where a row stands in the table."""
    method = row["method"]
    twin = method.startswith("twin")
    beta = row["beta"] or 0
    return row["network"], budget(row), not twin, method, beta, row["seed"]


def read_accuracy(file: Path) -> list[dict[str, Any]]:
    """The rows of a CSV that `accuracy` wrote; none where there is no file."""
    if not file.exists():
        return []
    words = {"network", "method", "machine", "threads", "torch", "commit"}
    with file.open(newline="") as stream:
        return [
            {name: text if name in words or not text else _number(text) for name, text in r.items()}
            for r in csv.DictReader(stream)
        ]


def _number(text: str) -> float:
    return int(text) if text.isdigit() else float(text)


def draw(network: str, rows: list[dict[str, Any]], folders: list[Path]) -> None:
    """Curves as SVG files of the docs.

    Accuracy and memory against the threshold are those of the budget with the most trainings;
    learning curves are those of runs, if there are folders.
    """
    from passband.report.figures import against_threshold, learning_curves
    from passband.report.formats import svg
    from passband.report.run_report import read_metrics
    from passband.train.run_folder import RunFolder

    docs = RESULTS.parents[1] / "docs"
    own = over_seeds([row for row in rows if row["network"] == network])
    ((swept, _),) = Counter(budget(row) for row in own).most_common(1)
    methods: dict[str, dict[float, tuple[float, float]]] = {}
    twins: dict[str, float] = {}
    for row in own:
        if budget(row) == swept and row["beta"] == "":
            twins[row["method"]] = row["accuracy"]
        elif budget(row) == swept:
            methods.setdefault(row["method"], {})[row["beta"]] = (row["accuracy"], row["kept"])
    title = f"{network}: accuracy and memory against beta"
    figure = against_threshold(methods, title=title, twins=twins)
    (docs / f"{network}-threshold.svg").write_bytes(svg(figure))
    runs: dict[str, dict[float | str, Path]] = {}
    for run, config, _ in runs_in(folders):
        if config["model"].removesuffix("-bn") == network and config["seed"] == 0:
            method, beta = _method(config)
            runs.setdefault(method, {})[beta] = run
    curves = {}
    for method, found in runs.items():
        beta = "" if "" in found else min(found, key=_from_one)
        curves[f"{method} {beta}".strip()] = read_metrics(RunFolder(found[beta]).metrics)
    if curves:
        figure = learning_curves(curves, title=f"{network}: learning curves, beta 1 or nearest")
        (docs / f"{network}-learning.svg").write_bytes(svg(figure))


def _from_one(beta: float) -> float:
    return abs(beta - 1)
