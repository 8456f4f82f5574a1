"""What every row of a result says about where it was measured."""

import csv
import platform
import re
import subprocess
from pathlib import Path

import torch

RESULTS = Path(__file__).resolve().parent / "results"


def machine_name() -> str:
    """Processor or GPU, and the number of cores, as part of a file's name."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        model = re.search(r"model name\s*:\s*(.+)", _cpu_info())
        name = f"{model[1] if model else platform.machine()} {torch.get_num_threads()} threads"
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


def provenance() -> dict[str, str]:
    """Columns that end every row: machine, threads, versions, commit."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=RESULTS.parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "machine": machine_name(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "commit": commit,
    }


def write_result(name: str, rows: list[dict]) -> None:
    """Write benchmarks/results/NAME_MACHINE_TORCH.csv, and say so."""
    RESULTS.mkdir(exist_ok=True)
    version = torch.__version__.partition("+")[0]
    file = RESULTS / f"{name}_{machine_name()}_torch-{version}.csv"
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"written: {file}")


def _cpu_info() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""
