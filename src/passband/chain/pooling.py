"""Pooling as steps of the native engine: whatever windows modules, functions and means have."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from passband.chain.graph import Graph, argument
from passband.chain.steps import AVERAGE, MAXIMUM, Place, Step, Steps, UnsupportedError

_AVERAGE = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_MAXIMUM = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_OPTIONS: dict[Any, tuple[int, tuple[str, ...]]] = {
    **dict.fromkeys([nn.AvgPool2d, F.avg_pool2d], (AVERAGE, (*_AVERAGE, "divisor_override"))),
    **dict.fromkeys([nn.MaxPool2d, F.max_pool2d], (MAXIMUM, (*_MAXIMUM, "return_indices"))),
    **dict.fromkeys([nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d], (AVERAGE, ())),
    **dict.fromkeys(
        [nn.AdaptiveMaxPool2d, F.adaptive_max_pool2d], (MAXIMUM, ("output_size", "return_indices"))
    ),
}
_MEANS = (torch.mean, "mean")


@dataclass(frozen=True)
class Pool:
    """What the results of a pooling are made of.

    Args:
        kind: AVERAGE or MAXIMUM.
        rows: For each row of the result those that it reads.
        columns: For each column.
        adaptive: Whether its results are as many as were asked for.
    """

    kind: int
    rows: list[range]
    columns: list[range]
    adaptive: bool

    @property
    def border(self) -> int:
        """The zeros that it reads before the first row or column."""
        return max(0, -self.rows[0].start, -self.columns[0].start)


def pool_of(graph: Graph, node: fx.Node) -> Pool | None:
    """What a node pools; None if it does not.

    Raises:
        UnsupportedError: It has an option that the engine lacks.
    """
    module = graph.module(node)
    if node.target in _MEANS:
        return _mean(graph, node)
    found = _OPTIONS.get(node.target if module is None else type(module))
    if found is None:
        return None
    kind, names = found
    if module is None:
        given = {name: argument(node, i, name) for i, name in enumerate(names, 1)}
    else:
        given = {name: getattr(module, name) for name in names}
    for name in ("divisor_override", "return_indices"):
        if given.get(name):
            raise UnsupportedError(f"{graph.name(node)} with {name}")
    sizes = zip(graph.shape(node.all_input_nodes[0])[2:], graph.shape(node)[2:], strict=True)
    adaptive = "kernel_size" not in given
    rows, columns = (
        _adaptive(*size) if adaptive else _windows(kind, given, axis, *size)
        for axis, size in enumerate(sizes)
    )
    return Pool(kind, rows, columns, adaptive)


def _mean(graph: Graph, node: fx.Node) -> Pool | None:
    """The average of all points."""
    axes = argument(node, 1, "dim", ())
    shape = graph.shape(node.all_input_nodes[0])
    wanted = {axis % 4 for axis in (axes if isinstance(axes, (list, tuple)) else [axes])}
    if wanted != {2, 3} or len(shape) != 4 or "dtype" in node.kwargs:
        return None
    return Pool(AVERAGE, [range(shape[2])], [range(shape[3])], adaptive=True)


def _adaptive(inputs: int, outputs: int) -> list[range]:
    return [range(i * inputs // outputs, -(-(i + 1) * inputs // outputs)) for i in range(outputs)]


def _windows(kind: int, given: dict[str, Any], axis: int, inputs: int, outputs: int) -> list[range]:
    """Of one axis. Averages may count zeros around the map; all else is cut off at its edges."""
    size, padding = _of_axis(given["kernel_size"], axis), _of_axis(given["padding"] or 0, axis)
    stride = _of_axis(given["stride"] or given["kernel_size"], axis)
    dilation = _of_axis(given.get("dilation") or 1, axis)
    counted = padding if kind == AVERAGE and given["count_include_pad"] is not False else 0
    windows = []
    for i in range(outputs):
        first = i * stride - padding
        points = range(first, first + dilation * size, dilation)
        there = [point for point in points if -counted <= point < inputs + counted]
        if not there:
            raise UnsupportedError("pooling of windows without any point of the map")
        windows.append(range(there[0], there[-1] + 1, dilation))
    return windows


def _of_axis(value: Any, axis: int) -> int:
    return int(value if isinstance(value, int) else value[axis % len(value)])


def pooling(steps: Steps, pool: Pool, source: Place, to: Place) -> list[Step]:
    """The steps of a pooling, which give it: one for all windows of one form, at like distances.

    The engine is faster with every second column of one image, but then writes zeros beyond the end
    of a row; so the longest run of columns comes first, and the others one by one.
    """
    source = steps.bordered(source) if pool.border else source
    longest, *others = sorted(_runs(pool.columns), key=lambda run: -len(run.windows))
    runs = [longest] + [
        _Run(run.first + i, [w]) for run in others for i, w in enumerate(run.windows)
    ]
    return [
        _step(steps, pool.kind, source, to, rows, columns)
        for columns in runs
        for rows in _runs(pool.rows)
    ]


@dataclass(frozen=True)
class _Run:
    """Windows of as many points, at like distances, of one axis, from which result on."""

    first: int
    windows: list[range]

    @property
    def stride(self) -> int:
        return self.windows[1].start - self.windows[0].start if len(self.windows) > 1 else 1

    def goes_on(self, window: range) -> bool:
        """Whether it is the next one."""
        last = self.windows[-1]
        is_next = len(self.windows) == 1 or window.start - last.start == self.stride
        return is_next and (len(window), window.step) == (len(last), last.step)


def _runs(windows: list[range]) -> list[_Run]:
    runs: list[_Run] = []
    for i, window in enumerate(windows):
        if runs and runs[-1].goes_on(window):
            runs[-1].windows.append(window)
        else:
            runs.append(_Run(i, [window]))
    return runs


def _step(steps: Steps, kind: int, source: Place, to: Place, rows: _Run, columns: _Run) -> Step:
    down, right = rows.windows[0], columns.windows[0]
    lanes = steps.lanes
    begin = source.start + down.start * source.row + right.start * lanes
    shifts = [
        (r - down.start) * source.row + (c - right.start) * lanes for r in down for c in right
    ]
    return steps.add(
        kind,
        replace(source, start=begin),
        replace(to, start=to.start + rows.first * to.row + columns.first * lanes),
        rows=len(rows.windows), columns=len(columns.windows),
        source_row=rows.stride * source.row, source_column=columns.stride * lanes,
        taps=len(shifts), shifts=np.array(shifts, dtype=np.int64),
    )  # fmt: skip
