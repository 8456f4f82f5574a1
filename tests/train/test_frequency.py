"""Training with frequency regularization, its control, a teacher, and segmentation."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from passband import to_chain
from passband.convert.frequency.network import frequency_layers
from passband.train import TrainConfig, load_run, run
from passband.train.classifier import Classifier
from passband.train.evaluation import make_model
from passband.train.parts import load_parts
from tests.support import relative_error
from tests.train.killed import assert_same, weights

CONFIG = TrainConfig(
    model="resnet8", method="frequency", keep=0.05, shrink_steps=6, epochs=3, batch_size=16,
    limit_train=64, limit_test=32, scheduler="none",
)  # fmt: skip


def test_shrinks_trains_and_makes_a_chain(tmp_path: Path) -> None:
    result = run(CONFIG, tmp_path, progress=False)
    assert result["method"] == "frequency" and result["keep"] == 0.05
    assert result["parameters"] < 10_000  # of 77 thousand
    assert sum(layer["macs"] for layer in result["layers"]) < 0.1 * sum(
        layer["native_macs"] for layer in result["layers"]
    )
    model, _, bundle = load_run(tmp_path)
    x = torch.randn(5, *bundle.input_shape)
    assert relative_error(to_chain(model, x)(x), model(x)) < 1e-5  # rounding in float32


def test_resumed_it_is_bit_for_bit_the_same(tmp_path: Path) -> None:
    """While it shrinks: parameters and momentum of a size of their own come from the file."""
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    run(CONFIG, straight, progress=False)
    run(dataclasses.replace(CONFIG, epochs=1), parts, progress=False)
    model, _, _ = load_run(parts)
    assert any(layer.corner.count > 400 for _, layer in frequency_layers(model))
    run(CONFIG, parts, resume=True, progress=False)
    assert_same(weights(parts), weights(straight))


def test_restarts_grow_the_parameters_again(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, shrink_steps=3, restarts=1, shrink="cosine")
    result = run(config, tmp_path, progress=False)
    assert result["parameters"] < 10_000


def test_the_first_weights_are_those_of_the_network() -> None:
    native = dataclasses.replace(CONFIG, method="native", keep=None, shrink_steps=None)
    bundle = load_parts(CONFIG).bundle
    weight = make_model(native, bundle).get_parameter("0.weight")
    dual: Any = make_model(CONFIG, bundle).get_submodule("0")
    # a transform there and back, in float32
    assert relative_error(dual.spatial_weight(), weight) < 1e-6


def test_the_control_has_the_same_widths_and_weights_of_its_own(tmp_path: Path) -> None:
    small = dataclasses.replace(CONFIG, method="small", epochs=1)
    result = run(small, tmp_path, progress=False)
    model, config, bundle = load_run(tmp_path)
    x = torch.randn(3, *bundle.input_shape)
    chain = to_chain(make_model(CONFIG, bundle), x, finish=True)
    assert config.method == "small"
    widths = [
        [m.weight.shape for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        for network in (model, chain)
    ]
    assert widths[0] == widths[1]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 9
    assert result["steps"] == 4
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_teacher_is_learned_from(tmp_path: Path) -> None:
    teacher = TrainConfig(model="resnet8", epochs=1, limit_train=64, limit_test=32)
    run(teacher, tmp_path / "teacher", progress=False)
    short = dataclasses.replace(CONFIG, epochs=1, shrink_steps=2)
    taught = dataclasses.replace(short, teacher=str(tmp_path / "teacher"))
    run(taught, tmp_path / "taught", progress=False)
    run(short, tmp_path / "alone", progress=False)
    one, other = (weights(tmp_path / name)["last"] for name in ("taught", "alone"))
    assert one.keys() == other.keys()  # the teacher is no part of the network
    assert not torch.equal(one["model.0.weight"], other["model.0.weight"])


def test_the_teachers_loss() -> None:
    """Nothing where both agree; temperature squared times the divergence where not."""
    config = dataclasses.replace(CONFIG, teacher_weight=0.5, temperature=2.0)
    same = nn.Identity()
    classifier = Classifier(nn.Identity(), config, has_validation=False, teacher=same)
    scores = torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]])
    loss = torch.tensor(3.0)
    assert classifier._with_teacher(loss, scores, same, scores).item() == pytest.approx(1.5)
    p, q = (torch.softmax(s / 2, 1) for s in (scores.flip(1), scores))
    expected = 1.5 + 0.5 * 4 * (p * (p.log() - q.log())).sum().item() / 2
    found = classifier._with_teacher(loss, scores, same, scores.flip(1)).item()
    assert found == pytest.approx(expected, rel=1e-5)  # float32


def test_segmentation_is_judged_by_dice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.data.test_segmentation import write

    write(tmp_path / "data" / "segmentation" / "lines", 10)
    monkeypatch.setenv("PASSBAND_DATA", str(tmp_path / "data"))
    config = TrainConfig(
        data="segmentation:lines", model="unet16", image_size=16, epochs=2, batch_size=4,
        method="frequency", keep=0.05, shrink_steps=2, scheduler="none",
    )  # fmt: skip
    result = run(config, tmp_path / "run", progress=False)
    assert 0 <= result["test_dice"] <= 1
    assert result["last"]["test_dice"] == result["test_dice"]
    assert result["test_samples"] == 2
    model, _, bundle = load_run(tmp_path / "run")
    x = torch.randn(2, *bundle.input_shape)
    chain = to_chain(model, x)
    assert chain(x).shape == (2, 2, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "frequency"}, "keep is None, but method 'frequency' needs it"),
        ({"method": "small"}, "keep is None, but method 'small' needs it"),
        ({"keep": 0.1}, "method is 'native', which has no keep, nor what goes with it"),
        ({"method": "frequency", "keep": 2.0}, "keep is 2.0; allowed is 0 < keep <= 1"),
        ({"method": "frequency", "keep": 0.1, "compression": 0.5}, "which has no compression"),
        ({"method": "small", "keep": 0.1, "domain": "spatial"}, "domain is 'spatial', which has"),
        ({"teacher_weight": 1.5}, "teacher_weight is 1.5; allowed is 0 to 1"),
        ({"temperature": 0.0}, "temperature is 0.0; allowed is above 0"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)
