import torch
from torch import nn

from passband.networks import create_model


def test_convolutions_keep_the_length_as_padding_same_does() -> None:
    """The padding of an even kernel is 3 before and 4 after."""
    model = create_model("fcn", num_classes=4, in_channels=2, input_size=(31,))
    pad, first = list(model.children())[:2]
    assert isinstance(first, nn.Conv1d)
    series = torch.randn(3, 2, 31)
    length = series.shape[-1]
    padded = nn.functional.pad(series, (3, 4))
    expected = nn.functional.conv1d(padded, first.weight)
    assert torch.equal(first(pad(series)), expected)
    assert expected.shape[-1] == length
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv1d)]
    assert [module.kernel_size[0] for module in convolutions] == [8, 5, 3]
    assert [module.out_channels for module in convolutions] == [128, 256, 128]
    for module in convolutions[1:]:
        assert module(torch.zeros(1, module.in_channels, length)).shape[-1] == length


def test_any_length_goes_in() -> None:
    """The average over time is the only thing between the maps and the scores."""
    model = create_model("fcn", num_classes=4, in_channels=1, input_size=(31,)).eval()
    assert model(torch.randn(2, 1, 77)).shape == (2, 4)
