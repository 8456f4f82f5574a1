"""A checkpoint as one file that is safe to open: safetensors, with everything else as JSON.

The tensors are stored under readable names, so any reader of safetensors can look at them. The JSON
in the file's metadata says how they hang together. Every object in it is a tag:
``{"tensor": name}``, ``{"tuple": [...]}``, ``{"dict": {...}}``, ``{"items": [[key, value], ...]}``
for a dict with keys other than strings, or ``{"float": "inf"}`` for what JSON has no number for.
"""

import math
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from passband.atomic import atomic_path
from passband.tensor_file import DamagedFileError, read_tensors, write_tensors

FORMAT = "passband-checkpoint-1"


class DamagedCheckpointError(ValueError):
    """A checkpoint that is not what was written."""


def write_checkpoint(
    path: str | Path, content: dict[str, Any], previous: str | Path | None = None
) -> None:
    """Write nested values and tensors to `path`, whole or not at all.

    The new file is read back and verified before it takes the place of the old one.

    Args:
        path: File to write; its folder must exist.
        content: Dicts, lists and tuples of tensors, numbers, strings, booleans and None. An ordered
            dict is stored as a dict, a parameter as a tensor.
        previous: Where the file that `path` was until now is kept, or None to drop it.

    Raises:
        TypeError: A value is of another type; the message says where it is.

    Examples:
        >>> import tempfile
        >>> state = {"step": 3, "momentum": {0: torch.ones(2)}, "betas": (0.9, float("inf"))}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_checkpoint(Path(folder) / "a.safetensors", state)
        ...     read_checkpoint(Path(folder) / "a.safetensors")
        {'step': 3, 'momentum': {0: tensor([1., 1.])}, 'betas': (0.9, inf)}
    """
    tensors: dict[str, Tensor] = {}
    tree = _encode(content, "", tensors)
    with atomic_path(path) as temporary:
        try:
            write_tensors(temporary, tensors, tree, format=FORMAT, extra="train")
        except DamagedFileError as error:
            raise DamagedCheckpointError(f"checkpoint {error}") from error
        if previous is not None and Path(path).exists():
            os.replace(path, previous)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote, tensors on the CPU.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedCheckpointError: The file is truncated, altered, or of another kind.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    try:
        tensors, tree = read_tensors(Path(path), format=FORMAT, extra="train")
    except DamagedFileError as error:
        raise DamagedCheckpointError(f"checkpoint {error}") from error
    content: dict[str, Any] = _decode(tree, tensors)
    return content


def _encode(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON for a value; its tensors are added to `tensors`."""
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Tensor):
        return {"tensor": _add(value, where, tensors)}
    if kind is list:
        return [_encode(entry, f"{where}/{i}", tensors) for i, entry in enumerate(value)]
    if kind is tuple:
        entries = [_encode(entry, f"{where}/{i}", tensors) for i, entry in enumerate(value)]
        return {"tuple": entries}
    if kind in (dict, OrderedDict):
        entries = [(key, _encode(entry, f"{where}/{key}", tensors)) for key, entry in value.items()]
        if all(type(key) is str for key in value):
            return {"dict": dict(entries)}
        return {"items": [[_encode(key, where, tensors), entry] for key, entry in entries]}
    raise TypeError(
        f"checkpoint entry {where or '/'} is {kind.__module__}.{kind.__qualname__}; allowed are "
        "tensors, numbers, strings, booleans, None, and dicts, lists and tuples of them"
    )


def _add(tensor: Tensor, where: str, tensors: dict[str, Tensor]) -> str:
    """Add a copy of the tensor under a name of its own."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise TypeError(f"checkpoint entry {where} is a sparse or quantized tensor; make it dense")
    name = base = where.removeprefix("/")
    while name in tensors or name == "__metadata__":
        name = f"{base}~{len(tensors)}"
    # A copy of its own memory: the file format has neither strides nor shared storage.
    tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return name


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `_encode`."""
    if isinstance(value, list):
        return [_decode(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    [(tag, inner)] = value.items()
    if tag == "tensor":
        return tensors[inner]
    if tag == "float":
        return float(inner)
    if tag == "tuple":
        return tuple(_decode(entry, tensors) for entry in inner)
    if tag == "dict":
        return {key: _decode(entry, tensors) for key, entry in inner.items()}
    return {_decode(key, tensors): _decode(entry, tensors) for key, entry in inner}
