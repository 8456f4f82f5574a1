"""Train with frequency regularization, cut, export, and run on the native engine.

Usage: python examples/frequency_chain.py
"""

import tempfile
from pathlib import Path

import torch

import passband as pb
from passband.chain import compile_chain
from passband.data import load_dataset
from passband.measure.timing import alternate
from passband.networks import create_model


def main() -> None:
    """Shrink a ResNet-20 while it learns digits, and compare the chain with it."""
    torch.manual_seed(0)
    data = load_dataset("digits")
    images = torch.stack([image for image, _ in data.train])
    labels = torch.tensor([label for _, label in data.train])
    model = create_model("resnet20", num_classes=10, in_channels=1, input_size=(8, 8))
    config = pb.FrequencyRegularization(keep=0.02, per_layer="macs", schedule="cosine", steps=120)
    report = pb.convert(model, config, images[:2])
    print(f"multiplications: {report.macs_ratio:.0f} times fewer in the end")

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = pb.FrequencyScheduler(model, optimizer)
    for step in range(160):
        batch = torch.randint(len(images), (64,))
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % 40 == 39:
            print(f"step {step + 1}: loss {loss.item():.2f}, {100 * scheduler.kept:.0f} % kept")

    model.eval()
    chain = pb.to_chain(model, images[:2])
    test = torch.stack([image for image, _ in data.test])
    truth = torch.tensor([label for _, label in data.test])
    fast = compile_chain(chain, test)
    accuracy = (fast(test).argmax(1) == truth).float().mean().item()
    print(f"test accuracy of the chain: {100 * accuracy:.0f} %")
    with torch.no_grad():
        error = (fast(test) - model(test)).norm() / model(test).norm()
        dense = create_model("resnet20", num_classes=10, in_channels=1, input_size=(8, 8)).eval()
        seconds = alternate([lambda: dense(test), lambda: fast(test)])
    print(f"difference from the network: {error:.0e}")
    print(f"time: {seconds[0] / seconds[1]:.0f} times less than the dense network in PyTorch")

    with tempfile.TemporaryDirectory() as folder:
        pb.export_onnx(chain, images[:2], Path(folder, "net.onnx"))
        pb.save(model, Path(folder, "net.safetensors"), half=True)
        for file in sorted(Path(folder).iterdir()):
            print(f"{file.name}: {file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
