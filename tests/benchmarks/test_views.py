"""Tables of speed from results that are written here."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.readme_tables import render
from passband.bench.cases import LayerCase
from passband.bench.layers import Rounds, measure_layers
from passband.bench.machine import Peaks
from passband.bench.networks import NetworkCase, measure_network
from passband.bench.precision import precision_rows

REPOSITORY = Path(__file__).resolve().parents[2]
PEAKS = Peaks(multiplications=1e11, bytes=2e10)
ORIGIN = {
    "peak_multiplications_per_second": 1e11,
    "peak_bytes_per_second": 2e10,
    **{"machine": "M", "threads": "2", "torch": "2.6", "commit": "abc"},
}


@pytest.fixture(scope="module")
def layer_row() -> dict[str, object]:
    case = LayerCase(2, 4, 4, (8, 8), 3, 0.5, training=True)
    return {**measure_layers([case], PEAKS, Rounds(1, 0.0))[0], **ORIGIN}


def write(folder: Path, kind: str, rows: list[dict[str, object]], machine: str = "M") -> None:
    results = folder / "results"
    results.mkdir(exist_ok=True)
    with (results / f"{kind}_{machine}_torch-2.6.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def shown(view: str, folder: Path) -> str:
    marked = f"<!-- view: {view} -->\nstale\n<!-- end of view -->\n"
    rendered = render(marked, folder, "")
    assert render(rendered, folder, "") == rendered
    assert "stale" not in rendered
    return rendered


def line(text: str, start: str) -> list[str]:
    (found,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in found.split(" | ")][1:]


def test_targets_beside_what_was_measured(tmp_path: Path, layer_row: dict[str, object]) -> None:
    def row(batch: int, mode: str, compression: float, ratio: float, **more: object) -> dict:
        row = {**layer_row, "batch": batch, "mode": mode, "compression": compression}
        return {**row, "ratio": ratio, **more}

    layers = [
        row(32, "training", 0.5, 4.0),
        row(128, "training", 0.5, 1.0),
        row(32, "training", 0.5, 4.5, kernel=5),
        row(32, "inference", 0.5, 0.9, kernel=7, in_channels=512, out_channels=512),
        row(32, "training", 0.85, 4.0),
        row(8, "inference", 0.85, 0.5),  # a small batch: shown, but no target speaks of it
        row(32, "training", 0.0, 0.97),
        row(32, "training", 0.25, 0.1),  # for the curve only
        row(32, "training", 0.5, 0.1, map="270"),  # a series
    ]
    write(tmp_path, "layers", layers)
    table = shown("targets", tmp_path)
    assert line(table, "3x3, geometric mean, training") == [
        ">= 2", "2.00, **met** (2 layers)", ">= 5", "4.00, missed (1 layer) |",
    ]  # fmt: skip
    assert line(table, "5x5, geometric mean, training")[:2] == [">= 4", "4.50, **met** (1 layer)"]
    where = "512 channels, 8x8, k=7, B=32, inference"
    assert line(table, "worst layer")[1] == f"0.900, missed ({where})"
    assert line(table, "3x3 at B=8")[3] == "0.500 (1 layer) |"
    assert line(table, "full band")[1].startswith("0.970, **met**")
    assert line(table, "ResNet-18, B=128, training")[1] == "not measured"
    caption = table.splitlines()[-2]
    assert "[layers_M_torch-2.6.csv](results/layers_M_torch-2.6.csv)" in caption
    assert "commit abc, measured peaks 100 G multiplications/s and 20.0 GB/s" in caption


def test_each_file_of_a_view_has_its_origin(tmp_path: Path, layer_row: dict[str, object]) -> None:
    network = {
        **{"network": "resnet18", "input": "128x3x32x32", "mode": "training", "compression": 0.5},
        **{"ratio": 2.0, **ORIGIN},
    }
    write(tmp_path, "layers", [layer_row])
    for commit, peak, expected in (
        ("abc", 1e11, "), [networks_M_torch-2.6.csv](results/networks_M_torch-2.6.csv): machine M"),
        ("def", 3e11, "20.0 GB/s; [networks_M_torch-2.6.csv]("),
    ):
        more = {"commit": commit, "peak_multiplications_per_second": peak}
        write(tmp_path, "networks", [{**network, **more}])
        for view in ("targets", "freed memory"):
            caption = shown(view, tmp_path).splitlines()[-2]
            assert expected in caption
            assert f"commit {commit}, measured peaks {peak / 1e9:.0f} G" in caption


def test_every_machine_has_its_table(tmp_path: Path, layer_row: dict[str, object]) -> None:
    for machine in ("A", "B"):
        write(tmp_path, "layers", [{**layer_row, "machine": machine}], machine)
    table = shown("layers", tmp_path)
    assert table.index("machine A") < table.index("machine B")


def test_a_row_names_its_winner_and_the_work(tmp_path: Path, layer_row: dict[str, object]) -> None:
    row = {**layer_row, "winner": "channels_last", "native_multiplications": 2_500_000}
    write(tmp_path, "layers", [{**row, "compiled_ms": ""}])
    cells = line(shown("layers", tmp_path), "4 | 8x8 | 3 | 2 | 0.5")
    assert "nn.Conv, channels-last" in cells
    assert "2.50" in cells
    assert "compiled" not in shown("layers", tmp_path)  # nobody measured it


def test_training_and_inference_side_by_side(tmp_path: Path, layer_row: dict[str, object]) -> None:
    base = {**layer_row, "batch": 32, "winner": "auto", "algorithm": "matmul"}
    rows = [
        {**base, "mode": "training", "ratio": 2.5},
        {**base, "mode": "inference", "ratio": 3.5, "algorithm": "lowpass", "saved_bytes": ""},
        {**base, "mode": "training", "ratio": 9.9, "compression": 0.7},
    ]
    write(tmp_path, "layers", rows)
    cells = line(shown("short layers", tmp_path), "4 | 8x8")
    assert cells[3:9] == ["2.50", "matmul", "ours", "3.50", "lowpass", "ours"]
    assert "9.9" not in shown("short layers", tmp_path)


def test_networks_growth_and_precision(tmp_path: Path, layer_row: dict[str, object]) -> None:
    case = NetworkCase("fcn", (2, 1, 50), 3, False, (0.5,))
    rows = [{**row, **ORIGIN} for row in measure_network(case, PEAKS, Rounds(1, 0.0))]
    write(tmp_path, "networks", rows)
    assert line(shown("networks", tmp_path), "fcn")[0] == "2x1x50"
    write(tmp_path, "growth", [{"axis": axis, **layer_row} for axis in ("batch", "map")])
    growth = shown("growth", tmp_path)
    assert growth.index("Along the batch") < growth.index("Along the map")
    errors = [{**row, **ORIGIN} for row in precision_rows(quick=True)]
    write(tmp_path, "precision", errors)
    worst = max(
        float(row["output"])
        for row in errors
        if (row["algorithm"], row["numbers"]) == ("matmul", "float32")
    )
    assert line(shown("precision", tmp_path), "float32 | matmul")[1] == f"{worst:.1e}"


def test_the_figure_is_linked_where_it_is(tmp_path: Path, layer_row: dict[str, object]) -> None:
    write(tmp_path, "layers", [layer_row])
    assert "layers_M_torch-2.6.svg is not drawn yet" in shown("curve", tmp_path)
    (tmp_path / "results" / "layers_M_torch-2.6.svg").write_text("<svg/>")
    assert "(results/layers_M_torch-2.6.svg)" in shown("curve", tmp_path)


def test_what_was_not_measured_says_how(tmp_path: Path) -> None:
    assert "Not measured yet: `make bench` writes `growth_*.csv`" in shown("growth", tmp_path)


def test_an_unknown_view_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no view 'speed'; allowed are targets, "):
        shown("speed", tmp_path)


def test_the_script_says_when_a_table_is_stale(tmp_path: Path) -> None:
    """On a copy: a changed figure is found by --check and put right without it."""
    benchmarks = tmp_path / "benchmarks"
    benchmarks.mkdir()
    for script in (REPOSITORY / "benchmarks").glob("*.py"):
        (benchmarks / script.name).write_bytes(script.read_bytes())
    marked = "<!-- view: precision -->\n9.9\n<!-- end of view -->\n"
    (tmp_path / "README.md").write_text(marked)
    (benchmarks / "README.md").write_text(marked)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        script = [sys.executable, str(benchmarks / "readme_tables.py"), *arguments]
        return subprocess.run(script, capture_output=True, text=True, timeout=60)

    stale = run("--check")
    assert stale.returncode == 1
    assert "README.md: a table differs" in stale.stderr
    assert run().returncode == run("--check").returncode == 0
    assert "9.9" not in (benchmarks / "README.md").read_text()


def test_memory_network_by_network(tmp_path: Path) -> None:
    def row(network: str, contender: str, kept: float, peak: float, time: object) -> dict:
        values = {"network": network, "batch": 128, "contender": contender, "kept": kept}
        return {**values, "peak": peak, "time": time, **ORIGIN}

    rows = [
        row("resnet18", "plain", 1.0, 1.0, 1.0),
        row("resnet18", "exact c=0.5", 0.30, 0.46, 0.8),
        row("fcn", "plain", 1.0, 1.0, ""),
        {**row("fcn", "plain", 1.0, 1.0, 1.0), "batch": 8},
    ]
    write(tmp_path, "memory", rows)
    text = shown("memory", tmp_path)
    assert line(text, "exact c=0.5") == ["30.0 / 46.0 %, 0.800x", "- |"]
    assert line(text, "plain") == ["100 / 100 %, 1.00x", "100 / 100 % |"]
    resnet, fcn = line(text, "**targets**")
    assert resnet == (
        "kept at c=0.5 <= 37 %: **met**, at c=0.85 <= 14 %: not measured, "
        "peak at c=0.5 <= 45 %: missed, time at c=0.5 <= 1x: **met**"
    )
    assert "time" not in fcn


def test_engines_side_by_side(tmp_path: Path) -> None:
    def row(kind: str, engine: str, ms: object, ratio: object, **more: object) -> dict:
        return {
            "network": "vgg8", "keep": 0.007, "per_layer": "", "batch": 1, "kind": kind,
            "engine": engine, "macs_ratio": 1.0 if kind == "dense" else 100.0, "ms": ms,
            "time_ratio": ratio, "onnx_bytes": 2048, **ORIGIN, **more,
        }  # fmt: skip

    rows = [
        row("dense", "pytorch", 4.0, 0.5),
        row("dense", "onnx_runtime", 2.0, 1.0),
        row("dense", "openvino", "", ""),
        row("chain", "pytorch", 0.2, 10.0),
        row("chain", "onnx_runtime", 0.1, 20.0),
        row("chain", "passband", 0.04, 50.0, commit="def"),
    ]
    for index in range(3):
        rows.append({**rows[index + 1 if index else 0], "batch": 128})
    rows[-1] = row("chain", "onnx_runtime", 0.1, 20.0, batch=128)
    write(tmp_path, "engines", rows)
    text = shown("engines", tmp_path)
    one, many = ([c.strip() for c in x.split(" | ")] for x in text.splitlines() if "vgg8" in x)
    assert one[1:7] == [
        "0.007, uniform", "1", "100", "2.00 (ONNX Runtime)", "0.100 (ONNX Runtime)", "20.0",
    ]  # fmt: skip
    assert one[7:] == ["0.0400", "50.0", "yes", "2.00 |"]
    assert many[7:10] == ["-", "-", "no"]
    assert "commit abc and def" in text


def test_what_spec_nets_do_without_harm(tmp_path: Path) -> None:
    def memory(method: str, beta: str, peak: float) -> dict[str, object]:
        row = {"method": method, "beta": beta, "kept": 0.1, "mean": 0.2, "peak": peak}
        return {**row, "resident": 0.5, "time_returned": 1.2, **ORIGIN}

    def accuracy(
        method: str, beta: str, lost: float, images: int, epochs: int = 3
    ) -> dict[str, object]:
        row = {"network": "specvgg16", "method": method, "beta": beta, "train_samples": images}
        row |= {"epochs": epochs, "batch_size": 32, "lr": 0.1, "kept": 0.1}
        return {**row, "accuracy": 0.9 - lost, "lost": lost}

    rows = [
        memory("twin", "", 1.0), memory("exact-memory band-limited", "", 0.4),
        memory("relu", "0.0", 0.6), memory("relu", "0.5", 0.35), memory("relu", "1.0", 0.3),
        memory("spectral-tanh, pool spectral", "1.0", 0.2),
    ]  # fmt: skip
    write(tmp_path, "memory-specvgg16", rows)
    reached = [
        accuracy("relu", "0.0", -0.01, 100),
        accuracy("relu", "0.5", -0.01, 100), accuracy("relu", "0.5", 0.03, 100),  # two seeds
        accuracy("relu", "1.0", 0.02, 100), accuracy("relu", "1.0", 0.0, 50),
        accuracy("relu", "1.0", 0.0, 100, epochs=1),
        accuracy("spectral-tanh, pool spectral", "1.0", 0.5, 100),
    ]  # fmt: skip
    with (tmp_path / "results" / "accuracy-specnet.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(reached[0]))
        writer.writeheader()
        writer.writerows(reached)
    text = shown("specnet", tmp_path)
    own, paper, exact = [row.split(" | ") for row in text.splitlines() if row.startswith("| VGG")]
    assert own[1:5] == ["relu", "0.500", "89.0", "90.0"]
    assert own[5:9] == ["10.0", "20.0", "35.0", "50.0"]
    assert paper[1:4] == ["spectral-tanh, pool spectral", "1.00", "40.0"]
    assert exact[1:5] == ["exact-memory band-limited, c = 0.5", "-", "-", "-"]
