"""The names of the networks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import nn

from passband.names import unknown_name
from passband.networks.zoo import ZOOS

AXES = {1: "time series (L,)", 2: "images (H, W)", 3: "volumes (D, H, W)"}


class Builder(Protocol):
    """A function that makes a network."""

    def __call__(
        self, *, num_classes: int, in_channels: int, input_size: tuple[int, ...]
    ) -> nn.Module:
        """A network from (B, in_channels, *input_size) to (B, num_classes)."""


BuilderT = TypeVar("BuilderT", bound=Builder)


@dataclass(frozen=True)
class Entry:
    """A registered network: how to make it, what it takes, and what it is."""

    build: Builder
    spatial_dims: int
    description: str


_MODELS: dict[str, Entry] = {}


def register_model(
    name: str, *, spatial_dims: int, description: str
) -> Callable[[BuilderT], BuilderT]:
    """Decorator that makes a builder known.

    Args:
        name: What `create_model` calls it.
        spatial_dims: Spatial axes of its inputs: 1 for series, 2 for images.
        description: One line for `list_models`.
    """

    def register(build: BuilderT) -> BuilderT:
        _MODELS[name] = Entry(build, spatial_dims, description)
        return build

    return register


def create_model(
    name: str, *, num_classes: int, in_channels: int, input_size: tuple[int, ...]
) -> nn.Module:
    """Make a network by name, with random weights from torch's global generator.

    Args:
        name: One of `list_models`, or ``torchvision:NAME`` or ``timm:NAME``.
        num_classes: Outputs K.
        in_channels: Channels C of the inputs.
        input_size: Spatial size of the inputs, ``(L,)`` or ``(H, W)``.

    Returns:
        A network of plain torch.nn modules, from (B, C, *input_size) to (B, K) scores.

    Raises:
        ValueError: The name is unknown, a number is out of range, or the network cannot take
            inputs of this size.
        ImportError: torchvision or timm is missing; the message names the extra.

    Examples:
        >>> import torch
        >>> model = create_model("resnet8", num_classes=10, in_channels=1, input_size=(8, 8))
        >>> model(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    for argument, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise ValueError(f"{argument} is {value}; it must be at least 1")
    input_size = tuple(input_size)
    if len(input_size) not in AXES or min(input_size) < 1:
        raise ValueError(
            f"input_size is {input_size}; it must be (L,) for time series or (H, W) for images, "
            "each at least 1"
        )
    zoo, colon, _ = name.partition(":")
    if colon and zoo in ZOOS:
        entry = Entry(ZOOS[zoo].builder(name), 2, ZOOS[zoo].description)
    elif name in _MODELS:
        entry = _MODELS[name]
    else:
        raise unknown_name("model", name, [shown for shown, _ in list_models()])
    if entry.spatial_dims != len(input_size):
        fitting = [shown for shown, e in _MODELS.items() if e.spatial_dims == len(input_size)]
        instead = f"; for these there are {', '.join(sorted(fitting))}" if fitting else ""
        raise ValueError(
            f"model {name!r} takes {AXES[entry.spatial_dims]}, but the data is "
            f"{AXES[len(input_size)]} of size {input_size}{instead}"
        )
    model = entry.build(num_classes=num_classes, in_channels=in_channels, input_size=input_size)
    vars(model)["_passband_architecture"] = {  # what passband.save writes down
        "name": name,
        "num_classes": num_classes,
        "in_channels": in_channels,
        "input_size": input_size,
    }
    return model


def list_models() -> list[tuple[str, str]]:
    """The names that `create_model` knows, each with a description.

    Examples:
        >>> [name for name, _ in list_models()][-2:]
        ['torchvision:NAME', 'timm:NAME']
    """
    own = [(name, entry.description) for name, entry in sorted(_MODELS.items())]
    return own + [(f"{zoo}:NAME", entry.description) for zoo, entry in ZOOS.items()]
