"""The application that the commands belong to."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

Abort = typer.Abort
UsageError: Any = typer.BadParameter.__base__  # of typer's own click, or of click

app = typer.Typer(
    help="Train, compress and run convolutional networks in the frequency domain.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def run_app(arguments: Sequence[str] | None) -> int:
    """Run the command line; errors come out as exceptions."""
    code = app(arguments, standalone_mode=False, prog_name="passband")
    return code if isinstance(code, int) else 0


def _version(wanted: bool) -> None:
    if wanted:
        from passband import __version__

        typer.echo(f"passband {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _passband(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
