"""What a finished run is worth."""

import math
from typing import Any

from torch import nn

from passband.train.checkpoint_file import DamagedCheckpointError, read_checkpoint
from passband.train.config import TrainConfig
from passband.train.evaluation import (
    best_device,
    describe_layers,
    example_batch,
    make_model,
    mean_compression,
    measure_accuracy,
    network_weights,
    step_saved_bytes,
)
from passband.train.parts import Parts, size
from passband.train.run_folder import RunFolder, logger


def conclude(
    config: TrainConfig,
    folder: RunFolder,
    parts: Parts,
    history: list[dict[str, float]],
    progress: bool,
) -> dict[str, Any]:
    """Measure the checkpoints and the model of a finished training.

    The checkpoints are read back, so what is measured is what is on disk.
    """
    model = make_model(config, parts.bundle)
    last_checkpoint = read_checkpoint(folder.last)
    try:
        best_checkpoint = read_checkpoint(folder.best)
    except (DamagedCheckpointError, FileNotFoundError) as error:
        best: dict[str, Any] | None = None
        logger.warning("%s; the result has no best epoch", error)
    else:
        best = _judge(best_checkpoint, model, config, parts, progress)
    last = best  # in the end the model has the last weights
    if last is None or last["epoch"] != _epoch(last_checkpoint):
        last = _judge(last_checkpoint, model, config, parts, progress)
    chosen_on = "test" if parts.validation is None else "validation"
    reported = "last" if parts.validation is None or best is None else "best"
    headline = last if best is None or reported == "last" else best
    inputs = example_batch(parts.train, config).to(best_device())
    model.to(best_device())
    layers = describe_layers(model, inputs)
    return {
        "data": config.data,
        "model": config.model,
        "method": config.method,
        "compression": config.compression,
        "energy": config.energy,
        "band": config.band,
        "keep": config.keep,
        "test_accuracy": headline["test_accuracy"],
        "test_loss": headline["test_loss"],
        **({"test_dice": headline["test_dice"]} if "test_dice" in headline else {}),
        "checkpoint": reported,
        "last": last,
        "best": best,
        "best_chosen_on": chosen_on,
        "epochs": config.epochs,
        "train_samples": size(parts.train),
        "validation_samples": 0 if parts.validation is None else size(parts.validation),
        "test_samples": size(parts.test),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "saved_bytes": step_saved_bytes(model, inputs, config),
        "realised_compression": mean_compression(layers),
        "layers": layers,
        "seconds": sum(row["seconds"] for row in history),
    }


def _judge(
    checkpoint: dict[str, Any],
    model: nn.Module,
    config: TrainConfig,
    parts: Parts,
    progress: bool,
) -> dict[str, Any]:
    """Epoch and metrics of a checkpoint, measured on the test data."""
    model.load_state_dict(network_weights(checkpoint))
    row = checkpoint["passband"]["history"][-1]
    measured = measure_accuracy(model, parts.test, config, progress)
    held_out = {name: row[name] for name in row if name.startswith("validation_")}
    judged = {"epoch": _epoch(checkpoint), **held_out, **measured}
    # JSON has no number for a loss that is not finite.
    return {k: v if math.isfinite(v) else None for k, v in judged.items()}


def _epoch(checkpoint: dict[str, Any]) -> int:
    """How many epochs a checkpoint has been trained."""
    return int(checkpoint["passband"]["history"][-1]["epoch"]) + 1
