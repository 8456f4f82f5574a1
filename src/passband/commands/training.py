"""Commands that train networks and test them."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from passband.allocator import keep_freed_memory, return_freed_memory
from passband.commands.app import app
from passband.commands.options import (
    DATA,
    FREQUENCY,
    RUN,
    SPECNET,
    TEACHER,
    TRAINING,
    Activation,
    Algorithm,
    Band,
    Checkpoint,
    Compression,
    Energy,
    ImageSize,
    Memory,
    Method,
    Model,
    RunFolderArgument,
    Threshold,
    listed,
    option,
    optional,
    parse_band,
    show,
)
from passband.config import SCHEDULES
from passband.nn import stage_arguments
from passband.spectrum.corner import ORDERS
from passband.spectrum.packed import STORAGE
from passband.train.config import OPTIMIZERS, PRECISIONS, SCHEDULERS
from passband.train.recipes import RECIPES, recipe

if TYPE_CHECKING:
    from passband.train import TrainConfig
    from passband.train.run_folder import RunFolder

_RECIPES = {"specnet": "specnet", "frequency": "frequency", "small": "frequency"}


@app.command()
def train(
    context: typer.Context,
    data: Annotated[str, option(DATA, "Data set; see `passband list datasets`.")] = "digits",
    model: Model = "resnet8",
    image_size: ImageSize = 224,
    augment: Annotated[bool, option(DATA, "Augment training images where possible.")] = True,
    validation: Annotated[
        float, option(DATA, "Fraction of the training data held out to choose the best epoch.")
    ] = 0.0,
    limit_train: Annotated[
        int | None, optional(DATA, "Use so many training examples only: a quick trial.")
    ] = None,
    limit_test: Annotated[int | None, optional(DATA, "Use so many test examples only.")] = None,
    method: Method = "native",
    compression: Compression = None,
    energy: Energy = None,
    band: Band = None,
    algorithm: Algorithm = "auto",
    memory: Memory = None,
    threshold: Threshold = 1.0,
    activation: Activation = "spectral-tanh",
    pool: Annotated[
        str, option(SPECNET, f"What pooling becomes: {listed(stage_arguments.POOLS)}.")
    ] = "spectral",
    batch_norm: Annotated[str, option(SPECNET, "remove or keep.")] = "remove",
    learned_scale: Annotated[
        bool, option(SPECNET, "Learn the activation's scale per channel.", "--learned-scale")
    ] = False,
    storage: Annotated[str, option(SPECNET, f"{listed(STORAGE)}.")] = "float32",
    threshold_order: Annotated[
        str, option(SPECNET, f"{listed(stage_arguments.ORDERS)}.")
    ] = "threshold-first",
    threshold_gradient: Annotated[
        str, option(SPECNET, f"{listed(stage_arguments.GRADIENTS)}.")
    ] = "masked",
    dft_norm: Annotated[
        str,
        option(
            SPECNET, f"Of the DFT that the threshold is for: {listed(stage_arguments.DFT_NORMS)}."
        ),
    ] = "ortho",
    paper: Annotated[
        str | None,
        optional(
            TRAINING,
            f"Take the recipe of a paper: {listed(RECIPES)}; without it the method's.",
        ),
    ] = None,
    budget: Annotated[float, option(TRAINING, "Fraction of the recipe's epochs.")] = 1.0,
    keep: Annotated[
        float | None, optional(FREQUENCY, "Fraction of the coefficients to keep, 0 < keep <= 1.")
    ] = None,
    domain: Annotated[
        str, option(FREQUENCY, "channel: a small network; spatial: a small file.")
    ] = "channel",
    order: Annotated[
        str, option(FREQUENCY, f"What is dropped first: {listed(ORDERS)}.")
    ] = "shells",
    shrink: Annotated[str, option(FREQUENCY, f"Schedule: {listed(SCHEDULES)}.")] = "geometric",
    shrink_rate: Annotated[
        float, option(FREQUENCY, "What a geometric schedule drops per step.")
    ] = 0.01,
    shrink_steps: Annotated[
        int | None, optional(FREQUENCY, "Steps of the schedule, whatever the rate.")
    ] = None,
    shrink_share: Annotated[
        float | None, optional(FREQUENCY, "The same as a part of all steps of the training.")
    ] = None,
    restarts: Annotated[int, option(FREQUENCY, "How often the schedule begins again.")] = 0,
    round_to: Annotated[
        int, option(FREQUENCY, "Round numbers of channels up to multiples of this.")
    ] = 1,
    per_layer: Annotated[
        str | None, optional(FREQUENCY, "macs: divide a budget of multiplications.")
    ] = None,
    keep_last: Annotated[
        float | None, optional(FREQUENCY, "Fraction that the last layer keeps.")
    ] = None,
    teacher: Annotated[
        str | None, optional(TEACHER, "Folder of a run whose network's scores are learned too.")
    ] = None,
    teacher_weight: Annotated[float, option(TEACHER, "Weight of its scores in the loss.")] = 0.9,
    temperature: Annotated[
        float, option(TEACHER, "What the scores of both are divided by for that.")
    ] = 4.0,
    epochs: Annotated[int, option(TRAINING, "Passes over the training data.")] = 20,
    batch_size: Annotated[int, option(TRAINING, "Examples per step and process.")] = 32,
    lr: Annotated[float, option(TRAINING, "Learning rate at the start.")] = 0.01,
    optimizer: Annotated[str, option(TRAINING, f"{listed(OPTIMIZERS)}.")] = "sgd",
    momentum: Annotated[float, option(TRAINING, "Momentum of sgd.")] = 0.9,
    weight_decay: Annotated[float, option(TRAINING, "Weight decay.")] = 5e-4,
    scheduler: Annotated[
        str, option(TRAINING, f"Learning rate over time: {listed(SCHEDULERS)}.")
    ] = "plateau",
    precision: Annotated[str, option(TRAINING, f"{listed(PRECISIONS)}.")] = "32",
    seed: Annotated[int, option(TRAINING, "Determines every random choice.")] = 0,
    devices: Annotated[
        str, option(TRAINING, "auto, a number of devices, or their indices as in 0,1.")
    ] = "auto",
    strategy: Annotated[
        str, option(TRAINING, "How devices work together: auto, ddp, fsdp, as in Lightning.")
    ] = "auto",
    num_workers: Annotated[int, option(TRAINING, "Processes that load data.")] = 0,
    out: Annotated[
        Path | None,
        optional(RUN, "The run's folder; without it runs/DATA-MODEL-METHOD-...-seed-SEED."),
    ] = None,
    resume: Annotated[
        bool,
        option(RUN, "Go on with the run in --out, whose options need not be repeated.", "--resume"),
    ] = False,
    checkpoint_every: Annotated[
        int | None, optional(RUN, "Steps between checkpoints within an epoch.", metavar="STEPS")
    ] = None,
) -> None:
    """Train a network, evaluate it, and leave a run folder. The defaults are a paper's recipe."""
    from passband.train import TrainConfig, run
    from passband.train.run_folder import RunFolder

    options = {**context.params, "devices": _number_or_text(devices), "band": parse_band(band)}
    for name in ("out", "resume", "checkpoint_every", "paper", "budget"):
        del options[name]
    chosen = paper or _RECIPES.get(method, "band-limited")
    fields = recipe(chosen, budget, model)
    if method not in ("frequency", "small") or _is_given(context, "shrink_steps"):
        fields.pop("shrink_share", None)
    options |= {n: v for n, v in fields.items() if not _is_given(context, n)}
    if resume and out is not None:
        given = {name: value for name, value in options.items() if _is_given(context, name)}
        stored = dict(vars(_run_to_resume(out).read_config()))
        if "shrink_share" in given:  # which the run has as steps
            stored["shrink_steps"] = None
        options = {**stored, **given}
    config = TrainConfig(**options)
    if config.method == "specnet":  # which is there to need little memory
        return_freed_memory()
    else:
        keep_freed_memory()
    out = out or Path("runs") / _run_name(config)
    if resume:
        _run_to_resume(out)
    try:
        result = run(config, out, resume=resume, checkpoint_every=checkpoint_every)
    except FileExistsError as error:
        raise FileExistsError(f"{error} (--resume, --out)") from None
    except KeyboardInterrupt:
        begun = RunFolder(out).holds_run
        to_do = f"; to go on: passband train --resume --out {out}" if begun else ""
        typer.echo(f"interrupted{to_do}", err=True)
        raise typer.Exit(130) from None
    if result:
        _print_result(result)
        _write_report(out)


@app.command()
def evaluate(
    run: RunFolderArgument,
    compression: Annotated[
        list[float] | None,
        typer.Option(help="Fraction of the spectrum to discard; repeat it.", show_default=False),
    ] = None,
    energy: Annotated[
        list[float] | None,
        typer.Option(help="Fraction of the energy to keep; repeat it.", show_default=False),
    ] = None,
    checkpoint: Checkpoint = None,
) -> None:
    """Test a trained network, at the band it was trained with or at others."""
    from passband.config import BandLimit
    from passband.measure.table import Column, Table
    from passband.train.evaluation import evaluate_bands

    bands = [BandLimit(compression=c) for c in compression or ()]
    bands += [BandLimit(energy=e) for e in energy or ()]
    found = evaluate_bands(run, bands or [BandLimit()], checkpoint, progress=True)
    rows = [
        {
            "band": _describe_band(entry),
            "realised_compression": entry["realised_compression"],
            "test_accuracy": entry["test_accuracy"],
            "test_loss": _loss(entry["test_loss"]),
            "test_samples": entry["test_samples"],
        }
        for entry in found
    ]
    columns = (
        Column("band"),
        Column("realised_compression", "fraction", "discarded"),
        Column("test_accuracy", "fraction", "accuracy"),
        Column("test_loss", heading="loss"),
        Column("test_samples", "number", "examples"),
    )
    show(str(Table(columns, rows)))


def _print_result(result: dict[str, Any]) -> None:
    from passband.measure.table import Column, Table, format_value

    rows = []
    for name in ("last", "best"):
        judged = result[name]
        if judged is not None:
            chosen = f"best on {result['best_chosen_on']}" if name == "best" else name
            rows.append(
                {
                    "epoch": str(judged["epoch"]),
                    "which": chosen,
                    "accuracy": judged["test_accuracy"],
                    "loss": _loss(judged["test_loss"]),
                }
            )
    columns = (
        Column("epoch"),
        Column("which", heading="checkpoint"),
        Column("accuracy", "fraction", "test accuracy"),
        Column("loss", heading="test loss"),
    )
    facts = [
        f"{format_value(result['parameters'], 'count')} parameters",
        f"{format_value(result['saved_bytes'], 'bytes')} kept for the backward pass",
    ]
    if result["method"] == "frequency":
        macs, whole = (sum(r[n] for r in result["layers"]) for n in ("macs", "native_macs"))
        facts.append(f"{whole / macs:.1f} times fewer multiplications than the dense network")
    if result["realised_compression"] is not None:
        facts.append(f"{format_value(result['realised_compression'], 'fraction')} discarded")
    step = format_value(result["step_milliseconds"] / 1000, "seconds")
    times = f"{step} per step, {result['seconds']:.0f} s in all, on {result['device']}."
    notes = [f"{', '.join(facts)}.", times]
    if result["best_chosen_on"] == "test":
        notes.append(
            "The best epoch was chosen on the test data: quote the last, or hold data out "
            "with --validation."
        )
    show(f"\n{Table(columns, rows, notes=notes)}")


def _write_report(out: Path) -> None:
    """Write report.html, and name the run's folder; without matplotlib the run is complete too."""
    try:
        from passband.report import write_run_report

        show(str(write_run_report(out)))
    except ImportError as error:
        show(f"{out} (without a report: {error})")


def _loss(value: float | None) -> str:
    """A loss with four digits; JSON has none for one that is not finite."""
    return "not finite" if value is None else f"{value:.4f}"


def _describe_band(entry: dict[str, Any]) -> str:
    for name in ("compression", "energy", "band"):
        if entry[name] is not None:
            return f"{name} {entry[name]}"
    return "full"


def _run_name(config: "TrainConfig") -> str:
    """A folder name that tells runs apart by what is usually varied."""
    limit = config.band_limit
    words = [config.data, config.model, config.method]
    words += [f"keep-{config.keep}"] if config.keep is not None else []
    words += [
        f"{name}-{value}"
        for name, value in (("c", limit.compression), ("e", limit.energy), ("band", limit.band))
        if value is not None
    ]
    if config.method == "specnet":
        words += [f"beta-{config.threshold:g}", config.activation]
    return re.sub(r"[^\w.]+", "-", "-".join([*words, f"seed-{config.seed}"])).strip("-")


def _run_to_resume(out: Path) -> "RunFolder":
    """The folder of a run.

    Raises:
        FileNotFoundError: There is none.
    """
    from passband.train.run_folder import RunFolder

    folder = RunFolder(out)
    if folder.holds_run:
        return folder
    why = f"there is no {folder.config.name} in it" if out.exists() else "it is not there"
    others = sorted(str(p.parent) for p in out.parent.glob("*/config.json"))
    there = f"; runs beside it: {', '.join(others[:5])}" if others else ""
    raise FileNotFoundError(
        f"{out} holds no run to resume: {why}{there} (name the run with --out, or leave out "
        "--resume to begin one)"
    )


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _number_or_text(value: str) -> int | str:
    return int(value) if value.isdecimal() else value
