"""The report of one training run, from the files in its folder."""

import csv
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from passband.measure.table import Column, Table, format_value
from passband.report.figures import learning_curves
from passband.report.html import Picture, Report, Section, write_report
from passband.train.config import TrainConfig
from passband.train.run_folder import RunFolder

LAYERS = (
    Column("layer", "name"),
    Column("algorithm"),
    Column("realised_compression", "fraction", "spectrum discarded"),
    Column("native_macs", "count", "native MACs"),
    Column("macs", "count", "MACs"),
    Column("saved_bytes", "bytes", "kept for backward"),
)


def write_run_report(run: str | Path) -> Path:
    """Write report.html into the folder of a finished training run.

    Args:
        run: The run's folder.

    Returns:
        The path of report.html.

    Raises:
        FileNotFoundError: There is no run, or it is not finished.
        ImportError: A package is missing; the message names the extra.
    """
    folder = RunFolder(Path(run))
    config, result = folder.read_config(), folder.read_result()
    if result is None:
        raise FileNotFoundError(
            f"{folder.path} holds a run that is not finished; go on with it by passband train "
            "--resume"
        )
    metrics = read_metrics(folder.metrics)
    title = f"{config.data}, {config.model}, {band_in_words(config)}"
    curves = Picture(
        "learning-curves",
        learning_curves({"run": metrics}, title=title),
        "Loss and accuracy after each epoch. Where the dashed training curve goes on improving and "
        "the solid test curve does not, the network overfits.",
    )
    layers = Table(LAYERS, [{c.name: row[c.name] for c in LAYERS} for row in result["layers"]])
    sections = (
        Section("Learning curves", pictures=(curves,)),
        Section(
            "Layers",
            table=layers,
            caption=f"Multiply-accumulates (MACs) of a forward pass and bytes each layer keeps for "
            f"the backward pass, for a batch of {config.batch_size}.",
        ),
        Section("Configuration", table=_settings(config)),
    )
    record = json.loads(folder.config.read_text())
    facts = {name: str(record[name]) for name in ("passband", "torch", "python", "machine")}
    report = Report(
        f"Training: {title}",
        [_outcome(result)],
        sections,
        _command(record["command"]),
        facts | {"threads": str(record["threads"]), "device": result["device"]},
    )
    return write_report(report, folder.path)


def read_metrics(path: Path) -> dict[str, list[float]]:
    """The columns of a run's metrics.csv; an empty cell is not a number."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name] or "nan") for row in rows] for name in rows[0]}


def band_in_words(config: TrainConfig) -> str:
    """What a config does to the convolutions, in a few words.

    Examples:
        >>> band_in_words(TrainConfig())
        'native convolutions'
        >>> band_in_words(TrainConfig(method="band-limited", compression=0.5))
        'band-limited, compression 0.5'
    """
    if config.method == "native":
        return "native convolutions"
    if config.method in ("frequency", "small"):
        budget = "" if config.per_layer is None else f", per layer by {config.per_layer}"
        return f"{config.method}, keep {config.keep:g}{budget}"
    limits = {"compression": config.compression, "energy": config.energy, "band": config.band}
    given = [f"{name} {value}" for name, value in limits.items() if value is not None]
    return ", ".join(["band-limited", *given])


def _outcome(result: Mapping[str, Any]) -> str:
    """What came of the run, in sentences."""
    sentences = [
        f"Test accuracy {format_value(result['test_accuracy'], 'fraction')} after "
        f"{result['epochs']} epochs ({result['steps']} steps).",
        f"A training step keeps {format_value(result['saved_bytes'], 'bytes')} for the backward "
        f"pass; the network has {result['parameters']:,} parameters.",
    ]
    if result["step_milliseconds"] is not None:
        seconds = format_value(result["step_milliseconds"] / 1000, "seconds")
        sentences.append(f"A training step took {seconds} (median).")
    discarded = result["realised_compression"]
    if discarded is not None:
        sentences.append(
            f"The band-limited layers discard {format_value(discarded, 'fraction')} of their "
            "spectra on average."
        )
    return " ".join(sentences)


def _command(arguments: Sequence[str]) -> str:
    """The command line of a process with these arguments, of our command or of a script."""
    program, *rest = arguments
    return shlex.join(["passband", *rest] if Path(program).name == "passband" else arguments)


def _settings(config: TrainConfig) -> Table:
    """Every option of the run."""
    rows = [
        {"option": name, "value": str(value)}
        for name, value in config.to_dict().items()
        if value is not None
    ]
    return Table((Column("option"), Column("value")), rows)
