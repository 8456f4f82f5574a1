"""How much of each layer is kept at a fraction of everything: its corners."""

import math
from dataclasses import dataclass

from torch import nn

from passband.config import FrequencyRegularization
from passband.convert.frequency.network import FrequencyState, Reads, frequency_layers
from passband.nn.frequency import FrequencyLinear
from passband.nn.frequency_layer import FrequencyLayer
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
    whole = _Shares(layers, state, 1.0).macs()
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = _Shares(layers, state, middle).macs() <= fraction * whole
        low, high = (middle, high) if fits else (low, middle)
    shares = _Shares(layers, state, low)
    return {n: box_corner(m.sizes, shares.box(n, m), m.order) for n, m in layers.items()}


@dataclass(frozen=True)
class _Shares:
    """The network in which every map keeps a share of its channels."""

    layers: dict[str, FrequencyLayer]
    state: FrequencyState
    share: float

    def channels(self, size: int) -> int:
        """Of a map with so many."""
        return _up(max(1, round(self.share * size)), self.state.config.round_to, size)

    def given(self, maps: Reads) -> int:
        """Channels of maps that are concatenated."""
        return sum(size if whole else self.channels(size) for size, whole in maps)

    def box(self, name: str, layer: FrequencyLayer) -> tuple[int, ...]:
        """What a layer keeps: all of an image's channels, and all of the outputs' before the end.

        The rest as its maps.
        """
        extents = list(layer.sizes)
        extents[layer._in_axis] = self.given(self.state.reads[name])
        if name not in self.state.last:
            extents[layer._out_axis] = self.channels(layer.out_size)
        return tuple(extents)

    def macs(self) -> int:
        """Multiply-accumulates for one example, of depthwise convolutions too."""
        points = self.state.points
        dense = sum(points[n] * math.prod(self.box(n, m)) for n, m in self.layers.items())
        depthwise = self.state.depthwise.values()
        return dense + sum(each * self.given(maps) for each, maps in depthwise)
