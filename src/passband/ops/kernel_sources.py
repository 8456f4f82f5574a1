"""What compiled kernels are made of: the build and the package ask this file alike.

The build loads it by its path, before there is a package, so it imports the standard library only.
"""

import hashlib
from pathlib import Path

CORE = Path(__file__).parent / "band_limited_conv" / "native"
"""The folder of which the kernels of every other folder share `SHARED`, and its headers."""

SHARED = ("core.c", "transforms.c")

FOLDERS = (CORE, Path(__file__).parent / "spectral/native", CORE.parents[2] / "chain/native")
"""All folders of kernels; from each, one library is compiled for every instruction set."""


def c_files(folder: Path) -> list[Path]:
    """What the library of a folder is compiled from."""
    own = sorted(folder.glob("*.c"))
    return own if folder == CORE or not own else [*own, *(CORE / name for name in SHARED)]


def digest(folder: Path) -> str | None:
    """A number that says of which sources a library is; None where there are none.

    Examples:
        >>> len(digest(CORE))
        64
    """
    files = c_files(folder)
    if not files:
        return None
    contents = hashlib.sha256()
    for path in (*files, *sorted({*folder.glob("*.h"), *CORE.glob("*.h")})):
        contents.update(path.read_bytes())
    return contents.hexdigest()
