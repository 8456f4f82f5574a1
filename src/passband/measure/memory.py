"""Memory: what a forward pass keeps for the backward pass, and the peak of a whole step."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from types import TracebackType
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.profiler import ProfilerActivity, profile
from torch.utils.hooks import RemovableHandle

from passband.nn.probes import probe
from passband.ops.band_limited_conv.native.memory import release_workspace


class SavedBytes:
    """Counts, while it is entered, the bytes that forward passes keep for the backward pass.

    Every storage is counted once, in full, however many tensors saved by autograd look into it.
    Parameters and buffers of `model` are left out: they are there anyway. The input of the model is
    counted where it is kept.

    It is a probe: what autograd wants to save is counted and dropped, so that a pass needs no more
    memory than one without gradients, and its result cannot be differentiated.

    Args:
        model: The model whose parameters and buffers are left out, and whose modules are counted
            one by one; None counts everything together.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3))
        >>> with SavedBytes(model) as saved:
        ...     _ = model(torch.zeros(2, 3, 10, 10))
        >>> saved.total == 4 * 2 * (3 + 8) * 10 * 10  # the input, and what ReLU and conv share
        True
        >>> saved.per_module
        {'0': 2400, '1': 6400, '2': 6400}
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self._model = model
        self._saved: dict[str, dict[StorageWeakRef, int]] = defaultdict(dict)
        self._running = [""]
        self._handles: list[RemovableHandle] = []
        self._excluded = {_storage_identity(tensor) for tensor in _own_tensors(model)}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._count, _refuse)

    @property
    def total(self) -> int:
        """Bytes of all storages kept, each counted once."""
        return self.of(self._saved)

    @property
    def per_module(self) -> dict[str, int]:
        """Bytes kept by each module's own operations, each module counted alone.

        A map that two modules keep counts for both, so the sum can exceed `total`. What the model
        keeps outside of its parts stands under "".
        """
        return {name: sum(saved.values()) for name, saved in self._saved.items()}

    def of(self, names: Iterable[str]) -> int:
        """Bytes kept by several modules together, each storage counted once."""
        together: dict[StorageWeakRef, int] = {}
        for name in names:
            together.update(self._saved.get(name, {}))
        return sum(together.values())

    def __enter__(self) -> SavedBytes:
        for name, module in self._model.named_modules() if self._model is not None else ():
            enter = probe(lambda *_, name=name: self._running.append(name))
            leave = probe(lambda *_: self._leave())
            self._handles.append(module.register_forward_pre_hook(enter))
            self._handles.append(
                module.register_forward_hook(leave, prepend=False, always_call=True)
            )
        self._hooks.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hooks.__exit__(kind, error, traceback)
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _leave(self) -> None:
        self._running.pop()

    def _count(self, tensor: Tensor) -> None:
        storage = _storage_identity(tensor)
        if storage not in self._excluded:
            size = tensor.untyped_storage().nbytes()
            self._saved[self._running[-1]][storage] = size


def saved_bytes(function: Callable[[], object], model: nn.Module | None = None) -> int:
    """Bytes that a forward pass keeps for the backward pass; see `SavedBytes`.

    Args:
        function: Runs the forward pass, gradients enabled.
        model: The model whose parameters and buffers are left out.

    Examples:
        >>> conv = nn.Conv2d(3, 8, 3)
        >>> saved_bytes(lambda: conv(torch.zeros(2, 3, 10, 10)), conv)
        2400
    """
    with SavedBytes(model) as saved, torch.enable_grad():
        function()
    return saved.total


def peak_bytes(function: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Most bytes allocated at once while a function runs, above what was allocated before.

    On a CPU every allocation is recorded by torch's profiler; on a GPU its own allocator counts.
    What a call leaves behind, a workspace or gradients, is there in the next one: that counts.

    Args:
        function: Runs what is measured, for example a whole training step. It is called twice.
        device: Where it allocates.

    Raises:
        ValueError: The device is neither a CPU nor a GPU of CUDA's kind.

    Examples:
        >>> 8000 <= peak_bytes(lambda: torch.ones(1000).add(1)) < 9000
        True
    """
    device = _known(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        _twice(function)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    release_workspace()  # what is needed of it counts, whatever ran before
    events = _allocations(partial(_twice, function))[1]
    return max(accumulate((size for _, size in events), initial=0))


def left_bytes(function: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Bytes that a function has allocated and not freed again while its result is held.

    Of a forward pass that is what it keeps for the backward pass, and its output, whoever keeps it:
    also what torch.utils.checkpoint keeps, of which `SavedBytes` does not know. The kernels'
    workspace, which is for any pass, is not counted.

    Args:
        function: Runs what is measured, and returns what is to be held.
        device: Where it allocates.

    Raises:
        ValueError: The device is neither a CPU nor a GPU of CUDA's kind.

    Examples:
        >>> 8000 <= left_bytes(lambda: torch.ones(1000).add(1).double()) < 9000
        True
    """
    device = _known(device)
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        held = function()
        left = torch.cuda.memory_allocated(device) - before
        del held
        return left
    release_workspace()

    def released() -> object:
        held = function()
        release_workspace()
        return held

    held, events = _allocations(released)
    del held
    return sum(size for _, size in events)


def _known(device: torch.device | str) -> torch.device:
    device = torch.device(device)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device is {device.type!r}, allowed are 'cpu' and 'cuda'")
    return device


@dataclass(frozen=True)
class Allocated:
    """Bytes allocated while a function ran, above what was allocated before."""

    peak: int
    mean: int
    """Over the time from the first allocation to the last."""


def allocated_bytes(function: Callable[[], object]) -> Allocated:
    """What is allocated on the CPU while a function runs twice: `peak_bytes`, and the mean.

    Examples:
        >>> found = allocated_bytes(lambda: torch.ones(1000).add(1))
        >>> 0 < found.mean <= found.peak
        True
    """
    release_workspace()
    _, events = _allocations(partial(_twice, function))
    held = list(accumulate((size for _, size in events), initial=0))
    times = [later - start for (start, _), (later, _) in pairwise(events)]
    area = sum(most * time for most, time in zip(held[1:], times, strict=False))
    return Allocated(max(held), round(area / max(1, sum(times))))


def _twice(function: Callable[[], object]) -> None:
    function()
    function()


def _allocations(function: Callable[[], object]) -> tuple[object, list[tuple[int, int]]]:
    """A function's result; when it allocated on the CPU, and the bytes (negative: freed), in order.

    Every allocation is recorded by torch's profiler.
    """
    with (
        _silent_profiler(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
    ):
        held = function()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())  # of all threads
    return held, [(event.start_ns(), event.nbytes()) for event in events]


@contextmanager
def _silent_profiler() -> Iterator[None]:
    """Keep the profiler's library from logging that it begins, ends and finds no GPU.

    It reads the level when it is first used; one that the user has set stays.
    """
    name = "KINETO_LOG_LEVEL"
    if name in os.environ:
        yield
        return
    os.environ[name] = "99"  # above all of its levels
    try:
        yield
    finally:
        del os.environ[name]


def _own_tensors(model: nn.Module | None) -> Iterator[Tensor]:
    if model is not None:
        yield from model.parameters()
        yield from model.buffers()


def _storage_identity(tensor: Tensor) -> StorageWeakRef:
    """What tensors of one storage share; a weak reference, so that no later storage can have it."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _refuse(_: object) -> NoReturn:
    raise RuntimeError(
        "SavedBytes counts what a forward pass keeps and drops it: run the backward pass outside"
    )
