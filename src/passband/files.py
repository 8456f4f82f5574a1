"""Models as files: `save` and `load`.

A file holds the weights under the names of the model's state_dict, as any reader of safetensors
sees them, and as JSON which layers are converted and how, and for a network made by name what it
was made of. Nothing in it is executed when it is opened.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from passband.atomic import atomic_path
from passband.convert import handlers
from passband.networks import create_model
from passband.tensor_file import DamagedFileError, read_tensors, write_tensors

FORMAT = "passband-model-2"
_LISTED = 3  # names in a message, of perhaps hundreds


def save(model: nn.Module, path: str | Path, *, half: bool = False) -> None:
    """Write a model's weights, and how its layers are converted, to one file.

    The file appears whole or not at all, and is read back before it takes the place of another.

    Args:
        model: Any model, converted or not.
        path: File to write, by custom ending in .safetensors; its folder must exist.
        half: Store float32 numbers in half precision; `load` gives float32 back. A tensor with
            numbers beyond 65504, which half precision has not, stays float32.

    Of a model with frequency regularization only the coefficients that are kept are stored.

    Raises:
        TypeError: The state_dict holds something else than dense tensors.
        ImportError: safetensors is missing; the message names the extra.

    Examples:
        >>> import tempfile
        >>> import passband as pb
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        >>> report = pb.convert(model, pb.BandLimit(compression=0.5), filter_fn=lambda *_: True)
        >>> fresh = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(model, f"{folder}/net.safetensors")
        ...     same = load(f"{folder}/net.safetensors", fresh)
        >>> x = torch.randn(1, 3, 9, 9)
        >>> torch.equal(same(x), model(x)), same[0].compression
        (True, 0.5)
    """
    tensors = {name: _dense(name, value) for name, value in model.state_dict().items()}
    methods = {}
    for handler in handlers():
        found = handler.description(model)
        if found is not None:
            methods[handler.method] = found
            tensors = handler.packed(model, tensors)
    description = {
        "architecture": getattr(model, "_passband_architecture", None),
        "methods": methods,
        "training": model.training,
    }
    if half:
        tensors, description["half"] = _halved(tensors), True
    with atomic_path(path) as temporary:
        write_tensors(temporary, tensors, description, format=FORMAT, extra="files")


def load(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The model that `save` wrote: the same weights, and the same layers converted alike.

    Args:
        path: The file.
        model: A model of the same architecture, converted or not, to be filled in place; its
            parameters stay the same objects. Without it, the network is made anew on the CPU, which
            takes one that `passband.networks.create_model` made.

    Returns:
        `model`, or the new network, in training or evaluation mode as it was saved.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or not one of `save`'s; the model is not of the saved
            architecture; or there is no model and the file does not say how to make it.
        ImportError: safetensors is missing; the message names the extra.

    Examples:
        >>> import tempfile
        >>> model = create_model("resnet8", num_classes=10, in_channels=1, input_size=(8, 8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(model, f"{folder}/net.safetensors")
        ...     same = load(f"{folder}/net.safetensors")
        >>> torch.equal(same[0].weight, model[0].weight)
        True
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    tensors, description = read_tensors(path, format=FORMAT, extra="files")
    made = model is None
    if model is None:
        model = _make(path, description["architecture"])
    if description.get("half"):
        tensors = {k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()}
    methods = description["methods"]
    with _of_one_architecture(path):
        for handler in (h for h in handlers() if h.changes_tensors):
            handler.convert_as(model, methods.get(handler.method))
            if handler.method in methods:
                tensors = handler.unpacked(model, tensors)
    _check_tensors(path, model, tensors, types=not made)
    with _of_one_architecture(path):
        for handler in (h for h in handlers() if not h.changes_tensors):
            handler.convert_as(model, methods.get(handler.method))
    # a new network takes the saved tensors themselves, and so their types
    model.load_state_dict(tensors, assign=made)
    return model.train(description["training"]) if made else model


def _dense(name: str, value: Any) -> Tensor:
    """A copy as a file holds it: on the CPU, in order, of its own memory."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        raise TypeError(
            f"state_dict entry {name} is {type(value).__name__}, allowed are dense tensors"
        )
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of float32 in half precision, if their numbers are within its range."""
    return {
        name: tensor.half() if tensor.dtype == torch.float32 and _fits_half(tensor) else tensor
        for name, tensor in tensors.items()
    }


def _fits_half(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.half()).eq(torch.isfinite(tensor)).all())


def _make(path: Path, architecture: Mapping[str, Any] | None) -> nn.Module:
    if architecture is None:
        raise ValueError(
            f"{path} does not say how its network is made, as only passband.networks.create_model "
            "knows; give load(path, model=...) a model of the same architecture"
        )
    arguments = {**architecture, "input_size": tuple(architecture["input_size"])}
    with torch.random.fork_rng(devices=[]):  # its random weights are replaced at once
        return create_model(**arguments)


@contextmanager
def _of_one_architecture(path: Path) -> Iterator[None]:
    """Errors of a conversion, as those of a file that does not fit."""
    try:
        yield
    except ValueError as error:
        raise _another_architecture(path, str(error)) from error


def _another_architecture(path: Path, how: str) -> ValueError:
    return ValueError(f"{path} is of another architecture than model: {how}")


def _check_tensors(
    path: Path, model: nn.Module, tensors: Mapping[str, Tensor], types: bool
) -> None:
    own = model.state_dict()
    missing, unknown = own.keys() - tensors.keys(), tensors.keys() - own.keys()
    if missing or unknown:
        raise _another_architecture(
            path, f"it lacks {_names(missing)} and has besides {_names(unknown)}"
        )
    for name, expected in own.items():
        found = tensors[name]
        if found.shape != expected.shape:
            raise _another_architecture(
                path,
                f"{name} has shape {tuple(found.shape)} in the file and {tuple(expected.shape)} in "
                "the model",
            )
        if types and found.dtype != expected.dtype:
            raise ValueError(
                f"{name} is {found.dtype} in {path} and {expected.dtype} in model; use "
                f"model.to({found.dtype}) before"
            )


def _names(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return (", ".join(listed[:_LISTED]) or "nothing") + more


__all__ = ["DamagedFileError", "load", "save"]
