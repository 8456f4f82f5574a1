"""Train the same network and seeds natively and band-limited, and write what came out.

    python benchmarks/accuracy.py fifty-words        # the FCN on UCR FiftyWords
    python benchmarks/accuracy.py cifar10            # ResNet-8 on CIFAR-10, a short budget

Both need the data under PASSBAND_DATA (or a download). Runs are kept under runs/accuracy: a script
that was stopped goes on where it was. Each row is one network: the mean over the seeds of the test
accuracy after the last epoch, and what one training step costs.
"""

import argparse
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from machine import provenance, write_result

from passband.train import TrainConfig, run


@dataclass(frozen=True)
class Experiment:
    """What is trained: a config without its method, the compressions, the seeds."""

    config: TrainConfig
    compressions: tuple[float, ...]
    seeds: tuple[int, ...]


EXPERIMENTS = {
    "fifty-words": Experiment(
        TrainConfig(
            data="ucr:FiftyWords",
            model="fcn",
            epochs=60,
            batch_size=16,
            lr=0.01,
            optimizer="adam",
            weight_decay=0.0,
            scheduler="cosine",
        ),
        (0.0, 0.5, 0.85),
        (0,),
    ),
    "cifar10": Experiment(
        TrainConfig(
            data="cifar10", model="resnet8", epochs=2, batch_size=128, lr=0.1, scheduler="cosine"
        ),
        (0.5, 0.85),
        (0,),
    ),
}


def variants(experiment: Experiment) -> list[TrainConfig]:
    """The native network, and one band-limited network for each compression."""
    limited = [
        replace(experiment.config, method="band-limited", compression=compression)
        for compression in experiment.compressions
    ]
    return [experiment.config, *limited]


def row(config: TrainConfig, results: list[dict]) -> dict:
    """Mean over seeds of one network."""
    accuracies = [result["test_accuracy"] for result in results]
    return {
        "data": config.data,
        "model": config.model,
        "method": config.method,
        "compression": "" if config.compression is None else config.compression,
        "realised_compression": results[0]["realised_compression"],
        "epochs": config.epochs,
        "seeds": len(results),
        "test_accuracy": statistics.mean(accuracies),
        "lowest": min(accuracies),
        "highest": max(accuracies),
        "step_milliseconds": statistics.median(r["step_milliseconds"] for r in results),
        "saved_bytes": results[0]["saved_bytes"],
    }


def main() -> None:
    """Train what is missing and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", choices=EXPERIMENTS)
    name = parser.parse_args().experiment
    experiment = EXPERIMENTS[name]
    rows = []
    for config in variants(experiment):
        label = config.method if config.compression is None else f"c={config.compression}"
        results = []
        for seed in experiment.seeds:
            out = Path("runs/accuracy") / name / label / f"seed-{seed}"
            results.append(run(replace(config, seed=seed), out, resume=True, progress=False))
        rows.append({**row(config, results), **provenance()})
        print({k: v for k, v in rows[-1].items() if k in ("compression", "test_accuracy")})
        sys.stdout.flush()
    write_result(f"accuracy-{name}", rows)


if __name__ == "__main__":
    main()
