"""Which layers are measured, against what."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from passband.bench.machine import Peaks
from passband.bench.work import native_work
from passband.ops.band_limited_conv.cost import native_multiplications
from passband.ops.band_limited_conv.geometry import ConvGeometry, conv_geometry

ALGORITHMS = ("auto", "matmul", "lowpass")
"""Algorithms of our layers that are timed; the reference, "fft", is there to be right."""

SHAPES = ((64, 32), (128, 16), (256, 8), (512, 4), (64, 56), (128, 28), (256, 14), (512, 7))
"""(channels, points of a side): the stages of ResNets on CIFAR's and on ImageNet's sizes."""

# (in_channels, out_channels, kernel, points, padding): the layers of the FCN on series of 270
# points. The first one's padding, 3 before and 4 after, is part of its map there.
SERIES = ((1, 128, 8, 277, 0), (128, 256, 5, 270, 2), (256, 128, 3, 270, 1))

CURVE_SHAPES = ((64, 32), (128, 28), (256, 14), (512, 7))
CURVE_COMPRESSIONS = (0.25, 0.7, 0.95)  # beside those that are measured anyway


@dataclass(frozen=True)
class LayerCase:
    """One layer, one band, training or inference, and what is measured beside torch and `auto`.

    Args:
        batch: Maps in the batch.
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        size: Points of the map per axis, one or two axes.
        kernel: Taps per axis.
        compression: Fraction of the spectrum to discard.
        training: Forward and backward pass, or the forward pass in evaluation mode.
        padding: Zeros on both sides; None: kernel // 2, which keeps an odd kernel's map size.
        baselines: Of "textbook", "downsampled" and "compiled".
        algorithms: Algorithms of our layer.

    Examples:
        >>> case = LayerCase(32, 64, 64, (32, 32), 3, 0.5, training=True)
        >>> case.geometry.kept, case.name
        ((13, 13), 'batch 32, 64 to 64 channels, map 32x32, kernel 3, c=0.5, training')
    """

    batch: int
    in_channels: int
    out_channels: int
    size: tuple[int, ...]
    kernel: int
    compression: float
    training: bool
    padding: int | None = None
    baselines: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ALGORITHMS

    @property
    def geometry(self) -> ConvGeometry:
        """Static shapes and band of the layer."""
        return conv_geometry(
            self.size,
            (self.kernel,) * len(self.size),
            padding=self.zeros,
            compression=self.compression,
        )

    @property
    def zeros(self) -> int:
        """Zeros on both sides of each axis."""
        return self.kernel // 2 if self.padding is None else self.padding

    @property
    def shape(self) -> tuple[int, int, int]:
        """Batch, channels of the input, channels of the output."""
        return (self.batch, self.in_channels, self.out_channels)

    @property
    def name(self) -> str:
        """The case in words."""
        return (
            f"batch {self.batch}, {self.in_channels} to {self.out_channels} channels, "
            f"map {'x'.join(map(str, self.size))}, kernel {self.kernel}, c={self.compression:g}, "
            f"{'training' if self.training else 'inference'}"
        )


def square_case(
    batch: int, channels: int, side: int, kernel: int, compression: float, training: bool
) -> LayerCase:
    """A layer from a square map to one like it."""
    return LayerCase(batch, channels, channels, (side, side), kernel, compression, training)


def layer_cases(quick: bool = False, compiled: bool = False) -> list[LayerCase]:
    """The layers of the main table.

    Batches of 32 and 128 in training and (128 with 3x3 kernels only) inference, 1 and 8 in
    inference; the FCN's layers on series; and further compressions of some shapes, for the curve.

    The textbook FFT convolution does not depend on the band and is measured once for each shape.
    torch's compiled convolution takes long to compile and is measured for two shapes, or with
    `compiled` for all with a 3x3 kernel at c = 0.5.
    """
    if quick:
        every = ("textbook", "downsampled", *(["compiled"] if compiled else []))
        tiny = [
            replace(square_case(2, 4, 8, 3, compression, training), baselines=every)
            for compression in (0.0, 0.25, 0.5, 0.85)
            for training in (True, False)
        ]
        return [*tiny, LayerCase(2, 1, 4, (37,), 8, 0.5, True, 0, ("downsampled",))]
    return [*_images(compiled), *_small_batches(), *_series(), *_curve()]


def short_layer_cases(quick: bool = False) -> list[LayerCase]:
    """The 3x3 layers at batch 32, with nothing beside torch and `auto`."""
    return [
        replace(case, baselines=(), algorithms=("auto",))
        for case in layer_cases(quick)
        if (case.batch, case.kernel) == (2 if quick else 32, 3)
        and case.compression in (0.0, 0.5, 0.85)
    ]


def _images(compiled: bool) -> Iterator[LayerCase]:
    for batch in (32, 128):
        for kernel in (3, 5, 7):
            compressions = (0.0, 0.5, 0.85) if kernel == 3 else (0.5, 0.85)
            modes = (True,) if (batch, kernel) in ((128, 5), (128, 7)) else (True, False)
            for channels, side in SHAPES:
                for compression in compressions:
                    for training in modes:
                        case = square_case(batch, channels, side, kernel, compression, training)
                        baselines = []
                        if (batch, kernel, compression) == (32, 3, 0.0):
                            baselines.append("textbook")
                        if (batch, kernel) == (32, 3) and compression > 0:
                            baselines.append("downsampled")
                        if (batch, kernel, compression) == (32, 3, 0.5) and (
                            compiled or (channels, side) in ((64, 32), (256, 14))
                        ):
                            baselines.append("compiled")
                        yield replace(
                            case, baselines=tuple(baselines), algorithms=_algorithms(batch, kernel)
                        )


def _algorithms(batch: int, kernel: int) -> tuple[str, ...]:
    """What is timed within a quarter of an hour.

    The plain convolution that is part of "lowpass" costs the more the larger the kernel; and a
    batch of 128 is there to see what the choice does, not to choose again.
    """
    return ALGORITHMS if (batch, kernel) == (32, 3) else ("auto",)


def _small_batches() -> Iterator[LayerCase]:
    for batch in (1, 8):
        for channels, side in SHAPES:
            for compression in (0.5, 0.85):
                yield square_case(batch, channels, side, 3, compression, training=False)


def _series() -> Iterator[LayerCase]:
    for in_channels, out_channels, kernel, points, padding in SERIES:
        for compression in (0.5, 0.85):
            for training in (True, False):
                baselines = ("downsampled", "textbook") if compression == 0.5 else ("downsampled",)
                yield LayerCase(
                    64, in_channels, out_channels, (points,), kernel, compression, training,
                    padding, baselines,
                )  # fmt: skip


def _curve() -> Iterator[LayerCase]:
    for channels, side in CURVE_SHAPES:
        for compression in CURVE_COMPRESSIONS:
            for training in (True, False):
                case = square_case(32, channels, side, 3, compression, training)
                yield replace(case, algorithms=("auto",))


def bands_of_layers(cases: Sequence[LayerCase]) -> list[list[int]]:
    """Which cases differ in their bands only: lists of their indices.

    Examples:
        >>> narrow, wide = (square_case(1, 2, 8, 3, c, training=True) for c in (0.85, 0.5))
        >>> bands_of_layers([narrow, replace(narrow, training=False), wide])
        [[0, 2], [1]]
    """
    groups: dict[LayerCase, list[int]] = {}
    for index, case in enumerate(cases):
        shared = replace(case, compression=0.0, baselines=(), algorithms=())
        groups.setdefault(shared, []).append(index)
    return list(groups.values())


GROWTH_COMPRESSION = 0.5
GROWTH_SECONDS = 0.5
GROWTH_BYTES = 2**30


def growth_cases(peaks: Peaks, quick: bool = False) -> list[tuple[str, LayerCase]]:
    """Layers that grow along one axis at a time, each with the name of its axis.

    An axis ends where torch's training step would take more than `GROWTH_SECONDS` at the machine's
    peak, or move more than `GROWTH_BYTES`.

    Examples:
        >>> slow = Peaks(multiplications=1e9, bytes=1e9)
        >>> [case.batch for axis, case in growth_cases(slow) if axis == "batch" and case.training]
        [1, 2, 4]
    """
    middle = square_case(8 if quick else 32, 8 if quick else 128, 16, 3, GROWTH_COMPRESSION, True)
    wide = replace(middle, in_channels=64, out_channels=64, size=(32, 32))
    axes: dict[str, Sequence[LayerCase]] = {
        "batch": [replace(middle, batch=2**i) for i in range(2 if quick else 9)],
        "channels": [
            replace(middle, in_channels=2**i, out_channels=2**i)
            for i in range(3 if quick else 4, 4 if quick else 12)
        ],
        "map": [replace(wide, batch=8, size=(2**i, 2**i)) for i in range(2, 3 if quick else 10)],
        "kernel": [replace(wide, kernel=k) for k in ([] if quick else (3, 5, 7, 9, 11, 13))],
    }
    chosen = []
    for axis, cases in axes.items():
        for case in cases:
            work = native_work(case.geometry, *case.shape, training=True)
            if work.seconds(peaks) > GROWTH_SECONDS or work.bytes > GROWTH_BYTES:
                break
            chosen += [
                (axis, replace(case, training=training, algorithms=("auto",)))
                for training in (True, False)
            ]
    return chosen


def cost(case: LayerCase) -> int:
    """What says which of two cases takes longer to measure: multiplications of torch's pass."""
    product = native_multiplications(case.geometry, *case.shape)
    return product * (3 if case.training else 1)
