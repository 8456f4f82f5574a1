"""Trainings in processes of their own that are killed, and what they leave.

The processes are forked from a server that has imported everything, so that one starts in no time.
"""

import csv
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from passband.train import TrainConfig, run
from passband.train.checkpoint_file import read_checkpoint

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["passband.train.loop", "torch.utils.tensorboard", __name__])

CHECKPOINT_EVERY = 3


def write_images(path: Path, train: int = 100, test: int = 30) -> None:
    """Small colour images in two classes, one brighter; they are augmented in training."""
    generator = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in (("train", train), ("test", test)):
        labels = np.arange(count) % 2
        images = generator.integers(0, 200, (count, 3, 9, 9)) + 50 * labels[:, None, None, None]
        arrays |= {f"x_{part}": images.astype(np.uint8), f"y_{part}": labels}
    np.savez(path, **arrays)


def with_dropout(create: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Networks that draw from the global generator in every step."""

    def created(name: str, **arguments: Any) -> nn.Module:
        return nn.Sequential(nn.Dropout(0.2), create(name, **arguments))

    return created


def train(config: TrainConfig, out: Path, die_in: str = "", die_at: int = 0) -> None:
    """Begin or resume a run; with `die_in`, until the process kills itself.

    Args:
        config: The run.
        out: Its folder.
        die_in: "before", "after" or "half" and a call that writing a file needs: where.
        die_at: Within which of these calls, counted from 1.
    """
    torch.set_num_threads(1)
    from passband.train import evaluation

    evaluation.create_model = with_dropout(evaluation.create_model)  # type: ignore[assignment]
    if die_in:
        _arm(die_in, die_at)
    run(config, out, resume=True, progress=False, checkpoint_every=CHECKPOINT_EVERY)


def start(config: TrainConfig, out: Path, **arguments: Any) -> Any:
    """A process that trains."""
    process = PROCESSES.Process(target=train, args=(config, out), kwargs=arguments)
    process.start()
    return process


def train_to_end(config: TrainConfig, out: Path) -> None:
    """Begin or resume a run in a process that is left alone."""
    process = start(config, out)
    process.join()
    assert process.exitcode == 0


def weights(out: Path) -> Mapping[str, Any]:
    """What a run has learnt: weights, optimizer and plateau, of the last and the best epoch."""
    last = read_checkpoint(out / "checkpoints" / "last.safetensors")
    best = read_checkpoint(out / "checkpoints" / "best.safetensors")
    return {
        "last": last["state_dict"],
        "optimizer": last["optimizer_states"],
        "plateau": last["passband"]["plateau"],
        "random": last["passband"]["random"],
        "best": best["state_dict"],
    }


def metrics(out: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without the time they took."""
    with (out / "metrics.csv").open() as file:
        return [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Nested values are equal, tensors bit for bit."""
    assert type(found) is type(expected), where
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, where
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}/{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{where}/{i}")
    else:
        assert found == expected, where


def _arm(die_in: str, die_at: int) -> None:
    """Make the process kill itself within a call that writing a file needs."""
    import safetensors.torch

    kind, _, call = die_in.rpartition(" ")
    owner: Any = safetensors.torch if call == "save_file" else os
    original = getattr(owner, call)
    calls = 0

    def deadly(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == die_at and kind == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **keywords)
        if calls == die_at:
            if kind == "half":
                # As safetensors 0.8 writes: under a name of its own, which it moves at the end.
                file = Path(arguments[1])
                os.truncate(file, file.stat().st_size // 2)
                file.rename(file.with_name(".tmp0"))
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, call, deadly)
