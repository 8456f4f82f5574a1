"""A small network learns to read digits by the same curve, whoever computes its convolutions."""

from functools import cache, lru_cache

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import passband as pb

STEPS = 60
BATCH = 64


@lru_cache(maxsize=1)
def digits() -> tuple[Tensor, Tensor]:
    """Scikit-learn's 1797 real digits of 8x8 pixels, from -1 to 1."""
    images, labels = load_digits(return_X_y=True)
    return torch.from_numpy(images).reshape(-1, 1, 8, 8) / 8 - 1, torch.from_numpy(labels)


def network() -> nn.Sequential:
    """Smooth in its weights: a ReLU that changes sign lets two trainings part for good."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.SiLU(),
        nn.Conv2d(16, 16, 3, padding=1, stride=2, groups=2),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


@cache
def curve(algorithm: str, compression: float, dtype: torch.dtype) -> Tensor:
    """Losses of training; "native" is torch.nn."""
    torch.manual_seed(0)
    model = network().to(dtype)
    if algorithm != "native":
        for name, module in model.named_children():
            if isinstance(module, nn.Conv2d):
                replacement = pb.BandLimitedConv2d.from_conv(
                    module, compression=compression, algorithm=algorithm
                )
                model.register_module(name, replacement)
        assert sum(isinstance(m, pb.BandLimitedConv2d) for m in model) == 3
    images, labels = digits()
    images = images.to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).double()


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Of two curves, relative to the loss at the start, which is near log(10)."""
    return float((found - expected).abs().max() / expected[0])


# Unit roundoff, 1.1e-16 and 6e-8, in sums of some hundred terms, which sixty steps carry on; the
# curves are smooth functions of the weights.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("algorithm", ["auto", "lowpass", "matmul"])
def test_full_band_is_torch(algorithm: str, dtype: torch.dtype) -> None:
    found, expected = curve(algorithm, 0.0, dtype), curve("native", 0.0, dtype)
    assert largest_difference(found, expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("algorithm", ["auto", "matmul", "fft"])
@pytest.mark.parametrize("compression", [0.5, 0.85])
def test_algorithms_share_a_curve(algorithm: str, compression: float) -> None:
    found = curve(algorithm, compression, torch.float64)
    expected = curve("lowpass", compression, torch.float64)
    assert largest_difference(found, expected) <= TOLERANCE[torch.float64]
    # and it is another curve than that of the full band
    native = curve("native", 0.0, torch.float64)
    assert largest_difference(found, native) > 1e-3


@pytest.mark.parametrize("compression", [0.0, 0.5, 0.85])
def test_it_learns(compression: float) -> None:
    losses = curve("lowpass", compression, torch.float64)
    assert losses[0] > 2.0  # log(10) = 2.3 is guessing
    assert losses[-10:].mean() < losses[0] / 2
