"""Networks of torchvision and timm, with random weights; nothing is downloaded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from passband.extras import require
from passband.names import unknown_name

# Auxiliary classifiers would make the output of training a tuple; the start of the weights that
# torchvision will make the default is chosen, which silences its warning.
TORCHVISION_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


@dataclass(frozen=True)
class Zoo:
    """A library of models: what it has, and how one is made from name, classes and channels."""

    description: str
    names: Callable[[], list[str]]
    build: Callable[[str, int, int], nn.Module]

    def builder(self, name: str) -> "ZooBuilder":
        """The builder for ``ZOO:NAME``.

        Raises:
            ValueError: The library has no such model.
        """
        known = self.names()
        zoo, _, model = name.partition(":")
        if model not in known:
            raise unknown_name(f"{zoo} model", model, known)
        return ZooBuilder(self, name)


@dataclass(frozen=True)
class ZooBuilder:
    """Makes one model of a library and tries it once."""

    zoo: Zoo
    name: str

    def __call__(
        self, *, num_classes: int, in_channels: int, input_size: tuple[int, ...]
    ) -> nn.Module:
        """The model, which is known to take this input.

        Raises:
            ValueError: The model fails on an input of this size, or does not give class scores.
        """
        model = self.zoo.build(self.name.partition(":")[2], num_classes, in_channels)
        shape = (1, in_channels, *input_size)
        model.eval()
        try:
            with torch.no_grad():
                output = model(torch.zeros(shape))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"model {self.name!r} cannot take inputs {shape}: {reason}; use another input size "
                "or model"
            ) from error
        if not isinstance(output, torch.Tensor) or output.shape != (1, num_classes):
            raise ValueError(f"model {self.name!r} does not give scores for {num_classes} classes")
        return model.train()


def _torchvision_names() -> list[str]:
    models = require("torchvision.models", extra="train")
    names: list[str] = models.list_models(module=models)  # the classifiers of images
    return names


def _torchvision_model(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """A torchvision model; other than 3 channels replace its first convolution."""
    models = require("torchvision.models", extra="train")
    arguments = TORCHVISION_ARGUMENTS.get(name, {})
    model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **arguments)
    if in_channels != 3:
        path, conv = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
        replacement = nn.Conv2d(
            in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            bias=conv.bias is not None,
        )
        nn.init.kaiming_normal_(replacement.weight, mode="fan_out", nonlinearity="relu")
        model.set_submodule(path, replacement)
    return model


def _timm_names() -> list[str]:
    names: list[str] = require("timm", extra="train").list_models()
    return names


def _timm_model(name: str, num_classes: int, in_channels: int) -> nn.Module:
    timm = require("timm", extra="train")
    model: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=num_classes, in_chans=in_channels
    )
    return model


ZOOS = {
    "torchvision": Zoo(
        "an image classifier of torchvision, for example torchvision:resnet18",
        _torchvision_names,
        _torchvision_model,
    ),
    "timm": Zoo(
        "an image classifier of timm, for example timm:convnext_tiny", _timm_names, _timm_model
    ),
}
