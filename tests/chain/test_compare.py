from pathlib import Path

import pytest
import torch
from torch import nn

from passband import export_onnx, to_chain
from passband.chain.compare import compare, disagreement
from passband.cli import main
from passband.measure.table import Table
from tests.convert.frequency.cases import dense, maps, trained

SHAPE = (3, 8, 8)


def test_an_exported_chain_beside_the_others(tmp_path: Path) -> None:
    chain = to_chain(trained("resnet20", SHAPE), maps(SHAPE))
    file = tmp_path / "net.onnx"
    export_onnx(chain, maps(SHAPE), file)
    table = compare(dense("resnet20", SHAPE), chain, maps(SHAPE), file, (1, 18), repeats=3)
    rows = table.rows
    assert [(r["network"], r["engine"], r["batch"]) for r in rows[:5]] == [
        ("dense", "PyTorch", 1),
        ("dense", "ONNX Runtime", 1),
        ("chain", "PyTorch", 1),
        ("chain", "ONNX Runtime", 1),
        ("chain", "passband", 1),
    ]
    assert len(rows) == 10
    assert all(row["seconds"] > 0 for row in rows)
    assert rows[5]["macs"] == 18 * rows[0]["macs"] > 5 * rows[7]["macs"]
    # rounding in float32, in another order
    assert all(float(r["difference"]) < 1e-4 for r in rows if r["network"] == "chain")
    assert max(row["times_less"] for row in rows if row["network"] == "dense") == 1
    assert rows[3]["bytes"] == file.stat().st_size
    assert disagreement(table) is None


def test_files_that_do_not_belong_to_the_chain(tmp_path: Path) -> None:
    torch.manual_seed(0)
    file = tmp_path / "net.onnx"

    def network(outputs: int, inputs: int = 3 * 8 * 8) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs)).eval()

    chain = network(4)

    def beside(batch: int = 2) -> Table:
        return compare(chain, chain, maps(SHAPE), file, (batch,), repeats=1)

    export_onnx(network(4), maps(SHAPE), file)
    assert "output in ONNX Runtime differs by " in (disagreement(beside()) or "")
    export_onnx(network(2), maps(SHAPE), file)
    assert "ONNX Runtime differs by inf from" in (disagreement(beside()) or "")
    export_onnx(network(4, 3 * 9 * 8), maps((3, 9, 8)), file)
    with pytest.raises(ValueError, match=r"allowed is one of \(batch, 3, 8, 8\)"):
        beside()
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"ONNX Runtime cannot read .*net.onnx; allowed is what"):
        beside()
    with pytest.raises(ValueError, match=r"batches are \(0,\); allowed are 1 and more"):
        beside(batch=0)


def test_train_export_compare_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = str(tmp_path / "run"), str(tmp_path / "net.onnx")
    words = "--model resnet8 --method frequency --keep 0.05 --shrink-steps 2 --epochs 1"
    limits = "--limit-train 64 --limit-test 32 --batch-size 16"
    assert main(["train", *words.split(), *limits.split(), "--out", run]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "times fewer multiplications than the dense network" in printed
    assert main(["export", run, file]) == 0
    assert Path(file).stat().st_size < 60_000  # the dense network's weights alone take 310,000
    capsys.readouterr()
    assert main(["compare", run, file, "--batch", "2", "--repeats", "3"]) == 0
    printed = capsys.readouterr().out
    assert "ONNX Runtime" in printed and "times less" in printed
    other = tmp_path / "other.onnx"
    model = nn.Sequential(nn.Flatten(), nn.Linear(8 * 8, 10))
    export_onnx(model.eval(), maps((1, 8, 8)), other)
    assert main(["compare", run, str(other), "--batch", "2", "--repeats", "1"]) == 2
    assert "is of another network or checkpoint; export it again" in capsys.readouterr().err
