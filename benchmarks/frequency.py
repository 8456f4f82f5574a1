"""The accuracy of the chain and of its controls on CIFAR-10, at a small stated budget.

    OMP_NUM_THREADS=1 python benchmarks/frequency.py

Trains by `passband study frequency`, or takes up what it trained before under runs/frequency, and
writes the table and the figure into results. The budget is that of PLANS: a hundredth of a usual
one, for one thread of a shared machine, so the times of the trainings are not shown.
"""

from dataclasses import dataclass
from pathlib import Path

from machine import RESULTS, file_stem, provenance, write_result

from passband.atomic import write_atomically
from passband.report.speed import svg
from passband.studies import run_study
from passband.studies.frequency import figure

SHOWN = ("network", "keep", "contender", "epochs", "images", "seeds", "macs", "macs_ratio",
         "parameters", "test_accuracy")  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """One call of the study."""

    network: str
    epochs: int
    keeps: str
    contenders: str
    images: int = 50_000


PLANS = (
    Plan("vgg8", 2, "0.007", "chain,small,chain-budget,small-budget"),
    Plan("vgg8", 2, "0.02", "chain-budget,small-budget"),
)
"""What was trained; the dense network and "pruned" take an hour more."""


def main() -> None:
    """Train what is missing, write the CSV and the figure."""
    rows: dict[tuple, dict] = {}
    for plan in PLANS:
        result = run_study(
            "frequency", Path("runs/frequency"), data="cifar10", networks=plan.network,
            keeps=plan.keeps, contenders=plan.contenders, epochs=plan.epochs, shrink="geometric",
            shrink_share=0.6, limit_train=plan.images,
        )  # fmt: skip
        for row in result.table.rows:
            row = {**row, "images": plan.images}
            rows[row["network"], row["keep"], row["contender"]] = row
    shown = [{**{name: row[name] for name in SHOWN}, **provenance()} for row in rows.values()]
    write_result("frequency-cifar10", shown)
    write_atomically(RESULTS / f"{file_stem('frequency-cifar10')}.svg", svg(figure(shown)))


if __name__ == "__main__":
    main()
