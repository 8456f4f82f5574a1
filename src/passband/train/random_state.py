"""The state of every global random generator, as plain values and tensors."""

import random
from typing import Any

import numpy as np
import torch

from passband.train.sampling import stream_seed


def seed_generators(*words: int | str) -> None:
    """Seed Python's, numpy's and torch's global generators for a purpose."""
    seed = stream_seed(*words)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def get_random_state(device: torch.device) -> dict[str, Any]:
    """The states of Python's, numpy's and torch's generators, that of `device` included."""
    algorithm, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (algorithm, [int(key) for key in keys], *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Give back what `get_random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


def gather(value: Any) -> list[Any]:
    """The value of every process, in the order of their ranks; every process must call this."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values
