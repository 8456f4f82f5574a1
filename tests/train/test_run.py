import csv
import dataclasses
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from passband.train import TrainConfig, evaluate, load_run, run
from passband.train.checkpoint_file import read_checkpoint, write_checkpoint
from passband.train.run_folder import RunFolder
from tests.train.killed import assert_same, metrics, train_to_end, weights, write_images

TINY = TrainConfig(model="lenet5", limit_train=64, limit_test=40, epochs=1, seed=1)
BAND_LIMITED = dataclasses.replace(TINY, method="band-limited", compression=0.5, epochs=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs; tests that change it copy it."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    run(BAND_LIMITED, out, progress=False)
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def unfinish(out: Path) -> None:
    """Leave a run as it is when it is killed just before the result is written."""
    (out / "result.json").unlink()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_leaves_a_run_folder(finished: Path) -> None:
    record = json.loads((finished / "config.json").read_text())
    assert TrainConfig.from_dict(record["config"]) == BAND_LIMITED
    assert record["torch"] == torch.__version__
    with (finished / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert list(rows[0]) == [
        "epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "learning_rate",
        "seconds",
    ]  # fmt: skip
    assert list((finished / "tensorboard").glob("events.*"))
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == [
        "best.safetensors", "last.safetensors", "previous.safetensors",
    ]  # fmt: skip


def test_nothing_in_a_run_folder_is_pickled(finished: Path) -> None:
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert {path.suffix for path in files if path.parent.name != "tensorboard"} == {
        ".json", ".csv", ".safetensors",
    }  # fmt: skip
    for path in files:
        # A zip, as torch.save writes it, or a bare pickle of protocol 2 or newer.
        assert not path.read_bytes().startswith((b"PK", b"\x80")), path


def test_the_result_says_what_the_run_is_worth(finished: Path) -> None:
    result = RunFolder(finished).read_result()
    assert result is not None
    last_row = metrics(finished)[-1]
    assert result["checkpoint"] == "last"
    assert result["best_chosen_on"] == "test"
    assert result["test_accuracy"] == result["last"]["test_accuracy"]
    assert result["last"]["epoch"] == result["epochs"] == 2
    assert result["test_accuracy"] == float(last_row["test_accuracy"])
    # The same examples summed in the same batches; the sums are of float32.
    assert result["test_loss"] == pytest.approx(float(last_row["test_loss"]), rel=1e-6)
    assert result["steps"] == 4
    assert result["parameters"] == sum(
        tensor.numel() for tensor in weights(finished)["last"].values()
    )
    assert result["step_milliseconds"] > 0
    cuts = [layer["realised_compression"] for layer in result["layers"]]
    assert [cut is None for cut in cuts] == [False, False, True, True]  # two convolutions
    assert 0.3 < result["realised_compression"] < 0.7  # asked for 0.5, on grids of 8 and 12 points
    assert 0 < result["saved_bytes"] < 10e6


def test_a_native_run_has_no_band(tmp_path: Path) -> None:
    result = run(TINY, tmp_path, progress=False)
    assert result["realised_compression"] is None
    model, _, _ = load_run(tmp_path)
    assert all(type(module).__module__.startswith("torch.nn") for module in model.modules())


def test_method_and_band_do_not_change_the_first_weights() -> None:
    from passband.train.evaluation import make_model
    from passband.train.parts import load_parts

    bundle = load_parts(TINY).bundle
    native, limited = make_model(TINY, bundle), make_model(BAND_LIMITED, bundle)
    assert_same(dict(native.state_dict()), dict(limited.state_dict()))


def test_repeats_itself_bit_for_bit(finished: Path, tmp_path: Path) -> None:
    torch.rand(3)
    run(BAND_LIMITED, tmp_path, progress=False)
    assert_same(weights(tmp_path), weights(finished))
    assert metrics(tmp_path) == metrics(finished)


def test_loading_processes_change_nothing(tmp_path: Path) -> None:
    write_images(tmp_path / "images.npz", train=40)
    config = TrainConfig(data=f"npz:{tmp_path / 'images.npz'}", epochs=2, batch_size=8)
    for workers in (0, 2):
        out = tmp_path / str(workers)
        train_to_end(dataclasses.replace(config, num_workers=workers), out)
    assert_same(weights(tmp_path / "2"), weights(tmp_path / "0"))


def test_refuses_a_folder_with_a_run(finished: Path) -> None:
    with pytest.raises(FileExistsError, match="holds a run: resume it, or choose another folder"):
        run(BAND_LIMITED, finished, progress=False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"band": 99, "compression": None}, "band is 99 on axis 0"),
        ({"teacher": "absent"}, "absent holds no run"),
    ],
)
def test_a_training_that_cannot_start_leaves_nothing(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    wrong = dataclasses.replace(BAND_LIMITED, **fields)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(wrong, tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_says_so_and_returns_its_result(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "result.json").stat().st_mtime_ns
    result = run(BAND_LIMITED, finished, resume=True)
    assert result == RunFolder(finished).read_result()
    assert capsys.readouterr().out == f"{finished} is finished: 2 epochs\n"
    assert (finished / "result.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lr", 0.5, "cannot resume with lr 0.5: the run has 0.01"),
        ("compression", 0.7, "cannot resume with compression 0.7: the run has 0.5"),
        ("epochs", 1, "cannot resume with epochs 1: the run has 2; only more of them"),
    ],
)
def test_refuses_to_resume_with_another_config(
    field: str, value: Any, message: str, finished: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(dataclasses.replace(BAND_LIMITED, **{field: value}), finished, resume=True)


def test_more_epochs_extend_a_run_as_if_it_had_been_longer(copied: Path, tmp_path: Path) -> None:
    longer = dataclasses.replace(BAND_LIMITED, epochs=3)
    result = run(longer, copied, resume=True, progress=False)
    run(longer, tmp_path / "at once", progress=False)
    assert result["epochs"] == result["last"]["epoch"] == 3
    assert RunFolder(copied).read_config() == longer
    assert_same(weights(copied), weights(tmp_path / "at once"))
    assert metrics(copied) == metrics(tmp_path / "at once")


@pytest.mark.parametrize("scheduler", ["cosine", "step"])
def test_more_epochs_stretch_a_schedule(scheduler: str, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, epochs=2, scheduler=scheduler, limit_train=32)
    run(config, tmp_path, progress=False)
    run(dataclasses.replace(config, epochs=4), tmp_path, resume=True, progress=False)
    rates = [float(row["learning_rate"]) for row in metrics(tmp_path)]
    expected = {"cosine": [1, 0.5, 0.5, 0.5 - 2**-1.5], "step": [1, 0.1, 0.1, 0.01]}[scheduler]
    # The rates are products of a few rounded factors.
    assert rates == pytest.approx([0.01 * factor for factor in expected], rel=1e-12)


def test_resumes_when_only_the_result_is_missing(finished: Path, copied: Path) -> None:
    unfinish(copied)
    (copied / "metrics.csv").unlink()
    result = run(BAND_LIMITED, copied, resume=True, progress=False)
    assert result == RunFolder(finished).read_result()
    assert metrics(copied) == metrics(finished)


def test_a_damaged_checkpoint_gives_a_line_and_the_one_before_is_used(
    finished: Path, copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unfinish(copied)
    damage(copied / "checkpoints" / "last.safetensors")
    with caplog.at_level(logging.WARNING, "passband"):
        run(BAND_LIMITED, copied, resume=True, progress=False)
    [line] = [record.getMessage() for record in caplog.records]
    assert "last.safetensors is damaged" in line
    assert line.endswith("it is set aside as last.damaged")
    assert "\n" not in line
    assert_same(weights(copied), weights(finished))
    assert metrics(copied) == metrics(finished)


def test_without_any_good_checkpoint_a_run_begins_again(
    finished: Path, copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unfinish(copied)
    damage(copied / "checkpoints" / "last.safetensors")
    os.truncate(copied / "checkpoints" / "previous.safetensors", 1000)
    with caplog.at_level(logging.WARNING, "passband"):
        run(BAND_LIMITED, copied, resume=True, progress=False)
    assert [record.getMessage().split(" is ")[-1] for record in caplog.records][:2] == [
        "set aside as last.damaged",
        "set aside as previous.damaged",
    ]
    assert caplog.records[2].getMessage().endswith("has no checkpoint: the run begins again")
    assert_same(weights(copied), weights(finished))


def test_a_damaged_best_checkpoint_is_reported(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unfinish(copied)
    damage(copied / "checkpoints" / "best.safetensors")
    with caplog.at_level(logging.WARNING, "passband"):
        result = run(BAND_LIMITED, copied, resume=True, progress=False)
    assert result["best"] is None
    assert "the result has no best epoch" in caplog.text


def test_a_checkpoint_of_more_processes_is_refused(copied: Path) -> None:
    unfinish(copied)
    last = copied / "checkpoints" / "previous.safetensors"
    content = read_checkpoint(last)
    content["passband"]["random"] *= 2
    write_checkpoint(last.with_name("last.safetensors"), content)
    with pytest.raises(ValueError, match="of 2 processes and this is a training with 1"):
        run(BAND_LIMITED, copied, resume=True, progress=False)


def test_validation_chooses_the_best_epoch(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, validation=0.25, epochs=3, lr=0.1)
    result = run(config, tmp_path, progress=False)
    rows = metrics(tmp_path)
    accuracies = [float(row["validation_accuracy"]) for row in rows]
    best = accuracies.index(max(accuracies))
    assert result["checkpoint"] == "best"
    assert result["best_chosen_on"] == "validation"
    assert result["best"]["epoch"] == best + 1
    assert result["best"]["validation_accuracy"] == accuracies[best]
    assert result["test_accuracy"] == float(rows[best]["test_accuracy"])
    assert (result["train_samples"], result["validation_samples"]) == (48, 16)


def test_a_validation_part_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"validation is 0\.01, which leaves 0 of 10"):
        run(TrainConfig(limit_train=10, validation=0.01), tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_other_optimizers_resume_too(optimizer: str, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, optimizer=optimizer, epochs=2, lr=1e-3)
    run(config, tmp_path / "whole", progress=False)
    run(dataclasses.replace(config, epochs=1), tmp_path / "parts", progress=False)
    run(config, tmp_path / "parts", resume=True, progress=False)
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("precision", ["64", "bf16-mixed"])
def test_other_precisions_train_and_are_evaluated(precision: str, tmp_path: Path) -> None:
    config = dataclasses.replace(BAND_LIMITED, precision=precision, epochs=1)
    result = run(config, tmp_path, progress=False)
    assert result["test_accuracy"] == float(metrics(tmp_path)[0]["test_accuracy"])
    assert evaluate(tmp_path)["test_accuracy"] == result["test_accuracy"]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="float16 works here")
def test_float16_is_refused_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'16-mixed', which a CPU cannot do; use 'bf16-mixed'"):
        run(dataclasses.replace(TINY, precision="16-mixed"), tmp_path, progress=False)


def test_devices_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="devices 'auto' with strategy 'fast' do not work here"):
        run(dataclasses.replace(TINY, strategy="fast"), tmp_path, progress=False)


def test_prints_a_line_per_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(BAND_LIMITED, tmp_path)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[1] == "lenet5: 64 examples to train on, 40 to test"
    assert [line.split()[1] for line in lines[2:]] == ["1/2", "2/2"]
    assert "test" in lines[2]
    assert err == ""
