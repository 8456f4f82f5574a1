"""Which algorithm runs: the one that was asked for, or for "auto" the cheapest by count."""

from passband.ops.band_limited_conv.cost import multiplications
from passband.ops.band_limited_conv.geometry import ConvGeometry

ALGORITHMS = ("auto", "fft", "lowpass", "matmul", "triton")

# A multiplication in our transforms and batched products costs this many of the vendor's
# convolution, which keeps its operands in registers and caches (two AVX-512 cores, float32).
_MATMUL_COST = 3.0


def check_algorithm(algorithm: str) -> None:
    """Check a name, and that the algorithm can run here.

    Raises:
        ValueError: The name is unknown, or the algorithm cannot run, with the reason.
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(
            f"algorithm is {algorithm!r}, allowed are {', '.join(map(repr, ALGORITHMS))}"
        )
    if algorithm == "triton":
        raise ValueError(
            "algorithm 'triton' cannot run here: its kernels are not part of this version; "
            "use 'auto', 'lowpass' or 'matmul'"
        )


def select_algorithm(
    algorithm: str, geometry: ConvGeometry, batch: int, in_channels: int, out_channels: int
) -> str:
    """The algorithm that runs: from shapes alone, so the same when traced, compiled or exported.

    Example:
        >>> from passband.ops.band_limited_conv.geometry import conv_geometry
        >>> narrow = conv_geometry((32, 32), (3, 3), padding=1, compression=0.85)
        >>> select_algorithm("auto", narrow, 32, 64, 64)
        'matmul'
        >>> select_algorithm("auto", conv_geometry((32, 32), (3, 3), padding=1), 32, 64, 64)
        'lowpass'
    """
    if algorithm != "auto":
        return algorithm
    if geometry.band.is_full:
        return "lowpass"  # which is then torch's convolution itself
    shape = (geometry, batch, in_channels, out_channels)
    vendor = multiplications("lowpass", *shape)
    own = multiplications("matmul", *shape)
    lowpass_cost = vendor.product + _MATMUL_COST * vendor.transforms
    return "matmul" if _MATMUL_COST * own.total < lowpass_cost else "lowpass"
