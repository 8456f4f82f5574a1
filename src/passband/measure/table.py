"""Tables of results: typed columns, plain text that fits a terminal, CSV."""

import csv
import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from passband.atomic import write_atomically

Kind = Literal["name", "text", "number", "count", "bytes", "fraction", "seconds"]

_WIDTH = 100
_GAP = "  "
_NARROWEST = 12  # characters a text column is never cut below
_DECIMAL = ("", " k", " M", " G", " T", " P")
_BINARY = (" B", " KiB", " MiB", " GiB", " TiB", " PiB")
_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "text": (str,),
    "number": (int, float),
    "count": (int,),
    "bytes": (int,),
    "fraction": (int, float),
    "seconds": (int, float),
}


@dataclass(frozen=True)
class Column:
    """One column: the key of its values, what they are, and its heading in print.

    Args:
        name: Key in each row, and heading of the CSV column.
        kind: "name" (a dotted path, shortened at its start when too long), "text" (shortened at its
            end), "number", "count" (printed as 118 M), "bytes" (1.53 MiB), "fraction" (46.9 %) or
            "seconds" (printed as milliseconds, 12.3 ms).
        heading: Heading in print; "" takes the name, and None leaves the column out of print.
    """

    name: str
    kind: Kind = "text"
    heading: str | None = ""


@dataclass(frozen=True)
class Table:
    r"""Rows of values under typed columns. A value of None is printed as "-" and is empty in CSV.

    Args:
        columns: The columns in order.
        rows: One mapping per row, from each column's name to its value.
        totals: A last row set apart by a rule, or None.
        notes: Sentences under the table.

    Raises:
        ValueError: A row lacks a column or has one that the table has not.
        TypeError: A value does not fit its column's kind.

    Examples:
        >>> table = Table(
        ...     [Column("layer", "name"), Column("macs", "count", "MACs")],
        ...     [{"layer": "conv1", "macs": 118013952}, {"layer": "fc", "macs": 5120}],
        ...     totals={"layer": "total", "macs": 118019072},
        ... )
        >>> print(table)
        layer   MACs
        -----  ------
        conv1   118 M
        fc     5.12 k
        -----  ------
        total   118 M
        >>> table.to_csv()
        'layer,macs\nconv1,118013952\nfc,5120\n'
    """

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    totals: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self._all_rows():
            self._check(row)

    def __str__(self) -> str:
        return self.render()

    def render(self, width: int = _WIDTH) -> str:
        """The table as plain text, at most `width` characters wide where its numbers allow."""
        body = [self.cells(row) for row in self._all_rows()]
        headings = [column.heading or column.name for column in self._printed()]
        widths = self._widths([headings, *body], width)
        rule = _GAP.join("-" * size for size in widths)
        lines = [self._line(headings, widths), rule, *(self._line(row, widths) for row in body)]
        if self.totals is not None:
            lines.insert(-1, rule)
        for note in self.notes:
            lines.extend(textwrap.wrap(note, width, subsequent_indent="  "))
        return "\n".join(lines)

    def cells(self, row: Mapping[str, Any]) -> list[str]:
        """A row as it is printed: one text per column, numbers with their units."""
        return [format_value(row[column.name], column.kind) for column in self._printed()]

    def to_csv(self, path: str | Path | None = None) -> str:
        """The rows as CSV, plain values without units; written to `path` when one is given."""
        text = io.StringIO()
        names = [column.name for column in self.columns]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        if path is not None:
            write_atomically(path, text.getvalue().encode())
        return text.getvalue()

    def _printed(self) -> list[Column]:
        return [column for column in self.columns if column.heading is not None]

    def _all_rows(self) -> list[Mapping[str, Any]]:
        return [*self.rows, *([] if self.totals is None else [self.totals])]

    def _check(self, row: Mapping[str, Any]) -> None:
        names = {column.name for column in self.columns}
        if set(row) != names:
            wrong = ", ".join(sorted(set(row) ^ names))
            raise ValueError(f"row and columns differ in {wrong}; columns are {sorted(names)}")
        for column in self.columns:
            value = row[column.name]
            if value is not None and not isinstance(value, _TYPES[column.kind]):
                raise TypeError(
                    f"column {column.name} holds {column.kind}, not {type(value).__name__} "
                    f"({value!r})"
                )

    def _widths(self, lines: list[list[str]], limit: int) -> list[int]:
        """Each column as wide as its widest cell, then text columns cut, the widest first."""
        widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
        text = [i for i, column in enumerate(self._printed()) if column.kind in ("name", "text")]
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - limit
        while excess > 0 and text:
            widest = max(text, key=lambda i: widths[i])
            if widths[widest] <= _NARROWEST:
                break
            widths[widest] -= 1
            excess -= 1
        return widths

    def _line(self, cells: Iterable[str], widths: Iterable[int]) -> str:
        parts = []
        for column, cell, width in zip(self._printed(), cells, widths, strict=True):
            if column.kind == "name":
                shown = cell if len(cell) <= width else "…" + cell[len(cell) - width + 1 :]
                parts.append(shown.ljust(width))
            elif column.kind == "text":
                shown = cell if len(cell) <= width else cell[: width - 1] + "…"
                parts.append(shown.ljust(width))
            else:
                parts.append(cell.rjust(width))
        return _GAP.join(parts).rstrip()


def format_value(value: Any, kind: Kind) -> str:
    """A value as it is printed in a column of this kind.

    Examples:
        >>> format_value(1536, "bytes"), format_value(0.469, "fraction"), format_value(None, "text")
        ('1.50 KiB', '46.9 %', '-')
    """
    if value is None:
        return "-"
    if kind == "count":
        return _scaled(value, 1000, _DECIMAL)
    if kind == "bytes":
        return _scaled(value, 1024, _BINARY)
    if kind == "fraction":
        return f"{100 * value:.1f} %"
    if kind == "seconds":
        return f"{_digits(1000 * value)} ms"
    if kind == "number":
        return _digits(value) if isinstance(value, float) else str(value)
    return str(value)


def _scaled(value: int, base: int, units: tuple[str, ...]) -> str:
    """`value` in the largest unit that leaves at least 1, with three digits."""
    exponent = 0
    while exponent < len(units) - 1 and abs(value) >= base ** (exponent + 1):
        exponent += 1
    number = str(value) if exponent == 0 else _digits(value / base**exponent)
    return number + units[exponent]


def _digits(value: float) -> str:
    """Three significant digits without an exponent, at most three after the point."""
    if not math.isfinite(value):
        return str(value)
    before = len(str(int(abs(value))))
    return f"{value:.{max(0, 3 - before)}f}"
