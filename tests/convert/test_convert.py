import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband import BandLimit, BandLimitedConv1d, BandLimitedConv2d, BandLimitedConv3d
from passband.convert import Report, convert, revert
from tests.support import assert_close, random


def everything(name: str, layer: nn.Module) -> bool:
    return True


def results(report: Report) -> dict[str, str]:
    return {layer.layer: layer.result for layer in report.layers}


def make_model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.Flatten(),
    )


class TestIdentity:
    """Layers stay the same objects in every respect but what they compute."""

    def test_optimizers_made_before_go_on_working(self) -> None:
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        parameters = dict(model.named_parameters())
        convert(model, BandLimit(compression=0.5), filter_fn=everything)
        assert all(p is parameters[name] for name, p in model.named_parameters())
        before = model[3].weight.detach().clone()
        model(random(2, 3, 9, 9, dtype=torch.float32)).square().sum().backward()
        optimizer.step()
        assert not torch.equal(model[3].weight, before)
        revert(model)
        assert all(p is parameters[name] for name, p in model.named_parameters())
        assert type(model[3]) is nn.Conv2d

    def test_references_and_places_that_hold_a_layer_keep_it(self) -> None:
        model = make_model()
        held = model[3]
        convert(model, BandLimit(), filter_fn=everything)
        assert model[3] is held
        assert isinstance(held, BandLimitedConv2d)

    def test_modes_and_frozen_weights(self) -> None:
        model = make_model()
        model[0].eval()
        model[3].weight.requires_grad_(False)
        convert(model, BandLimit(), torch.zeros(1, 3, 9, 9), everything)
        revert(model)
        assert [m.training for m in model] == [False, True, True, True, True]
        assert not model[3].weight.requires_grad
        assert model[0].weight.requires_grad

    def test_type_device_and_memory_order(self) -> None:
        model = make_model().to(torch.bfloat16, memory_format=torch.channels_last)
        strides = model[3].weight.stride()
        convert(model, BandLimit(compression=0.5), filter_fn=everything)
        assert model[3].weight.dtype is torch.bfloat16
        assert model[3].weight.stride() == strides
        assert make_model().to("meta")[3].weight.device.type == "meta"

    def test_hooks_run_once_and_their_handles_remove_them(self) -> None:
        model = make_model()
        calls: list[str] = []
        early = model[3].register_forward_hook(lambda *_: calls.append("forward"))
        model[3].register_full_backward_hook(lambda *_: calls.append("backward"))
        model[3].register_state_dict_post_hook(lambda *_: calls.append("state"))
        convert(model, BandLimit(), filter_fn=everything)
        late = model[3].register_forward_pre_hook(lambda *_: calls.append("late"))
        x = torch.zeros(1, 3, 5, 5)
        model(x).sum().backward()
        model.state_dict()
        assert calls == ["late", "forward", "backward", "state"]
        revert(model)
        early.remove(), late.remove()
        calls.clear()
        model(x).sum().backward()
        assert calls == ["backward"]

    def test_a_layer_at_two_places_stays_one(self) -> None:
        shared = nn.Conv2d(4, 4, 3, padding=1)
        model = nn.ModuleDict({"left": shared, "right": nn.Sequential(shared)})
        report = convert(model, BandLimit(), filter_fn=everything)
        assert results(report) == {"left": "converted"}
        assert model["left"] is model["right"][0]
        assert isinstance(model["left"], BandLimitedConv2d)
        revert(model)
        assert model["left"] is model["right"][0]
        assert type(shared) is nn.Conv2d

    def test_shared_weights_stay_shared(self) -> None:
        left, right = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
        right.weight = left.weight
        model = nn.ModuleList([left, right])
        convert(model, BandLimit(), filter_fn=everything)
        assert left.weight is right.weight

    def test_the_model_itself_may_be_a_layer(self) -> None:
        conv = nn.Conv1d(4, 4, 3)
        config = BandLimit(compression=0.5, algorithm="lowpass")
        report = convert(conv, config, torch.zeros(1, 4, 9), everything)
        assert results(report) == {"(model)": "converted: lowpass"}
        assert isinstance(conv, BandLimitedConv1d)
        revert(conv)
        assert type(conv) is nn.Conv1d

    def test_nothing_of_the_conversion_remains_after_revert(self) -> None:
        model = make_model()
        before = {key: set(m.__dict__) for key, m in model.named_modules()}
        convert(model, BandLimit(compression=0.5), torch.zeros(1, 3, 9, 9), everything)
        revert(model)
        assert {key: set(m.__dict__) for key, m in model.named_modules()} == before

    def test_copies_and_pickles_of_a_converted_model(self) -> None:
        model = make_model()
        convert(model, BandLimit(compression=0.5), filter_fn=everything)
        x = random(2, 3, 9, 9, dtype=torch.float32)
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(other(x), model(x))
            revert(other)
            assert isinstance(model[3], BandLimitedConv2d)
            assert type(other[3]) is nn.Conv2d


class Renamed(nn.Conv2d):
    """A subclass with a constructor and a helper, and nothing changed."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3)

    def channels(self) -> int:
        return self.in_channels


class Standardized(nn.Conv2d):
    """A subclass that computes something else."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight - self.weight.mean(), self.bias)


class Reset(nn.Conv2d):
    """A subclass that changes what is not the computation, but may matter all the same."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


class Noted:
    def note(self) -> str:
        return "noted"


class Mixed(Noted, nn.Conv2d):
    """A subclass of something else too, as distributed wrappers make them."""


def replaced_forward() -> nn.Module:
    conv = nn.Conv2d(2, 2, 3)
    conv.forward = lambda input: input  # type: ignore[method-assign]
    return conv


LEFT: list[tuple[str, Callable[[], nn.Module]]] = [
    ("transposed", lambda: nn.ConvTranspose2d(2, 2, 3)),
    ("subclass", lambda: Standardized(2, 2, 3)),
    ("subclass", lambda: Reset(2, 2, 3)),
    ("subclass", lambda: Mixed(2, 2, 3)),
    ("lazy", lambda: nn.LazyConv2d(2, 3)),
    ("own forward", replaced_forward),
    ("parametrized", lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3))),
    ("parametrized", lambda: nn.utils.spectral_norm(nn.Conv2d(2, 2, 3))),
    ("not real", lambda: nn.Conv2d(2, 2, 3, dtype=torch.complex64)),
]


class TestWhatIsLeft:
    @pytest.mark.parametrize(("word", "build"), LEFT)
    @pytest.mark.filterwarnings("ignore:.*spectral_norm.* is deprecated:FutureWarning")
    def test_layers_that_cannot_be_converted_even_if_asked(
        self, word: str, build: Callable[[], nn.Module]
    ) -> None:
        layer = build()
        kind = type(layer)
        report = convert(nn.Sequential(layer), BandLimit(), filter_fn=everything)
        assert results(report) == {"0": f"left: {word}"}
        assert report.layers[0].reason
        assert type(layer) is kind

    def test_subclasses_that_change_nothing_are_converted_and_come_back(self) -> None:
        model = nn.Sequential(Renamed(4))
        x = random(2, 4, 9, 9, dtype=torch.float32)
        native = model(x)
        report = convert(model, BandLimit(algorithm="matmul"), filter_fn=everything)
        assert results(report) == {"0": "converted"}
        assert_close(model(x), native)
        convert(model, BandLimit(compression=0.5), filter_fn=everything)
        assert model[0].compression == 0.5
        revert(model)
        assert type(model[0]) is Renamed
        assert model[0].channels() == 4
        assert torch.equal(model(x), native)

    def test_by_the_channels_without_an_example(self) -> None:
        model = nn.ModuleDict(
            {
                "first": nn.Conv2d(3, 64, 7, stride=2),
                "deep": nn.Conv2d(16, 8, 3),
                "shallow": nn.Conv2d(15, 64, 3),
                "strided": nn.Conv2d(64, 64, 3, stride=2),
                "wide strided": nn.Conv2d(128, 64, 3, stride=2),
                "groups": nn.Conv2d(32, 32, 3, groups=4),
                "depthwise": nn.Conv2d(64, 64, 7, groups=64),
                "multiplied depthwise": nn.Conv2d(64, 128, 7, groups=64),
                "point": nn.Conv2d(512, 512, 1),
                "series": nn.Conv1d(32, 8, 5),
                "volume": nn.Conv3d(8, 8, 3),
                "patches": nn.Conv2d(64, 64, 4, stride=4),
            }
        )
        assert results(convert(model, BandLimit(compression=0.5))) == {
            "first": "left: few channels",
            "deep": "converted",
            "shallow": "left: few channels",
            "strided": "left: few channels",
            "wide strided": "converted",
            "groups": "left: few channels",
            "depthwise": "left: depthwise",
            "multiplied depthwise": "left: depthwise",
            "point": "left: 1x1",
            "series": "converted",
            "volume": "converted",
            "patches": "left: few channels",
        }
        assert type(model["volume"]) is BandLimitedConv3d

    def test_by_multiplications_with_an_example(self) -> None:
        """The same layer on two maps: on the larger one the dense transforms cost too much."""
        for size, expected in ((12, "converted: matmul"), (96, "left: no gain")):
            model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1))
            config = BandLimit(compression=0.5, algorithm="matmul")
            report = convert(model, config, torch.zeros(32, 8, size, size))
            assert results(report) == {"0": expected}
            row = report.rows[0]
            assert (row["macs_after"] < row["macs_before"]) == (size == 12)

    def test_layers_that_do_not_run(self) -> None:
        model = make_model()
        model[0].register_module("idle", nn.Conv2d(64, 64, 3))
        example = torch.zeros(2, 3, 9, 9)
        assert results(convert(model, BandLimit(), example))["0.idle"] == "left: not run"
        assert results(convert(model, BandLimit(), example, everything))["0.idle"] == "converted"

    def test_filter_fn_decides_alone(self) -> None:
        model = nn.Sequential(
            nn.Conv2d(64, 64, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, groups=4)
        )
        seen: list[tuple[str, type]] = []

        def only_the_last(name: str, layer: nn.Module) -> bool:
            seen.append((name, type(layer)))
            return name == "2"

        report = convert(model, BandLimit(), filter_fn=only_the_last)
        assert results(report) == {
            "0": "left: filter_fn",
            "1": "left: filter_fn",
            "2": "converted",
        }
        assert seen == [("0", nn.Conv2d), ("1", nn.Conv2d), ("2", nn.Conv2d)]

    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            (BandLimit(band=6), r"band is 6 on axis 0, but a grid of 9 points has 1 to 5 .*"),
            (BandLimit(band=(2, 2, 2)), r"band is \(2, 2, 2\), allowed is one number or 2 of them"),
            (BandLimit(fft_size=8), r"fft_size is .*8.*, allowed is at least the padded map.*"),
        ],
    )
    def test_a_band_that_does_not_fit_a_layer(self, config: BandLimit, reason: str) -> None:
        model = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 3, 3))
        report = convert(model, config, torch.zeros(1, 3, 18, 18), everything)
        assert results(report) == {"1": "left: does not fit"}
        assert re.match(reason, report.layers[0].reason)


class TestAgain:
    def test_converting_twice_configures_anew(self) -> None:
        model = make_model()
        x = torch.zeros(2, 3, 9, 9)
        convert(model, BandLimit(compression=0.5), x, everything)
        report = convert(model, BandLimit(band=2, algorithm="matmul"), x, everything)
        assert results(report) == {"0": "converted: matmul", "3": "converted: matmul"}
        assert report.layers[0].type == "BandLimitedConv2d"
        for layer in (model[0], model[3]):
            assert (layer.compression, layer.band, layer.algorithm) == (None, 2, "matmul")

    def test_a_layer_left_the_second_time_keeps_its_first_band(self) -> None:
        model = make_model()
        convert(model, BandLimit(compression=0.5), filter_fn=everything)
        convert(model, BandLimit(compression=0.8), filter_fn=lambda name, _: name == "3")
        assert (model[0].compression, model[3].compression) == (0.5, 0.8)

    def test_revert_of_a_plain_model_changes_nothing(self) -> None:
        model = make_model()
        revert(model)
        assert [type(m) for m in model] == [type(m) for m in make_model()]


class TestErrors:
    def test_a_config_without_a_handler(self) -> None:
        with pytest.raises(TypeError, match=r"config is float \(0\.5\), allowed are BandLimit"):
            convert(make_model(), 0.5)  # type: ignore[arg-type]

    def test_an_algorithm_that_cannot_run_is_named_before_anything_changes(self) -> None:
        model = make_model()
        with pytest.raises(ValueError, match="algorithm is 'fast'"):
            convert(model, BandLimit(algorithm="fast"))
        assert type(model[0]) is nn.Conv2d

    def test_an_example_that_does_not_fit_the_model_changes_nothing(self) -> None:
        model = make_model()
        with pytest.raises(RuntimeError, match="channels"):
            convert(model, BandLimit(), torch.zeros(1, 4, 9, 9))
        assert type(model[0]) is nn.Conv2d
        assert not model[0]._forward_pre_hooks


def test_energy_bands_follow_the_example() -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular"))
    flat, rough = torch.ones(2, 16, 12, 12), random(2, 16, 12, 12, dtype=torch.float32)
    config = BandLimit(energy=0.9)
    cuts = [convert(model, config, x).layers[0].realised_compression for x in (flat, rough)]
    assert cuts[0] is not None
    assert cuts[1] is not None
    assert cuts[0] > 0.9 > cuts[1]


def test_models_called_by_keyword() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(32, 32, 5)

        def forward(self, *, series: Tensor, **_: Any) -> Tensor:
            return self.conv(series)

    report = convert(Named(), BandLimit(compression=0.5), {"series": torch.zeros(4, 32, 60)})
    assert report.converted == ("conv",)
