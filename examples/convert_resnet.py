"""Convert a ResNet-18, look at the report, turn the knob, go back.

Usage: python examples/convert_resnet.py
"""

import torch

import passband as pb
from passband.networks import create_model


def main() -> None:
    """Convert, run at several compressions, revert."""
    torch.manual_seed(0)
    model = create_model("resnet18", num_classes=10, in_channels=3, input_size=(32, 32)).eval()
    images = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        before = model(images)

    print(pb.convert(model, pb.BandLimit(compression=0.5), images))

    with torch.no_grad():
        for compression in (0.0, 0.3, 0.5, 0.85):
            pb.set_compression(model, compression)
            change = (model(images) - before).norm() / before.norm()
            print(f"compression {compression:.2f}: the scores change by {change:.2%}")

        pb.revert(model)
        print("reverted, the same scores again:", torch.equal(model(images), before))


if __name__ == "__main__":
    main()
