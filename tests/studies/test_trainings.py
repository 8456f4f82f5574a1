"""Many trainings in one folder."""

from pathlib import Path

import pytest

from passband.studies.trainings import run_name, status, train_all
from passband.train import TrainConfig

TINY = TrainConfig(model="lenet5", epochs=1, limit_train=32, limit_test=32, devices=1)


def test_each_training_is_done_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = train_all({"a": TINY}, tmp_path, progress=False)["a"]
    assert capsys.readouterr().out == ""
    written = (first.folder / "result.json").stat().st_mtime_ns
    second = train_all({"a": TINY}, tmp_path, progress=True)["a"]
    assert "a: test accuracy" in (printed := capsys.readouterr().out)
    assert "done before" in printed
    assert second == first
    assert (second.folder / "result.json").stat().st_mtime_ns == written


def test_another_config_gets_another_folder() -> None:
    names = {run_name("a", config) for config in (TINY, TrainConfig(), TrainConfig(seed=1))}
    assert len(names) == 3
    assert all(name.startswith("a-") for name in names)


def test_status_is_silent_when_it_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with status("working", shown=False):
        pass
    assert capsys.readouterr().out == ""
