"""torch.jit.trace, by which TensorBoard draws a model and older tools deploy it."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import passband as pb
from passband.networks import create_model
from tests.compat.networks import maps
from tests.support import relative_error

# torch warns of each size that becomes part of the trace, as all but the batch's do.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

# The trace does the same sums, which kernels do in another order.
TOLERANCE = 1e-5
SIZE = (12, 10)

METHODS = {
    "band-limited": pb.BandLimit(compression=0.5),
    "matmul": pb.BandLimit(compression=0.5, algorithm="matmul"),
    "exact memory": pb.BandLimit(compression=0.5, memory="exact"),
    "map": pb.SpecNet(0.3, activation="relu", pool="max", batch_norm="keep"),
    "int8": pb.SpecNet(activation="relu", pool="max", batch_norm="keep", storage="int8"),
    "spectrum": pb.SpecNet(0.3),
    "folding": pb.SpecNet(0.3, pool="average"),
    "frequency": pb.FrequencyRegularization(keep=0.3),
}


def converted(method: str) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding="same"), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    )  # fmt: skip
    pb.convert(model, METHODS[method], maps(2, size=SIZE))
    return model.eval()


@pytest.mark.parametrize("method", METHODS)
def test_another_batch_and_another_process(method: str, tmp_path: Path) -> None:
    model = converted(method)
    x = maps(5, size=SIZE)
    with torch.no_grad():
        expected = model(x)  # without rounding to what is stored for a backward pass
    for with_gradient in (True, False):
        with torch.set_grad_enabled(with_gradient):
            traced = torch.jit.trace(model, maps(3, size=SIZE))
        assert relative_error(traced(x), expected) <= TOLERANCE
    torch.jit.save(traced, str(tmp_path / "net.pt"))
    torch.save((x, expected), tmp_path / "maps.pt")
    script = """
import sys, torch
model = torch.jit.load("net.pt")
x, expected = torch.load("maps.pt")
assert "passband" not in sys.modules
print(float((model(x) - expected).norm() / expected.norm()))
"""
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert float(found.stdout) <= TOLERANCE


@pytest.mark.parametrize("activation", ["relu", "spectral-tanh"])
def test_dense_blocks(activation: str) -> None:
    torch.manual_seed(0)
    model = create_model("specdensenet", num_classes=10, in_channels=3, input_size=(8, 8))
    x = torch.randn(2, 3, 8, 8)
    pb.convert(model, pb.SpecNet(0.1, activation=activation), x)
    model.eval()
    traced = torch.jit.trace(model, x, check_trace=False)
    assert relative_error(traced(x[:1]), model(x[:1])) <= TOLERANCE


def test_the_trace_goes_on_behind_a_constant() -> None:
    """Building a transform's matrix is not recorded, what comes before and after it is."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = pb.BandLimitedConv2d(4, 3, 3, band=(4, 3), algorithm="matmul")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * self.layer(x + 1) + x.mean()

    model = Model()
    traced = torch.jit.trace(model, maps(2, size=(11, 13)))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    x = maps(3, size=(11, 13))
    assert relative_error(torch.jit.load(file)(x), model(x)) <= TOLERANCE
