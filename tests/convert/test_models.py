"""Whole networks of others: converted, trained for a step, reverted."""

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from passband import BandLimit
from passband.convert import convert, revert
from passband.networks import create_model
from tests.support import assert_close, random


def vgg16_features() -> nn.Module:
    """VGG-16 without its classifier, nine tenths of its weights and no convolution."""
    vgg = torchvision.models.vgg
    return vgg.make_layers(vgg.cfgs["D"])


def fcn() -> nn.Module:
    return create_model("fcn", num_classes=3, in_channels=1, input_size=(90,))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet18": (torchvision.models.resnet18, (1, 3, 48, 32)),
    "densenet121": (torchvision.models.densenet121, (1, 3, 48, 32)),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, (2, 3, 64, 64)),
    "vgg16": (vgg16_features, (1, 3, 32, 32)),
    "r3d_18": (torchvision.models.video.r3d_18, (1, 3, 2, 16, 16)),
    "timm resnet18": (lambda: timm.create_model("resnet18"), (1, 3, 32, 48)),
    "timm convnext": (lambda: timm.create_model("convnext_atto"), (1, 3, 64, 64)),
    "fcn": (fcn, (4, 1, 90)),
}
CONVOLUTIONS = {
    "resnet18": 20,
    "densenet121": 120,
    "mobilenet_v3_small": 52,
    "vgg16": 13,
    "r3d_18": 20,
    "timm resnet18": 20,
    "timm convnext": 40,
    "fcn": 3,
}


def awaken(model: nn.Module) -> nn.Module:
    """Give batch norms weights as after training.

    Fresh ones shift nothing, which makes maps exactly 0, where ReLU has no derivative and rounding
    decides; timm's even start as 0, which switches whole blocks off.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return model


def outputs_and_gradients(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Output, and the gradients of all weights, in evaluation mode."""
    parameters = list(model.parameters())
    output = model(images)
    gradients = torch.autograd.grad(output, parameters, random(*output.shape, dtype=output.dtype))
    return [output.detach(), torch.cat([g.flatten() for g in gradients])]


@pytest.mark.parametrize("name", MODELS)
def test_full_band_is_the_same_network_and_revert_the_very_same(name: str) -> None:
    build, shape = MODELS[name]
    model, images = awaken(build()).double().eval(), random(*shape)
    layers = {name: type(module) for name, module in model.named_modules()}
    native = outputs_and_gradients(model, images)
    config = BandLimit(algorithm="matmul")
    report = convert(model, config, filter_fn=lambda *_: True)
    assert len(report.converted) == CONVOLUTIONS[name]
    # rounding of float64 (1e-12 for a layer), through up to 120 layers
    for found, expected in zip(outputs_and_gradients(model, images), native, strict=True):
        assert_close(found, expected, 1e-10)
    revert(model)
    assert {name: type(module) for name, module in model.named_modules()} == layers
    for found, expected in zip(outputs_and_gradients(model, images), native, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", MODELS)
def test_the_default_rule_converts_what_it_helps(name: str) -> None:
    build, shape = MODELS[name]
    model, images = awaken(build()).eval(), random(*shape, dtype=torch.float32)
    native = model(images)
    report = convert(model, BandLimit(compression=0.5), images)
    assert len(report.layers) == CONVOLUTIONS[name]
    for layer in report.layers:
        if set(layer.kernel) <= set("1x"):
            assert layer.result == "left: 1x1"
    if name == "mobilenet_v3_small":  # nothing but 1x1 and depthwise layers, and the first one
        assert not report.converted
    else:
        assert report.converted
    assert max(len(line) for line in str(report).split("\n")) <= 100
    changed = not torch.equal(model(images), native)
    assert changed == bool(report.converted)
    model(images).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    revert(model)
    assert torch.equal(model(images), native)
