import pytest
import torch
import torchvision
from torch import nn

from passband.networks import create_model


def test_resnet18_is_torchvisions_with_a_cifar_stem() -> None:
    """With the same weights in the same order it is the same function."""
    ours = create_model("resnet18", num_classes=10, in_channels=3, input_size=(32, 32)).eval()
    theirs = torchvision.models.resnet18(num_classes=10).eval()
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    state = ours.state_dict()
    renamed = dict(zip(theirs.state_dict(), state.values(), strict=True))
    theirs.load_state_dict(renamed)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected, scores = theirs(images), ours(images)
    # the same operations in the same order
    assert (scores - expected).norm() / expected.norm() < 1e-6


@pytest.mark.parametrize(("name", "stages"), [("resnet8", 3), ("resnet18", 4)])
def test_every_stage_but_the_first_halves_the_map(name: str, stages: int) -> None:
    model = create_model(name, num_classes=10, in_channels=3, input_size=(32, 32)).eval()
    sizes = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *call: sizes.append(call[2].shape[-1]))
    model(torch.zeros(1, 3, 32, 32))
    assert sorted(set(sizes), reverse=True) == [32 >> stage for stage in range(stages)]
