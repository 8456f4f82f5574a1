"""What the views of results share: reading, numbers as text, tables, where results come from."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

Row = dict[str, str]

KEPT, DEFAULT = "kept", "default"  # what became of freed memory


def read(file: Path) -> list[Row]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def figure(value: float) -> str:
    """A number with three significant digits."""
    if value == 0 or not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def cell(text: str, scale: float = 1.0) -> str:
    """A CSV value as it is shown; "-" for what was not measured."""
    try:
        return figure(float(text) * scale)
    except ValueError:
        return text.replace("|", r"\|") or "-"


def markdown(titles: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


class Results:
    """The results of one machine.

    Args:
        folder: Where the files are.
        origin: What their names have in common: machine and torch.
        prefix: What stands in front of a file's name in a link.
    """

    def __init__(self, folder: Path, origin: str, prefix: str) -> None:
        self.folder, self.origin, self.prefix = folder, origin, prefix

    def file(self, kind: str) -> Path:
        """Where the rows of a kind are, or would be."""
        return self.folder / f"{kind}_{self.origin}.csv"

    def rows(self, kind: str, freed_memory: str = KEPT) -> list[Row]:
        """The rows of a kind, measured where freed memory was kept; none if there is no file."""
        rows = read(self.file(kind)) if self.file(kind).exists() else []
        return [row for row in rows if row.get("freed_memory", KEPT) == freed_memory]

    def link(self, file: Path) -> str:
        """A file's place, seen from the document."""
        return f"{self.prefix}{file.name}"

    def caption(self, *kinds: str) -> str:
        """Links to the files, each with what its rows say of their machine, once where it is so."""
        origins: dict[str, list[str]] = {}
        for file in map(self.file, kinds):
            if file.exists():
                link = f"[{file.name}]({self.link(file)})"
                origins.setdefault(_origin(read(file)), []).append(link)
        parts = [f"{', '.join(links)}: {origin}" for origin, links in origins.items()]
        return f"\n{'; '.join(parts)}.\n"


def _origin(rows: Sequence[Row]) -> str:
    """What the rows of a file say of their machine."""
    origin = [
        f"{name} {' and '.join(dict.fromkeys(row[name] for row in rows))}"
        for name in ("machine", "threads", "torch", "commit")
    ]
    row = rows[0]
    if row.get("peak_bytes_per_second"):
        multiplications = float(row["peak_multiplications_per_second"]) / 1e9
        gigabytes = float(row["peak_bytes_per_second"]) / 1e9
        origin.append(
            f"measured peaks {figure(multiplications)} G multiplications/s "
            f"and {figure(gigabytes)} GB/s"
        )
    return ", ".join(origin)
