"""The control beside a chain: a plain network of the same widths, with weights of its own."""

import copy

from torch import nn

from passband.chain.cut import Cutting
from passband.convert.frequency import FrequencyNetwork, FrequencyScheduler


def small_network(model: nn.Module) -> nn.Module:
    """A network of the widths that a converted network shrinks to, to be trained from scratch.

    Convolutions start from He's normal distribution, biases at zero, batch norms at one and zero,
    linear layers as torch's do.

    Args:
        model: The network that `passband.convert` made, shrunk or not; it is left as it is.

    Raises:
        ValueError: The model is not in the channel domain.

    Examples:
        >>> import torch
        >>> import passband as pb
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32), nn.Conv2d(32, 8, 3)
        ... )
        >>> x = torch.randn(2, 3, 9, 9)
        >>> report = pb.convert(model, pb.FrequencyRegularization(keep=0.1), x)
        >>> [tuple(p.shape) for p in small_network(model).parameters()]
        [(4, 3, 3, 3), (4,), (4,), (8, 4, 3, 3), (8,)]
    """
    if not isinstance(model, FrequencyNetwork):
        raise ValueError(
            "model is not in the channel domain; convert it by FrequencyRegularization before"
        )
    network = copy.deepcopy(model).eval()
    FrequencyScheduler(network).finish()
    small = Cutting(network, fold_norms=False, fold_transforms=True, round_to=1).chain()
    for module in small.modules():
        if isinstance(module, (nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)):
            module.reset_parameters()
        elif isinstance(module, nn.modules.conv._ConvNd):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for parameter in small.parameters():
        parameter.requires_grad_(True)
    return small.train()
