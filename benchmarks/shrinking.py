"""What a training step costs as a network shrinks, against the dense network's step.

    OMP_NUM_THREADS=1 python benchmarks/shrinking.py            # VGG8 and ResNet-20, batch 128

Each row is a network that keeps a fraction of its coefficients: forward, backward and an SGD step
of the network in the channel domain, as a share of the same of the dense network. All of them take
turns in one process.
"""

import argparse
import copy
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from machine import provenance, write_result
from torch import Tensor, nn

from passband import FrequencyRegularization, FrequencyScheduler, convert
from passband.bench.layers import digits
from passband.chain.compare import model_macs
from passband.measure.timing import time_rounds
from passband.networks import create_model

FRACTIONS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.007)


def step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)

    def run() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return run


def shrunk(dense: nn.Module, keep: float, per_layer: str | None, images: Tensor) -> nn.Module:
    """The network in the channel domain, its parameters as small as in training."""
    model = copy.deepcopy(dense)
    convert(model, FrequencyRegularization(keep=keep, per_layer=per_layer), images[:2])
    FrequencyScheduler(model, torch.optim.SGD(model.parameters(), 0.01)).finish()
    return model


def measure(name: str, batch: int, seconds: float) -> list[dict]:
    torch.manual_seed(0)
    dense = create_model(name, num_classes=10, in_channels=3, input_size=(32, 32))
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    models = {("", ""): dense}
    for per_layer in (None, "macs"):
        for keep in FRACTIONS:
            models[keep, per_layer or ""] = shrunk(dense, keep, per_layer, images)
    steps = [step(model, images, labels) for model in models.values()]
    rounds = time_rounds(steps, 15, 2, longest=seconds)
    medians = [statistics.median(times) for times in rounds]
    return [
        {
            "network": name,
            "batch": batch,
            "kept": key[0],
            "per_layer": key[1],
            "parameters": sum(p.numel() for p in model.parameters()),
            "macs": model_macs(copy.deepcopy(model).eval(), images[:1]),
            "step_ms": digits(1e3 * median),
            "step": digits(median / medians[0]),
            "rounds": len(times),
        }
        for (key, model), median, times in zip(models.items(), medians, rounds, strict=True)
    ]


def main() -> None:
    """Measure and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=["vgg8", "resnet20"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=3.0)
    options = parser.parse_args()
    share = 60 * options.minutes / len(options.networks)
    origin = provenance("cpu")
    rows = [
        {**row, **origin}
        for name in options.networks
        for row in measure(name, options.batch, share)
    ]
    write_result("shrinking", rows)


if __name__ == "__main__":
    main()
