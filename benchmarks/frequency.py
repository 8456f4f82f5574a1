"""The accuracy of the chain and of its controls on CIFAR-10, at a small stated budget.

    OMP_NUM_THREADS=1 python benchmarks/frequency.py

Trains by `passband study frequency`, or takes up what it trained before under runs/frequency, and
writes the table and the figure into results. The budgets are those of PLANS, far below usual ones,
for one thread of a shared machine, so the times of the trainings are not shown.
"""

from dataclasses import dataclass
from pathlib import Path

from machine import RESULTS, file_stem, provenance, write_result

from passband.atomic import write_atomically
from passband.report.formats import svg
from passband.studies import run_study
from passband.studies.frequency import figure

SHOWN = ("network", "keep", "contender", "epochs", "images", "seeds", "test_images",
         "batch_size", "macs", "macs_ratio", "parameters", "test_accuracy")  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """One call of the study: what is trained, and how much."""

    network: str
    keeps: str
    contenders: str
    images: int = 4_000
    test_images: int = 2_000
    batch_size: int = 32
    epochs: int = 3
    lr: float = 0.05


_PLAIN = "chain-budget,small-budget,pruned"
_LARGE = {"images": 16_000, "test_images": 5_000}
_WHOLE = {"images": 50_000, "test_images": 10_000, "batch_size": 128, "epochs": 2, "lr": 0.1}
PLANS = (
    Plan("vgg8", "0.02,0.007", f"dense,{_PLAIN},chain,small", **_LARGE),
    Plan("vgg8", "0.1,0.05,0.01,0.005", _PLAIN, **_LARGE),
    *(
        Plan(network, "0.1,0.05,0.02,0.01,0.007,0.005", f"dense,{_PLAIN}")
        for network in (
            "resnet20",
            "resnet56",
            "vgg13",
            "mobilenetv2",
            "resnet18",
            "wrn-40-2",
            "densenet121",
        )
    ),
    Plan("vgg8", "0.007", "chain,small,chain-budget,small-budget", **_WHOLE),
    Plan("vgg8", "0.02", "chain-budget,small-budget", **_WHOLE),
    Plan("vgg8", "0.02,0.007", "chain-budget,small-budget", **_WHOLE | {"epochs": 12}),
)
"""What was trained; the study itself trains as much as it is told."""


def main() -> None:
    """Train what is missing, write the CSV and the figure."""
    rows: dict[tuple, dict] = {}
    for plan in PLANS:
        result = run_study(
            "frequency", Path("runs/frequency"), data="cifar10", networks=plan.network,
            keeps=plan.keeps, contenders=plan.contenders, epochs=plan.epochs,
            batch_size=plan.batch_size, lr=plan.lr, shrink="geometric", shrink_share=0.6,
            limit_train=plan.images, limit_test=plan.test_images,
        )  # fmt: skip
        for row in result.table.rows:
            row |= {
                "images": plan.images,
                "test_images": plan.test_images,
                "batch_size": plan.batch_size,
            }
            rows[row["network"], row["keep"], row["contender"], plan.images, plan.epochs] = row
    shown = [{**{name: row[name] for name in SHOWN}, **provenance()} for row in rows.values()]
    write_result("frequency-cifar10", shown)
    drawn = [row for row in shown if row["images"] != _WHOLE["images"]]
    write_atomically(RESULTS / f"{file_stem('frequency-cifar10')}.svg", svg(figure(drawn)))


if __name__ == "__main__":
    main()
