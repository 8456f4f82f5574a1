"""What every row of a result says about where it was measured, and where results are kept."""

import csv
from pathlib import Path

from passband.bench.machine import file_stem, machine_name, provenance

__all__ = ["RESULTS", "file_stem", "machine_name", "provenance", "write_result", "write_rows"]

RESULTS = Path(__file__).resolve().parent / "results"


def write_result(name: str, rows: list[dict]) -> None:
    """Write benchmarks/results/NAME_MACHINE_TORCH.csv, and say so."""
    write_rows(RESULTS / f"{file_stem(name)}.csv", rows)


def write_rows(file: Path, rows: list[dict]) -> None:
    """Write a CSV, and say so."""
    file.parent.mkdir(exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"written: {file}")
