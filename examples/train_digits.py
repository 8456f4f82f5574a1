"""Train one small network on real digits, natively and band-limited, in a plain PyTorch loop.

Usage: python examples/train_digits.py
"""

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

import passband as pb
from passband.data import DataBundle, load_dataset

EPOCHS = 6


def make_network() -> torch.nn.Sequential:
    """Three convolutions for 8x8 maps; the same weights at each call."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(128, 10),
    )


def train(model: torch.nn.Module, data: DataBundle) -> None:
    """A few epochs of SGD. A converted model needs nothing special."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = DataLoader(data.train, 64, shuffle=True, generator=torch.Generator().manual_seed(0))
    model.train()
    for _ in range(EPOCHS):
        for images, labels in batches:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: torch.nn.Module, data: DataBundle) -> float:
    """Fraction of the test images that are classified right."""
    model.eval()
    batches = DataLoader(data.test, 256)
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    return right / len(data.test)


def main() -> None:
    """Train the network three times and compare."""
    data = load_dataset("digits")
    print(f"{data.source}: {len(data.train)} images to train on, {len(data.test)} to test on")

    native = make_network()
    train(native, data)
    print(f"native                    accuracy {accuracy(native, data):.1%}")

    for compression in (0.3, 0.5):
        model = make_network()
        pb.convert(model, pb.BandLimit(compression=compression), data.train[0][0].unsqueeze(0))
        train(model, data)
        print(f"band-limited at {compression:.0%}       accuracy {accuracy(model, data):.1%}")


if __name__ == "__main__":
    main()
