"""The dynamo exporter writes plain ONNX operators of real numbers, and ONNX Runtime agrees."""

import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import passband as pb
from tests.compat.networks import maps, small_network
from tests.support import relative_error

pytestmark = pytest.mark.skipif(
    torch.__version__ < (2, 7), reason="its exporter knows no matrix product of a dynamic batch"
)

# Rounding of float32 in sums of up to a hundred terms, twice, in another order than torch's.
TOLERANCE = 1e-5


def run(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def assert_plain(path: Path) -> None:
    """Operators of ONNX itself, none of them a DFT, and no complex number anywhere."""
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert not model.functions
    assert {opset.domain for opset in model.opset_import} <= {"", "ai.onnx"}
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not {node.op_type for node in model.graph.node} & {"DFT", "STFT", "If", "Loop", "Scan"}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    types = {value.type.tensor_type.elem_type for value in values}
    types |= {tensor.data_type for tensor in inferred.initializer}
    assert not types & {onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}


def assert_agrees(path: Path, model: nn.Module, axes: int = 2) -> None:
    with torch.no_grad():
        for batch in (1, 3, 7):
            x = maps(batch, axes)
            assert relative_error(run(path, x), model(x)) <= TOLERANCE


@pytest.mark.parametrize(
    ("algorithm", "axes"),
    [("auto", 2), ("lowpass", 2), ("matmul", 2), ("matmul", 1), ("lowpass", 3)],
)
def test_dynamic_batch(algorithm: str, axes: int, tmp_path: Path) -> None:
    model, path = small_network(algorithm, axes).eval(), tmp_path / "net.onnx"
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(
        model, (maps(3, axes),), dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    program.save(path)
    assert_plain(path)
    assert_agrees(path, model, axes)


COLD = """
import sys, torch
from tests.compat.networks import maps, small_network

for algorithm in ("lowpass", "matmul"):
    model = small_network(algorithm).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(
        model, (maps(),), dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    program.save(f"{sys.argv[1]}/{algorithm}.onnx")
    with torch.no_grad():
        torch.save(model(maps()), f"{sys.argv[1]}/{algorithm}.pt")
"""


def test_in_a_fresh_process(tmp_path: Path) -> None:
    """The export is the first to ask for each cached constant; eager mode then finds them sound."""
    subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", COLD, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        check=True,
        timeout=240,
    )
    for algorithm in ("lowpass", "matmul"):
        model = small_network(algorithm).eval()
        assert_plain(tmp_path / f"{algorithm}.onnx")
        assert_agrees(tmp_path / f"{algorithm}.onnx", model)
        with torch.no_grad():
            assert torch.equal(torch.load(tmp_path / f"{algorithm}.pt"), model(maps()))


@pytest.mark.parametrize("algorithm", ["matmul", "fft"])
def test_export_onnx(algorithm: str, tmp_path: Path) -> None:
    model, path = small_network(algorithm), tmp_path / "net.onnx"
    pb.export_onnx(model, maps(), path)
    assert_plain(path)
    assert_agrees(path, model.eval())


def test_circular_padding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = pb.BandLimitedConv2d(
        4, 6, 3, padding=1, padding_mode="circular", compression=0.5, algorithm="matmul"
    ).eval()
    torch.onnx.export(model, (maps(),), tmp_path / "net.onnx", dynamo=True, verbose=False)
    assert_plain(tmp_path / "net.onnx")
    with torch.no_grad():
        assert relative_error(run(tmp_path / "net.onnx", maps()), model(maps())) <= TOLERANCE
