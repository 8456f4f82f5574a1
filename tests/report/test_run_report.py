"""The report of a training run."""

import html
import json
import re
import shutil
from pathlib import Path

import pytest

from passband.report import write_run_report
from passband.report.run_report import read_metrics
from passband.train import TrainConfig, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    config = TrainConfig(
        model="lenet5", method="band-limited", compression=0.5, epochs=2, limit_train=64,
        limit_test=32, devices=1,
    )  # fmt: skip
    run(config, out, progress=False)
    return out


def test_run_report(finished: Path) -> None:
    path = write_run_report(finished)
    assert path == finished / "report.html"
    assert (finished / "learning-curves.png").exists()
    page = path.read_text()
    for text in (
        *("digits, lenet5, band-limited, compression 0.5", "Test accuracy", "2 epochs (4 steps)"),
        *("spectra on average", "limit_train", "compression 0.5"),
    ):
        assert text in page
    layers = re.findall(r"<td>(\S+)</td>\s*<td>(lowpass|matmul|-)</td>", page)
    assert [name for name, _ in layers] == ["0", "3", "7", "9"]
    assert not re.search("https?:", page)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["/usr/bin/passband", "train", "--out", "a b"], "passband train --out 'a b'"),
        (["sweep.py", "3"], "sweep.py 3"),
    ],
)
def test_the_command_of_a_run(
    arguments: list[str], shown: str, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    record = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(record | {"command": arguments}))
    page = write_run_report(tmp_path).read_text()
    assert f"<code>{html.escape(shown).replace('&#x27;', '&#39;')}</code>" in page


def test_metrics_are_read_as_numbers(finished: Path) -> None:
    metrics = read_metrics(finished / "metrics.csv")
    assert len(metrics["epoch"]) == 2
    assert {"train_loss", "test_loss", "train_accuracy", "test_accuracy"} <= metrics.keys()
    assert all(0 <= value <= 1 for value in metrics["test_accuracy"])


def test_an_unfinished_run_is_an_error(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match="not finished"):
        write_run_report(tmp_path)


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no run"):
        write_run_report(tmp_path)
