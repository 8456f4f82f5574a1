"""What every row of a result says about where it was measured, and where results are kept."""

import csv
from pathlib import Path

from passband.bench.machine import file_stem, machine_name, provenance

__all__ = ["RESULTS", "file_stem", "machine_name", "provenance", "write_result"]

RESULTS = Path(__file__).resolve().parent / "results"


def write_result(name: str, rows: list[dict]) -> None:
    """Write benchmarks/results/NAME_MACHINE_TORCH.csv, and say so."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{file_stem(name)}.csv"
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"written: {file}")
