"""Time of functions, measured fairly: in one process and in turn."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch

LEAST_ROUNDS = 3
"""Rounds that are run however long they take: a median of fewer says nothing."""


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
    return [statistics.median(t) for t in time_rounds(functions, repeats, warm_up, device)]


def time_rounds(
    functions: Sequence[Callable[[], object]],
    repeats: int = 7,
    warm_up: int = 1,
    device: torch.device | str = "cpu",
    shortest: float = 0.0,
    longest: float = float("inf"),
) -> list[list[float]]:
    """Seconds of each function in every round, run in turn; see `alternate`.

    Args:
        functions: What to time.
        repeats: Timed rounds: more while they have taken less than `shortest`, fewer when they have
            taken more than `longest`, but then no fewer than three.
        warm_up: Rounds before the first timed one.
        device: The device that is waited for before each look at the clock.
        shortest: Seconds that all timed rounds take together at least.
        longest: Seconds after which no other round begins.

    Raises:
        ValueError: `repeats` is less than 1.

    Examples:
        >>> len(time_rounds([lambda: None], repeats=2)[0])
        2
        >>> len(time_rounds([lambda: None], repeats=9, longest=0.0)[0])
        3
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}, allowed is at least 1")
    device = torch.device(device)
    for _ in range(warm_up):
        for function in functions:
            function()
    seconds: list[list[float]] = [[] for _ in functions]
    begun = time.perf_counter()
    rounds, spent = 0, 0.0
    while rounds < repeats or spent < shortest:
        if rounds >= LEAST_ROUNDS and spent >= longest:
            break
        for function, times in zip(functions, seconds, strict=True):
            _wait_for(device)
            start = time.perf_counter()
            function()
            _wait_for(device)
            times.append(time.perf_counter() - start)
        rounds += 1
        spent = time.perf_counter() - begun
    return seconds


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
