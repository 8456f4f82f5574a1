import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from passband import FrequencyRegularization, convert, export_onnx, to_chain
from tests.convert.frequency.cases import IDS, NETWORKS, dense, maps, trained
from tests.support import relative_error

ROUNDING = 1e-5  # folded weights are rounded anew, in float32, in up to a hundred layers


@pytest.mark.parametrize(("name", "shape"), NETWORKS, ids=IDS)
def test_the_chain_is_the_network(name: str, shape: tuple[int, ...]) -> None:
    model = trained(name, shape)
    x = maps(shape)
    expected = model(x)
    chain = to_chain(model, x)
    assert all(type(m).__module__.startswith("torch.nn") for m in chain.modules() if m is not chain)
    assert relative_error(chain(x), expected) < ROUNDING
    assert relative_error(chain(x[:2]), expected[:2]) < ROUNDING  # any batch
    assert chain(x).requires_grad is False
    fewer = sum(p.numel() for p in chain.parameters())
    assert fewer < 0.5 * sum(p.numel() for p in dense(name, shape).parameters())


@pytest.mark.parametrize("name", ["resnet20", "wrn-40-2", "densenet121", "mobilenetv2", "unet16"])
@pytest.mark.parametrize(
    ("options", "cut"),
    [
        ({"order": "zigzag"}, {}),
        ({"per_layer": "macs"}, {"round_to": 8}),
        ({"round_to": 4}, {"fold": False}),
        ({}, {"fold": False, "round_to": 4}),
    ],
    ids=["zigzag", "macs", "rounded", "not folded"],
)
def test_however_it_is_cut(name: str, options: dict[str, str], cut: dict[str, int]) -> None:
    shape = dict(NETWORKS)[name]
    model = trained(name, shape, **options)
    x = maps(shape)
    chain = to_chain(model, x, **cut)  # type: ignore[arg-type]
    assert relative_error(chain(x), model(x)) < ROUNDING
    norms = sum(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in chain.modules())
    if cut.get("fold", True):
        assert norms < sum(isinstance(m, nn.BatchNorm2d) for m in dense(name, shape).modules())
    else:
        assert norms == sum(isinstance(m, nn.BatchNorm2d) for m in dense(name, shape).modules())
    if "round_to" in cut:
        widths = [m.out_channels for m in chain.modules() if isinstance(m, nn.Conv2d)]
        assert all(width % cut["round_to"] == 0 or width == 4 for width in widths[1:-1])


def test_bias_float64_and_what_nothing_reads() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20, affine=False), nn.ReLU(),
        nn.Conv2d(20, 9, 3, stride=2), nn.BatchNorm2d(9, track_running_stats=False), nn.Tanh(),
        nn.Conv2d(9, 5, 1),
    ).double()  # fmt: skip
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    convert(model, FrequencyRegularization(keep=0.1, order="zigzag"), x)
    model.eval()
    chain = to_chain(model, x, finish=True)
    from passband import FrequencyScheduler

    FrequencyScheduler(model).finish()
    assert relative_error(chain(x), model(x)) < 1e-12  # rounding of float64


def test_a_chain_of_an_unfinished_network() -> None:
    shape = (3, 8, 8)
    model = dense("resnet20", shape)
    convert(model, FrequencyRegularization(keep=0.1), maps(shape))
    message = r"has not finished shrinking: it keeps 100 % .* is to keep 10 %; train on, or use"
    with pytest.raises(ValueError, match=message):
        to_chain(model, maps(shape))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    chain = to_chain(model, maps(shape), finish=True)
    assert sum(p.numel() for p in chain.parameters()) < 40_000
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_models_and_examples_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="model is not converted; a chain is cut from"):
        to_chain(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 4, 4))
    model = nn.Sequential(nn.Conv2d(2, 4, 3))
    convert(model, FrequencyRegularization(keep=0.5, domain="spatial"))
    with pytest.raises(ValueError, match="model is in the spatial domain; a chain is cut from"):
        to_chain(model, torch.zeros(1, 2, 9, 9))
    network = trained("resnet20", (3, 8, 8))
    with pytest.raises(ValueError, match=r"example_input has shape \(1, 1, 8, 8\); .* \(B, 3, 8,"):
        to_chain(network, torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="round_to is 0; it must be at least 1"):
        to_chain(network, maps((3, 8, 8)), round_to=0)
    with pytest.raises(TypeError, match=r"round_to must be a whole number, got 8\.5"):
        to_chain(network, maps((3, 8, 8)), round_to=8.5)  # type: ignore[arg-type]
    for dtype in (torch.float64, torch.int64):
        message = rf"example_input is {dtype}, and the model torch.float32; use example_input.to"
        with pytest.raises(TypeError, match=message):
            to_chain(network, maps((3, 8, 8)).to(dtype))
    flat = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 5))
    convert(flat, FrequencyRegularization(keep=0.5), torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"\(2, 3, 6, 6\) does not fit the model, which was conv"):
        to_chain(flat, torch.zeros(2, 3, 6, 6), finish=True)
    with torch.no_grad():
        next(flat.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="model gives NaN or infinity for example_input; look"):
        to_chain(flat, torch.zeros(2, 3, 4, 4), finish=True)


@pytest.mark.parametrize("name", ["vgg8", "resnet20", "densenet121", "mobilenetv2", "unet16"])
def test_chains_export(name: str, tmp_path: Path) -> None:
    """To ONNX, where ONNX Runtime's output is compared, and by torch.export."""
    shape = dict(NETWORKS)[name]
    chain = to_chain(trained(name, shape), maps(shape))
    export_onnx(chain, maps(shape), tmp_path / "net.onnx")
    program = torch.export.export(chain, (maps(shape),))
    assert relative_error(program.module()(maps(shape)), chain(maps(shape))) < ROUNDING


def test_a_saved_chain_needs_no_passband(tmp_path: Path) -> None:
    shape = (3, 8, 8)
    chain = to_chain(trained("resnet20", shape), maps(shape))
    torch.save(chain, tmp_path / "chain.pt")
    torch.save((maps(shape), chain(maps(shape))), tmp_path / "example.pt")
    script = (
        "import sys, torch; sys.modules['passband'] = None\n"
        "chain = torch.load('chain.pt', weights_only=False)\n"
        "x, expected = torch.load('example.pt')\n"
        "assert torch.equal(chain(x), expected)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=120)
