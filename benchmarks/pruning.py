"""Torch-Pruning's DepGraph at the multiplications of a chain, fine-tuned: a control of the chain.

    pip install torch-pruning
    passband train --data cifar10 --model vgg8 --epochs 30 --batch-size 128 --lr 0.1 \
        --scheduler cosine --out runs/dense
    python benchmarks/pruning.py runs/dense --keeps 0.1,0.02,0.007 --epochs 30

Each row is one pruned network: the dense one of the run, its groups of channels with the smallest
weights taken away until it multiplies as much as the chain of that `keep` with a budget per layer,
then trained by the run's own recipe for so many epochs.
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import torch
from machine import provenance, write_result
from torch import nn

from passband import FrequencyRegularization, convert, to_chain
from passband.chain.compare import model_macs
from passband.networks import create_model
from passband.train import TrainConfig, load_run
from passband.train.evaluation import measure_accuracy
from passband.train.loop import Loop
from passband.train.parts import load_parts
from passband.train.run_folder import RunFolder

STEPS = 400  # in which channels are taken away, few at a time


def chain_macs(config: TrainConfig, shape: tuple[int, ...], classes: int, keep: float) -> int:
    """Multiplications of the chain, for one example."""
    channels, *size = shape
    model = create_model(
        config.model, num_classes=classes, in_channels=channels, input_size=tuple(size)
    )
    example = torch.zeros(2, *shape)
    convert(model, FrequencyRegularization(keep=keep, per_layer="macs"), example)
    return model_macs(to_chain(model, example, finish=True), example[:1])


def prune(model: nn.Module, example: torch.Tensor, target: int) -> nn.Module:
    """Take groups of channels away until the network multiplies no more than that."""
    import torch_pruning

    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    pruner = torch_pruning.pruner.MetaPruner(
        model,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        iterative_steps=STEPS,
        pruning_ratio=0.99,
        ignored_layers=last,
    )
    for _ in range(STEPS):
        if model_macs(model, example) <= target:
            break
        pruner.step()
    return model


def main() -> None:
    """Prune, train and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of the dense network's run")
    parser.add_argument("--keeps", default="0.1,0.05,0.02,0.01,0.007,0.005")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    dense, config, bundle = load_run(options.run)
    example = torch.zeros(1, *bundle.input_shape)
    whole = model_macs(dense, example)
    rows = []
    for keep in map(float, options.keeps.split(",")):
        target = chain_macs(config, bundle.input_shape, bundle.num_classes, keep)
        model = prune(copy.deepcopy(dense), example, target)
        tuning = replace(config, epochs=options.epochs)
        parts = load_parts(tuning)
        folder = RunFolder(Path("runs/pruning") / options.run.name / f"keep-{keep:g}")
        folder.create()
        trained = Loop(tuning, folder, False, None).fit(model.train(), parts, None)
        measured = measure_accuracy(model, parts.test, tuning)
        macs = model_macs(model.eval(), example)
        rows.append(
            {
                "network": config.model,
                "keep": keep,
                "chain_macs": target,
                "macs": macs,
                "macs_ratio": round(whole / macs, 1),
                "parameters": sum(p.numel() for p in model.parameters()),
                "epochs": options.epochs,
                "test_accuracy": measured["test_accuracy"],
                "step_milliseconds": round(trained.step_milliseconds, 2),
                **provenance(),
            }
        )
        print({k: rows[-1][k] for k in ("keep", "macs_ratio", "test_accuracy")})
    write_result(f"pruning-{config.model}", rows)


if __name__ == "__main__":
    main()
