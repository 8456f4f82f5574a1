"""Networks by name: one file per family, and those of torchvision and timm.

A family registers its networks when it is imported here.
"""

from passband.networks import (
    densenet,
    fcn,
    lenet,
    mobilenet,
    resnet,
    specnet,
    unet,
    vgg,
    wide_resnet,
)
from passband.networks.registry import create_model, list_models

__all__ = [
    "create_model",
    "densenet",
    "fcn",
    "lenet",
    "list_models",
    "mobilenet",
    "resnet",
    "specnet",
    "unet",
    "vgg",
    "wide_resnet",
]
