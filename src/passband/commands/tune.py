"""The command that measures by what `algorithm="auto"` chooses."""

from pathlib import Path
from typing import Annotated

import typer

from passband.atomic import check_destination
from passband.commands.app import app
from passband.commands.options import show


@app.command()
def tune(
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write; by default the one that passband reads.", show_default=False
        ),
    ] = None,
) -> None:
    """Measure on this machine the constants by which a layer chooses its algorithm."""
    from passband.measure.table import Column, Table
    from passband.measure.tune import measure_costs, save_costs
    from passband.ops.band_limited_conv.speed import FEATURES, costs_path

    path = out or costs_path()
    check_destination(path)
    costs = measure_costs(lambda line: typer.echo(line, err=True))
    save_costs(costs, path)
    columns = (Column("way"), *(Column(feature) for feature in FEATURES))
    rows = [
        {"way": way, **{f: f"{c:.2e}" for f, c in zip(FEATURES, constants, strict=True)}}
        for way, constants in costs.items()
    ]
    show(str(Table(columns, rows, notes=("seconds per multiplication, byte or call",))))
    show(f"written to {path}")
