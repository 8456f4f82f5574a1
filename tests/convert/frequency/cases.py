"""Small forms of the networks that frequency regularization is for, in a few steps of training."""

import torch
from torch import Tensor, nn

from passband import FrequencyRegularization, FrequencyScheduler, convert
from passband.convert import FrequencyNetwork
from passband.networks import create_model

# name, map: the smallest that the network takes
NETWORKS = [
    ("vgg8", (3, 8, 8)),
    ("vgg13", (3, 8, 8)),
    ("resnet20", (3, 8, 8)),
    ("resnet56", (3, 8, 8)),
    ("resnet18", (3, 8, 8)),
    ("wrn-40-2", (3, 8, 8)),
    ("densenet121", (3, 8, 8)),
    ("mobilenetv2", (3, 8, 8)),
    ("unet16", (1, 16, 16)),
    ("lenet5", (1, 16, 16)),
    ("fcn", (1, 24)),
]
IDS = [name for name, _ in NETWORKS]


def dense(name: str, shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create_model(name, num_classes=4, in_channels=shape[0], input_size=shape[1:])


def maps(shape: tuple[int, ...], batch: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


def trained(
    name: str, shape: tuple[int, ...], steps: int = 3, **options: object
) -> FrequencyNetwork:
    """A converted network after a few steps, shrunk to its end."""
    model = dense(name, shape)
    config = FrequencyRegularization(
        **{"keep": 0.1, "schedule": "linear", "steps": steps, **options}  # type: ignore[arg-type]
    )
    convert(model, config, maps(shape))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
    scheduler = FrequencyScheduler(model, optimizer)
    for step in range(steps):
        optimizer.zero_grad()
        model(maps(shape, seed=step)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    assert isinstance(model, FrequencyNetwork)
    return model.eval()
