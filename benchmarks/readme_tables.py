"""Write the tables of README.md from the CSV files of benchmarks/results.

A table's place is marked by a pair of comments, which name the file and the columns to show, with a
unit and a title where they need one:

    <!-- table: results/NAME.csv | map, accuracy:% as Accuracy, saved_bytes:MiB as Kept (MiB) -->
    <!-- end of table -->

Under the table stands what the rows say of their machine, and a link to the file.

Usage: python benchmarks/readme_tables.py [--check]

With --check nothing is written, and the exit code says whether a table differs from its file.
"""

import argparse
import csv
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
SECTION = re.compile(
    r"(?P<start><!-- table: (?P<file>\S+) \| (?P<columns>[^\n]*?) -->\n)"
    r".*?"
    r"(?P<end><!-- end of table -->)",
    re.S,
)
COLUMN = re.compile(r"(?P<name>\w+)(:(?P<unit>%|KiB|MiB|k|M))?( as (?P<title>.+))?")
UNITS = {None: 1.0, "%": 100.0, "KiB": 2.0**-10, "MiB": 2.0**-20, "k": 1e-3, "M": 1e-6}
PROVENANCE = ("machine", "threads", "torch", "commit")


def cell(text: str, scale: float) -> str:
    """A CSV value as it is shown: numbers with three significant digits or one decimal."""
    try:
        value = float(text) * scale
    except ValueError:
        return text.replace("|", r"\|") or "-"
    if scale == 1 and value.is_integer():
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def caption(rows: list[dict[str, str]], file: str) -> str:
    """Where the rows come from, as far as all of them agree."""
    shared = {
        name: rows[0][name]
        for name in PROVENANCE
        if name in rows[0] and len({row[name] for row in rows}) == 1
    }
    origin = ", ".join(f"{name} {value}" for name, value in shared.items())
    return f"\n[{Path(file).name}](benchmarks/{file}){': ' if origin else ''}{origin}.\n"


def markdown_table(folder: Path, file: str, columns: str) -> str:
    """The chosen columns of a CSV file as a Markdown table with its caption."""
    with (folder / file).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    chosen = [COLUMN.fullmatch(column.strip()) for column in columns.split(",")]
    if None in chosen:
        raise SystemExit(f"{file}: cannot read the columns {columns!r}")
    if unknown := [c["name"] for c in chosen if c["name"] not in rows[0]]:
        raise SystemExit(f"{file} has no column {', '.join(unknown)}; it has {', '.join(rows[0])}")
    titles = [c["title"] or c["name"].replace("_", " ") for c in chosen]
    body = [[cell(row[c["name"]], UNITS[c["unit"]]) for c in chosen] for row in rows]
    lines = [titles, ["---"] * len(titles), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + caption(rows, file)


def render(text: str, folder: Path = HERE) -> str:
    """A document with every marked table written anew from the files under a folder."""

    def section(match: re.Match[str]) -> str:
        if not (folder / match["file"]).exists():
            raise SystemExit(f"benchmarks/{match['file']} is not there: write it first")
        table = markdown_table(folder, match["file"], match["columns"])
        return f"{match['start']}{table}{match['end']}"

    return SECTION.sub(section, text)


def main() -> None:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args().check
    text = README.read_text()
    rendered = render(text)
    if check and rendered != text:
        sys.exit("README.md: a table differs: run python benchmarks/readme_tables.py")
    if not check:
        README.write_text(rendered)


if __name__ == "__main__":
    main()
