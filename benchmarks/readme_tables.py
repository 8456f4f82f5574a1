"""Write the tables of README.md, this folder's README.md and the docs from results' CSV files.

A table's place is marked by a pair of comments, which name the file and the columns to show, with a
unit and a title where they need one:

    <!-- table: results/NAME.csv | map, accuracy:% as Accuracy, saved_bytes:MiB as Kept (MiB) -->
    <!-- end of table -->

Under the table stands what the rows say of their machine, and a link to the file. What `passband
bench` measured is shown by a view of that name, see views.py, for every machine that has results:

    <!-- view: targets -->
    <!-- end of view -->

Usage: python benchmarks/readme_tables.py [--check]

With --check nothing is written, and the exit code says whether a table differs from its file.
"""

import argparse
import csv
import re
import sys
from pathlib import Path

from tables import markdown
from views import VIEWS, render_view

HERE = Path(__file__).resolve().parent
# Each with what stands in front of a file of this folder in its links; None: it is named only.
DOCUMENTS = {
    HERE.parent / "README.md": "benchmarks/",
    HERE / "README.md": "",
    **dict.fromkeys(sorted(HERE.parent.glob("docs/*.md"))),
}
VIEW = re.compile(
    r"(?P<start><!-- view: (?P<name>[^\n]+?) -->\n).*?(?P<end><!-- end of view -->)", re.S
)
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


def caption(rows: list[dict[str, str]], file: str, prefix: str | None) -> str:
    """Where the rows come from, as far as all of them agree."""
    shared = {
        name: rows[0][name]
        for name in PROVENANCE
        if name in rows[0] and len({row[name] for row in rows}) == 1
    }
    origin = ", ".join(f"{name} {value}" for name, value in shared.items())
    link = f"`benchmarks/{file}`" if prefix is None else f"[{Path(file).name}]({prefix}{file})"
    return f"\n{link}{': ' if origin else ''}{origin}.\n"


def markdown_table(folder: Path, file: str, columns: str, prefix: str | None) -> str:
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
    return markdown(titles, body) + caption(rows, file, prefix)


def render(text: str, folder: Path = HERE, prefix: str | None = "benchmarks/") -> str:
    """A document with everything marked written anew from the files under a folder."""

    def section(match: re.Match[str]) -> str:
        if not (folder / match["file"]).exists():
            raise SystemExit(f"benchmarks/{match['file']} is not there: write it first")
        table = markdown_table(folder, match["file"], match["columns"], prefix)
        return f"{match['start']}{table}{match['end']}"

    def view(match: re.Match[str]) -> str:
        if match["name"] not in VIEWS:
            raise SystemExit(f"no view {match['name']!r}; allowed are {', '.join(VIEWS)}")
        shown = render_view(match["name"], folder / "results", f"{prefix or ''}results/")
        return f"{match['start']}{shown}{match['end']}"

    return VIEW.sub(view, SECTION.sub(section, text))


def main() -> None:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check = parser.parse_args().check
    for document, prefix in DOCUMENTS.items():
        text = document.read_text()
        rendered = render(text, prefix=prefix)
        if check and rendered != text:
            name = document.relative_to(HERE.parent)
            sys.exit(f"{name}: a table differs: run python benchmarks/readme_tables.py")
        if not check:
            document.write_text(rendered)


if __name__ == "__main__":
    main()
