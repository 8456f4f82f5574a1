import torch

from passband.bench.layers import Rounds
from passband.bench.machine import Peaks
from passband.bench.networks import NetworkCase, measure_network
from passband.networks import create_model

PEAKS = Peaks(multiplications=1e10, bytes=1e10)
ONCE = Rounds(1, shortest=0.0)


def test_a_row_for_each_compression() -> None:
    case = NetworkCase("resnet8", (2, 3, 12, 12), 10, training=True, compressions=(0.0, 0.85))
    rows = measure_network(case, PEAKS, ONCE)
    assert [row["compression"] for row in rows] == [0.0, 0.85]
    for row in rows:
        assert row["compiled_ms"] == row["note"] == ""
        assert row["winner"] in ("native", "channels_last", "converted", "converted_channels_last")
    natives = {(row["native_ms"], row["native_multiplications"]) for row in rows}
    assert len(natives) == 1  # measured once, in turn with all of ours
    assert rows[1]["multiplications"] < rows[1]["native_multiplications"]
    assert "matmul" in rows[1]["algorithms"]


def test_the_work_of_a_network_is_that_of_its_layers() -> None:
    rows = measure_network(NetworkCase("fcn", (2, 1, 50), 3, False, (0.5,)), PEAKS, ONCE)
    per_series = 50 * (128 * 8 + 256 * 128 * 5 + 128 * 256 * 3) + 128 * 3
    assert rows[0]["native_multiplications"] == 2 * per_series
    assert rows[0]["channels_last_ms"] == ""


def test_a_training_step_leaves_the_weights_finite() -> None:
    from passband.bench.networks import _network_pass

    torch.manual_seed(0)
    model = create_model("resnet8", num_classes=10, in_channels=3, input_size=(8, 8))
    step = _network_pass(model, torch.randn(4, 3, 8, 8), torch.arange(4), training=True)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        step()
    after = list(model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.isfinite().all() for p in after)
