"""Time of functions, measured fairly: in one process and in turn."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch


def alternate(
    functions: Sequence[Callable[[], object]],
    repeats: int = 7,
    warm_up: int = 1,
    device: torch.device | str = "cpu",
) -> list[float]:
    """Median seconds of each function, run in turn: A, B, A, B, ...

    What else the machine does then falls on all of them alike, so their ratio is worth more than
    any one of the times.

    Args:
        functions: What to time.
        repeats: Timed calls of each.
        warm_up: Calls of each before the first timed one.
        device: The device that is waited for before each look at the clock.

    Raises:
        ValueError: `repeats` is less than 1.

    Examples:
        >>> slow, fast = alternate([lambda: sum(range(100000)), lambda: None])
        >>> slow > fast
        True
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}, allowed is at least 1")
    device = torch.device(device)
    seconds: list[list[float]] = [[] for _ in functions]
    for round_number in range(-warm_up, repeats):
        for function, times in zip(functions, seconds, strict=True):
            _wait_for(device)
            start = time.perf_counter()
            function()
            _wait_for(device)
            if round_number >= 0:
                times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
