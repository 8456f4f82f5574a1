"""What one training step costs: time of several networks in turn, and bytes kept for backward."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband.measure.memory import SavedBytes
from passband.measure.timing import alternate
from passband.train import TrainConfig
from passband.train.evaluation import best_device, has_several_points, make_model
from passband.train.parts import load_parts
from passband.train.sampling import fetch


@dataclass(frozen=True)
class StepCost:
    """Cost of one training step of a network on one batch.

    Args:
        seconds: Median time of forward pass, backward pass and SGD's update.
        saved_bytes: Kept by the whole network for the backward pass, each storage counted once.
        layers_saved_bytes: Kept by its convolutions alone, those of one point left out.
    """

    seconds: float
    saved_bytes: int
    layers_saved_bytes: int


def step_costs(configs: Sequence[TrainConfig], repeats: int) -> list[StepCost]:
    """The cost of a step of each config's untrained network on its data, timed in turn.

    Args:
        configs: The networks; their data, batch size and precision 32 are used.
        repeats: Timed steps of each.
    """
    device = best_device()
    steps, kept = [], []
    for config in configs:
        parts = load_parts(config)
        model = make_model(config, parts.bundle).train().to(device)
        items = fetch(parts.train, list(range(config.batch_size)))
        inputs = torch.stack([input for input, _ in items]).to(device)
        labels = torch.tensor([label for _, label in items], device=device)
        kept.append(_kept(model, inputs))
        steps.append(_step(model, inputs, labels, config))
    seconds = alternate(steps, repeats, warm_up=3, device=device)
    return [StepCost(time, *saved) for time, saved in zip(seconds, kept, strict=True)]


def _kept(model: nn.Module, inputs: Tensor) -> tuple[int, int]:
    with SavedBytes(model) as saved:
        model(inputs)
    per_module = saved.per_module
    layers = (
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd) and has_several_points(name, module)
    )
    return saved.total, sum(per_module.get(name, 0) for name in layers)


def _step(
    model: nn.Module, inputs: Tensor, labels: Tensor, config: TrainConfig
) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), config.lr, config.momentum)

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(inputs), labels))
        optimizer.step()

    return step
