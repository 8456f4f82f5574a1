"""What a data set is to the rest of the package, and how it was asked for."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True)
class DataBundle:
    """A data set in two parts, ready for training.

    An item of `train` or `test` is a float32 tensor of `input_shape`, already normalised, and its
    label, an int in 0..num_classes-1; of a segmentation an int64 tensor (H, W) of such numbers.

    Args:
        name: The name it was loaded by.
        train: The training part; augmented if that was asked for.
        test: The test part, never augmented.
        num_classes: Number of classes K.
        input_shape: Shape of one item, ``(C, L)`` or ``(C, H, W)``.
        class_names: K names in the order of the labels, or None if the data has none.
        source: One line: where the data came from.
    """

    name: str
    train: Dataset[tuple[Tensor, Any]]
    test: Dataset[tuple[Tensor, Any]]
    num_classes: int
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...] | None
    source: str


@dataclass(frozen=True)
class LoadOptions:
    """The arguments of `load_dataset` but the name.

    Args:
        root: Folder with the user's data, or None.
        augment: Whether training images are augmented.
        download: Whether missing data may be downloaded.
        image_size: Height and width that images of folders are brought to, in pixels.
    """

    root: Path | None
    augment: bool
    download: bool
    image_size: int

    @property
    def cache(self) -> Path:
        """Where downloads are kept: the user's cache folder."""
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(home) / "passband"

    def find(self, *parts: str) -> Path | None:
        """The file or folder of that relative path in `root`, if it is there."""
        path = None if self.root is None else self.root.joinpath(*parts)
        return path if path is not None and path.exists() else None

    def locate(self, path: str) -> Path:
        """A path given by the user: as it is, or else in `root`.

        Raises:
            FileNotFoundError: It is in neither place.
        """
        given = Path(path).expanduser()
        if given.exists():
            return given
        found = self.find(path)
        if found is None:
            also = "" if self.root is None else f", nor in PASSBAND_DATA ({self.root})"
            raise FileNotFoundError(f"no such file or folder: {given}{also}")
        return found

    def missing(self, name: str, wanted: str, reason: object) -> FileNotFoundError:
        """The error for data that is neither here nor could be downloaded.

        Args:
            name: The data set.
            wanted: The file, or files, that would help, relative to `root`.
            reason: Why it was not downloaded.
        """
        where = "a folder and set PASSBAND_DATA to it" if self.root is None else str(self.root)
        because = " ".join(str(reason).split())
        return FileNotFoundError(f"{name} is not here and {because}: put {wanted} into {where}")
