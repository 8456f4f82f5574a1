"""A control of the chain: DepGraph of Torch-Pruning, at the same multiplications and steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from passband.chain import to_chain
from passband.chain.compare import model_macs
from passband.extras import require
from passband.studies.trainings import run_name, train_all
from passband.train import TrainConfig, load_run
from passband.train.evaluation import make_model, measure_accuracy
from passband.train.loop import Loop
from passband.train.parts import load_parts
from passband.train.run_folder import RunFolder, write_json

_CUTS = 400  # in which channels are taken away, few at a time


def train_pruned(
    name: str, config: TrainConfig, keep: float, folder: Path, *, progress: bool
) -> dict[str, Any]:
    """Train a dense network for a third of the epochs, prune it, and train it for the others.

    Its groups of channels with the smallest weights are taken away until it multiplies no more
    than the chain of that `keep` with a budget of multiplications.

    Source: Fang et al., DepGraph: towards any structural pruning (CVPR 2023).

    Args:
        name: The beginning of the run folders' names.
        config: How the dense network is trained, and for how many epochs in all.
        keep: Fraction of the multiplications.
        folder: Folder of the run folders; what is finished in it is taken up.
        progress: Print a line per run.

    Returns:
        test_accuracy, macs, parameters, step_milliseconds and seconds.

    Raises:
        ImportError: torch-pruning is missing.
        ValueError: The network cannot be cut that far.
    """
    before = replace(config, epochs=max(1, config.epochs // 3))
    after = replace(config, epochs=max(1, config.epochs - before.epochs))
    label = f"{config.model} to be pruned seed {config.seed}"
    (dense,) = train_all({label: before}, folder, progress=progress).values()
    run = RunFolder(folder / run_name(f"{name} {keep:g} seed {config.seed}", after))
    result = run.read_result()
    if result is not None:
        return result
    model, _, bundle = load_run(dense.folder)
    example = torch.zeros(1, *bundle.input_shape)
    shrunk = replace(config, method="frequency", keep=keep, per_layer="macs")
    chain = to_chain(make_model(shrunk, bundle), example, finish=True)
    prune(model, example, model_macs(chain, example))
    parts = load_parts(after)
    trained = Loop(after, run, False, None, run.create).fit(model.train(), parts, None)
    result = {
        "test_accuracy": measure_accuracy(model, parts.test, after)["test_accuracy"],
        "macs": model_macs(model.eval(), example),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "step_milliseconds": trained.step_milliseconds,
        "seconds": sum(row["seconds"] for row in trained.history),
    }
    write_json(run.result, result)
    return result


def prune(model: nn.Module, example: torch.Tensor, target: int) -> None:
    """Take groups of channels away until the network multiplies no more than that.

    Raises:
        ValueError: It cannot be cut that far.
    """
    library = require("torch_pruning", extra="pruning")
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    pruner = library.pruner.MetaPruner(
        model,
        example,
        importance=library.importance.GroupMagnitudeImportance(p=2),
        iterative_steps=_CUTS,
        pruning_ratio=0.99,
        ignored_layers=last,
    )
    for _ in range(_CUTS):
        if model_macs(model, example) <= target:
            return
        pruner.step()
    raise ValueError(f"the network cannot be cut to {target} multiplications by pruning")
