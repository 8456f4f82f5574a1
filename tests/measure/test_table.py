from pathlib import Path

import pytest

from passband.measure.table import Column, Table, format_value

COLUMNS = (
    Column("layer", "name"),
    Column("why", "text"),
    Column("macs", "count", "MACs"),
    Column("hidden", "number", None),
)
ROWS = [
    {"layer": "features.block.conv", "why": "a, b", "macs": 1234567, "hidden": 0.5},
    {"layer": "fc", "why": "", "macs": None, "hidden": None},
]


def test_values_are_aligned_and_none_is_a_dash() -> None:
    assert str(Table(COLUMNS, ROWS)) == "\n".join(
        [
            "layer                why     MACs",
            "-------------------  ----  ------",
            "features.block.conv  a, b  1.23 M",
            "fc                              -",
        ]
    )


def test_totals_stand_under_a_rule_and_notes_under_all() -> None:
    totals = {"layer": "total", "why": None, "macs": 1234567, "hidden": None}
    lines = str(Table(COLUMNS, ROWS, totals, ["A note."])).split("\n")
    assert lines[-3] == lines[1]
    assert lines[-2].split() == ["total", "-", "1.23", "M"]
    assert lines[-1] == "A note."


def test_long_text_is_cut_to_the_width() -> None:
    row = {"layer": "first." + "x" * 90, "why": "because " * 12, "macs": 1, "hidden": 1}
    table = Table(COLUMNS, [row], notes=["note " * 60])
    assert {len(line) for line in str(table).split("\n")[:3]} == {100}
    assert max(len(line) for line in str(table).split("\n")) <= 100
    shown = str(table).split("\n")[2]
    assert shown.startswith("…xxx")  # a name keeps its end
    assert "because bec" in shown  # a text keeps its start
    assert len(str(table.render(60)).split("\n")[1]) == 60


def test_numbers_are_never_cut() -> None:
    columns = [Column(f"c{i}", "count") for i in range(20)]
    row = {f"c{i}": 123456 + i for i in range(20)}
    assert str(Table(columns, [row])).count("123 k") == 20


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (999, "count", "999"),
        (1000, "count", "1.00 k"),
        (118013952, "count", "118 M"),
        (5 * 10**12, "count", "5.00 T"),
        (0, "bytes", "0 B"),
        (1024, "bytes", "1.00 KiB"),
        (1605632, "bytes", "1.53 MiB"),
        (0.46899, "fraction", "46.9 %"),
        (0.0123, "seconds", "12.3 ms"),
        (1.5, "seconds", "1500 ms"),
        (0.25, "number", "0.25"),
        (7, "number", "7"),
        (float("nan"), "number", "nan"),
        (float("inf"), "seconds", "inf ms"),
        (None, "count", "-"),
    ],
)
def test_formats(value: object, kind: str, expected: str) -> None:
    assert format_value(value, kind) == expected  # type: ignore[arg-type]


def test_csv_has_every_column_and_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    text = Table(COLUMNS, ROWS).to_csv(path)
    assert text == 'layer,why,macs,hidden\nfeatures.block.conv,"a, b",1234567,0.5\nfc,,,\n'
    assert path.read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_a_row_must_have_the_columns() -> None:
    with pytest.raises(ValueError, match="row and columns differ in macs"):
        Table(COLUMNS[:3], [{"layer": "a", "why": "b"}])


def test_a_value_must_be_of_its_kind() -> None:
    with pytest.raises(TypeError, match=r"column macs holds count, not float \(1\.5\)"):
        Table([Column("macs", "count")], [{"macs": 1.5}])
