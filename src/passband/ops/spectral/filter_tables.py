"""Constants by which a filter's taps become its spectrum."""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from passband.ops.spectral.frame import self_conjugate_bins
from passband.ops.spectral.native.product import TapTables
from passband.spectrum.band import Band
from passband.spectrum.constants import cached_constant


@cached_constant
def tap_tables(
    band: Band, kernel: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...]
) -> TapTables:
    """The kernels' tables; see `three_filter_parts`."""
    places = [
        tuple(d * int(t) - p for t, d, p in zip(tap, dilation, padding, strict=True))
        for tap in np.ndindex(*kernel)
    ]
    opposite = [tuple(-p for p in place) for place in places]
    pairs = [(t, places.index(o)) for t, o in enumerate(opposite) if o in places]
    pairs = [(t, o) for t, o in pairs if t < o]
    alone = {*range(len(places))} - {t for pair in pairs for t in pair}
    first = [t for t, _ in pairs] + sorted(alone, key=lambda t: (not any(places[t]), t))
    angle = _angles(band, kernel, padding, dilation)[:, first]
    turning = [slot for slot, t in enumerate(first) if any(places[t])]  # all but one in the middle
    cosine, sine = np.cos(angle), np.sin(angle[:, turning])
    sine[self_conjugate_bins(band).numpy()] = 0
    return TapTables(
        torch.tensor(first, dtype=torch.int32),
        torch.tensor([other for _, other in pairs], dtype=torch.int32),
        *(torch.tensor(table, dtype=torch.float32).contiguous() for table in (cosine, sine)),
    )


@cached_constant
def three_filter_parts(
    band: Band,
    kernel: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Li - Lr, Lr + Li and Lr of the filter's conjugate spectrum L: (3, F, taps)."""
    angle = _angles(band, kernel, padding, dilation)
    real, imag = np.cos(angle), np.sin(angle)
    imag[self_conjugate_bins(band).numpy()] = 0
    parts = np.stack([imag - real, real + imag, real])
    return torch.tensor(parts, dtype=dtype, device=device)


def _angles(
    band: Band, kernel: tuple[int, ...], padding: tuple[int, ...], dilation: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """Phases of the taps at the bins: (F, taps)."""
    bins = band.bins()
    taps = np.indices(kernel).reshape(len(kernel), -1)
    angle = np.zeros((len(bins), math.prod(kernel)))
    for axis, size in enumerate(band.sizes):
        place = taps[axis] * dilation[axis] - padding[axis]
        angle += 2 * np.pi / size * (np.outer(bins[:, axis], place) % size)
    return angle
