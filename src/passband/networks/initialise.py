"""First weights."""

from typing import Literal

from torch import nn


def kaiming_(model: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """Draw the weights of every convolution from He's normal distribution, set biases to zero.

    The variance is ``2 / fan_out``, for ReLU networks, or ``2 / fan_in``. Batch norm (weight 1,
    bias 0) and linear layers keep torch's own start.

    Source: He et al., Delving deep into rectifiers (ICCV 2015), section 2.2.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
