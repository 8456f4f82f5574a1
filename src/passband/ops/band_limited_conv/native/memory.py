"""Tensors as the kernels see them, and the memory that they work in."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from passband.ops.band_limited_conv.native.library import Maps, load_library

TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Of tensors that the kernels take; they compute in float32."""

_MOST_KEPT_BYTES = 64 << 20  # of memory kept from call to call, per thread
_SMALL_BYTES = 8 << 20  # are kept however little is needed
# Tensors of this size are laid in large pages. The C library of Linux gives larger ones back to the
# system when they are freed: then each would look for large pages anew, and where memory has become
# fragmented that takes longer than the small ones do.
_LARGE_BYTES = range(4 << 20, 32 << 20)


def is_plain(tensor: Tensor) -> bool:
    """Whether the numbers lie in memory as the tensor's strides say, and with their own signs."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype in TYPES
        and tensor.layout == torch.strided
        and not tensor.is_neg()
        and not torch._is_zerotensor(tensor)
    )


def maps_argument(maps: Tensor, start: int = 0) -> Maps:
    """Maps (B, C, n1, ..) of one or two axes, from image `start` on."""
    batch, channel, *spatial = maps.stride()
    row = () if len(spatial) == 2 else (0,)  # a series is a map of one row
    pointer = maps.data_ptr() + 4 * start * batch
    return Maps(pointer, maps.shape[1], batch, channel, *row, *spatial)


def empty(shape: tuple[int, ...], form: torch.memory_format = torch.contiguous_format) -> Tensor:
    """Float32 memory, in large pages where they help."""
    tensor = torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=form)
    if tensor.nbytes in _LARGE_BYTES:
        library = load_library()
        assert library is not None
        library.passband_advise(tensor.data_ptr(), tensor.nbytes)
    return tensor


class _Kept(threading.local):
    memory: Tensor | None = None
    fits = False


_kept = _Kept()
_keeps = True


def keep_workspace(keep: bool) -> None:
    """Whether calls leave their workspace to the next one of their thread, which they do at first.

    What this thread's last call has left is given back.
    """
    global _keeps
    _keeps = keep
    release_workspace()


def release_workspace() -> None:
    """Give back what this thread's last call has left."""
    _kept.memory = None


@contextmanager
def fitting_workspace() -> Iterator[None]:
    """Do not leave a workspace that is much too large for a layer beside its maps.

    Of a network's layers those with most channels need the most, and those with the largest maps
    are where a step has its peak.
    """
    before, _kept.fits = _kept.fits, True
    try:
        yield
    finally:
        _kept.fits = before


@contextmanager
def workspace(*sizes: int) -> Iterator[list[Tensor]]:
    """Float32 memory of these sizes, from what the last call of this thread has left."""
    sizes = tuple(-(-size // 16) * 16 for size in sizes)
    needed = sum(sizes)
    memory, _kept.memory = _kept.memory, None
    most = max(2 * needed, _SMALL_BYTES // 4) if _kept.fits else math.inf
    if memory is not None and not needed <= memory.numel() <= most:
        memory = None  # given back before other is asked for
    memory = empty((needed,)) if memory is None else memory
    try:
        yield list(torch.split(memory[:needed], list(sizes)))
    finally:
        if _keeps and memory.nbytes <= _MOST_KEPT_BYTES:
            _kept.memory = memory
