"""Options that commands share, and how their values are read and results are printed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from passband.nn.stage_arguments import ACTIVATIONS
from passband.ops.band_limited_conv.select import ALGORITHMS
from passband.train.config import METHODS

PROFILED = ("native", "band-limited", "specnet")
"""The methods whose layers stand for layers of the network before any training."""

# groups in the help
DATA, BAND, SPECNET = "Data and network", "Band", "SpecNet"
FREQUENCY, TEACHER = "Frequency regularization", "Teacher"
TRAINING, RUN = "Training", "Run"


def option(panel: str, text: str, *names: str, **more: Any) -> Any:
    """An option of a group."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **more)


def optional(panel: str, text: str, **more: Any) -> Any:
    """An option of a group that is left out by default."""
    return option(panel, text, show_default=False, **more)


def listed(names: Iterable[str]) -> str:
    """Names in a sentence.

    Examples:
        >>> listed(["sgd", "adam", "adamw"])
        'sgd, adam or adamw'
    """
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


Model = Annotated[str, option(DATA, "Network; see `passband list models`.")]
ImageSize = Annotated[int, option(DATA, "Pixels of height and width of images in folders.")]
Method = Annotated[
    str, option(BAND, f"{listed(METHODS)}; small is a control of frequency: its widths alone.")
]
ProfiledMethod = Annotated[str, option(BAND, f"{listed(PROFILED)}.")]
Compression = Annotated[
    float | None, optional(BAND, "Fraction of the spectrum to discard, 0 <= c < 1.")
]
Energy = Annotated[
    float | None, optional(BAND, "Fraction of the spectral energy to keep, 0 < e <= 1.")
]
Band = Annotated[
    str | None,
    optional(BAND, "Half-spectrum coefficients to keep per axis, such as 8 or 8,6."),
]
Algorithm = Annotated[str, option(BAND, f"{listed(ALGORITHMS)}.")]
Memory = Annotated[
    str | None,
    optional(BAND, "exact: keep spectra for the backward pass, make the maps again."),
]
Threshold = Annotated[
    float, option(SPECNET, "Beta: smaller coefficients of the spectra become zero.")
]
Activation = Annotated[
    str, option(SPECNET, f"{listed((*ACTIVATIONS, 'keep'))}; those without spectral-: of the map.")
]
RunFolderArgument = Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)]
Checkpoint = Annotated[
    str | None,
    typer.Option(help="last or best; without it the one that the run reports.", show_default=False),
]


def show(text: str) -> None:
    """Print as it is: no markup, no folding of lines."""
    Console().print(Text(text), soft_wrap=True)


def parse_band(value: str | None) -> int | tuple[int, ...] | None:
    """The numbers of --band.

    Examples:
        >>> parse_band("8"), parse_band("8,6"), parse_band(None)
        (8, (8, 6), None)
    """
    if value is None:
        return None
    try:
        numbers = tuple(int(number) for number in value.split(","))
    except ValueError:
        raise ValueError(
            f"band is {value!r}; allowed is a number per axis, such as 8 or 8,6"
        ) from None
    return numbers[0] if len(numbers) == 1 else numbers
