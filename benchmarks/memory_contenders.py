"""What the benchmarks of memory compare: networks, and ways to train them in less memory."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import passband as pb
from passband.networks import create_model
from passband.train.evaluation import has_several_points


@dataclass(frozen=True)
class Contender:
    """How a step is made to need less memory."""

    name: str
    compression: float | None = None
    exact: bool = False
    checkpoint: bool = False
    autocast: bool = False
    offload: str | None = None


CONTENDERS = (
    Contender("plain"),
    Contender("checkpoint", checkpoint=True),
    Contender("bf16 autocast", autocast=True),
    Contender("band-limited c=0.5", 0.5),
    Contender("exact c=0.5", 0.5, exact=True),
    Contender("exact c=0.85", 0.85, exact=True),
    Contender("exact c=0.5, checkpoint", 0.5, exact=True, checkpoint=True),
    Contender("exact c=0.5, bf16 autocast", 0.5, exact=True, autocast=True),
    Contender("exact c=0.5, kept on disk", 0.5, exact=True, offload="disk"),
)
NETWORKS = ("resnet18", "vgg16_bn", "densenet121", "fcn")


def by_name(name: str) -> Contender:
    return next(contender for contender in CONTENDERS if contender.name == name)


def make_network(name: str, large: bool = False) -> nn.Module:
    """A network of 10 classes with ReLUs in place, as its authors wrote it."""
    torch.manual_seed(0)
    if large:
        import torchvision

        model = torchvision.models.get_model(name, num_classes=10)
    elif name == "fcn":
        model = create_model("fcn", num_classes=50, in_channels=1, input_size=(270,))
    elif name == "resnet8":
        model = create_model("resnet8", num_classes=10, in_channels=3, input_size=(32, 32))
    else:
        import torchvision

        model = torchvision.models.get_model(name, num_classes=10)
        if name == "resnet18":
            model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            model.maxpool = nn.Identity()
        elif name == "vgg16_bn":
            model.avgpool, model.classifier = nn.Identity(), nn.Linear(512, 10)
        else:
            model.features.conv0 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            model.features.pool0 = nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    return model


def make_batch(name: str, batch: int, large: bool = False) -> tuple[Tensor, Tensor]:
    shape, classes = ((1, 270), 50) if name == "fcn" else ((3, 32, 32), 10)
    if large:
        shape = (3, 224, 224)
    return torch.randn(batch, *shape), torch.randint(classes, (batch,))


def into_parts(model: nn.Module) -> None:
    """Put the layers of a sequence up to each pooling, or a series' ReLU, into one of their own.

    torch.utils.checkpoint goes around those; residual and dense networks have parts already.
    """
    for sequence in [m for m in model.modules() if type(m) is nn.Sequential]:
        kinds = [type(module) for module in sequence]
        end = nn.MaxPool2d if nn.MaxPool2d in kinds else nn.ReLU
        if nn.Conv1d not in kinds and nn.MaxPool2d not in kinds:
            continue
        parts, part = [], []
        for module in sequence:
            part.append(module)
            if type(module) is end:
                parts.append(nn.Sequential(*part))
                part = []
        sequence._modules.clear()
        for index, module in enumerate([*parts, *part]):
            sequence.add_module(str(index), module)


def with_checkpoints(model: nn.Module) -> None:
    """torch.utils.checkpoint where it is usual.

    Around residual blocks; around all but the 3 x 3 convolution of dense layers, as torchvision's
    `memory_efficient` does; around the parts of sequences.
    """
    for parent in list(model.modules()):
        if type(parent).__name__ == "_DenseLayer":
            parent.memory_efficient = True
        elif type(parent).__name__ == "BasicBlock":
            parent.forward = MethodType(_checkpointed, parent)
        elif isinstance(parent, nn.Sequential) and any(
            isinstance(child, (nn.Conv1d, nn.Conv2d)) for child in parent
        ):
            holds_activation = any(isinstance(child, nn.ReLU) for child in parent)
            if holds_activation and not isinstance(parent[-1], nn.Linear):
                parent.forward = MethodType(_checkpointed, parent)


def _checkpointed(self: nn.Module, x: Tensor) -> Any:
    return checkpoint(partial(type(self).forward, self), x, use_reentrant=False)


def make_contender(contender: Contender, plain: nn.Module) -> nn.Module:
    model = copy.deepcopy(plain)
    if contender.checkpoint:
        into_parts(model)
    if contender.compression is not None:
        memory = "exact" if contender.exact else None
        config = pb.BandLimit(contender.compression, memory=memory, offload=contender.offload)
        pb.convert(model, config, filter_fn=has_several_points)
    if contender.checkpoint:
        with_checkpoints(model)
    return model


class Step:
    """A training step of one contender."""

    def __init__(self, contender: Contender, model: nn.Module, x: Tensor, labels: Tensor) -> None:
        order = torch.channels_last if x.dim() == 4 else torch.contiguous_format
        model.to(memory_format=order)
        self.contender, self.model, self.labels = contender, model, labels
        self.x = x.contiguous(memory_format=order)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def of(self, x: Tensor, labels: Tensor) -> "Step":
        """The same of another batch."""
        other = copy.copy(self)
        order = torch.channels_last if x.dim() == 4 else torch.contiguous_format
        other.x, other.labels = x.contiguous(memory_format=order), labels
        return other

    def forward(self) -> Tensor:
        """The loss."""
        autocast = torch.autocast(self.x.device.type, torch.bfloat16)
        with autocast if self.contender.autocast else nullcontext():
            return F.cross_entropy(self.model(self.x), self.labels)

    def __call__(self) -> None:
        """Run it."""
        self.optimizer.zero_grad(set_to_none=True)
        self.forward().backward()
        self.optimizer.step()
