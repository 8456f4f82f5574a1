"""Lightning's checkpoints in this package's file format."""

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO

from passband.train.checkpoint_file import read_checkpoint, write_checkpoint
from passband.train.run_folder import RunFolder


class SafeCheckpointIO(CheckpointIO):
    """Writes and reads checkpoints without pickle.

    Args:
        folder: The run; when its last checkpoint is written, the one before is kept.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint, whole or not at all."""
        if storage_options is not None:
            raise TypeError(
                f"storage_options is {storage_options!r}; there are none here, pass None"
            )
        previous = self.folder.previous if Path(path) == self.folder.last else None
        write_checkpoint(path, checkpoint, previous)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint to the CPU, from where Lightning takes it to its device."""
        return read_checkpoint(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint."""
        Path(path).unlink(missing_ok=True)
