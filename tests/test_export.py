from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import passband as pb
from passband.networks import create_model
from tests.support import relative_error

# Rounding of float32 through a few layers; the file's own check allows more, for deep networks.
TOLERANCE = 1e-5


def run(path: Path, *inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    output: np.ndarray[Any, Any] = session.run(None, feeds)[0]
    return torch.from_numpy(output)


def operators(path: Path) -> set[tuple[str, str]]:
    """Domain and name of every operator, those of functions and inner graphs too."""
    model = onnx.load(path)
    assert not model.functions
    return {(node.domain, node.op_type) for node in model.graph.node}


def small(algorithm: str = "auto") -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        pb.BandLimitedConv2d(3, 8, 3, stride=2, padding=1, compression=0.5, algorithm=algorithm),
        nn.BatchNorm2d(8),
        nn.Dropout(),
        nn.Conv2d(8, 4, 3),
        nn.Flatten(),
    )


@pytest.mark.parametrize("algorithm", ["matmul", "lowpass", "fft"])
def test_any_algorithm_at_any_batch_of_plain_operators(algorithm: str, tmp_path: Path) -> None:
    model, path = small(algorithm), tmp_path / "net.onnx"
    pb.export_onnx(model, torch.randn(2, 3, 11, 14), path)
    found = operators(path)
    assert {domain for domain, _ in found} == {""}  # ONNX's own operators
    assert not {name for _, name in found} & {"DFT", "STFT", "If", "Loop"}
    assert "MatMul" in {name for _, name in found}
    model.eval()
    with torch.no_grad():
        for batch in (1, 2, 5):
            x = torch.randn(batch, 3, 11, 14)
            assert relative_error(run(path, x), model(x)) < TOLERANCE
    assert model[0].algorithm == algorithm


@pytest.mark.parametrize(("name", "size"), [("fcn", (41,)), ("lenet5", (28, 28))])
def test_whole_networks(name: str, size: tuple[int, ...], tmp_path: Path) -> None:
    model = create_model(name, num_classes=3, in_channels=1, input_size=size)
    x = torch.randn(1, 1, *size)
    pb.convert(model, pb.BandLimit(compression=0.5), filter_fn=lambda *_: True)
    pb.export_onnx(model, x, tmp_path / "net.onnx")
    with torch.no_grad():
        assert relative_error(run(tmp_path / "net.onnx", x), model.eval()(x)) < TOLERANCE


class Two(nn.Module):
    """Two inputs, one of them optional, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = pb.BandLimitedConv1d(2, 2, 3, compression=0.5, padding=1)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        both = self.conv(left) + right
        return both, {"largest": both.amax(-1)}


@pytest.mark.parametrize("by_name", [False, True])
def test_several_inputs_and_outputs(by_name: bool, tmp_path: Path) -> None:
    model, x, y = Two(), torch.randn(1, 2, 15), torch.randn(1, 2, 15)
    example = {"left": x, "right": y} if by_name else (x, y)
    pb.export_onnx(model, example, tmp_path / "net.onnx")
    with torch.no_grad():
        wanted, _ = model(torch.cat([x, y]), torch.cat([y, x]))
    found = run(tmp_path / "net.onnx", torch.cat([x, y]), torch.cat([y, x]))
    assert relative_error(found, wanted) < TOLERANCE


def test_a_fixed_batch(tmp_path: Path) -> None:
    pb.export_onnx(small(), torch.randn(1, 3, 9, 9), tmp_path / "net.onnx", dynamic_batch=False)
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        run(tmp_path / "net.onnx", torch.randn(2, 3, 9, 9))


def test_the_model_is_left_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = small("fft")
    model[3].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    x = torch.randn(2, 3, 9, 9, generator=torch.Generator())
    pb.export_onnx(model, x, tmp_path / "net.onnx")
    assert [m.training for m in model] == [True, True, True, False, True]
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(state[n], v) for n, v in model.state_dict().items())
    assert model[0].algorithm == "fft"
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert capfd.readouterr() == ("", "")  # the exporter talks of its progress otherwise


def test_energy_cannot_be_exported(tmp_path: Path) -> None:
    model = nn.Sequential(pb.BandLimitedConv2d(3, 8, 3, energy=0.9))
    x = torch.randn(2, 3, 9, 9)
    with pytest.raises(ValueError, match=r"layer 0 has energy=0\.9.*passband\.calibrate"):
        pb.export_onnx(model, x, tmp_path / "net.onnx")
    pb.calibrate(model, [x], 0.9)
    pb.export_onnx(model, x, tmp_path / "net.onnx")


def test_a_file_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, export = tmp_path / "net.onnx", pb.export_onnx.__globals__["_export"]
    path.write_text("old")

    def export_another(model: nn.Sequential, *arguments: Any) -> Any:
        program = export(model, *arguments)
        model[2] = nn.Sigmoid()
        return program

    monkeypatch.setitem(pb.export_onnx.__globals__, "_export", export_another)
    with pytest.raises(RuntimeError, match="ONNX Runtime's output differs from the model's by"):
        pb.export_onnx(small(), torch.randn(2, 3, 9, 9), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    pb.export_onnx(small(), torch.randn(2, 3, 9, 9), path, check=False)
    assert operators(path)


def test_bfloat16_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model is in torch\.bfloat16, which cannot be checked"):
        pb.export_onnx(small().bfloat16(), torch.randn(2, 3, 9, 9), tmp_path / "net.onnx")
