"""The networks of SpecNet, from training to a file that runs elsewhere."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import passband as pb
from passband.cli import main
from passband.networks import create_model
from passband.networks.specnet import VGG16, densenet, vgg16
from passband.nn.spectral_network import SpectralNetwork
from passband.train import TrainConfig, load_run, run
from passband.train.run_folder import RunFolder
from tests.support import assert_close, random
from tests.train.killed import assert_same, weights

TINY = TrainConfig(
    model="speclenet", method="specnet", threshold=0.5, limit_train=64, limit_test=40, epochs=1
)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("data") / "photographs.npz"
    generator = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 8), ("test", 4)):
        arrays[f"x_{part}"] = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 3
    np.savez(path, **arrays)
    return f"npz:{path}"


@pytest.mark.parametrize("model", ["specalexnet", "specvgg16", "specdensenet"])
def test_the_networks_train(model: str, photographs: str, tmp_path: Path) -> None:
    config = TrainConfig(
        data=photographs, model=model, method="specnet", activation="relu", batch_size=4,
        threshold=1.0, epochs=1, augment=False,
    )  # fmt: skip
    result = run(config, tmp_path, progress=False)
    twin = replace(config, method="native", activation="spectral-tanh", threshold=1.0)
    from passband.train.evaluation import example_batch, make_model, step_saved_bytes
    from passband.train.parts import load_parts

    parts = load_parts(twin)
    inputs = example_batch(parts.train, twin)
    kept = step_saved_bytes(make_model(twin, parts.bundle), inputs, twin)
    assert result["saved_bytes"] < 0.3 * kept
    assert 0.5 < result["realised_compression"] < 1


def test_the_largest_resumes_and_comes_back(photographs: str, tmp_path: Path) -> None:
    config = TrainConfig(
        data=photographs, model="specdensenet", method="specnet", activation="relu",
        pool="average", batch_size=4, threshold=0.5, limit_train=4, limit_test=2, epochs=1,
        augment=False, lr=1e-3,
    )  # fmt: skip
    run(replace(config, epochs=2), tmp_path / "at once", progress=False)
    run(config, tmp_path / "resumed", progress=False)
    run(replace(config, epochs=2), tmp_path / "resumed", resume=True, progress=False)
    assert_same(weights(tmp_path / "resumed"), weights(tmp_path / "at once"))
    network, _, bundle = load_run(tmp_path / "resumed")
    x = torch.stack([bundle.test[i][0] for i in range(2)])
    pb.save(network, tmp_path / "net.safetensors")
    with torch.no_grad():
        assert torch.equal(pb.load(tmp_path / "net.safetensors")(x), network(x))


SMALL = {
    "speclenet": (partial(create_model, "speclenet"), 8),
    "specalexnet": (partial(create_model, "specalexnet"), 8),
    "specvgg16": (partial(vgg16, False, widths=tuple(n // 16 for n in VGG16)), 32),
    "specdensenet": (partial(densenet, False, growth=4, layers=(2, 2, 2)), 8),
}


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        *((name, "relu") for name in SMALL),
        ("speclenet", "spectral-tanh"),
        ("specdensenet", "spectral-tanh"),
    ],
)
def test_each_runs_elsewhere(name: str, activation: str, tmp_path: Path) -> None:
    """In ONNX Runtime, by matrix products of real numbers."""
    runtime = pytest.importorskip("onnxruntime")
    make, side = SMALL[name]
    torch.manual_seed(0)
    network = make(num_classes=3, in_channels=3, input_size=(side, side)).eval()
    pb.convert(network, pb.SpecNet(0.3, activation=activation))
    x = random(2, 3, side, side, dtype=torch.float32)
    with torch.no_grad():
        expected = network(x)
    pb.export_onnx(network, x, tmp_path / "net.onnx")
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    # rounding may bring a few coefficients to the other side of the threshold
    assert_close(torch.from_numpy(found), expected, 1e-2)
    onnx = pytest.importorskip("onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert "MatMul" in operators
    assert not operators & {"DFT", "STFT", "ComplexAbs"}


@pytest.mark.parametrize(
    "config",
    [
        replace(TINY, learned_scale=True),
        replace(TINY, activation="relu", pool="max", storage="bfloat16"),
    ],
    ids=["spectral-tanh", "relu"],
)
def test_train_resume_evaluate_save_and_export(config: TrainConfig, tmp_path: Path) -> None:
    longer = replace(config, epochs=2)
    run(longer, tmp_path / "at once", progress=False)
    run(config, tmp_path / "resumed", progress=False)
    result = run(longer, tmp_path / "resumed", resume=True, progress=False)
    assert_same(weights(tmp_path / "resumed"), weights(tmp_path / "at once"))
    assert result["epochs"] == 2
    model, _, bundle = load_run(tmp_path / "resumed")
    assert isinstance(model, SpectralNetwork)
    x = torch.stack([bundle.test[i][0] for i in range(5)])
    pb.save(model, tmp_path / "net.safetensors")
    with torch.no_grad():
        assert torch.equal(pb.load(tmp_path / "net.safetensors")(x), model(x))
    pb.export_onnx(model, x, tmp_path / "net.onnx")  # which compares the outputs
    onnx = pytest.importorskip("onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert not operators & {"DFT", "STFT", "ComplexAbs"}
    assert "MatMul" in operators


def test_a_series_network(tmp_path: Path) -> None:
    pytest.importorskip("aeon")
    config = TrainConfig(
        data="ucr:GunPoint", model="specfcn", method="specnet", activation="relu",
        limit_train=24, limit_test=8, epochs=1, augment=False,
    )  # fmt: skip
    assert run(config, tmp_path, progress=False)["realised_compression"] > 0.3


def test_the_command_takes_the_papers_recipe(tmp_path: Path) -> None:
    options = ["--model", "speclenet", "--limit-train", "40", "--limit-test", "20"]
    out = tmp_path / "run"
    command = ["train", *options, "--method", "specnet", "--budget", "0.004", "--out", str(out)]
    assert main(command) == 0
    config = RunFolder(out).read_config()
    assert (config.epochs, config.lr, config.momentum) == (1, 0.02, 0.95)
    assert (config.batch_size, config.scheduler, config.threshold) == (128, "halving", 1.0)


def test_profile(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "speclenet", "--data", "digits", "--batch-size", "4"]
    assert main(["profile", *options, "--method", "specnet", "--threshold", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "converted: spectrum" in printed
    assert "Converted 2 of 2 convolutions by SpecNet(threshold=0.5)." in printed
