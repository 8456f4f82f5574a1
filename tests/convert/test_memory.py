"""memory="exact" on whole models: what is found, that gradients stay, what is kept, how it ends."""

import copy
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import passband as pb
from passband.measure.memory import SavedBytes, saved_bytes
from passband.networks import create_model
from passband.nn.fused_class import fused_settings
from tests.support import random, relative_error

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

# Sums over the batch in another order, through up to 121 layers with batches of 2; float64.
TOLERANCE = 1e-9


def several_points(name: str, module: Any) -> bool:
    return max(module.kernel_size) > 1 and module.groups == 1


def convert(model: nn.Module, **options: Any) -> Any:
    return pb.convert(model, pb.BandLimit(compression=0.5, **options), filter_fn=several_points)


def make_resnet8() -> nn.Module:
    torch.manual_seed(0)
    return create_model("resnet8", num_classes=10, in_channels=3, input_size=(16, 16))


def images(batch: int = 4, size: int = 16, dtype: torch.dtype = torch.float32) -> Tensor:
    return random(batch, 3, size, size, dtype=dtype)


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(3)  # of dropout
    labels = torch.arange(len(x)) % 10
    F.cross_entropy(model(x), labels).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Each by its relative norm; one that is nothing but rounding by that of the largest.

    In front of a batch norm, biases and (behind scale-free layers) scales have no gradient.
    """
    assert found.keys() == expected.keys()
    least = 1e-6 * max(grad.norm().item() for grad in expected.values())
    for name, grad in expected.items():
        assert relative_error(found[name], grad, least) <= TOLERANCE, name


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "torchvision resnet18": (
        lambda: torchvision.models.resnet18(num_classes=10),
        {"conv-bn-relu-max pool": 1, "conv-bn-relu": 8, "conv-bn-add-relu": 8, "conv-bn": 3},
    ),
    "torchvision vgg11_bn": (
        lambda: torchvision.models.vgg11_bn(num_classes=10, init_weights=False).features,
        {"conv-bn-relu-max pool": 5, "conv-bn-relu": 3},
    ),
    "torchvision vgg11": (
        lambda: torchvision.models.vgg11(num_classes=10, init_weights=False).features,
        {"conv-relu-max pool": 5, "conv-relu": 3},
    ),
    "torchvision densenet": (
        lambda: torchvision.models.DenseNet(8, (2, 3), 16, num_classes=10, drop_rate=0.0),
        {
            "conv-bn-relu-max pool": 1,
            "cat-bn-relu-conv-bn-relu-conv": 5,
            "bn-relu-conv-average pool": 1,
        },
    ),
    "torchvision mobilenet_v2": (
        lambda: torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.35),
        {"conv-bn-relu6": 35, "conv-bn": 17, "dropout": 1},
    ),
    "torchvision mobilenet_v3_small": (
        lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
        {"conv-bn-hardswish": 18, "conv-bn-relu": 5, "conv-relu": 9, "conv-bn": 11, "dropout": 1},
    ),
    "timm resnet18": (
        lambda: timm.create_model("resnet18", num_classes=10),
        {"conv-bn-relu-max pool": 1, "conv-bn-relu": 8, "conv-bn-add-relu": 8, "conv-bn": 3},
    ),
    "timm mobilenetv2_050": (
        lambda: timm.create_model("mobilenetv2_050", num_classes=10),
        {"conv-bn-relu6": 35, "conv-bn": 7, "conv-bn-add": 10},
    ),
    "timm resnetv2_50": (
        lambda: timm.create_model("resnetv2_50", num_classes=10, layers=(1, 1, 1, 1)),
        {
            "conv-max pool": 1,
            "conv-bn-relu": 8,
            "conv-add": 4,
        },
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_models_of_others(name: str, training: bool) -> None:
    make, blocks = MODELS[name]
    torch.manual_seed(0)
    model = make().double().train(training)
    convert(model)
    fused = copy.deepcopy(model)
    report = convert(fused, memory="exact")
    assert Counter(b.kind for b in report.blocks if b.result == "fused") == blocks
    assert list(fused.state_dict()) == list(model.state_dict())
    x = images(2, 64, torch.float64)

    def run(network: nn.Module) -> dict[str, Tensor]:
        scores = network if "vgg" not in name else nn.Sequential(network, nn.Flatten())
        return gradients(scores, x)

    assert_same_gradients(run(fused), run(model))
    for ours, theirs in zip(fused.buffers(), model.buffers(), strict=True):
        assert relative_error(ours, theirs) <= TOLERANCE


class TestModel:
    """What is left of a model is what it was."""

    def test_state_dict_both_ways(self) -> None:
        plain, fused = make_resnet8(), make_resnet8()
        convert(fused, memory="exact")
        plain.load_state_dict(fused.state_dict())
        fused.load_state_dict(plain.state_dict())
        assert type(fused[3]).__name__ == type(plain[3]).__name__
        assert repr(fused[3]).replace("BandLimited", "").count("conv1") == 1

    @pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    def test_copies_are_fused_and_their_own(self, way: Callable[[nn.Module], nn.Module]) -> None:
        model = make_resnet8()
        convert(model, memory="exact")
        other = way(model)
        assert fused_settings(other) == (None, None)
        x = images()
        expected = gradients(model, x)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        for name, grad in gradients(other, x).items():
            assert torch.equal(grad, expected[name]), name

    def test_revert_and_anew(self) -> None:
        model = make_resnet8()
        classes = [type(module) for module in model.modules()]
        convert(model, memory="exact")
        convert(model, memory="exact", spectrum_dtype=torch.bfloat16)
        assert fused_settings(model) == ("bfloat16", None)
        convert(model)
        assert fused_settings(model) is None
        convert(model, memory="exact")
        pb.revert(model)
        assert [type(module) for module in model.modules()] == classes
        assert set(model.__dict__) == set(make_resnet8().__dict__)

    def test_files(self, tmp_path: Path) -> None:
        pytest.importorskip("safetensors")
        model, fresh = make_resnet8(), make_resnet8()
        convert(model, memory="exact", offload="disk")
        pb.save(model, tmp_path / "net.safetensors")
        pb.load(tmp_path / "net.safetensors", fresh)
        assert fused_settings(fresh) == (None, "disk")
        assert fused_settings(pb.load(tmp_path / "net.safetensors")) == (None, "disk")
        convert(model)
        pb.save(model, tmp_path / "net.safetensors")
        assert fused_settings(pb.load(tmp_path / "net.safetensors", fresh)) is None

    def test_export(self, tmp_path: Path) -> None:
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name)
        model = make_resnet8()
        convert(model, memory="exact")
        pb.export_onnx(model, images(2), tmp_path / "net.onnx")  # which checks the outputs
        assert (tmp_path / "net.onnx").exists()

    def test_calibration_sees_the_layers(self) -> None:
        model = make_resnet8()
        convert(model, memory="exact")
        assert len(pb.calibrate(model, [images()], energy=0.9).rows) == 7

    def test_a_shared_module(self) -> None:
        conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        model = nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU(), conv, nn.BatchNorm2d(16))
        model = model.double()
        convert(model)
        fused = copy.deepcopy(model)
        assert len(convert(fused, memory="exact").blocks) == 2
        x = random(3, 16, 9, 9)
        results = []
        for network in (model, fused):
            network.zero_grad()
            network(x).square().mul(random(3, 16, 9, 9, seed=1)).sum().backward()
            results.append({n: p.grad for n, p in network.named_parameters()})
        assert_same_gradients(*results[::-1])


class Odd(nn.Module):
    """A container whose forward is given by each test."""

    def __init__(self, forward: Callable[["Odd", Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.drop, self._forward = nn.Dropout(0.5), forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def by_values(m: Odd, x: Tensor) -> Tensor:
    return m.norm(m.conv(x)) if x.square().sum() > 0 else x


def used_elsewhere(m: Odd, x: Tensor) -> Tensor:
    y = m.conv(x)
    return m.relu(m.norm(y)) + y


def changed_in_place(m: Odd, x: Tensor) -> Tensor:
    y = m.relu(x + 1)
    y += m.norm(m.conv(x))
    return y


def residual_changed(m: Odd, x: Tensor) -> Tensor:
    y = x * 2
    z = y.add_(m.norm(m.conv(x)))
    return m.relu(z) + y


def mode_in_forward(m: Odd, x: Tensor) -> Tensor:
    y = F.relu(m.norm(m.conv(x)))
    return F.dropout(y, 0.5, True) if m.training else y * 3


def scaled_addition(m: Odd, x: Tensor) -> Tensor:
    return m.relu(torch.add(m.norm(m.conv(x)), x, alpha=2))


@pytest.mark.parametrize(
    ("forward", "kinds"),
    [
        (by_values, []),
        (used_elsewhere, []),
        (changed_in_place, ["conv-bn-add"]),
        (residual_changed, ["conv-bn"]),
        (mode_in_forward, ["conv-bn-relu"]),
        (scaled_addition, ["conv-bn"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("training", [True, False])
def test_odd_forwards(
    forward: Callable[[Odd, Tensor], Tensor], kinds: list[str], training: bool
) -> None:
    torch.manual_seed(0)
    model = Odd(forward).double().train(training)
    fused = copy.deepcopy(model)
    report = pb.convert(fused, pb.BandLimit(memory="exact"), filter_fn=lambda *_: False)
    assert [b.kind for b in report.blocks if b.result == "fused"] == kinds
    if not kinds:
        assert next(b.block for b in report.blocks if b.result == "left") == "norm"
    x, results = random(3, 4, 8, 8), []
    for network in (model, fused):
        torch.manual_seed(1)
        output = network(x)
        output.square().sum().backward()
        results.append({"output": output.detach(), "conv": network.conv.weight.grad})
    assert torch.equal(results[0]["output"], results[1]["output"])
    assert relative_error(results[1]["conv"], results[0]["conv"]) <= TOLERANCE


class TestReport:
    def test_lines(self) -> None:
        model = make_resnet8()
        config = pb.BandLimit(compression=0.5, memory="exact")
        report = pb.convert(model, config, images(), several_points)
        assert [b.block for b in report.blocks][:3] == ["0", "3.conv1", "3.conv2"]
        block = report.blocks[1]
        assert block.saved_bytes_before is not None and block.saved_bytes_after is not None
        assert block.saved_bytes_after < 0.3 * block.saved_bytes_before
        assert "9 blocks run as one operation" in str(report)
        assert len(report.converted) == 7
        assert all(row["algorithm"] for row in report.rows if row["layer"] in report.converted)

    def test_what_was_left_and_why(self) -> None:
        model = Odd(by_values)
        report = pb.convert(model, pb.BandLimit(memory="exact"))
        assert "forward of Odd cannot be traced" in report.blocks[0].reason
        assert "cannot be traced" in str(report)


class TestKeptBytes:
    """Counted exactly, so that a byte more fails."""

    def test_of_a_residual_network_by_blocks(self) -> None:
        model, batch = make_resnet8(), 4
        convert(model, memory="exact")
        with SavedBytes(model) as saved:
            model(images(batch))

        def spectrum(channels: int, points: int) -> int:
            layer = nn.Conv2d(channels, channels, 3, padding=1)
            conv = pb.BandLimitedConv2d.from_conv(layer, compression=0.5)
            kept = conv.geometry((points, points)).band.real_sizes
            return 4 * batch * channels * kept[0] * kept[1]

        def statistics(channels: int) -> int:
            return 2 * 4 * channels

        def bits(channels: int, points: int) -> int:
            return batch * channels * points * points // 8

        assert {name: saved.per_module[name] for name in ("0", "3.conv1", "3.conv2")} == {
            "0": spectrum(3, 16) + statistics(16),
            "3.conv1": spectrum(16, 16) + statistics(16),
            "3.conv2": spectrum(16, 16) + statistics(16) + bits(16, 16),
        }
        assert saved.per_module["4.conv1"] == spectrum(16, 16) + statistics(32)
        # of the 1x1 shortcut of stride 2 a quarter of its input
        assert saved.per_module["4.shortcut.0"] == 4 * batch * 16 * 8 * 8 + statistics(32)

    def test_of_maxima(self) -> None:
        conv = nn.Conv2d(3, 16, 3, padding=1)
        model = nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        pb.convert(model, pb.BandLimit(memory="exact"), filter_fn=lambda *_: False)
        x = images(4, 16)
        assert saved_bytes(lambda: model(x), model) == x.nbytes + 2 * 4 * 16 + 4 * 16 * 8 * 8

    def test_of_dense_layers(self) -> None:
        """Each feature once, beside what comes in and the states of the channels."""
        model = torchvision.models.DenseNet(8, (3,), 16, num_classes=10)
        block = model.features.denseblock1
        convert(block, memory="exact")
        x = random(4, 16, 16, 16, dtype=torch.float32).requires_grad_()
        kept = saved_bytes(lambda: block(x), block)
        features = x.nbytes * (16 + 2 * 8) // 16
        statistics = 2 * 4 * (16 + 24 + 32 + 3 * 32)
        assert kept == features + statistics

    @pytest.mark.parametrize(
        ("compression", "allowed"), [(0.5, 0.37), (0.85, 0.14)], ids=["half", "most"]
    )
    def test_of_resnet18_beside_plain(self, compression: float, allowed: float) -> None:
        """The targets, whose shares do not depend on the batch: against in-place ReLU."""
        torch.manual_seed(0)
        model = create_model("resnet18", num_classes=10, in_channels=3, input_size=(32, 32))
        x = images(2, 32)
        plain = saved_bytes(lambda: model(x), model)
        config = pb.BandLimit(compression=compression, memory="exact")
        pb.convert(model, config, filter_fn=several_points)
        assert saved_bytes(lambda: model(x), model) <= allowed * plain


def test_two_hundred_steps_of_training() -> None:
    """The loss curves agree to rounding, which training carries on: float64."""
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    ).double()  # fmt: skip
    convert(plain)
    fused = copy.deepcopy(plain)
    assert sum(b.result == "fused" for b in convert(fused, memory="exact").blocks) == 2
    x, labels = random(64, 3, 10, 9), torch.arange(64) % 4
    curves = []
    for model in (plain, fused):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        losses = []
        for step in range(200):
            part = slice(16 * (step % 4), 16 * (step % 4) + 16)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[part]), labels[part])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(torch.tensor(losses, dtype=torch.float64))
    assert curves[0][-1] < 0.5 * curves[0][0]  # it learns
    # rounding of 1e-16 in each step, carried on by 200 of them
    assert relative_error(curves[1], curves[0]) <= 1e-10
