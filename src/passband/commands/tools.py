"""Commands that measure, export, list, and run experiments."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand

from passband.atomic import check_destination
from passband.commands.app import app
from passband.commands.options import (
    BAND,
    DATA,
    PROFILED,
    Activation,
    Algorithm,
    Band,
    Checkpoint,
    Compression,
    Energy,
    ImageSize,
    Memory,
    Model,
    ProfiledMethod,
    RunFolderArgument,
    Threshold,
    listed,
    option,
    optional,
    parse_band,
    show,
)

if TYPE_CHECKING:
    from torch import nn

Finish = Annotated[
    bool,
    typer.Option(
        "--finish", help="Of a network that has not finished shrinking, drop the rest at once."
    ),
]


@app.command()
def profile(
    model: Model = "resnet8",
    data: Annotated[
        str | None,
        optional(DATA, "Sizes and classes of a data set, not of colour images in 1000 classes."),
    ] = None,
    image_size: ImageSize = 224,
    batch_size: Annotated[int, option(DATA, "Examples in the batch.")] = 32,
    method: ProfiledMethod = "band-limited",
    compression: Compression = None,
    energy: Energy = None,
    band: Band = None,
    algorithm: Algorithm = "auto",
    memory: Memory = None,
    threshold: Threshold = 1.0,
    activation: Activation = "spectral-tanh",
    all_layers: Annotated[
        bool,
        option(
            BAND, "Convert as `passband train` does, not only layers that it helps.", "--all-layers"
        ),
    ] = False,
    inference: Annotated[
        bool, typer.Option("--inference", help="Measure the forward pass alone.")
    ] = False,
) -> None:
    """Measure each layer of a network against the layer it stands for: work, time and memory."""
    import torch

    from passband.convert import convert
    from passband.measure.profile import profile as measure
    from passband.networks import create_model
    from passband.train import TrainConfig
    from passband.train.evaluation import has_several_points

    _check_profiled(method)
    config = TrainConfig(
        model=model, image_size=image_size, batch_size=batch_size, method=method,
        compression=compression, energy=energy, band=parse_band(band), algorithm=algorithm,
        memory=memory, threshold=threshold, activation=activation,
    )  # fmt: skip
    shape: tuple[int, ...] = (3, image_size, image_size)
    classes = 1000
    if data is not None:
        from passband.data import load_dataset

        bundle = load_dataset(data, image_size=image_size)
        shape, classes = bundle.input_shape, bundle.num_classes
    network = create_model(
        model, num_classes=classes, in_channels=shape[0], input_size=tuple(shape[1:])
    )
    example = torch.randn(batch_size, *shape)
    show(f"{model} on a batch of {batch_size} x {' x '.join(map(str, shape))}")
    if method == "band-limited":
        report = convert(
            network, config.band_limit, example, has_several_points if all_layers else None
        )
        for note in report.table.notes:
            show(textwrap.fill(note, 100, subsequent_indent="  "))
    elif method == "specnet":
        show(str(convert(network, config.spec_net, example)))
    with Console(stderr=True).status("measuring"):
        table = measure(network, example, training=not inference)
    show(f"\n{table}")
    if memory is not None and not inference:
        from passband.measure.step import profile_step

        with Console(stderr=True).status("measuring whole steps"):
            steps = profile_step(network, example)
        show(f"\n{steps}")


@app.command()
def export(
    run: RunFolderArgument,
    file: Annotated[Path, typer.Argument(help="ONNX file to write.", show_default=False)],
    checkpoint: Checkpoint = None,
    finish: Finish = False,
) -> None:
    """Write a trained network as ONNX, for any batch size; the chain where there is one."""
    import torch

    from passband.export import export_onnx
    from passband.train import load_run

    check_destination(file)
    network, config, bundle = load_run(run, checkpoint)
    file.parent.mkdir(parents=True, exist_ok=True)
    if config.precision == "64":
        network.float()
    with Console(stderr=True).status("exporting"):
        export_onnx(
            as_chain(network, bundle.input_shape, finish),
            torch.zeros(2, *bundle.input_shape),
            file,
        )
    show(f"{file}: {config.model}, inputs (batch, {', '.join(map(str, bundle.input_shape))})")


@app.command()
def compare(
    run: RunFolderArgument,
    file: Annotated[
        Path, typer.Argument(help="ONNX file that `export` wrote.", show_default=False)
    ],
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Images at once, 1 and 128 without; repeat it.", show_default=False),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Rounds; times are medians.")] = 20,
    checkpoint: Checkpoint = None,
    finish: Finish = False,
) -> None:
    """Run an exported chain in ONNX Runtime, PyTorch and passband's engine, beside the dense."""
    import torch

    from passband.chain.compare import compare as measure
    from passband.chain.compare import disagreement
    from passband.train import load_run
    from passband.train.evaluation import native_model

    network, config, bundle = load_run(run, checkpoint)
    dense = native_model(config.model, bundle)
    example = torch.zeros(2, *bundle.input_shape)
    chain = as_chain(network.float(), bundle.input_shape, finish)
    with Console(stderr=True).status("measuring"):
        table = measure(dense, chain, example, file, tuple(batch or (1, 128)), repeats)
    show(str(table))
    if problem := disagreement(table):
        raise ValueError(f"{problem}: {file} is of another network or checkpoint; export it again")


def as_chain(network: "nn.Module", input_shape: tuple[int, ...], finish: bool) -> "nn.Module":
    """The small network that a network in the channel domain is; any other as it is.

    Raises:
        ValueError: It has not finished shrinking and `finish` is False.
    """
    import torch

    from passband.chain import to_chain
    from passband.convert import FrequencyNetwork
    from passband.convert.frequency.scheduler import unfinished

    if not isinstance(network, FrequencyNetwork):
        return network
    kept = unfinished(network)
    if kept is not None and not finish:
        raise ValueError(
            f"the network has not finished shrinking: it keeps {100 * kept:.2g} % of its "
            "coefficients; train on (more --epochs, fewer --shrink-steps), or add --finish to "
            "drop the rest at once"
        )
    return to_chain(network, torch.zeros(2, *input_shape), finish=finish)


@app.command(name="list")
def list_names(
    what: Annotated[str, typer.Argument(help="models, datasets or studies.", show_default=False)],
) -> None:
    """List what can be named: models, datasets or studies."""
    if what == "models":
        from passband.networks import list_models as names
    elif what == "datasets":
        from passband.data import list_datasets as names
    elif what == "studies":
        from passband.studies import list_studies as names
    else:
        raise ValueError(f"cannot list {what!r}; allowed are models, datasets and studies")
    entries = names()
    width = max(len(name) for name, _ in entries)
    show("\n".join(f"{name:<{width}}  {description}" for name, description in entries))


class _StudyCommand(TyperCommand):
    """Its help names the options of the study that is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.obj = list(args)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from passband.studies import list_studies, study_options

        super().format_help(ctx, formatter)
        for name, description in list_studies():
            if name in ctx.obj:
                show(f"{name}: {description}\n\n{study_options(name)}")


@app.command(
    cls=_StudyCommand,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def study(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(help="The study; see `passband list studies`.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write to; without it runs/ and the name.", show_default=False),
    ] = None,
) -> None:
    """Run an experiment: table, figures, report. `passband study NAME --help` has its options."""
    from passband.studies import run_study

    options = _parse_options(context.args)
    result = run_study(name, out or Path("runs") / name, progress=True, **options)
    show(f"{result.table}\n{result.report}")


def _parse_options(words: list[str]) -> dict[str, Any]:
    """Options that only the study knows: "--seeds 3 --quick" -> {"seeds": 3, "quick": True}."""
    options: dict[str, Any] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.removeprefix("--").replace("-", "_").partition("=")
            options[name] = _parse_value(value) if equals else True
        elif options.get(name) is True:
            options[name] = _parse_value(word)
        else:
            raise ValueError(f"unexpected argument {word!r}; options are --NAME or --NAME VALUE")
    return options


def _parse_value(text: str) -> Any:
    """A number where it is one, otherwise text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _check_profiled(method: str) -> None:
    from passband.train.config import METHODS

    if method not in METHODS:
        raise ValueError(f"method is {method!r}; allowed are {listed(PROFILED)}")
    if method not in PROFILED:
        raise ValueError(
            f"method is {method!r}, of which there is nothing to measure before it is trained: "
            "use passband train, export and compare; profile has "
            f"{listed(PROFILED)}"
        )
