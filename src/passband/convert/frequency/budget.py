"""How much of each layer is kept at a fraction of everything: its corners."""

import math
from collections.abc import Callable

from torch import nn

from passband.config import FrequencyRegularization
from passband.convert.frequency.network import FrequencyState, frequency_layers
from passband.nn.frequency import FrequencyLayer, FrequencyLinear
from passband.spectrum.corner import Corner, box_corner, corner_of_count, whole_shells

_HALVINGS = 24


def corners_at(model: nn.Module, state: FrequencyState, fraction: float) -> dict[str, Corner]:
    """The corner of each layer where the schedule keeps a fraction.

    On the way there whole shells are kept, which need no mask; in the end exactly the number of
    coefficients that was asked for.
    """
    layers = dict(frequency_layers(model))
    if fraction == 1:
        return {name: box_corner(m.sizes, m.sizes, m.order) for name, m in layers.items()}
    if state.config.per_layer == "macs":
        return _corners_by_macs(layers, state, fraction)
    return {name: _corner(name, layer, state, fraction) for name, layer in layers.items()}


def _corner(name: str, layer: FrequencyLayer, state: FrequencyState, fraction: float) -> Corner:
    config = state.config
    if name in state.last:
        above = (fraction - config.keep) / (1 - config.keep) if config.keep < 1 else 0.0
        fraction = config.kept_last + (1 - config.kept_last) * above
    total = math.prod(layer.sizes)
    least = config.least_linear if isinstance(layer, FrequencyLinear) else config.least_conv
    count = min(total, max(least, math.ceil(fraction * total - 1e-9 * total)))
    at_the_end = fraction in (config.keep, config.kept_last)
    if count == total:
        corner = box_corner(layer.sizes, layer.sizes, layer.order)
    elif layer.order == "shells" and not at_the_end:
        corner = whole_shells(layer.sizes, count)
    else:
        corner = corner_of_count(layer.sizes, count, layer.order)
    return _rounded(layer, corner, config) if config.domain == "channel" else corner


def _rounded(layer: FrequencyLayer, corner: Corner, config: FrequencyRegularization) -> Corner:
    """Whole multiples of channels, all of whose coefficients are kept."""
    if config.round_to == 1:
        return corner
    extents = list(corner.extents)
    for axis in (layer._in_axis, layer._out_axis):
        extents[axis] = _up(extents[axis], config.round_to, layer.sizes[axis])
    return box_corner(corner.sizes, tuple(extents), corner.order)


def _up(channels: int, multiple: int, all_of_them: int) -> int:
    return min(-(-channels // multiple) * multiple, all_of_them)


def _corners_by_macs(
    layers: dict[str, FrequencyLayer], state: FrequencyState, fraction: float
) -> dict[str, Corner]:
    """Boxes in which every map keeps the same share of its channels, for a budget of MACs."""
    whole = _macs(layers, state, lambda layer: layer.sizes)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = _macs(layers, state, _boxes(layers, state, middle)) <= fraction * whole
        low, high = (middle, high) if fits else (low, middle)
    box = _boxes(layers, state, low)
    return {name: box_corner(m.sizes, box(m), m.order) for name, m in layers.items()}


def _boxes(
    layers: dict[str, FrequencyLayer], state: FrequencyState, share: float
) -> Callable[[FrequencyLayer], tuple[int, ...]]:
    """The box of each layer when every map keeps a share of its channels."""
    names = {id(layer): name for name, layer in layers.items()}
    multiple, inputs = state.config.round_to, state.example_shape[1]

    def channels(size: int) -> int:
        return _up(max(1, round(share * size)), multiple, size)

    def box(layer: FrequencyLayer) -> tuple[int, ...]:
        extents = list(layer.sizes)
        if layer.in_blocks != (inputs,):  # the image itself is kept whole
            extents[layer._in_axis] = sum(channels(size) for size in layer.in_blocks)
        if names[id(layer)] not in state.last:
            extents[layer._out_axis] = channels(layer.out_size)
        return tuple(extents)

    return box


def _macs(
    layers: dict[str, FrequencyLayer],
    state: FrequencyState,
    box: Callable[[FrequencyLayer], tuple[int, ...]],
) -> int:
    return sum(state.points[name] * math.prod(box(layer)) for name, layer in layers.items())
