"""What a run leaves on disk, and where."""

import json
import logging
import os
import platform
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from passband import __version__
from passband.atomic import sweep, write_atomically
from passband.train.checkpoint_file import DamagedCheckpointError, read_checkpoint
from passband.train.config import TrainConfig

logger = logging.getLogger("passband")


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    Examples:
        >>> RunFolder(Path("runs/a")).last.as_posix()
        'runs/a/checkpoints/last.safetensors'
    """

    path: Path

    @property
    def config(self) -> Path:
        """What was run: the config, the versions, the command."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """One row per epoch."""
        return self.path / "metrics.csv"

    @property
    def result(self) -> Path:
        """The final evaluation; written when the run is finished."""
        return self.path / "result.json"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The newest checkpoint, from which a run resumes."""
        return self.checkpoints / "last.safetensors"

    @property
    def previous(self) -> Path:
        """The one before it, in case that one is damaged."""
        return self.checkpoints / "previous.safetensors"

    @property
    def best(self) -> Path:
        """The weights of the best epoch."""
        return self.checkpoints / "best.safetensors"

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return self.config.exists() or self.last.exists()

    def create(self) -> None:
        """Make the folders, and sweep out what a killed process left half written."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self.checkpoints):
            sweep(folder)

    def begin(self, config: TrainConfig) -> None:
        """Make the folders and record what is run; what stands there of the same config stays."""
        self.create()
        if not self.config.exists() or self.read_config() != config:
            self._write_config(config)

    def _write_config(self, config: TrainConfig) -> None:
        """Record what is run, with what."""
        record = {
            "config": config.to_dict(),
            "passband": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "machine": platform.platform(),
            "threads": torch.get_num_threads(),
            "command": sys.argv,
        }
        write_json(self.config, record)

    def read_config(self) -> TrainConfig:
        """The config of the run.

        Raises:
            FileNotFoundError: No run was begun here.
            ValueError: The file is not what was written.
        """
        if not self.config.exists():
            raise FileNotFoundError(
                f"{self.path} holds no run: there is no {self.config.name} in it"
            )
        try:
            values = json.loads(self.config.read_text())["config"]
        except (json.JSONDecodeError, KeyError) as error:
            raise ValueError(f"{self.config} is damaged: {error}") from error
        return TrainConfig.from_dict(values)

    def read_result(self) -> dict[str, Any] | None:
        """The final evaluation, or None while the run is not finished."""
        if not self.result.exists():
            return None
        result: dict[str, Any] = json.loads(self.result.read_text())
        return result

    def good_checkpoint(self) -> Path | None:
        """The newest checkpoint that is undamaged, or None if there is none.

        A damaged one is named in one line of the log and set aside, so that it never takes the
        place of a good one.
        """
        for path in (self.last, self.previous):
            if not path.exists():
                continue
            try:
                read_checkpoint(path)
            except DamagedCheckpointError as error:
                aside = path.with_suffix(".damaged")
                os.replace(path, aside)
                logger.warning("%s; it is set aside as %s", error, aside.name)
            else:
                return path
        return None


def check_same_run(stored: TrainConfig, wanted: TrainConfig) -> None:
    """Check that a run can go on with another config: the same one, or one with more epochs.

    Raises:
        ValueError: A field differs that must not; the message names it and both values.
    """
    for field in fields(TrainConfig):
        before, now = getattr(stored, field.name), getattr(wanted, field.name)
        if field.name == "epochs" and now >= before:
            continue
        # Loading processes change nothing: order and augmentation do not depend on them.
        if field.name != "num_workers" and before != now:
            also = "; only more of them can be asked for" if field.name == "epochs" else ""
            raise ValueError(
                f"cannot resume with {field.name} {now!r}: the run has {before!r}{also}"
            )


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())
