"""What a layer must compute and move, and the least time that takes: the roofline.

Multiplications of a training step: the product three times (output, gradient of the input, gradient
of the filters), the transforms twice (there, and their adjoints), and so the filters' transform.
Counted is what the algorithm needs; what an implementation computes again comes on top.

Bytes: one forward pass moves every tensor once, that is input, filters, output and, of a
band-limited layer, what stands between: the spectra of input, output and filters with `matmul`,
the spectrum of the input and the low-passed map with `lowpass`. In inference the spectra of the
filters are moved in place of the filters. A training step moves each of them and its gradient, and
reads again the filters and what was kept of the input (its spectrum, or the map where that is no
larger). What stays in a cache is moved faster than that, so a layer can beat its bound.
"""

import math
from dataclasses import dataclass

from passband.bench.machine import Peaks
from passband.ops.band_limited_conv.cost import multiplications, native_multiplications
from passband.ops.band_limited_conv.geometry import ConvGeometry

_BYTES = 4  # of a float32


@dataclass(frozen=True)
class Work:
    """Real multiplications, and bytes read or written.

    Examples:
        >>> work = Work(2_000_000, 1_000) + Work(1_000_000, 0)
        >>> work.seconds(Peaks(multiplications=1e9, bytes=1e9))
        0.003
    """

    multiplications: int
    bytes: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.multiplications + other.multiplications, self.bytes + other.bytes)

    def seconds(self, peaks: Peaks) -> float:
        """The least time: that of the multiplications or of the bytes, whichever is longer."""
        return max(self.multiplications / peaks.multiplications, self.bytes / peaks.bytes)


def native_work(
    geometry: ConvGeometry, batch: int, in_channels: int, out_channels: int, training: bool
) -> Work:
    """Work of torch's convolution.

    Examples:
        >>> from passband.ops.band_limited_conv.geometry import conv_geometry
        >>> native_work(conv_geometry((8, 8), (3, 3), padding=1), 1, 4, 4, training=False)
        Work(multiplications=9216, bytes=2624)
    """
    product = native_multiplications(geometry, batch, in_channels, out_channels)
    maps, filters, output = _sizes(geometry, batch, in_channels, out_channels)
    return _work(product, 0, maps + filters + output, filters + maps, training)


def band_limited_work(
    algorithm: str,
    geometry: ConvGeometry,
    batch: int,
    in_channels: int,
    out_channels: int,
    training: bool,
) -> Work:
    """Work of a band-limited convolution by one algorithm.

    Examples:
        >>> from passband.ops.band_limited_conv.geometry import conv_geometry
        >>> g = conv_geometry((32, 32), (3, 3), padding=1, compression=0.85)
        >>> native = native_work(g, 32, 64, 64, True)
        >>> ours = band_limited_work("matmul", g, 32, 64, 64, True)
        >>> native.multiplications > 5 * ours.multiplications
        True
        >>> full = conv_geometry((32, 32), (3, 3), padding=1)
        >>> band_limited_work("lowpass", full, 32, 64, 64, True) == native_work(
        ...     full, 32, 64, 64, True)
        True
    """
    shape = (geometry, batch, in_channels, out_channels)
    count = multiplications(algorithm, *shape)
    maps, filters, output = _sizes(*shape)
    band = geometry.band
    if algorithm == "lowpass":
        # the transform leaves a full axis as it is
        axes = range(geometry.axes)
        points = math.prod(
            geometry.size[a] if band.is_full_axis(a) else band.real_sizes[a] for a in axes
        )
        spectrum = 0 if band.is_full else batch * in_channels * points
        lowpassed = 0 if band.is_full else batch * in_channels * math.prod(geometry.padded_size)
        between, read_filters = spectrum + lowpassed, filters
    else:
        spectrum = batch * in_channels * math.prod(band.real_sizes)
        pairs = out_channels * (in_channels // geometry.groups)
        between = spectrum + batch * out_channels * math.prod(band.real_sizes)
        between += 2 * band.pair_count * pairs
        read_filters = filters if training else 0
    again = filters + (maps if geometry.keeps_map or not spectrum else spectrum)
    transforms = count.transforms + (count.filters if training else 0)
    moved = maps + read_filters + output + between
    return _work(count.product, transforms, moved, again, training)


def _work(product: int, transforms: int, moved: int, again: int, training: bool) -> Work:
    """From the multiplications of a forward pass, the numbers it moves and those read again."""
    if training:
        return Work(3 * product + 2 * transforms, _BYTES * (2 * moved + again))
    return Work(product + transforms, _BYTES * moved)


def _sizes(
    geometry: ConvGeometry, batch: int, in_channels: int, out_channels: int
) -> tuple[int, int, int]:
    """Numbers in the input, the filters and the output."""
    return (
        batch * in_channels * math.prod(geometry.size),
        out_channels * (in_channels // geometry.groups) * math.prod(geometry.kernel),
        batch * out_channels * math.prod(geometry.output_size),
    )
