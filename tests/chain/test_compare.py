from pathlib import Path

import pytest

from passband import export_onnx, to_chain
from passband.chain.compare import compare
from passband.cli import main
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
