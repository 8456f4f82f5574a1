"""Models as files: `save` and `load`.

A file holds the weights under the names of the model's state_dict, as any reader of safetensors
sees them, and as JSON which layers are converted and how, and for a network made by name what it
was made of. Nothing in it is executed when it is opened.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from passband.atomic import atomic_path
from passband.config import BandLimit, FrequencyRegularization, config_from_dict
from passband.convert import convert
from passband.convert.frequency.network import FrequencyState
from passband.convert.frequency.storage import halved, packed, unpacked
from passband.convert.handler import Handler, handler_for, maker_of
from passband.convert.memory import fuse
from passband.networks import create_model
from passband.nn.fused_class import fused_settings, unfuse
from passband.tensor_file import DamagedFileError, read_tensors, write_tensors

FORMAT = "passband-model-1"
_LISTED = 3  # names in a message, of perhaps hundreds


def save(model: nn.Module, path: str | Path, *, half: bool = False) -> None:
    """Write a model's weights, and how its layers are converted, to one file.

    The file appears whole or not at all, and is read back before it takes the place of another.

    Args:
        model: Any model, converted or not.
        path: File to write, by custom ending in .safetensors; its folder must exist.
        half: Store float32 numbers in half precision; `load` gives float32 back.

    Of a model with frequency regularization only the coefficients that are kept are stored.

    Raises:
        ValueError: A number is too large for half precision.
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
    layers = {}
    for name, layer in model.named_modules():
        maker = maker_of(layer)
        if maker is not None:
            layers[name] = maker.config_of(layer).to_dict()
    description = {
        "architecture": getattr(model, "_passband_architecture", None),
        "layers": layers,
        "memory": _memory(model),
        "training": model.training,
    }
    tensors = {name: _dense(name, value) for name, value in model.state_dict().items()}
    state = model.__dict__.get("_passband_frequency")
    if isinstance(state, FrequencyState):
        tensors = packed(model, tensors)
        description["network"] = {
            "config": state.config.to_dict(),
            "example_shape": state.example_shape,
        }
    if half:
        tensors, description["half"] = halved(tensors), True
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
    if "network" in description:
        tensors = _convert_network(path, model, tensors, description["network"])
    whole = _whole_model_handler(description["layers"])
    if whole is not None:  # before the check, since it changes which tensors there are
        whole.convert(model)
    _check_tensors(path, model, tensors, types=not made)
    handlers = _handlers(path, model, description["layers"])
    for name, layer in model.named_modules():
        maker = maker_of(layer)
        if name in handlers:
            handlers[name].convert(layer)
        elif maker is not None and (name or whole is None):
            maker.revert(layer)
    unfuse(model)
    if description.get("memory") is not None:  # a file may be older
        spectrum_dtype, offload = description["memory"]
        fuse(model, BandLimit(memory="exact", spectrum_dtype=spectrum_dtype, offload=offload))
    # a new network takes the saved tensors themselves, and so their types
    model.load_state_dict(tensors, assign=made)
    return model.train(description["training"]) if made else model


def _memory(model: nn.Module) -> list[str | None] | None:
    """How the model's exact-memory blocks are made; None where there are none."""
    settings = fused_settings(model)
    return None if settings is None else list(settings)


def _whole_model_handler(layers: dict[str, Any]) -> Handler[Any] | None:
    """The handler of a method that converts models as a whole; it is taken out of the layers."""
    if "" not in layers:
        return None
    handler: Handler[Any] = handler_for(config_from_dict(dict(layers[""])))
    if not handler.whole_model:
        return None
    del layers[""]
    return handler


def _dense(name: str, value: Any) -> Tensor:
    """A copy as a file holds it: on the CPU, in order, of its own memory."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        raise TypeError(
            f"state_dict entry {name} is {type(value).__name__}, allowed are dense tensors"
        )
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _make(path: Path, architecture: Mapping[str, Any] | None) -> nn.Module:
    if architecture is None:
        raise ValueError(
            f"{path} does not say how its network is made, as only passband.networks.create_model "
            "knows; give load(path, model=...) a model of the same architecture"
        )
    arguments = {**architecture, "input_size": tuple(architecture["input_size"])}
    with torch.random.fork_rng(devices=[]):  # its random weights are replaced at once
        return create_model(**arguments)


def _convert_network(
    path: Path, model: nn.Module, tensors: dict[str, Tensor], network: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Convert a whole model as the saved one was, and give its tensors the places they have."""
    config = config_from_dict(dict(network["config"]))
    assert isinstance(config, FrequencyRegularization)
    shape = tuple(network["example_shape"])
    parameter = next(model.parameters())
    example = torch.zeros(shape, dtype=parameter.dtype, device=parameter.device) if shape else None
    try:
        convert(model, config, example)
        return unpacked(model, tensors)
    except ValueError as error:
        raise ValueError(f"{path} is of another architecture than model: {error}") from error


def _check_tensors(
    path: Path, model: nn.Module, tensors: Mapping[str, Tensor], types: bool
) -> None:
    own = model.state_dict()
    missing, unknown = own.keys() - tensors.keys(), tensors.keys() - own.keys()
    if missing or unknown:
        raise ValueError(
            f"{path} is of another architecture than model: it lacks {_names(missing)} and has "
            f"besides {_names(unknown)}"
        )
    for name, expected in own.items():
        found = tensors[name]
        if found.shape != expected.shape:
            raise ValueError(
                f"{path} is of another architecture than model: {name} has shape "
                f"{tuple(found.shape)} in the file and {tuple(expected.shape)} in the model"
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


def _handlers(
    path: Path, model: nn.Module, layers: Mapping[str, Mapping[str, Any]]
) -> dict[str, Handler[Any]]:
    """The handler of each layer that was converted, if it can convert the model's layer."""
    modules = dict(model.named_modules())
    handlers = {}
    for name, values in layers.items():
        handler = handler_for(config_from_dict(dict(values)))
        refusal = None if name not in modules else handler.refusal(modules[name], None)
        if name not in modules or refusal is not None:
            why = refusal.explanation if refusal is not None else "there is no such layer"
            raise ValueError(f"{path} has layer {name!r} converted, but in model: {why}")
        handlers[name] = handler
    return handlers


__all__ = ["DamagedFileError", "load", "save"]
