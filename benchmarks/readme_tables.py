"""Write the tables of README.md from the CSV files of benchmarks/results.

A table's place is marked with a pair of comments, which name the file and the columns to show:

    <!-- table: results/NAME.csv | column, column as Title, column as Title -->
    <!-- end of table -->

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


def cell(text: str) -> str:
    """A CSV value as it is shown: numbers with three significant digits, whole ones in full."""
    try:
        value = float(text)
    except ValueError:
        return text.replace("|", r"\|")
    if value.is_integer():
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown_table(file: Path, columns: str) -> str:
    """The chosen columns of a CSV file as a Markdown table."""
    names, titles = [], []
    for column in columns.split(","):
        name, _, title = column.strip().partition(" as ")
        names.append(name)
        titles.append(title or name.replace("_", " "))
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    if unknown := [name for name in names if name not in rows[0]]:
        raise SystemExit(f"{file.name} has no column {', '.join(unknown)}: it has {[*rows[0]]}")
    lines = [titles, ["---"] * len(names), *([cell(row[name]) for name in names] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def render(text: str) -> str:
    """A document with every marked table written anew."""

    def section(match: re.Match[str]) -> str:
        file = HERE / match["file"]
        if not file.exists():
            raise SystemExit(f"benchmarks/{match['file']} is not there: write it first")
        return match["start"] + markdown_table(file, match["columns"]) + match["end"]

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
