"""A UNet on ISBI-2012 membranes and on 16 photographs of cars: dense, regularized, as a chain.

    PASSBAND_DATA=... OMP_NUM_THREADS=1 python benchmarks/segmentation.py

Trains by `passband study segmentation`, or takes up what it trained before under runs/segmentation,
and writes the table and the pictures of masks into results. The budget is small: 40 epochs at
96 x 96 points, ten minutes in all on one thread. The learning rate is high, for with a low one the
regularized networks end with one class everywhere: see docs/frequency-chain.md.
"""

import shutil
from pathlib import Path

from machine import RESULTS, file_stem, provenance, write_result

from passband.studies import run_study

BUDGET = {"image_size": 96, "epochs": 40, "lr": 0.02}
KEEPS = "0.001,0.02"


def main() -> None:
    """Train what is missing, write the CSV and the pictures."""
    out = Path("runs/segmentation")
    rows = []
    for data in ("membrane", "cars"):
        result = run_study("segmentation", out, data=data, keeps=KEEPS, **BUDGET)
        rows += [{**row, **BUDGET, **provenance()} for row in result.table.rows]
        shutil.copy(out / f"masks-{data}.png", RESULTS / f"{file_stem(f'masks-{data}')}.png")
    write_result("segmentation", rows)


if __name__ == "__main__":
    main()
