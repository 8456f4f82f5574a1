import math

import pytest
import torch
from torch import nn

from passband.networks import create_model, list_models

# name, channels and size of the inputs: what every network of ours must take
CASES = [
    ("lenet5", 1, (8, 8)),
    ("lenet5", 1, (28, 28)),
    ("lenet5", 3, (32, 32)),
    ("lenet5", 2, (4, 5)),
    ("lenet5", 1, (16, 19)),
    ("resnet8", 1, (8, 8)),
    ("resnet8", 3, (32, 32)),
    ("resnet8", 2, (9, 13)),
    ("resnet18", 1, (8, 8)),
    ("resnet18", 3, (32, 32)),
    ("resnet20", 1, (8, 8)),
    ("resnet56", 3, (9, 8)),
    ("vgg8", 3, (32, 32)),
    ("vgg8", 1, (8, 11)),
    ("vgg13", 3, (8, 8)),
    ("wrn-40-2", 3, (8, 8)),
    ("densenet121", 3, (8, 8)),
    ("mobilenetv2", 3, (8, 9)),
    ("fcn", 1, (24,)),
    ("fcn", 6, (101,)),
    ("fcn", 1, (1,)),
    ("speclenet", 1, (28, 28)),
    ("speclenet", 2, (5, 4)),
    ("specalexnet", 3, (32, 32)),
    ("specvgg16", 3, (32, 32)),
    ("specvgg16-bn", 1, (32, 35)),
    ("specdensenet", 3, (8, 9)),
    ("specdensenet-bn", 1, (16, 16)),
    ("specfcn", 1, (24,)),
    ("specfcn-bn", 2, (7,)),
]


SEGMENTATION = ("unet", "unet16")  # tests/networks/test_unet.py


def own_names() -> list[str]:
    return [name for name, _ in list_models() if ":" not in name and name not in SEGMENTATION]


def create(name: str, channels: int, size: tuple[int, ...], classes: int = 7) -> nn.Module:
    return create_model(name, num_classes=classes, in_channels=channels, input_size=size)


def test_the_cases_are_all_the_networks() -> None:
    assert {name for name, _, _ in CASES} == set(own_names())
    assert [name for name, _ in list_models()] == [
        *sorted((*own_names(), *SEGMENTATION)),
        "torchvision:NAME",
        "timm:NAME",
    ]
    assert all(description for _, description in list_models())


@pytest.mark.parametrize(("name", "channels", "size"), CASES)
def test_forward_and_backward(name: str, channels: int, size: tuple[int, ...]) -> None:
    model = create(name, channels, size)
    assert model.training
    scores = model(torch.randn(3, channels, *size))
    assert scores.shape == (3, 7)
    nn.functional.cross_entropy(scores, torch.tensor([0, 6, 2])).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
    assert any(parameter.grad.abs().max() > 0 for parameter in model.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "channels", "size", "count"),
    [
        ("lenet5", 1, (28, 28), 431080),  # Han et al., Deep compression: 431 K
        ("resnet8", 3, (32, 32), 78042),
        # Tian et al., Contrastive representation distillation: 3.97 M and 9.46 M for CIFAR-100
        ("vgg8", 3, (32, 32), 3917386),
        ("vgg13", 3, (32, 32), 9413066),
        # He et al.: 0.27 M and 0.85 M, without the 1 x 1 convolutions of the shortcuts
        ("resnet20", 3, (32, 32), 269722 + 16 * 32 + 32 * 64 + 2 * (32 + 64)),
        ("resnet56", 3, (32, 32), 853018 + 16 * 32 + 32 * 64 + 2 * (32 + 64)),
        ("wrn-40-2", 3, (32, 32), 2243546),  # Zagoruyko and Komodakis: 2.2 M
        ("densenet121", 3, (32, 32), 1000618),
        ("mobilenetv2", 3, (32, 32), 2236682),  # torchvision's for 10 classes: 2,236,682
        ("resnet18", 3, (32, 32), 11173962),
        # kernels, batch norms, scores
        ("fcn", 1, (96,), 128 * 8 + 256 * 128 * 5 + 128 * 256 * 3 + 2 * 512 + 128 * 10 + 10),
        # LeNet-5 with linear layers for maps of 7 x 7 points instead of 4 x 4
        ("speclenet", 1, (28, 28), 431080 + 33 * 50 * 500),
        ("specvgg16", 3, (32, 32), 14714688 + 512 * 10 + 10),  # the convolutions of VGG-16
    ],
)
def test_parameter_counts(name: str, channels: int, size: tuple[int, ...], count: int) -> None:
    model = create(name, channels, size, classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


@pytest.mark.parametrize(("name", "channels", "size"), CASES)
def test_made_of_torch_modules_and_traceable(
    name: str, channels: int, size: tuple[int, ...]
) -> None:
    model = create(name, channels, size).eval()
    leaves = [module for module in model.modules() if not list(module.children())]
    assert all(type(module).__module__.startswith("torch.nn.") for module in leaves)
    traced = torch.fx.symbolic_trace(model)
    inputs = torch.randn(2, channels, *size)
    assert torch.equal(traced(inputs), model(inputs))


@pytest.mark.parametrize(("name", "channels", "size"), CASES)
def test_the_seed_fixes_the_weights(name: str, channels: int, size: tuple[int, ...]) -> None:
    torch.manual_seed(5)
    first = create(name, channels, size).state_dict()
    torch.manual_seed(5)
    second = create(name, channels, size).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", own_names())
def test_convolutions_start_from_hes_distribution(name: str) -> None:
    channels, size = next((c, s) for n, c, s in CASES if n == name)
    for module in create(name, channels, size).modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            weight = module.weight
            # a concatenation has many more inputs than outputs, and grows by the former
            fan = weight.shape[1 if name.startswith("specdense") else 0] * math.prod(
                weight.shape[2:]
            )
            # the deviation of n normal values is itself uncertain by 1 / sqrt(2 n)
            uncertainty = 5 / math.sqrt(2 * weight.numel())
            assert weight.std().item() == pytest.approx(math.sqrt(2 / fan), rel=uncertainty)
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet81",
            r"unknown model 'resnet81': did you mean 'resnet8'\? known are densenet121, fcn",
        ),
        ("torchvison:resnet18", r"unknown model .*: did you mean 'torchvision:NAME'\?"),
        ("", "unknown model '': known are densenet121, fcn"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(name, 1, (8, 8))


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        (
            "fcn",
            (8, 8),
            r"model 'fcn' takes time series \(L,\), but the data is images \(H, W\) of size "
            r"\(8, 8\); for these there are densenet121, lenet5, ",
        ),
        (
            "resnet8",
            (96,),
            r"model 'resnet8' takes images \(H, W\), but the data is time series \(L,\) of size "
            r"\(96,\); for these there are fcn, specfcn, specfcn-bn",
        ),
        ("torchvision:resnet18", (96,), r"takes images .* time series .*; for these there are fcn"),
        ("fcn", (4, 4, 4), r"the data is volumes \(D, H, W\) of size \(4, 4, 4\)$"),
        ("lenet5", (3, 8), r"input_size is \(3, 8\); lenet5 takes images from 4 x 4 pixels up"),
        ("resnet8", (0, 8), r"input_size is \(0, 8\); it must be \(L,\) for time series or"),
        ("resnet8", (), r"input_size is \(\); it must be \(L,\) for time series or \(H, W\)"),
    ],
)
def test_inputs_that_do_not_fit(name: str, size: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(name, 1, size)


def test_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match="num_classes is 0; it must be at least 1"):
        create_model("fcn", num_classes=0, in_channels=1, input_size=(8,))
    with pytest.raises(ValueError, match="in_channels is -1; it must be at least 1"):
        create_model("fcn", num_classes=2, in_channels=-1, input_size=(8,))
