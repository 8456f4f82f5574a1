"""What a conversion did, counted: the rows of its report."""

import math
from typing import Any

from torch import nn

from passband.convert.frequency import trace as tracing
from passband.convert.frequency.budget import corners_at
from passband.convert.frequency.network import (
    FrequencyNetwork,
    FrequencyState,
    frequency_layers,
    read_channels,
    widths,
)
from passband.convert.frequency.report import FrequencyLayerReport, FrequencyReport
from passband.convert.frequency.trace import module_of
from passband.nn.frequency_layer import FrequencyLayer
from passband.nn.frequency_maps import CoefficientConv2d

_DEPTHWISE = (
    "coefficientwise",
    "it has no dual; each channel's kernel acts on the coefficient of that number, and it keeps "
    "the channels that it is given",
)
_GROUPED = (
    "uncut",
    "it has no dual; its groups act on all coefficients, zeros where they were dropped, and none "
    "of its weights are dropped",
)
_MAX_POOL = (
    "coefficientwise",
    "it has no dual; the maxima are of the coefficients, which average pooling would not change",
)


def account(
    model: nn.Module,
    state: FrequencyState,
    types: dict[str, str],
    macs: dict[str, int] | None = None,
    pools: list[str] | None = None,
) -> FrequencyReport:
    """What a conversion did.

    Args:
        model: The converted model.
        state: What it remembers.
        types: Of each layer that was converted torch's type, by name.
        macs: Multiply-accumulates of layers for one example.
        pools: Names of operations that take maxima.
    """
    corners = corners_at(model, state, state.config.keep)
    rows = []
    for name, layer in frequency_layers(model):
        corner, total = corners[name], math.prod(layer.sizes)
        points = state.points.get(name)
        counted = (macs or {}).get(name, None if points is None else points * total)
        rows.append(
            FrequencyLayerReport(
                name or "(model)",
                types.get(name, type(layer).__name__),
                "converted",
                inputs=_of(corner.extents[layer._in_axis], layer.sizes[layer._in_axis]),
                outputs=_of(corner.extents[layer._out_axis], layer.out_size),
                coefficients=total,
                kept=corner.count,
                macs_before=counted,
                macs_after=counted,
            )
        )
    for name, left in state.left.items():
        counted = (macs or {}).get(name)
        rows.append(
            FrequencyLayerReport(name or "(model)", *left, macs_before=counted, macs_after=counted)
        )
    if isinstance(model, FrequencyNetwork):
        rows = _with_widths(model, state, corners, rows)
        rows += [FrequencyLayerReport(n, "max pooling", *_MAX_POOL) for n in pools or ()]
    return FrequencyReport(state.config, tuple(rows))


def _with_widths(
    model: FrequencyNetwork,
    state: FrequencyState,
    corners: dict[str, Any],
    rows: list[FrequencyLayerReport],
) -> list[FrequencyLayerReport]:
    """The rows with what each layer really reads, and those of grouped convolutions."""
    layers = dict(frequency_layers(model))

    def out_kept(name: str) -> int:
        return int(corners[name].extents[layers[name]._out_axis])

    found, by_name = widths(model, out_kept), {row.layer: row for row in rows}
    done: list[FrequencyLayerReport] = []
    for node in model.graph.nodes:
        module, name = module_of(model, node), str(node.target)
        if isinstance(module, FrequencyLayer) and name in by_name:
            if all(is_whole for _, is_whole in state.reads[name]):
                read = module.sizes[module._in_axis]  # of an image, whose DCT the chain folds in
            else:
                saved, module.corner = module.corner, corners[name]
                read = len(read_channels(module, found[node.all_input_nodes[0]]))
                module.corner = saved
            taps = math.prod(module.sizes[2:])
            row = by_name.pop(name)
            done.append(
                FrequencyLayerReport(
                    **vars(row)
                    | {
                        "inputs": _of(read, module.sizes[module._in_axis]),
                        "macs_after": state.points[name] * read * out_kept(name) * taps,
                    }
                )
            )
        elif isinstance(module, CoefficientConv2d):
            how = _DEPTHWISE if module.is_depthwise else _GROUPED
            shape = tracing.shape(node.all_input_nodes[0])
            assert shape is not None
            live = sum(width for _, width in found[node.all_input_nodes[0]])
            whole = (1, *shape[1:])
            done.append(
                FrequencyLayerReport(
                    name,
                    "Conv2d",
                    *how,
                    inputs=_of(live, module.in_channels),
                    outputs=_of(sum(w for _, w in found[node]), module.out_channels),
                    macs_before=module.macs(whole, dense=True),
                    macs_after=module.macs((1, live, *shape[2:])),
                )
            )
    return done


def _of(some: int, all_of_them: int) -> str:
    return f"{some} of {all_of_them}"
