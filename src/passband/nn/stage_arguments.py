"""What the arguments of SpecNet's layers may be."""

import math

from passband.ops.spectral.on_map import MAP_ACTIVATIONS
from passband.ops.spectral.pointwise import DFT_NORMS, ODD_ACTIVATIONS
from passband.spectrum.packed import check_storage

ACTIVATIONS = (*ODD_ACTIVATIONS, *MAP_ACTIVATIONS)
ORDERS = ("threshold-first", "activation-first")
GRADIENTS = ("masked", "straight-through")
POOLS = ("spectral", "average", "stride", "max")


def check_stage_arguments(
    threshold: float,
    activation: str | None,
    pool: str,
    learned_scale: bool,
    storage: str,
    order: str = ORDERS[0],
    gradient: str = GRADIENTS[0],
    dft_norm: str = DFT_NORMS[0],
) -> None:
    """Check how a stage is to compute and store.

    Raises:
        ValueError: A value is outside its range, unknown, or does not fit the activation.
        TypeError: The threshold is not a number.
    """
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        raise TypeError(f"threshold must be a number, got {threshold!r}")
    if not 0 <= threshold < math.inf:
        raise ValueError(f"threshold is {threshold}, allowed is 0 or more")
    if activation is not None and activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, allowed are {', '.join(ACTIVATIONS)}")
    if pool not in POOLS:
        raise ValueError(f"pool is {pool!r}, allowed are {', '.join(POOLS)}")
    on_map = activation in MAP_ACTIVATIONS
    if pool == "max" and not on_map:
        raise ValueError("pool is 'max', which has no spectral form; use an activation on the map")
    if learned_scale and on_map:
        raise ValueError(f"learned_scale is for spectral activations, not {activation!r}")
    check_storage(storage)
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}, allowed are {', '.join(ORDERS)}")
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient is {gradient!r}, allowed are {', '.join(GRADIENTS)}")
    if gradient != GRADIENTS[0] and not on_map:
        raise ValueError(f"gradient {gradient!r} is for activations of the map, not {activation!r}")
    if dft_norm not in DFT_NORMS:
        raise ValueError(f"dft_norm is {dft_norm!r}, allowed are {', '.join(DFT_NORMS)}")
