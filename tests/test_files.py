import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from passband import BandLimit, BandLimitedConv2d
from passband.convert import calibrate, convert, set_compression
from passband.files import load, save
from passband.networks import create_model
from passband.tensor_file import DamagedFileError
from tests.support import random


def make_model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 4, 3, bias=False),
    )


def converted() -> nn.Sequential:
    """Three layers: one by compression, one calibrated, one left."""
    model = make_model()
    convert(model, BandLimit(compression=0.5), filter_fn=lambda name, _: name in "03")
    calibrate(model[3:4], [random(1, 8, 11, 11, dtype=torch.float32)], energy=0.7)
    model(random(4, 3, 11, 11, dtype=torch.float32))  # batch norm's statistics are of use
    return model


def bands(model: nn.Module) -> dict[str, object]:
    return {
        name: (layer.compression, layer.energy, layer.band, layer.fft_size, layer.algorithm)
        for name, layer in model.named_modules()
        if isinstance(layer, BandLimitedConv2d)
    }


class TestIntoAModel:
    def test_weights_statistics_and_bands_come_back(self, tmp_path: Path) -> None:
        model, path = converted().eval(), tmp_path / "net.safetensors"
        save(model, path)
        fresh = make_model().eval()
        assert load(path, fresh) is fresh
        assert bands(fresh) == bands(model)
        assert bands(fresh).keys() == {"0", "3"}
        x = random(2, 3, 11, 11, dtype=torch.float32, seed=1)
        assert torch.equal(fresh(x), model(x))
        assert fresh[1].num_batches_tracked == 1

    def test_parameters_stay_the_same_objects_and_modes_as_they_are(self, tmp_path: Path) -> None:
        save(converted().eval(), tmp_path / "net")
        fresh = make_model()
        fresh[4].weight.requires_grad_(False)
        parameters = list(fresh.parameters())
        load(tmp_path / "net", fresh)
        assert all(a is b for a, b in zip(parameters, fresh.parameters(), strict=True))
        assert fresh.training
        assert not fresh[4].weight.requires_grad

    def test_layers_converted_otherwise_are_converted_as_saved(self, tmp_path: Path) -> None:
        model = converted()
        save(model, tmp_path / "net")
        other = make_model()
        convert(other, BandLimit(energy=0.9, algorithm="matmul"), filter_fn=lambda *_: True)
        load(tmp_path / "net", other)
        assert bands(other) == bands(model)
        assert type(other[4]) is nn.Conv2d

    def test_a_plain_model(self, tmp_path: Path) -> None:
        model = make_model()
        save(model, tmp_path / "net")
        fresh = make_model()
        assert not bands(load(tmp_path / "net", fresh))
        assert torch.equal(fresh[3].weight, model[3].weight)

    def test_one_layer_is_a_model(self, tmp_path: Path) -> None:
        layer = BandLimitedConv2d(3, 4, 3, band=(2, 3), fft_size=16, algorithm="lowpass")
        save(layer, tmp_path / "layer")
        fresh = nn.Conv2d(3, 4, 3)
        load(tmp_path / "layer", fresh)
        assert bands(fresh) == {"": (None, None, (2, 3), 16, "lowpass")}

    def test_half_precision_channels_last_and_shared_weights(self, tmp_path: Path) -> None:
        def make() -> nn.Sequential:
            model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
            model[1].weight = model[0].weight
            return model.to(torch.bfloat16, memory_format=torch.channels_last)

        model, fresh = make(), make()
        save(model, tmp_path / "net")
        load(tmp_path / "net", fresh)
        assert fresh[0].weight is fresh[1].weight
        assert fresh[0].weight.dtype is torch.bfloat16
        assert fresh[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(fresh[0].weight, model[0].weight)


class TestAlone:
    @pytest.mark.parametrize(
        ("name", "size"), [("resnet8", (8, 8)), ("fcn", (40,)), ("timm:resnet10t", (32, 32))]
    )
    def test_networks_made_by_name(self, name: str, size: tuple[int, ...], tmp_path: Path) -> None:
        model = create_model(name, num_classes=5, in_channels=1, input_size=size)
        convert(model, BandLimit(compression=0.5), filter_fn=lambda name, _: "0" not in name)
        x = random(2, 1, *size, dtype=torch.float32)
        model(x)
        save(model.eval(), tmp_path / "net")
        generator = torch.get_rng_state()
        same = load(tmp_path / "net")
        assert torch.equal(torch.get_rng_state(), generator)
        assert not same.training
        assert torch.equal(same(x), model(x))
        assert [type(m) for m in same.modules()] == [type(m) for m in model.modules()]

    def test_types_and_mode_as_saved(self, tmp_path: Path) -> None:
        model = create_model("lenet5", num_classes=3, in_channels=1, input_size=(28, 28))
        save(model.double(), tmp_path / "net")
        same = load(tmp_path / "net")
        assert same.training
        assert {p.dtype for p in same.parameters()} == {torch.float64}
        assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in same.parameters())

    def test_a_loaded_network_can_be_saved_again(self, tmp_path: Path) -> None:
        model = create_model("resnet8", num_classes=3, in_channels=1, input_size=(8, 8))
        save(model, tmp_path / "a")
        save(load(tmp_path / "a"), tmp_path / "b")
        again = load(tmp_path / "b").state_dict()
        assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())

    def test_other_models_need_one_to_fill(self, tmp_path: Path) -> None:
        save(make_model(), tmp_path / "net")
        with pytest.raises(ValueError, match=r"does not say how its network is made.*model="):
            load(tmp_path / "net")


class TestTheFile:
    def test_any_reader_of_safetensors_finds_the_state_dict(self, tmp_path: Path) -> None:
        model = converted()
        save(model, tmp_path / "net")
        found = safetensors.torch.load_file(tmp_path / "net")
        assert found.keys() == model.state_dict().keys()
        assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())

    def test_the_description_is_json(self, tmp_path: Path) -> None:
        save(converted(), tmp_path / "net")
        with safetensors.safe_open(tmp_path / "net", "pt") as file:
            metadata = file.metadata()
        description = json.loads(metadata["tree"])
        assert metadata["format"] == "passband-model-2"
        layers = description["methods"]["band-limited"]["layers"]
        assert layers["0"]["method"] == "band-limited"
        assert layers["0"]["compression"] == 0.5

    def test_a_failed_save_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "net"
        save(make_model(), path)
        before = path.read_bytes()
        bad = make_model()
        bad.register_buffer("sparse", torch.eye(3).to_sparse())
        with pytest.raises(TypeError, match="state_dict entry sparse is Tensor, allowed are dense"):
            save(bad, path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]

    def test_damage_is_noticed(self, tmp_path: Path) -> None:
        path = tmp_path / "net"
        save(make_model(), path)
        whole = path.read_bytes()
        for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:-1] + b"\x00", b"", b"{}"):
            path.write_bytes(damaged)
            with pytest.raises(DamagedFileError, match="is damaged"):
                load(path, make_model())

    def test_files_of_others_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "net"
        safetensors.torch.save_file(make_model().state_dict(), path)
        with pytest.raises(ValueError, match="not one of passband's: its format is None"):
            load(path, make_model())
        with pytest.raises(FileNotFoundError, match="no such file"):
            load(tmp_path / "nothing")


def wider() -> nn.Module:
    model = make_model()
    model[4] = nn.Conv2d(8, 5, 3, bias=False)
    return model


def longer() -> nn.Module:
    return make_model().append(nn.Linear(2, 2)).append(nn.Linear(2, 2))


def another_layer() -> nn.Module:
    model = make_model()
    model[3] = nn.ConvTranspose2d(8, 8, 3)
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (wider, r"4\.weight has shape \(4, 8, 3, 3\) in the file and \(5, 8, 3, 3\) in the model"),
        (longer, r"it lacks 5\.bias, 5\.weight, 6\.bias and 1 more and has besides nothing"),
        (lambda: make_model()[:4], r"it lacks nothing and has besides 4\.weight"),
        (
            lambda: make_model().half(),
            r"0\.weight is torch\.float32 in .*; use model\.to\(torch\.float32\)",
        ),
        (another_layer, r"layer '3' is converted there, but in model: transposed"),
    ],
)
def test_a_model_that_does_not_fit_is_left_as_it_was(
    build: Callable[[], nn.Module], message: str, tmp_path: Path
) -> None:
    save(converted(), tmp_path / "net")
    model = build()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(m) for m in model.modules()]
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "net", model)
    assert [type(m) for m in model.modules()] == kinds
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_the_knob_is_saved(tmp_path: Path) -> None:
    model = converted()
    set_compression(model, 0.25)
    save(model, tmp_path / "net")
    assert bands(load(tmp_path / "net", make_model()))["3"] == (0.25, None, None, None, "auto")
