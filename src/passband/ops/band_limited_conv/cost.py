"""How many multiplications each algorithm takes, and how many the plain convolution."""

import math
from dataclasses import dataclass

from passband.ops.band_limited_conv.geometry import ConvGeometry
from passband.ops.band_limited_conv.lowpass import LowPass
from passband.ops.band_limited_conv.triton import is_dense
from passband.spectrum.dft import transform_multiplications


@dataclass(frozen=True)
class Multiplications:
    """Real multiplications of one forward pass.

    Examples:
        >>> Multiplications(transforms=10, product=90, filters=0).total
        100
    """

    transforms: int
    """Of maps to spectra and back."""
    product: int
    """Over pairs of input and output channels."""
    filters: int
    """Of filters to spectra; once per batch, and never in evaluation, where they are cached."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.transforms + self.product + self.filters


def native_multiplications(
    geometry: ConvGeometry, batch: int, in_channels: int, out_channels: int
) -> int:
    """Multiplications of torch's convolution: B O C/groups times taps times output points.

    Examples:
        >>> from passband.ops.band_limited_conv.geometry import conv_geometry
        >>> native_multiplications(conv_geometry((32, 32), (3, 3), padding=1), 1, 64, 64)
        37748736
    """
    pairs = out_channels * (in_channels // geometry.groups)
    return batch * pairs * math.prod(geometry.kernel) * math.prod(geometry.output_size)


def multiplications(
    algorithm: str, geometry: ConvGeometry, batch: int, in_channels: int, out_channels: int
) -> Multiplications:
    """Multiplications of one algorithm.

    lowpass: two separable transforms per input channel, then the plain convolution. matmul: one
    transform per input and one per output channel, then three products per complex bin and pair of
    channels. triton: transforms as in matmul, or on small maps by one dense matrix; four products
    per complex bin, one of each conjugate pair and a few twice; the filters' spectrum summed from
    the taps, once for each block of images. fft is counted as four products per coefficient kept,
    its transforms as 5/2 N log2 N per map of N points, the usual count of a real FFT.

    Examples:
        >>> from passband.ops.band_limited_conv.geometry import conv_geometry
        >>> g = conv_geometry((32, 32), (3, 3), padding=1, compression=0.5)
        >>> multiplications("matmul", g, 1, 64, 64).product
        3846144
    """
    band, pairs = geometry.band, out_channels * (in_channels // geometry.groups)
    if algorithm == "fft":
        points = math.prod(geometry.grid)
        transform = round(2.5 * points * math.log2(max(points, 2)))
        return Multiplications(
            batch * (in_channels + out_channels) * transform,
            batch * pairs * 4 * band.kept_coefficients,
            pairs * transform,
        )
    if algorithm == "lowpass":
        axes = [a for a in range(geometry.axes) if not band.is_full_axis(a)]
        spectrum = LowPass.spectrum_shape(geometry, batch, in_channels)[2:]
        analysis = transform_multiplications(geometry.size, spectrum, axes)
        synthesis = transform_multiplications(spectrum, geometry.padded_size, axes)
        return Multiplications(
            batch * in_channels * (analysis + synthesis),
            native_multiplications(geometry, batch, in_channels, out_channels),
            0,
        )
    # the last axis by itself: first on the way into the spectrum, last on the way out
    (*old, n), (*kept, m), (*new, n_out) = geometry.size, band.real_sizes, geometry.output_size
    others = range(len(old))
    analysis = math.prod(old) * n * m + m * transform_multiplications(old, kept, others)
    synthesis = m * transform_multiplications(kept, new, others) + math.prod(new) * m * n_out
    if algorithm == "triton" and geometry.axes < 3:
        frequencies = math.prod(band.real_sizes)
        if is_dense(geometry.size):
            analysis = math.prod(geometry.size) * frequencies
        if is_dense(geometry.output_size):
            synthesis = math.prod(geometry.output_size) * frequencies
        bins = math.prod(band.cosines) * geometry.axes
        return Multiplications(
            batch * (in_channels * analysis + out_channels * synthesis),
            batch * pairs * 4 * bins,
            pairs * 2 * bins * math.prod(geometry.kernel),
        )
    bins = band.pair_count
    return Multiplications(
        batch * (in_channels * analysis + out_channels * synthesis),
        batch * pairs * 3 * bins,
        pairs * 3 * bins * math.prod(geometry.kernel),
    )
