import pytest
import torch
from torch import nn

from passband.bench.cases import LayerCase
from passband.bench.contenders import (
    DownsampledConv,
    TextbookFFTConv,
    band_limited_layer,
    compiled_pass,
    layer_pass,
    native_layer,
    textbook_refusal,
)

CASES = [
    LayerCase(2, 3, 5, (9, 9), 3, 0.5, training=True),
    LayerCase(2, 3, 5, (8, 8), 7, 0.5, training=True),
    LayerCase(2, 1, 4, (37,), 8, 0.5, training=True, padding=0),
]
# float32: sums of at most 150 products of order one, by another way
TOLERANCE = 1e-5


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def tensors(case: LayerCase) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(case.batch, case.in_channels, *case.size, generator=generator)
    size = (case.batch, case.out_channels, *case.geometry.output_size)
    return maps, torch.randn(size, generator=generator)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_textbook_convolution_is_torch_s(case: LayerCase) -> None:
    native, (maps, grad) = native_layer(case), tensors(case)
    textbook = TextbookFFTConv(native, case)
    assert relative(textbook(maps), native(maps)) < TOLERANCE
    expected, computed = (layer_pass(m, maps, grad, True)() for m in (native, textbook))
    for a, b in zip(computed, expected, strict=True):
        assert relative(a, b) < TOLERANCE


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_contender_has_the_shape_of_the_layer(case: LayerCase) -> None:
    native, (maps, grad) = native_layer(case), tensors(case)
    for module in (DownsampledConv(native, case), band_limited_layer(native, case, "auto")):
        assert module(maps).shape == grad.shape
        gradients = layer_pass(module, maps, grad, True)()
        assert [g.shape for g in gradients] == [maps.shape, native.weight.shape]


def test_the_control_works_on_fewer_points() -> None:
    case = LayerCase(1, 2, 2, (32, 32), 3, 0.85, training=False)
    small = DownsampledConv(native_layer(case), case).small
    assert small == (12, 12)  # 13 real coefficients of 34 points on each axis: 32 * 13 / 34 = 12.2


def test_the_textbook_convolution_is_left_out_with_a_reason() -> None:
    case = LayerCase(1, 512, 512, (14, 14), 3, 0.0, training=False)
    reason = "textbook FFT left out: its filters' spectrum takes 288 MiB"
    assert textbook_refusal(case.geometry, case) == reason
    small = LayerCase(1, 64, 64, (14, 14), 3, 0.0, training=False)
    assert not textbook_refusal(small.geometry, small)


def test_inference_runs_in_evaluation_mode_without_gradients() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3))
    output = layer_pass(module, torch.zeros(2, 3), torch.zeros(2, 3), training=False)()
    assert not module.training
    assert not output.requires_grad


def test_what_cannot_be_compiled_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(layer: nn.Module) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    case = CASES[0]
    assert compiled_pass(native_layer(case), *tensors(case), False) == "not compiled: RuntimeError"
