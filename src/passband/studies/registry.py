"""The names of the studies.

A study is a module of this package with a function `run(out, *, progress, **options)` that returns
a `StudyResult`; it is entered in `_STUDIES` and imported when it is run.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passband.atomic import check_destination
from passband.measure.table import Table
from passband.names import unknown_name
from passband.studies.options import describe_options

_STUDIES = {
    "demo": "band-limited networks on digits and a time series, within about three minutes",
    "frequency": "the frequency chain: accuracy against speed-up, beside its controls",
    "segmentation": "a UNet with few DCT coefficients and as a chain, its masks beside the truth",
    "specnet": "memory and accuracy of SpecNet's networks and their twins against the threshold",
}


@dataclass(frozen=True)
class StudyResult:
    """What a study leaves.

    Args:
        table: Its results, also in table.csv and result.json.
        report: The path of its report.html.
    """

    table: Table
    report: Path


def list_studies() -> list[tuple[str, str]]:
    """The names that `run_study` knows, each with a description.

    Examples:
        >>> [name for name, _ in list_studies()]
        ['demo', 'frequency', 'segmentation', 'specnet']
    """
    return list(_STUDIES.items())


def study_options(name: str) -> str:
    """The options that a study takes beside `out`, one under the other, as help prints them.

    Raises:
        ValueError: The name is unknown.

    Examples:
        >>> print(study_options("demo").splitlines()[0].split(".")[0])
          --seeds  Trainings of each kind, which differ in initial weights and order
    """
    return describe_options(_function(name))


def run_study(name: str, out: str | Path, *, progress: bool = True, **options: Any) -> StudyResult:
    """Run a study, or go on with one that was stopped.

    Args:
        name: One of `list_studies`.
        out: Folder for everything it writes; made if it is not there. Trainings that are finished
            in it are not done again.
        progress: Show a progress bar.
        options: The study's own options.

    Returns:
        Its table, and the path of its report.

    Raises:
        ValueError: The name or an option is unknown, or an option has a value it cannot have.
        OSError: `out` cannot be written to.
        ImportError: A package is missing; the message names the extra.
    """
    run = _function(name)
    known = [option for option in inspect.signature(run).parameters if option != "progress"][1:]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of the study {name!r}", option, known)
    check_destination(out, is_folder=True)
    return run(Path(out), progress=progress, **options)


def _function(name: str) -> Callable[..., StudyResult]:
    """What runs a study."""
    if name not in _STUDIES:
        raise unknown_name("study", name, _STUDIES)
    run: Callable[..., StudyResult] = importlib.import_module(f"passband.studies.{name}").run
    return run
