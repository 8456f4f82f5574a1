"""Named tensors and a description in one file that is safe to open, and tells when it is damaged.

The file is a safetensors file: tensors under their names, which any reader of safetensors can look
at, and in its metadata a format, a description as JSON, and a digest over all of it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from passband.extras import require


class DamagedFileError(ValueError):
    """A file that is not what was written."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], description: Any, *, format: str, extra: str
) -> None:
    """Write a file, and read it back to verify it.

    Args:
        path: File to write; what is there is lost (see `passband.atomic`).
        tensors: Dense tensors on the CPU, contiguous, each with memory of its own.
        description: Anything that JSON has, with finite numbers.
        format: Name and version of what is written.
        extra: The extra of this package that installs safetensors for the caller.

    Raises:
        DamagedFileError: What was read back is not what was written.
    """
    safetensors = require("safetensors.torch", extra=extra)
    text = json.dumps(description, allow_nan=False)
    metadata = {"format": format, "tree": text, "digest": _digest(text, tensors)}
    safetensors.save_file(dict(tensors), path, metadata=metadata)
    read_tensors(path, format=format, extra=extra)


def read_tensors(path: Path, *, format: str, extra: str) -> tuple[dict[str, Tensor], Any]:
    """The tensors, on the CPU, and the description that `write_tensors` wrote.

    Raises:
        DamagedFileError: The file is truncated, altered, or of another format.
    """
    safetensors = require("safetensors", extra=extra)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies: what safe_open gives is a view of the file, which may be replaced later.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, UnicodeError) as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from error
    if metadata.get("format") != format:
        raise DamagedFileError(
            f"{path} is damaged or not one of passband's: its format is "
            f"{metadata.get('format')!r}, not {format!r}"
        )
    text = metadata.get("tree", "")
    if _digest(text, tensors) != metadata.get("digest"):
        raise DamagedFileError(f"{path} is damaged: its digest does not match")
    return tensors, json.loads(text)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
