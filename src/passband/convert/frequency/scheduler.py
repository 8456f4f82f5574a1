"""The schedule by which a network shrinks, used as torch's learning rate schedulers are."""

from typing import Any

import torch
from torch import Tensor, nn

from passband.convert.frequency.budget import corners_at
from passband.convert.frequency.network import (
    FrequencyNetwork,
    frequency_layers,
    frequency_state,
    refresh,
)


class FrequencyScheduler:
    """Shrinks a network that `passband.convert` gave frequency regularization, step by step.

    After every training step, like a learning rate scheduler; evaluation does not advance it. A
    step computes only with what is kept.

    Args:
        model: The converted network.
        optimizer: What updates its parameters. With it the parameters shrink too: smaller ones
            take their places in the model and in the optimizer, with its state for them. Without
            it, they stay what they are, as torch.nn.parallel.DistributedDataParallel needs.

    Raises:
        ValueError: The model is not converted.

    Examples:
        >>> import passband as pb
        >>> model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3))
        >>> config = pb.FrequencyRegularization(keep=0.1, schedule="linear", steps=10)
        >>> report = pb.convert(model, config, torch.zeros(1, 3, 9, 9))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> scheduler = FrequencyScheduler(model, optimizer)
        >>> for _ in range(5):
        ...     scheduler.step()
        >>> scheduler.kept, model.get_submodule("0").weight.shape
        (0.55, torch.Size([18, 3, 3, 3]))
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.config = frequency_state(model).config
        self.steps = 0

    @property
    def kept(self) -> float:
        """The fraction that is to be kept now."""
        return round(self.config.kept_at(self.steps), 12)

    @property
    def is_finished(self) -> bool:
        """Whether the network has its final size."""
        return self.steps >= self.config.total_steps

    def step(self) -> None:
        """Go on by one training step."""
        self.set_step(self.steps + 1)

    def set_step(self, step: int) -> None:
        """Go to the size that the network has after so many training steps."""
        self.steps = step
        fraction = self.config.kept_at(step)
        state = frequency_state(self.model)
        layers = dict(frequency_layers(self.model))
        changed = False
        with torch.no_grad():
            for name, corner in corners_at(self.model, state, fraction).items():
                layer = layers[name]
                if corner == layer.corner:
                    continue
                changed = True
                before = layer.weight
                layer.keep(corner)
                if self.optimizer is not None:
                    layer.cut()
                    if layer.weight is not before:
                        _exchange(self.optimizer, before, layer.weight)
        if changed and isinstance(self.model, FrequencyNetwork):
            refresh(self.model)

    def finish(self) -> None:
        """Go to the final size at once."""
        self.set_step(max(self.steps, self.config.total_steps))

    def state_dict(self) -> dict[str, Any]:
        """The steps done, for a checkpoint; what is kept is in that of the model."""
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the steps back."""
        self.steps = int(state_dict["steps"])


def _exchange(optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter) -> None:
    """Put a parameter in the place of a larger or smaller one, with the optimizer's state."""
    for group in optimizer.param_groups:
        group["params"] = [new if p is old else p for p in group["params"]]
    if old not in optimizer.state:
        return
    state = optimizer.state.pop(old)
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == old.shape:
            resized = torch.zeros_like(new, dtype=value.dtype)
            both = tuple(slice(min(a, b)) for a, b in zip(old.shape, new.shape, strict=True))
            resized[both] = value[both]
            state[name] = resized
    optimizer.state[new] = state


def unfinished(model: nn.Module) -> float | None:
    """The fraction of its coefficients that a network keeps, if it is to keep fewer."""
    state = frequency_state(model)
    wanted = corners_at(model, state, state.config.keep)
    layers = dict(frequency_layers(model))
    if all(layers[name].corner.count <= corner.count for name, corner in wanted.items()):
        return None
    total = sum(torch.Size(layer.sizes).numel() for layer in layers.values())
    return sum(layer.corner.count for layer in layers.values()) / total
