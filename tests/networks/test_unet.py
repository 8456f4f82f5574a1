import pytest
import torch
from torch import nn

from passband.networks import create_model


@pytest.mark.parametrize(("name", "count"), [("unet", 31036546), ("unet16", 1942306)])
def test_scores_for_every_pixel(name: str, count: int) -> None:
    model = create_model(name, num_classes=2, in_channels=1, input_size=(16, 32))
    scores = model(torch.randn(2, 1, 16, 32))
    assert scores.shape == (2, 2, 16, 32)
    nn.functional.cross_entropy(scores, torch.zeros(2, 16, 32, dtype=torch.int64)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_sizes_that_halve_to_fractions_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16; use image_size"):
        create_model("unet", num_classes=2, in_channels=1, input_size=(40, 32))
