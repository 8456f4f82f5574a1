"""report.html is well formed, holds everything it shows, and asks nothing of a network."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from passband.measure.table import Column, Table
from passband.report import Picture, Report, Section, write_report
from passband.report.figures import new_figure

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects what a test asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def picture(name: str) -> Picture:
    figure = new_figure(2, 1)
    figure.add_subplot().plot([1, 2])
    return Picture(name, figure, f"Caption of {name}, <with> signs.")


@pytest.fixture
def report() -> Report:
    table = Table(
        [Column("layer", "name"), Column("time", "seconds"), Column("hidden", heading=None)],
        [{"layer": "a<b>", "time": 0.0123, "hidden": "unseen"}],
        totals={"layer": "total", "time": 0.5, "hidden": None},
        notes=["A note."],
    )
    sections = [
        Section("First", ["A paragraph & more."], table, "What the table says."),
        Section("Second", pictures=[picture("one"), picture("two")]),
    ]
    return Report("A <title>", ["Came out."], sections, "passband study x", {"torch": "2.6"})


def test_the_page_is_well_formed_and_shows_everything(report: Report, tmp_path: Path) -> None:
    page = Page(write_report(report, tmp_path).read_text())
    for text in (
        *("A <title>", "Came out.", "First", "A paragraph & more.", "a<b>", "12.3 ms", "total"),
        *("What the table says.", "A note.", "Caption of one, <with> signs.", "passband study x"),
        *("torch", "2.6"),
    ):
        assert text in page.text
    assert "unseen" not in page.text


def test_the_page_is_self_contained(report: Report, tmp_path: Path) -> None:
    text = write_report(report, tmp_path).read_text()
    assert not re.search(r"https?:|//[a-z]|url\(|@import", re.sub(r"base64,[^\"]*", "", text))
    page = Page(text)
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    for image in page.all("img"):
        assert (image["src"] or "").startswith("data:image/png;base64,")


def test_embedded_pictures_are_the_files_beside_it(report: Report, tmp_path: Path) -> None:
    page = Page(write_report(report, tmp_path).read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "report.html", "two.png"]
    for image, name in zip(page.all("img"), ("one", "two"), strict=True):
        content = base64.b64decode((image["src"] or "").partition("base64,")[2])
        assert content == (tmp_path / f"{name}.png").read_bytes()
        assert image["alt"] == name


def test_figures_are_aligned_right_and_words_left(report: Report, tmp_path: Path) -> None:
    page = Page(write_report(report, tmp_path).read_text())
    assert [cell.get("class") for cell in page.all("th")] == [None, "figures"]
    assert [cell.get("class") for cell in page.all("td")] == [None, "figures"] * 2


def test_the_page_suits_phones_and_dark_rooms(report: Report, tmp_path: Path) -> None:
    text = write_report(report, tmp_path).read_text()
    page = Page(text)
    names = {meta.get("name"): meta.get("content") for meta in page.all("meta")}
    assert names["viewport"] == "width=device-width, initial-scale=1"
    assert names["color-scheme"] == "light dark"
    assert "prefers-color-scheme: dark" in text


def test_writing_again_replaces_the_report(report: Report, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    write_report(report, folder)
    path = write_report(replace(report, title="Another"), folder)
    assert "<h1>Another</h1>" in path.read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["one.png", "report.html", "two.png"]


def test_two_pictures_of_one_name_are_an_error(tmp_path: Path) -> None:
    sections = [Section("S", pictures=[picture("one"), picture("one")])]
    with pytest.raises(ValueError, match="each needs its own"):
        write_report(Report("t", [], sections, "c", {}), tmp_path)
    assert not list(tmp_path.iterdir())
