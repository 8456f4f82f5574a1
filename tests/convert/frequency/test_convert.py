import copy
import inspect
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband import BandLimit, FrequencyRegularization, convert, revert
from passband.convert import FrequencyNetwork
from passband.convert.frequency.network import frequency_layers
from passband.nn.frequency import FrequencyConv2d
from passband.nn.frequency_maps import FrequencyBatchNorm
from tests.convert.frequency.cases import IDS, NETWORKS, dense, maps, trained
from tests.support import relative_error

CONFIG = FrequencyRegularization(keep=0.1)


@pytest.mark.parametrize(("name", "shape"), NETWORKS, ids=IDS)
def test_revert_gives_the_network_that_was_converted(name: str, shape: tuple[int, ...]) -> None:
    """Weights there and back through their transforms."""
    model = dense(name, shape)
    before = copy.deepcopy(model).eval()
    convert(model, CONFIG, maps(shape))
    assert isinstance(model, FrequencyNetwork)
    revert(model)
    assert all(type(m).__module__.startswith("torch.") for m in model.modules())
    assert model.state_dict().keys() == before.state_dict().keys()
    with torch.no_grad():
        # rounding of a transform each way, through up to a hundred layers
        assert relative_error(model.eval()(maps(shape)), before(maps(shape))) < 1e-4


class Linear(nn.Sequential):
    """A network without activations, of which the dual is the same function."""

    def forward(self, x: Tensor) -> Tensor:
        a = self[0](x)
        b = self[1](a) + a
        c = torch.cat([a, self[2](b)], 1)
        return self[4](self[3](c).flatten(1))


def linear_network() -> nn.Module:
    torch.manual_seed(0)
    return Linear(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.Conv2d(8, 6, 1),
        nn.Conv2d(14, 5, 3, 2, 1),
        nn.Linear(5 * 3 * 3, 4),
    ).double()


def test_without_activations_it_is_the_same_function() -> None:
    """Every layer, the sum, the concatenation and the flattening between two transforms."""
    model = linear_network()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    expected = model(x)
    convert(model, CONFIG, x)
    assert relative_error(model(x), expected) < 1e-12  # rounding of float64


def test_the_cut_network_is_the_uncut_one_with_zeros() -> None:
    """Maps of kept channels alone, against full ones through torch's layers."""
    for order in ("shells", "zigzag"):
        model = linear_network()
        x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
        convert(model, FrequencyRegularization(keep=0.3, order=order), x)
        for _, layer in frequency_layers(model):
            layer.keep_count(max(1, round(0.3 * layer.corner.count)))
        from passband.convert.frequency.network import refresh

        assert isinstance(model, FrequencyNetwork)
        refresh(model)
        cut = model(x)
        revert(model)
        assert relative_error(cut, model(x)) < 1e-12


def test_the_model_stays_the_same_object_with_its_mode_and_hooks() -> None:
    model = dense("resnet20", (3, 8, 8)).eval()
    convert(model, CONFIG, maps((3, 8, 8)))
    assert not any(module.training for module in model.modules() if list(module.children()) == [])
    model.train()
    fresh = copy.deepcopy(model)
    assert torch.equal(fresh(maps((3, 8, 8))), model(maps((3, 8, 8))))


def test_the_report_states_widths_and_multiplications() -> None:
    model = dense("vgg8", (3, 32, 32))
    report = convert(model, FrequencyRegularization(keep=0.007), torch.zeros(1, 3, 32, 32))
    rows = {row["layer"]: row for row in report.rows}
    assert [rows[k]["outputs"] for k in ("0", "4", "8", "12", "15")] == [
        "2 of 64", "8 of 128", "15 of 256", "30 of 512", "43 of 512",
    ]  # fmt: skip
    assert rows["4"]["inputs"] == "2 of 64"  # that many come
    assert rows["0"]["macs_after"] == 32 * 32 * 2 * 3 * 9  # the image has three channels
    assert sum(row["macs_before"] for row in rows.values()) == 96_141_312 + 512 * 4
    assert report.macs_ratio > 200
    assert "Converted 6 layers" in str(report)


@pytest.mark.parametrize("name", ["vgg8", "resnet20", "wrn-40-2", "densenet121", "unet16"])
def test_budgets_of_multiplications_are_met(name: str) -> None:
    shape = (3, 16, 16)
    config = FrequencyRegularization(keep=0.05, per_layer="macs")
    report = convert(dense(name, shape), config, maps(shape))
    # at most the budget; widths are whole numbers, the step of the smallest map the coarsest
    assert 20 <= report.macs_ratio < 40
    first = report.rows[0]
    assert first["inputs"] == "3 of 3"


def test_what_has_no_dual_is_named() -> None:
    report = convert(dense("mobilenetv2", (3, 8, 8)), CONFIG, maps((3, 8, 8)))
    depthwise = [row for row in report.rows if row["result"] == "coefficientwise"]
    assert len(depthwise) == 17
    assert all("has no dual" in row["reason"] for row in depthwise)
    report = convert(dense("unet16", (1, 16, 16)), CONFIG, maps((1, 16, 16)))
    assert sum(row["type"] == "max pooling" for row in report.rows) == 4

    grouped = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 4, 1))
    report = convert(grouped, CONFIG, torch.zeros(1, 4, 8, 8))
    assert [row["result"] for row in report.rows] == ["converted", "uncut", "converted"]
    assert grouped(torch.zeros(1, 4, 8, 8)).shape == (1, 4, 4, 4)


@pytest.mark.parametrize("name", ["lenet5", "unet16", "mobilenetv2"])
def test_in_the_spatial_domain_any_layer_is_regularized(name: str) -> None:
    shape = dict(NETWORKS)[name]
    model = dense(name, shape)
    before = copy.deepcopy(model).eval()
    config = FrequencyRegularization(keep=0.01, domain="spatial", order="zigzag")
    report = convert(model, config)
    assert type(model) is type(before)
    assert all(layer.converted for layer in report.layers)
    with torch.no_grad():
        # rounding of the weights' transform there and back, in float32
        assert relative_error(model.eval()(maps(shape)), before(maps(shape))) < 1e-4
    revert(model)
    assert not any(isinstance(m, FrequencyConv2d) for m in model.modules())


def test_filter_fn_chooses_layers_in_the_spatial_domain() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3))
    config = FrequencyRegularization(keep=0.5, domain="spatial")
    report = convert(model, config, filter_fn=lambda name, _: name == "1")
    assert report.converted == ("1",)
    assert report.rows[1]["result"] == "left: filter_fn"
    whole = nn.Sequential(nn.Conv2d(2, 4, 3))
    with pytest.raises(ValueError, match="filter_fn is given, but in domain 'channel'"):
        convert(whole, CONFIG, torch.zeros(1, 2, 9, 9), filter_fn=lambda *_: True)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_the_report_of_the_spatial_domain_lists_layers_that_are_left() -> None:
    from torch.nn.utils import weight_norm
    from torch.nn.utils.parametrizations import weight_norm as parametrized

    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(2, 4, 3),
            "volume": nn.Conv3d(2, 4, 3),
            "transposed": nn.ConvTranspose1d(2, 4, 3),
            "old": weight_norm(nn.Conv2d(2, 4, 3)),
            "new": parametrized(nn.Conv2d(2, 4, 3)),
            "one": nn.Linear(4, 4),
            "other": nn.Linear(4, 4),
        }
    )
    model["other"].weight = model["one"].weight
    report = convert(model, FrequencyRegularization(keep=0.5, domain="spatial"))
    assert report.converted == ("conv",)
    left = {row["layer"]: (row["result"], row["reason"]) for row in report.rows[1:]}
    assert left.keys() == model.keys() - {"conv"}
    assert {left[name][0] for name in ("volume", "transposed", "new")} == {"left: type"}
    assert {left[name][0] for name in ("old", "one", "other")} == {"left: parameters"}
    assert "left: type: allowed are exactly torch's Conv1d, Conv2d" in str(report)
    assert str(convert(model, FrequencyRegularization(keep=0.4, domain="spatial"))).count("left")


def test_models_that_are_converted_by_another_method() -> None:
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Conv2d(8, 8, 3))
    convert(model, BandLimit(compression=0.5), filter_fn=lambda *_: True)
    message = r"model has BandLimitedConv2d \(0\), .*; use passband.revert\(model\) before"
    with pytest.raises(ValueError, match=message):
        convert(model, CONFIG, torch.zeros(1, 2, 9, 9))
    revert(model)
    convert(model, CONFIG, torch.zeros(1, 2, 9, 9))


def test_converting_again_configures_anew() -> None:
    model = dense("resnet20", (3, 8, 8))
    convert(model, CONFIG, maps((3, 8, 8)))
    report = convert(model, FrequencyRegularization(keep=0.2))
    assert report.config.keep == 0.2
    with pytest.raises(ValueError, match=r"model has domain 'channel' .* use passband.revert"):
        convert(model, FrequencyRegularization(keep=0.2, domain="spatial"))


def test_loading_a_state_dict_tells_concatenations() -> None:
    source = trained("densenet121", (3, 8, 8))
    model = dense("densenet121", (3, 8, 8), seed=5)
    convert(model, FrequencyRegularization(keep=0.1, schedule="linear", steps=3), maps((3, 8, 8)))
    model.load_state_dict(source.state_dict())
    assert torch.equal(model.eval()(maps((3, 8, 8))), source(maps((3, 8, 8))))


def test_functions_and_methods_are_traced_too() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.norm, self.c = nn.BatchNorm2d(6), nn.Linear(6 * 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.norm(self.a(x)))
            x = x.add(self.b(x).relu())
            x = F.avg_pool2d(F.dropout(x, 0.5, self.training), 2)
            return self.c(x.view(x.size(0), -1)) * 2

    model = Net()
    x = torch.randn(3, 2, 4, 4)
    convert(model, FrequencyRegularization(keep=0.2), x)
    assert isinstance(model.norm, FrequencyBatchNorm)
    from passband import FrequencyScheduler

    FrequencyScheduler(model).finish()
    assert model(x).shape == (3, 3)
    assert model(x[:2]).shape == (2, 3)


def test_what_fx_cannot_trace_is_named_with_its_line() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(2, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                return x
            out: Tensor = self.a(x)
            return out

    model = Branches()
    lines, start = inspect.getsourcelines(Branches.forward)
    line = start + next(i for i, text in enumerate(lines) if "x.sum()" in text)
    with pytest.raises(
        ValueError, match=rf"at line {line} of .*test_convert.py \(if x.sum\(\) > 0"
    ):
        convert(model, CONFIG, torch.zeros(1, 2, 5, 5))
    assert type(model.a) is nn.Conv2d  # it is as it was


def refused(message: str, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(2, 4, 3, padding=1)

    Net.forward = forward  # type: ignore[method-assign, assignment]
    model = Net()
    with pytest.raises(ValueError, match=message):
        convert(model, CONFIG, torch.zeros(2, 2, 5, 5))
    assert type(model.a) is nn.Conv2d


def test_what_cannot_act_on_coefficients_is_named_with_its_line() -> None:
    refused(
        r"softmax at line \d+ of .*test_convert.py \(.*\), which cannot act",
        lambda m, x: m.a(x).softmax(1),
    )
    refused("the sum of a map and something else", lambda m, x: m.a(x) + 1)
    refused("a concatenation along another axis", lambda m, x: torch.cat([m.a(x), m.a(x)], 2))
    refused("a mean over channels", lambda m, x: m.a(x).mean(1))
    refused("a change of shape from", lambda m, x: m.a(x).view(2, 4, 25))
    refused("model gives flattened maps", lambda m, x: m.a(x).flatten(1))
    refused("model gives concatenated maps", lambda m, x: torch.cat([m.a(x), m.a(x)], 1))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (None, "example_input is None; domain 'channel' converts whole models"),
        (torch.zeros(1, 5, 8, 8), r"example_input of shape \(1, 5, 8, 8\) does not fit the model"),
        (torch.zeros(3, 8), r"example_input has shape \(3, 8\)|does not fit the model"),
    ],
)
def test_examples_that_do_not_fit(example: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(dense("resnet20", (3, 8, 8)), CONFIG, example)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "keep is 0; allowed is 0 < keep <= 1"),
        ({"keep": 1.5}, "keep is 1.5; allowed is 0 < keep <= 1"),
        ({"keep": float("nan")}, "keep is nan; allowed is 0 < keep <= 1"),
        ({"rate": 1.0}, "rate is 1.0; allowed is 0 < rate < 1"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"round_to": 0}, "round_to is 0; it must be at least 1"),
        ({"order": "rows"}, "order is 'rows'; allowed are shells, zigzag"),
        ({"schedule": "slow"}, "schedule is 'slow'; allowed are geometric, linear, cosine"),
        ({"per_layer": "flops"}, "per_layer is 'flops'; allowed are None, macs"),
        ({"domain": "spatial", "round_to": 8}, "round_to is 8, which chooses widths"),
        ({"per_layer": "macs", "keep_last": 0.5}, "keep_last is 0.5, but with per_layer 'macs'"),
        ({"per_layer": "macs", "order": "zigzag"}, "order is 'zigzag', but with per_layer 'macs'"),
        ({"per_layer": "macs", "least_conv": 9}, "least_conv is 9, but with per_layer 'macs'"),
        ({"per_layer": "macs", "least_linear": 9}, "least_linear is 9, but with per_layer 'macs'"),
        ({"domain": "spatial", "per_layer": "macs"}, "per_layer is 'macs', which chooses widths"),
    ],
)
def test_configs_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        FrequencyRegularization(**options)  # type: ignore[arg-type]


def test_rates_next_to_nothing() -> None:
    config = FrequencyRegularization(keep=0.1, rate=1e-20)
    assert config.shrink_steps > 1e20 and config.kept_at(1000) == 1


def test_configs_of_wrong_types() -> None:
    with pytest.raises(TypeError, match="keep must be a number, got 'a tenth'"):
        FrequencyRegularization(keep="a tenth")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"steps must be a whole number, got 2\.5"):
        FrequencyRegularization(steps=2.5)  # type: ignore[arg-type]
