"""SpecNet's layers in other types than float32, and under autocast."""

import torch
from torch import nn

from passband.nn.specnet import SpectralConv2d
from tests.support import random, relative_error


def test_eight_bits_under_autocast() -> None:
    """Gradients or not: with them, spectra in autocast's type are stored in 8 bits."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(SpectralConv2d(c, 16, 3, padding=1, activation="relu", storage="int8") for c in (3, 16))
    )
    x = random(9, 3, 8, 8, dtype=torch.float32)
    with torch.no_grad():
        expected = model(x).to_map()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x).to_map()
    # two layers, each half a step of 1/127 of the largest value, and bfloat16's roundoff of 1/256
    assert relative_error(found, expected) < 0.03
