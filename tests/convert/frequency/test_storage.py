from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband import FrequencyRegularization, FrequencyScheduler, convert, load, save, to_chain
from passband.convert import FrequencyNetwork
from passband.convert.frequency.network import frequency_layers
from passband.files import FORMAT
from passband.tensor_file import read_tensors
from tests.convert.frequency.cases import dense, maps, trained
from tests.support import relative_error

SHAPE = (3, 8, 8)


@pytest.mark.parametrize("name", ["resnet20", "densenet121", "mobilenetv2", "vgg8"])
@pytest.mark.parametrize("half", [False, True])
def test_only_what_is_kept_is_stored(name: str, half: bool, tmp_path: Path) -> None:
    model = trained(name, SHAPE)
    path = tmp_path / "net.safetensors"
    save(model, path, half=half)
    again = load(path)
    # half precision has 11 bits, and batch norm on small maps scales its rounding up
    error = relative_error(again(maps(SHAPE)), model(maps(SHAPE)))
    assert error < 0.05 if half else error == 0
    assert not again.training
    stored, _ = read_tensors(path, format=FORMAT, extra="files")
    floating = [tensor for tensor in stored.values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floating} == {torch.float16 if half else torch.float32}
    for layer_name, layer in frequency_layers(model):
        assert stored[f"{layer_name}.weight"].shape == (layer.corner.count,)
    whole = sum(p.numel() for p in dense(name, SHAPE).parameters())
    assert sum(tensor.numel() for tensor in floating) < 0.3 * whole


def test_a_network_that_is_still_shrinking(tmp_path: Path) -> None:
    model = dense("resnet20", SHAPE)
    convert(model, FrequencyRegularization(keep=0.05), maps(SHAPE))
    FrequencyScheduler(model).set_step(50)
    save(model, tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors")
    assert again.training
    assert torch.equal(again.eval()(maps(SHAPE)), model.eval()(maps(SHAPE)))


def test_into_a_model_converted_or_not(tmp_path: Path) -> None:
    source = trained("resnet20", SHAPE)
    save(source, tmp_path / "net.safetensors")
    for converted in (False, True):
        model = dense("resnet20", SHAPE, seed=4)
        if converted:
            convert(model, FrequencyRegularization(keep=0.5), maps(SHAPE))
        assert load(tmp_path / "net.safetensors", model) is model
        assert torch.equal(model.eval()(maps(SHAPE)), source(maps(SHAPE)))
    with pytest.raises(ValueError, match="is of another architecture than model"):
        load(tmp_path / "net.safetensors", dense("resnet56", SHAPE))


def test_kilobytes_in_the_spatial_domain(tmp_path: Path) -> None:
    """The 2023 paper's files: LeNet-5 in 776 numbers of two bytes each."""
    model = dense("lenet5", (1, 28, 28))
    config = FrequencyRegularization(keep=0.0018, domain="spatial", order="zigzag")
    convert(model, config, torch.zeros(1, 1, 28, 28))
    FrequencyScheduler(model).finish()
    path = tmp_path / "net.safetensors"
    save(model, path, half=True)
    numbers = sum(layer.corner.count for _, layer in frequency_layers(model))
    assert numbers < 800
    # two bytes for each number and bias; names and digest are the rest
    assert path.stat().st_size < 2 * (numbers + 584) + 4096
    again = load(path)
    model.half().float()
    assert relative_error(again(torch.ones(1, 1, 28, 28)), model(torch.ones(1, 1, 28, 28))) < 1e-5


def test_numbers_too_large_for_half_precision_stay_as_they_are(tmp_path: Path) -> None:
    model = dense("resnet20", SHAPE)
    with torch.no_grad():
        model.get_parameter("0.weight").fill_(1e6)
    save(model, tmp_path / "net.safetensors", half=True)
    again = load(tmp_path / "net.safetensors")
    assert torch.equal(again.get_parameter("0.weight"), model.get_parameter("0.weight"))
    name = [name for name, _ in model.named_parameters()][-2]
    expected = model.get_parameter(name).half().float()
    assert torch.equal(again.get_parameter(name), expected)
    assert not torch.equal(expected, model.get_parameter(name))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"order": "zigzag"}, {"domain": "spatial"}])
def test_types_other_than_float32(
    dtype: torch.dtype, options: dict[str, str], tmp_path: Path
) -> None:
    """Loaded without a model, a network is of the type that was saved, in all its layers."""
    model = dense("resnet8", SHAPE).to(dtype)
    config = FrequencyRegularization(keep=0.05, **options)  # type: ignore[arg-type]
    convert(model, config, maps(SHAPE).to(dtype))
    FrequencyScheduler(model).finish()
    save(model.eval(), tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors")
    assert {parameter.dtype for parameter in again.parameters()} == {dtype}
    x = maps(SHAPE).to(dtype)
    assert torch.equal(again(x), model(x))


def test_a_larger_corner_into_a_shrunk_model_keeps_its_parameters(tmp_path: Path) -> None:
    large = dense("resnet8", SHAPE)
    convert(large, FrequencyRegularization(keep=0.05), maps(SHAPE))
    save(large.eval(), tmp_path / "net.safetensors")
    model = trained("resnet8", SHAPE, keep=0.05)
    parameters = list(model.parameters())
    load(tmp_path / "net.safetensors", model)
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert torch.equal(model.eval()(maps(SHAPE)), large(maps(SHAPE)))


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2", "densenet121"])
def test_networks_pickle(name: str, tmp_path: Path) -> None:
    """As torch.save writes whole models; what is loaded trains on, and is cut like the other."""
    model = trained(name, SHAPE)
    torch.save(model, tmp_path / "net.pt")
    again = torch.load(tmp_path / "net.pt", weights_only=False)
    assert isinstance(again, FrequencyNetwork) and not again.training
    assert torch.equal(again(maps(SHAPE)), model(maps(SHAPE)))
    chains = [to_chain(network, maps(SHAPE)) for network in (again, model)]
    assert torch.equal(chains[0](maps(SHAPE)), chains[1](maps(SHAPE)))
    save(again, tmp_path / "net.safetensors")
    assert torch.equal(load(tmp_path / "net.safetensors")(maps(SHAPE)), model(maps(SHAPE)))
    fresh = dense(name, SHAPE)
    convert(fresh, FrequencyRegularization(keep=0.1), maps(SHAPE))
    again.load_state_dict(fresh.state_dict())
    assert torch.equal(again(maps(SHAPE)), fresh.eval()(maps(SHAPE)))
    FrequencyScheduler(again).finish()
    again.train()(maps(SHAPE)).sum().backward()


def test_dropout_of_a_pickled_network_follows_its_mode(tmp_path: Path) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.conv(x), 0.5, self.training)

    model = nn.Sequential(Block(), nn.Conv2d(8, 4, 3))
    convert(model, FrequencyRegularization(keep=0.5), maps(SHAPE))
    torch.save(model.eval(), tmp_path / "net.pt")
    again = torch.load(tmp_path / "net.pt", weights_only=False)
    assert torch.equal(again(maps(SHAPE)), model(maps(SHAPE)))
    assert not torch.equal(again.train()(maps(SHAPE)), model(maps(SHAPE)))
