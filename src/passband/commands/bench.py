"""The command that measures speed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from passband.atomic import check_destination
from passband.commands.app import app
from passband.commands.options import show
from passband.extras import require

if TYPE_CHECKING:
    from passband.measure.table import Kind, Table


@app.command()
def bench(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(
            help="Of layers, networks, growth and precision; all of them without any.",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="Time to take, roughly: fewer minutes, fewer rounds.")
    ] = 12.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny layers once, to see that everything runs.")
    ] = False,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile torch's networks and more layers: minutes more."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for a CSV of each kind and a figure.", show_default=False),
    ] = None,
) -> None:
    """Measure our layers and networks against torch's and the other baselines, on this CPU."""
    from passband.bench.results import write_results
    from passband.bench.run import KINDS, Settings, run_benchmark

    if out is not None:
        check_destination(out, is_folder=True)
        require("matplotlib", extra="report")  # now, and not after a quarter of an hour
    results = run_benchmark(kinds or KINDS, Settings(minutes, quick, compiled), _progress)
    for kind, rows in results:
        show(f"\n{_table(kind, rows)}")
        for file in write_results(kind, rows, out) if out is not None else ():
            show(str(file))


def _progress(line: str) -> None:
    typer.echo(line, err=True)


# Columns in print: name in the row, kind, heading.
_COLUMNS: "dict[str, tuple[tuple[str, Kind, str], ...]]" = {
    "layers": (
        ("batch", "number", "B"),
        ("in_channels", "number", "C"),
        ("out_channels", "number", "O"),
        ("map", "text", "map"),
        ("kernel", "number", "k"),
        ("compression", "number", "c"),
        ("mode", "text", "mode"),
        ("native_ms", "number", "NCHW ms"),
        ("channels_last_ms", "number", "last ms"),
        ("auto_ms", "number", "ours ms"),
        ("ratio", "number", "ratio"),
        ("algorithm", "text", "algorithm"),
        ("winner", "text", "winner"),
    ),
    "networks": (
        ("network", "text", "network"),
        ("input", "text", "input"),
        ("compression", "number", "c"),
        ("mode", "text", "mode"),
        ("native_ms", "number", "NCHW ms"),
        ("channels_last_ms", "number", "last ms"),
        ("converted_ms", "number", "ours ms"),
        ("converted_channels_last_ms", "number", "last ms"),
        ("ratio", "number", "ratio"),
    ),
    "precision": (
        ("algorithm", "text", "algorithm"),
        ("numbers", "text", "numbers"),
        ("map", "text", "map"),
        ("kernel", "number", "k"),
        ("compression", "number", "c"),
        ("output", "text", "output"),
        ("input_gradient", "text", "input gradient"),
        ("weight_gradient", "text", "weight gradient"),
    ),
}
_COLUMNS["growth"] = (("axis", "text", "axis"), *_COLUMNS["layers"])


def _table(kind: str, rows: list[dict[str, Any]]) -> "Table":
    from passband.measure.table import Column, Table

    columns = [Column(name, form, heading) for name, form, heading in _COLUMNS[kind]]
    printed = [
        {column.name: _cell(row[column.name], column.kind) for column in columns} for row in rows
    ]
    return Table(columns, printed)


def _cell(value: Any, kind: str) -> Any:
    """A value that fits its column; None where it was not measured."""
    if value == "":
        return None
    return f"{value:g}" if kind == "text" and isinstance(value, float) else value
