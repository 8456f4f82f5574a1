"""Everything that the documents show is run: Python blocks, commands, examples, links."""

import contextlib
import doctest
import importlib.metadata
import io
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
        REPOSITORY / "benchmarks" / "README.md",
    ]
)
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^ *```$", re.M | re.S)


@dataclass
class Block:
    language: str
    code: str
    line: int
    follows: bool  # nothing but blank lines between the block before and this one


def blocks(document: Path) -> list[Block]:
    text = document.read_text()
    found, end = [], 0
    for match in FENCE.finditer(text):
        indent = len(match["indent"])
        code = "".join(line[indent:] or "\n" for line in match["code"].splitlines(keepends=True))
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(match["language"], code, line, not text[end : match.start()].strip()))
        end = match.end()
    return found


def named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_python_blocks_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, as one session; a text block right after one shows what it prints."""
    monkeypatch.chdir(tmp_path)
    checker = doctest.OutputChecker()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    session: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(document):
        where = f"{named(document)}:{block.line}"
        if block.language == "python":
            # Blank lines in front, so that a traceback shows the document's own line numbers.
            code = compile("\n" * (block.line - 1) + block.code, str(document), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(code, session)
            printed = output.getvalue()
        elif block.language == "text" and block.follows:
            shown = checker.check_output(block.code, printed, flags)
            assert shown, f"{where} shows another output than:\n{printed}"


def commands(document: Path) -> list[str]:
    """The commands of a document's bash blocks, continued lines joined, comments removed."""
    lines = "".join(b.code for b in blocks(document) if b.language == "bash")
    return [
        line.strip()
        for line in re.sub(r"\\\n", " ", lines).splitlines()
        if line.strip() and not line.strip().startswith("#")
    ]


def check_passband(arguments: list[str]) -> None:
    """The command line's own parser accepts the arguments; nothing is run."""
    import typer

    from passband import commands

    group: Any = typer.main.get_command(commands.app.app)
    name, *options = arguments
    assert name in group.commands, f"passband has no command {name}"
    with contextlib.suppress(typer.Exit):  # after --help
        group.commands[name].make_context(name, options)


def check_make(arguments: list[str]) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    target, *variables = arguments
    assert re.search(rf"^{target}:", makefile, re.M), f"no target {target} in the Makefile"
    for variable in variables:
        name = variable.partition("=")[0]
        assert re.search(rf"^{name} \?=", makefile, re.M), f"no variable {name} in the Makefile"


def check_pip(arguments: list[str]) -> None:
    extras = set(importlib.metadata.metadata("passband").get_all("Provides-Extra") or [])
    for argument in arguments:
        if match := re.search(r"\[([\w,]+)\]", argument):
            assert set(match[1].split(",")) <= extras, f"{argument} names an unknown extra"


def check_python(arguments: list[str]) -> None:
    script = next(a for a in arguments if not a.startswith("-"))
    assert (REPOSITORY / script).is_file(), f"{script} is not there"


CHECKS = {
    "passband": check_passband,
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "cd": lambda arguments: None,
    "git": lambda arguments: None,
}


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_commands_parse(document: Path) -> None:
    for line in commands(document):
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # environment variables in front
            words = words[1:]
        assert words[0] in CHECKS, f"{named(document)}: nothing here checks {line!r}"
        CHECKS[words[0]](words[1:])


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text())
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    broken = [link for link in local if not (document.parent / link).exists()]
    assert not broken


@pytest.mark.parametrize("example", EXAMPLES, ids=named)
def test_examples_run(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(example)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_readme_tables_are_those_of_the_results() -> None:
    """No figure stands in the README that a file of benchmarks/results does not say."""
    done = subprocess.run(
        [sys.executable, "benchmarks/readme_tables.py", "--check"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_marked_table_is_written_from_its_file(tmp_path: Path) -> None:
    from benchmarks.readme_tables import render

    (tmp_path / "a.csv").write_text(
        "case,accuracy,bytes,torch\n8x8,0.9754,2097152,2.6\nall|of it,,1,2.6\n"
    )
    marked = (
        "before\n<!-- table: a.csv | case as Case, accuracy:%, bytes:MiB as Kept (MiB) -->\n"
        "stale\n<!-- end of table -->\nafter\n"
    )
    rendered = render(marked, tmp_path)
    assert rendered == marked.replace(
        "stale\n",
        "| Case | accuracy | Kept (MiB) |\n| --- | --- | --- |\n"
        "| 8x8 | 97.5 | 2 |\n| all\\|of it | - | 9.54e-07 |\n"
        "\n[a.csv](benchmarks/a.csv): torch 2.6.\n",
    )
    assert render(rendered, tmp_path) == rendered
