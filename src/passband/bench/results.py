"""Files of results: one CSV per machine and kind, and a figure drawn from it."""

import csv
import io
from pathlib import Path

from passband.atomic import write_atomically
from passband.bench.layers import Row
from passband.bench.machine import file_stem
from passband.report.formats import svg
from passband.report.speed import ratio_against_compression


def write_results(kind: str, rows: list[Row], folder: Path) -> list[Path]:
    """Write KIND_MACHINE_TORCH.csv into a folder, and of layers the figure; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{file_stem(kind, 'cpu')}.csv"
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(file, text.getvalue().encode())
    return [file, draw_curve(file)] if kind == "layers" else [file]


def draw_curve(file: Path) -> Path:
    """Draw the ratio against compression from a CSV of layers, beside it."""
    with file.open(newline="") as stream:
        figure = ratio_against_compression(csv.DictReader(stream))
    picture = file.with_suffix(".svg")
    write_atomically(picture, svg(figure))
    return picture
