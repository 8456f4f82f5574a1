import inspect
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

import passband
from passband.cli import main
from passband.commands import training
from passband.commands.options import listed
from passband.nn.stage_arguments import ACTIVATIONS
from passband.ops.band_limited_conv.select import ALGORITHMS
from passband.train import TrainConfig
from passband.train.checkpoint_file import read_checkpoint
from passband.train.config import METHODS, SCHEDULERS
from passband.train.run_folder import RunFolder
from tests.train.killed import assert_same, metrics, weights

TINY = ["--model", "lenet5", "--limit-train", "64", "--limit-test", "40", "--epochs", "1"]
LIMITED = ["--method", "band-limited", "--compression", "0.5"]

Captured = pytest.CaptureFixture[str]


def start(*arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "passband.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", *TINY, *LIMITED, "--out", str(out)]) == 0
    return out


def test_train_prints_epochs_a_table_and_the_folder(tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "run"
    assert main(["train", *TINY, *LIMITED, "--out", str(out)]) == 0
    printed, errors = capsys.readouterr()
    lines = printed.splitlines()
    assert lines[0].startswith("digits: scikit-learn's bundled digits")
    assert lines[1] == "lenet5: 64 examples to train on, 40 to test"
    assert lines[2].startswith("epoch 1/1   train ")
    assert lines[4].split() == ["epoch", "checkpoint", "test", "accuracy", "test", "loss"]
    assert lines[6].split()[:2] == ["1", "last"]
    assert "54.5 % discarded" in printed  # of grids of 8 and 4 points, whatever the weights are
    assert "The best epoch was chosen on the test data" in printed
    assert lines[-1] == str(out / "report.html")
    assert (out / "report.html").exists()
    assert max(map(len, lines[:-1])) <= 100
    assert errors == ""


def test_without_a_folder_the_run_gets_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *TINY, *LIMITED, "--seed", "7"]) == 0
    out = Path("runs/digits-lenet5-band-limited-c-0.5-seed-7")
    assert RunFolder(out).read_result() is not None
    assert main(["train", *TINY, *LIMITED, "--seed", "7"]) == 2
    assert capsys.readouterr().err == (
        f"passband: {out} holds a run: resume it, or choose another folder (--resume, --out)\n"
    )
    assert main(["train", *TINY, *LIMITED, "--seed", "7", "--resume"]) == 0


def test_a_report_that_cannot_be_made_does_not_spoil_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def missing(run: Path) -> Path:
        raise ImportError("matplotlib is needed here: pip install 'passband[report]'")

    monkeypatch.setattr("passband.report.write_run_report", missing)
    assert main(["train", *TINY, "--out", str(tmp_path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (
        f"{tmp_path} (without a report: matplotlib is needed here: pip install 'passband[report]')"
    )


def test_resume_needs_no_options_and_takes_more_epochs(tmp_path: Path, capsys: Captured) -> None:
    out = str(tmp_path / "run")
    assert main(["train", *TINY, *LIMITED, "--out", out]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", "--out", out, "--epochs", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "resuming at epoch 2, step 1"
    config = RunFolder(tmp_path / "run").read_config()
    assert (config.epochs, config.compression, config.limit_train) == (2, 0.5, 64)
    assert [row["epoch"] for row in metrics(tmp_path / "run")] == ["0", "1"]
    capsys.readouterr()
    assert main(["train", "--resume", "--out", out]) == 0
    assert capsys.readouterr().out.startswith(f"{out} is finished: 2 epochs\n")
    assert main(["train", "--resume", "--out", out, "--lr", "0.5"]) == 2
    assert capsys.readouterr().err == "passband: cannot resume with lr 0.5: the run has 0.01\n"


def test_the_defaults_are_those_of_the_config() -> None:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(training.train).parameters.items()
        if name not in ("context", "out", "resume", "checkpoint_every", "paper", "budget")
    }
    assert defaults == vars(TrainConfig())


def test_evaluate_prints_a_row_per_band(trained: Path, capsys: Captured) -> None:
    bands = ["--compression", "0", "--compression", "0.7", "--energy", "0.9"]
    assert main(["evaluate", str(trained), *bands]) == 0
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert rows[2:] == ["compression 0.0", "compression 0.7", "energy 0.9"]
    assert main(["evaluate", str(trained)]) == 0
    [row] = capsys.readouterr().out.splitlines()[2:]
    result = RunFolder(trained).read_result()
    assert result is not None
    assert row.split()[:2] == ["compression", "0.5"]
    assert f"{100 * result['test_accuracy']:.1f} %" in row


def test_profile_prints_what_was_converted_and_a_table(capsys: Captured) -> None:
    arguments = ["--model", "resnet8", "--data", "digits", "--batch-size", "2"]
    assert main(["profile", *arguments, "--compression", "0.5", "--all-layers"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("resnet8 on a batch of 2 x 1 x 8 x 8\nConverted 7 of 9 convolutions")
    assert "MACs" in printed
    assert max(map(len, printed.splitlines())) <= 100
    assert main(["profile", *arguments, "--method", "native", "--inference"]) == 0
    assert "Converted" not in capsys.readouterr().out


def test_a_chain_is_exported_when_it_has_shrunk_or_is_made_to(
    tmp_path: Path, capsys: Captured
) -> None:
    run, file = str(tmp_path / "run"), str(tmp_path / "made" / "net.onnx")
    model = ["--model", "resnet8", *TINY[2:], "--method", "frequency", "--keep", "0.1"]
    assert main(["train", *model, "--shrink-steps", "1000", "--out", run]) == 0
    assert main(["export", run, file]) == 2
    assert "add --finish to drop the rest at once" in capsys.readouterr().err
    assert main(["export", run, file, "--finish"]) == 0
    assert main(["evaluate", run, "--compression", "0.5"]) == 2
    assert "has no convolution that can be band-limited" in capsys.readouterr().err
    assert main(["compare", run, file, "--finish", "--batch", "2", "--repeats", "1"]) == 0
    assert "ONNX Runtime" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "name"), [("models", "resnet8"), ("datasets", "digits"), ("studies", "demo")]
)
def test_lists(what: str, name: str, capsys: Captured) -> None:
    assert main(["list", what]) == 0
    assert name in [line.split()[0] for line in capsys.readouterr().out.splitlines()]


def test_a_study_gets_its_options(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    given = {}

    def run_study(name: str, out: Path, **options: object) -> object:
        given.update({"name": name, "out": out, **options})
        return types.SimpleNamespace(table="a table", report=out / "report.html")

    monkeypatch.setattr("passband.studies.run_study", run_study)
    words = ["--out", "x", "--seeds", "3", "--quick", "--rate=0.5", "--model-name", "fcn"]
    assert main(["study", "demo", *words]) == 0
    assert given == {
        "name": "demo",
        "out": Path("x"),
        "progress": True,
        "seeds": 3,
        "quick": True,
        "rate": 0.5,
        "model_name": "fcn",
    }
    assert capsys.readouterr().out == "a table\nx/report.html\n"


def test_the_help_of_a_study_has_its_options(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    assert main(["study", "--help"]) == 0
    general = capsys.readouterr().out
    assert "passband list studies" in general
    assert "--seeds" not in general
    for words in (["study", "demo", "--help"], ["study", "--out", "x", "demo", "--help"]):
        assert main(words) == 0
        printed = capsys.readouterr().out
        assert "--seeds  Trainings of each kind" in printed
        assert "[default: 2]" in printed
        assert max(map(len, printed.splitlines())) <= 100


def test_help_names_what_the_code_knows(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["train", "--help"]) == 0
    printed = capsys.readouterr().out
    for names in (SCHEDULERS, ALGORITHMS, ACTIVATIONS, METHODS):
        assert listed(names).rpartition(" or ")[0] in printed


def test_a_run_that_is_not_there_is_not_resumed(trained: Path, capsys: Captured) -> None:
    absent = trained.parent / "rum"
    assert main(["train", "--resume", "--out", str(absent)]) == 2
    assert f"it is not there; runs beside it: {trained} (" in capsys.readouterr().err
    assert not absent.exists()


def test_help_and_version(capsys: Captured) -> None:
    for arguments in ([], ["--help"]):
        assert main(arguments) == 0
        assert "evaluate" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"passband {passband.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "No such command 'trian'"),
        (["train", "--epochz", "1"], "No such option: --epochz"),
        (["train", "--epochs", "many"], "Invalid value for '--epochs'"),
        (["train", "--epochs", "0"], "epochs is 0; it must be at least 1"),
        (["train", "--checkpoint-every", "0"], "checkpoint_every is 0; it must be at least 1"),
        (["train", "--compression", "0.5"], "method is 'native', which has no compression"),
        (["train", *LIMITED[:3], "1.5"], "compression is 1.5, allowed is 0 <= compression < 1"),
        (["train", *LIMITED, "--energy", "0.9"], "compression and energy are given"),
        (["train", *LIMITED[:2], "--band", "8,x"], "band is '8,x'; allowed is a number per axis"),
        (["train", *LIMITED, "--algorithm", "fast"], "algorithm is 'fast', allowed are 'auto'"),
        (["train", "--data", "digit"], "unknown data set 'digit': did you mean 'digits'?"),
        (["train", "--data", "npz:absent.npz"], "no such file or folder: absent.npz"),
        (["train", "--model", "resnet9"], "unknown model 'resnet9': did you mean 'resnet8'?"),
        (["train", "--model", "fcn"], "model 'fcn' takes time series"),
        (["train", "--precision", "8"], "precision is '8'; allowed are 32, 64"),
        (["train", "--strategy", "fast"], "devices 'auto' with strategy 'fast' do not work here"),
        (["evaluate", "absent"], "absent holds no run"),
        (["evaluate"], "Missing argument"),
        (["export", "absent", "net.onnx"], "absent holds no run"),
        (["train", "--resume"], "runs/digits-resnet8-native-seed-0 holds no run to resume: it is"),
        (["train", "--resume", "--out", "."], ". holds no run to resume: there is no config.json"),
        (["train", "--teacher", "absent"], "teacher is 'absent': absent holds no run"),
        (["train", "--out", f"{__file__}/run"], f"cannot write {__file__}/run"),
        (["export", "absent", f"{__file__}/a"], f"cannot write {__file__}/a: {__file__} is a file"),
        (["export", "absent", "."], "cannot write .: it is a folder; name a file in it"),
        (["tune", "--out", f"{__file__}/a"], f"cannot write {__file__}/a: {__file__} is a file"),
        (["bench", "--out", __file__], f"cannot write {__file__}: {__file__} is a file"),
        (["bench", "--minutes", "-1"], "minutes is -1; it must be above 0"),
        (["profile", "--method", "fast"], "method is 'fast'; allowed are native, band-limited"),
        (["profile", "--method", "small"], "method is 'small', of which there is nothing to"),
        (["profile", "--image-size", "0"], "image_size is 0; it must be at least 1"),
        (["profile", "--batch-size", "0"], "batch_size is 0; it must be at least 1"),
        (["profile", "--method", "native", "--energy", "0.9"], "method is 'native', which has no"),
        (["list", "colours"], "cannot list 'colours'; allowed are models, datasets and studies"),
        (["study", "absent"], "unknown study 'absent'"),
        (["study", "demo", "--colour", "red"], "unknown option of the study 'demo' 'colour'"),
        (["study", "demo", "red"], "unexpected argument 'red'"),
        (["study", "demo", "--out", __file__], f"cannot write {__file__}: {__file__} is a file"),
        (["study", "frequency", "--keeps", "a,b"], "keeps is 'a,b'; allowed are numbers with"),
        (["study", "segmentation", "--keeps", "a"], "keeps is 'a'; allowed are numbers with"),
        (["study", "specnet", "--thresholds", "a"], "thresholds is 'a'; allowed are numbers with"),
        (["study", "specnet", "--modes", "gelu"], "unknown mode 'gelu': known are 'average pool"),
    ],
)
def test_bad_usage_gives_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors.startswith(f"passband: {message}")
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("passband.networks.list_models", lambda: int("not a number"))
    monkeypatch.setattr("passband.commands.tools.show", json.loads)
    with pytest.raises(json.JSONDecodeError):
        main(["list", "datasets"])


def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setitem(sys.modules, "lightning.pytorch.utilities", None)
    assert main(["train", *TINY, "--out", str(tmp_path / "run")]) == 2
    errors = capsys.readouterr().err
    assert errors == (
        "passband: lightning is needed here and is not installed: pip install 'passband[train]'\n"
    )


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_the_command_says_what_it_needs_itself(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from passband.cli import main; "
        "sys.exit(main(['--help']))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr == f"passband: the command line needs {missing}: {INSTALL}\n"


INSTALL = "pip install 'passband[cli]'"


def test_an_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    process = start("train", *TINY[:-1], "10000", "--out", out)
    assert process.stdout is not None
    while not process.stdout.readline().startswith("epoch"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors == f"interrupted; to go on: passband train --resume --out {out}\n"


def test_a_killed_command_goes_on_to_the_same_end(tmp_path: Path) -> None:
    options = [*TINY[:-1], "3", *LIMITED, "--checkpoint-every", "1"]
    assert main(["train", *options, "--out", str(tmp_path / "whole")]) == 0
    out = tmp_path / "killed"
    process = start("train", *options, "--out", str(out))
    while not RunFolder(out).last.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert_same(weights(out), weights(tmp_path / "whole"))
    assert metrics(out) == metrics(tmp_path / "whole")


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    options = ["--devices", "2", "--strategy", "ddp", "--limit-train", "67", "--limit-test", "41"]
    process = start("train", "--model", "lenet5", *options, "--epochs", "2", "--out", str(tmp_path))
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    lines = [line.split("   ")[0] for line in printed.splitlines()]
    assert lines[2:5] == ["epoch 1/2", "epoch 2/2", ""]  # of one of the processes
    [_, row] = metrics(tmp_path)
    result = RunFolder(tmp_path).read_result()
    assert result is not None
    # The two halves of the test data together are what one process finds, each example once.
    assert float(row["test_accuracy"]) == result["test_accuracy"]
    assert float(row["test_loss"]) == pytest.approx(result["test_loss"], rel=1e-5)  # float32 sums
    assert result["steps"] == 2  # of the 33 examples of each, the last would be alone
    checkpoint = read_checkpoint(RunFolder(tmp_path).last)
    first, second = (state["torch"] for state in checkpoint["passband"]["random"])
    assert not first.equal(second)
