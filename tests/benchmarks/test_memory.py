"""The benchmark of memory: its contenders compute what they say."""

import memory
import memory_contenders
import memory_largest
import pytest
import torch
from torch import nn


def test_contenders_are_the_same_network() -> None:
    torch.manual_seed(0)
    features = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    plain = nn.Sequential(*features, nn.Flatten(), nn.Linear(8 * 16, 10))
    x, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    losses = {}
    for contender in memory_contenders.CONTENDERS:
        model = memory_contenders.make_contender(contender, plain)
        loss = memory_contenders.Step(contender, model, x, labels).forward()
        losses[contender.name] = loss.item()
        loss.backward()
    assert losses["checkpoint"] == losses["plain"]
    assert losses["exact c=0.5"] == losses["band-limited c=0.5"]
    assert losses["exact c=0.5, kept on disk"] == losses["exact c=0.5"]
    assert losses["exact c=0.5, checkpoint"] == losses["exact c=0.5"] != losses["plain"]


def test_gradients_differ_as_when_images_are_reordered() -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    plain = torchvision.models.DenseNet(8, (2, 3), 16, num_classes=10)
    exact = memory_contenders.Contender("", 0.5, exact=True)
    errors = memory.gradient_errors(exact, plain, torch.randn(8, 3, 32, 32), torch.arange(8))
    # both are rounding of sums, of which one may happen to be a few times the other
    for kind in ("", "_float64"):
        ours, reordered = (float(errors[f"{error}{kind}"]) for error in memory.ERRORS)
        assert 0 < ours <= 10 * reordered


def test_a_batch_that_does_not_fit_is_found_out() -> None:
    plain = memory_contenders.CONTENDERS[0]
    assert memory_largest.fits("resnet8", plain, 2, 512)
    assert not memory_largest.fits("resnet8", plain, 256, 32)
