"""Find each layer's band from the energy of its maps, on a time series network.

Usage: python examples/bands_from_energy.py
"""

import torch
from torch.utils.data import DataLoader

import passband as pb
from passband.data import load_dataset
from passband.networks import create_model


def main() -> None:
    """Convert a fully convolutional network for GunPoint and calibrate it at several energies."""
    torch.manual_seed(0)
    data = load_dataset("ucr:GunPoint", download=False)
    channels, length = data.input_shape
    batches = [series for series, _ in DataLoader(data.train, 25)]

    for energy in (0.5, 0.9, 0.99):
        model = create_model(
            "fcn", num_classes=data.num_classes, in_channels=channels, input_size=(length,)
        )
        pb.convert(model, pb.BandLimit(), filter_fn=lambda name, layer: layer.in_channels > 1)
        pb.calibrate(model, batches, energy=energy)
        print(f"{energy:.0%} of the energy:")
        for name, layer in model.named_modules():
            if isinstance(layer, pb.BandLimitedConv1d):
                band = layer.geometry((length,)).band
                print(
                    f"  {name}: {band.kept[0]} of {band.coefficients} frequencies, "
                    f"{band.realised_compression:.0%} discarded"
                )


if __name__ == "__main__":
    main()
