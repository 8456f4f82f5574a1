"""Reports as one HTML file: text, tables and pictures, nothing from a network."""

import base64
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from passband import __version__
from passband.atomic import write_atomically
from passband.extras import require
from passband.measure.table import Table
from passband.report.formats import png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure and what it shows.

    Args:
        name: Name of its PNG file, without the ending.
        figure: The figure.
        caption: What is seen in it, in one or two sentences.
    """

    name: str
    figure: "Figure"
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of a report, in this order: heading, text, table, pictures.

    Args:
        title: Its heading.
        text: Paragraphs.
        table: Results.
        caption: What the table says; printed above it.
        pictures: Figures, side by side where there is room.
    """

    title: str
    text: Sequence[str] = ()
    table: Table | None = None
    caption: str = ""
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class Report:
    """What `write_report` writes.

    Args:
        title: What was done.
        summary: Paragraphs before the first section: what came out.
        sections: The parts.
        command: The command line that reproduces the results.
        facts: What else it takes to judge them, name to value: versions, machine, seeds.
    """

    title: str
    summary: Sequence[str]
    sections: Sequence[Section]
    command: str
    facts: Mapping[str, str]


def write_report(report: Report, folder: Path) -> Path:
    """Write report.html, which embeds its pictures, and the same pictures as PNG files beside it.

    Every file is written whole or not at all.

    Args:
        report: What to write.
        folder: Where; made if it is not there.

    Returns:
        The path of report.html.

    Raises:
        ValueError: Two pictures have one name.
    """
    pictures = [picture for section in report.sections for picture in section.pictures]
    names = [picture.name for picture in pictures]
    if len(set(names)) < len(names):
        raise ValueError(f"pictures have the names {', '.join(names)}; each needs its own")
    folder.mkdir(parents=True, exist_ok=True)
    sources = {}
    for picture in pictures:
        content = png(picture.figure)
        write_atomically(folder / f"{picture.name}.png", content)
        sources[picture.name] = "data:image/png;base64," + base64.b64encode(content).decode()
    path = folder / "report.html"
    write_atomically(path, render(report, sources).encode())
    return path


def render(report: Report, sources: Mapping[str, str]) -> str:
    """The HTML of a report, given the address of each picture.

    Examples:
        >>> page = render(Report("A title", ["What came out."], [], "a command", {}), {})
        >>> "<h1>A title</h1>" in page
        True
    """
    jinja2 = require("jinja2", extra="report")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = resources.files("passband.report").joinpath("report.html.jinja").read_text("utf-8")
    page: str = environment.from_string(template).render(
        report=report, sources=sources, columns=_columns
    )
    return page


def environment_facts() -> dict[str, str]:
    """Versions and machine, for `Report.facts`.

    Examples:
        >>> list(environment_facts())
        ['passband', 'torch', 'Python', 'processor', 'torch threads', 'system']
    """
    return {
        "passband": __version__,
        "torch": metadata.version("torch"),
        "Python": platform.python_version(),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "torch threads": str(torch.get_num_threads()),
        "system": f"{platform.system()} {platform.release()}",
    }


def _processor() -> str:
    """The processor's own name where the system tells it."""
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


def _columns(table: Table) -> Iterable[dict[str, Any]]:
    """Heading and alignment of each column that is printed."""
    return [
        {
            "heading": column.heading or column.name,
            "figures": column.kind not in ("name", "text"),
        }
        for column in table.columns
        if column.heading is not None
    ]
