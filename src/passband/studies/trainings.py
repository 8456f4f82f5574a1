"""Many training runs in one folder, each done once."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from passband import __version__
from passband.extras import require
from passband.measure.table import format_value
from passband.train import TrainConfig
from passband.train import run as train


@dataclass(frozen=True)
class Training:
    """A finished training run.

    Args:
        config: What was trained.
        folder: The run's folder.
        result: The contents of its result.json.
    """

    config: TrainConfig
    folder: Path
    result: Mapping[str, Any]


def train_all(
    configs: Mapping[str, TrainConfig], folder: Path, *, progress: bool
) -> dict[str, Training]:
    """Train every config, or take up what is finished or begun in the folder.

    Args:
        configs: What to train, by name; a name is the beginning of its run folder's.
        folder: Folder of the run folders.
        progress: Print a line per run, and show a bar on a terminal.

    Returns:
        The runs by the same names.
    """
    done = {}
    with progress_bar("training", total=len(configs), shown=progress) as bar:
        (task,) = bar.task_ids
        for name, config in configs.items():
            bar.update(task, description=name)
            path = folder / run_name(name, config)
            finished = (path / "result.json").exists()
            result = train(config, path, resume=True, progress=False)
            done[name] = Training(config, path, result)
            bar.advance(task)
            accuracy = format_value(result["test_accuracy"], "fraction")
            how = "done before" if finished else f"{result['seconds']:.1f} s"
            bar.console.print(f"  {name}: test accuracy {accuracy} ({how})", highlight=False)
    return done


def run_name(name: str, config: TrainConfig) -> str:
    """Name of a run folder: another config, or another version, gets another one.

    Examples:
        >>> run_name("native", TrainConfig(seed=0)) == run_name("native", TrainConfig(seed=1))
        False
    """
    versions = {"passband": __version__, "torch": torch.__version__}
    text = json.dumps(config.to_dict() | versions, sort_keys=True)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}".replace(" ", "-")


def progress_bar(description: str, *, total: int, shown: bool) -> Any:
    """A `rich.progress.Progress` with one task."""
    rich = require("rich.progress", extra="cli")
    bar = rich.Progress(
        rich.SpinnerColumn(),
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeElapsedColumn(),
        disable=not shown,
        transient=True,
    )
    bar.console.quiet = not shown
    bar.add_task(description, total=total)
    return bar


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread inside; afterwards on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def status(text: str, *, shown: bool) -> AbstractContextManager[object]:
    """A spinner with a line of text while something goes on."""
    console = require("rich.console", extra="cli").Console(quiet=not shown)
    spinner: AbstractContextManager[object] = console.status(text)
    return spinner
