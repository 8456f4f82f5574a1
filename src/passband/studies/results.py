"""What a study leaves in its folder: table.csv, result.json and report.html with its pictures."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from passband.measure.table import Table
from passband.report import Report, Section, write_report
from passband.report.html import environment_facts
from passband.studies.registry import StudyResult
from passband.studies.trainings import Training
from passband.train.run_folder import write_json


def write_results(
    study: str,
    out: Path,
    table: Table,
    *,
    title: str,
    summary: Sequence[str],
    sections: Sequence[Section],
    options: Mapping[str, Any],
    facts: Mapping[str, str] | None = None,
    runs: Mapping[str, Training] | None = None,
) -> StudyResult:
    """Write them.

    Args:
        study: Its name.
        out: The folder.
        table: Its results.
        title: Heading of the report.
        summary: Its first paragraphs.
        sections: What follows.
        options: Those that the study was given: None and False are left out of the command.
        facts: Of how it was run, beside those of the machine.
        runs: Its trainings.
    """
    command = ["passband", "study", study, "--out", str(out)]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            command += [option]
        elif value is not None and value is not False:
            command += [option, str(value)]
    known = environment_facts() | dict(facts or {})
    table.to_csv(out / "table.csv")
    record = {
        "study": study,
        "command": command,
        "environment": known,
        "rows": table.rows,
        "runs": {name: str(run.folder.relative_to(out)) for name, run in (runs or {}).items()},
    }
    write_json(out / "result.json", record)
    report = Report(title, summary, sections, shlex.join(command), known)
    return StudyResult(table, write_report(report, out))
