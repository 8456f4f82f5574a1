"""Networks by name: one file per family, and those of torchvision and timm.

A family registers its networks when it is imported here.
"""

from passband.networks import fcn, lenet, resnet, specnet
from passband.networks.registry import create_model, list_models

__all__ = ["create_model", "fcn", "lenet", "list_models", "resnet", "specnet"]
