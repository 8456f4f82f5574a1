"""Files that are either whole or absent: written beside their place, then moved there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SUFFIX = ".writing"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary file to write, which becomes `path` when the block ends without an error.

    A reader, and a process killed at any moment, finds the old file or the new one and never a part
    of either. The folder of `path` must exist.

    Raises:
        FileNotFoundError: It does not.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(Path(folder) / "a.txt") as temporary:
        ...         _ = temporary.write_text("whole")
        ...     (Path(folder) / "a.txt").read_text()
        'whole'
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {path.parent}; make it")
    # A folder, since some writers make files of their own beside the one they are told to write.
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=_SUFFIX))
    temporary = folder / path.name
    try:
        yield temporary
        temporary.chmod(_mode(path))
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(folder)


def sweep(folder: str | Path) -> None:
    """Remove what processes that were killed in `atomic_path` left in a folder."""
    for leftover in Path(folder).glob(f".*{_SUFFIX}"):
        shutil.rmtree(leftover)


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def check_destination(path: str | Path, *, is_folder: bool = False) -> None:
    """Check, before long work, that its result can be written; nothing is made yet.

    Args:
        path: The file, or the folder for files, that is to be written. Folders that are not there
            yet can be made.
        is_folder: Which of the two.

    Raises:
        OSError: A part of the path is a file, the file is a folder, or writing is not permitted.

    Examples:
        >>> check_destination("results/net.onnx")
        >>> check_destination(__file__ + "/net.onnx")
        Traceback (most recent call last):
        NotADirectoryError: cannot write ...: ... is a file, not a folder; choose another place
    """
    path = Path(path)
    if path.is_dir() and not is_folder:
        raise IsADirectoryError(f"cannot write {path}: it is a folder; name a file in it")
    folder = path if is_folder else path.parent
    there = next(f for f in (folder, *folder.absolute().parents) if f.exists())
    if not there.is_dir():
        raise NotADirectoryError(
            f"cannot write {path}: {there} is a file, not a folder; choose another place"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(
            f"cannot write {path}: no permission to write in {there}; choose another place"
        )


def _sync_folder(folder: Path) -> None:
    """Make a change of names in a folder last through a loss of power, where systems allow it."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _mode(path: Path) -> int:
    """Permissions of the file that is replaced, or those a new file would get."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
