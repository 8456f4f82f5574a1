import pytest
import torch
from torch import nn

from passband.networks import create_model


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything that fetches weights fails."""

    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError("weights were fetched")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [
        ("torchvision:resnet18", 3, (32, 32)),
        ("torchvision:resnet18", 1, (28, 28)),
        ("torchvision:mobilenet_v3_small", 2, (33, 47)),
        ("torchvision:squeezenet1_1", 1, (40, 40)),
        ("torchvision:googlenet", 1, (32, 32)),
        ("torchvision:inception_v3", 3, (75, 75)),
        ("timm:resnet18", 3, (32, 32)),
        ("timm:resnet18", 1, (28, 28)),
        ("timm:convnext_atto", 2, (64, 64)),
    ],
)
def test_classes_and_channels_are_honoured(name: str, channels: int, size: tuple[int, ...]) -> None:
    model = create_model(name, num_classes=7, in_channels=channels, input_size=size)
    assert model.training
    scores = model(torch.randn(2, channels, *size))
    assert scores.shape == (2, 7)
    scores.square().sum().backward()
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert first.in_channels == channels
    assert first.weight.grad is not None
    assert first.weight.grad.abs().max() > 0


def test_another_first_convolution_differs_in_its_channels_only() -> None:
    def first(channels: int) -> str:
        name = "torchvision:squeezenet1_1"  # a first convolution with a bias
        model = create_model(name, num_classes=7, in_channels=channels, input_size=(40, 40))
        return str(next(module for module in model.modules() if isinstance(module, nn.Conv2d)))

    assert first(3) != first(5)
    assert first(3).replace("3, 64", "5, 64") == first(5)


def test_trying_the_model_leaves_it_and_the_generator_alone() -> None:
    torch.manual_seed(4)
    model = create_model("torchvision:resnet18", num_classes=7, in_channels=3, input_size=(32, 32))
    after = torch.rand(1)
    assert all(
        module.num_batches_tracked == 0 and not module.running_mean.any()
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d)
    )
    torch.manual_seed(4)
    again = create_model("torchvision:resnet18", num_classes=7, in_channels=3, input_size=(64, 64))
    assert torch.equal(torch.rand(1), after)
    state = again.state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet19", r"unknown torchvision model 'resnet19': did you mean 'resnet1"),
        ("timm:resnt18", r"unknown timm model 'resnt18': did you mean 'resnet18'\?"),
        ("timm:hf-hub:someone/something", "unknown timm model 'hf-hub:someone/something': "),
        ("torchvision:fcn_resnet50", "unknown torchvision model 'fcn_resnet50'"),
        (
            "torchvision:alexnet",
            r"model 'torchvision:alexnet' cannot take inputs \(1, 3, 32, 32\): .*too small; use "
            "another input size or model",
        ),
        ("timm:vit_tiny_patch16_224", r"cannot take inputs \(1, 3, 32, 32\): .*224"),
    ],
)
def test_what_cannot_be_made_is_explained(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        create_model(name, num_classes=7, in_channels=3, input_size=(32, 32))
    assert "\n" not in str(caught.value)
