"""The benchmark of memory: its contenders compute what they say."""

import memory
import torch
from torch import nn


def test_contenders_are_the_same_network() -> None:
    torch.manual_seed(0)
    features = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    plain = nn.Sequential(*features, nn.Flatten(), nn.Linear(8 * 16, 10))
    x, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    losses = {}
    for contender in memory.CONTENDERS:
        model = memory.make_contender(contender, plain)
        loss = memory.Step(contender, model, x, labels).forward()
        losses[contender.name] = loss.item()
        loss.backward()
    assert losses["checkpoint"] == losses["plain"]
    assert losses["exact c=0.5"] == losses["band-limited c=0.5"]
    assert losses["exact c=0.5, kept on disk"] == losses["exact c=0.5"]
    assert losses["exact c=0.5, checkpoint"] == losses["exact c=0.5"] != losses["plain"]


def test_a_batch_that_does_not_fit_is_found_out() -> None:
    plain = memory.CONTENDERS[0]
    assert memory.fits("resnet8", plain, 2, 512)
    assert not memory.fits("resnet8", plain, 256, 32)
