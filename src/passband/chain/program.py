"""A chain as the steps of the native engine: what is computed, and where it lies in memory."""

import ctypes
import operator
from collections.abc import Callable
from ctypes import c_float, c_int64, c_void_p
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

CONVOLVE, AVERAGE, MAXIMUM, ADD, AFFINE, COPY, PHASES, CLEAR, LINEAR = range(9)  # of engine.c
_INFINITY = float("inf")
_CLAMPS = {nn.ReLU: (0.0, _INFINITY), nn.ReLU6: (0.0, 6.0)}
_MOST_OUTPUTS = 8


class UnsupportedError(Exception):
    """Something that the engine has no step for."""


class Step(ctypes.Structure):
    """`step` of engine.c."""

    _fields_ = [
        *[
            (name, c_int64)
            for name in (
                "kind", "source", "other", "to", "inputs", "others", "outputs", "rows", "columns",
                "source_plane", "source_row", "source_column", "other_plane", "to_plane", "to_row",
                "to_column", "taps", "size",
            )
        ],
        ("shifts", c_void_p),
        ("weights", c_void_p),
        ("bias", c_void_p),
        ("tiles", c_void_p),
        ("low", c_float),
        ("high", c_float),
    ]  # fmt: skip


class End(ctypes.Structure):
    """`end` of engine.c."""

    _fields_ = [
        (name, c_int64) for name in ("source", "channels", "rows", "columns", "plane", "row")
    ]


@dataclass(frozen=True)
class Place:
    """Where a value lies: its first number inside the border, and the strides.

    Args:
        start: In numbers from the start of the workspace.
        channels: Channels that lie there.
        rows: Rows of its maps.
        columns: Columns of its maps.
        plane: From a channel to the next.
        row: From a row to the next.
        total: Channels of the value; those that do not lie there are zero.
    """

    start: int
    channels: int
    rows: int
    columns: int
    plane: int
    row: int
    total: int

    def end(self) -> End:
        """As the engine wants it of the input and the output."""
        return End(self.start, self.channels, self.rows, self.columns, self.plane, self.row)


@dataclass
class Program:
    """The steps of a network, for one image at a time or for as many as a register has numbers.

    Args:
        lanes: 1, or the numbers in a register.
        width: Numbers in a register.
        most_sums: Registers for sums.
    """

    lanes: int
    width: int
    most_sums: int
    steps: list[Step] = field(default_factory=list)
    arrays: list[NDArray[Any]] = field(default_factory=list)
    size: int = 0
    border: int = 0
    input: End = field(default_factory=End)
    output: End = field(default_factory=End)
    output_shape: tuple[int, ...] = ()
    _places: dict[fx.Node, Place] = field(default_factory=dict)
    _free: dict[tuple[int, ...], list[Place]] = field(default_factory=dict)
    _made_by: dict[fx.Node, list[Step]] = field(default_factory=dict)

    def build(self, chain: fx.GraphModule, example: Tensor) -> None:
        """Write the steps of a chain for maps of the example's size.

        Raises:
            UnsupportedError: There is no step for something in it.
        """
        ShapeProp(chain).propagate(example)
        convolutions = [m for m in chain.modules() if isinstance(m, nn.Conv2d)]
        self.border = max((_padding(m) for m in convolutions), default=0)
        nodes = list(chain.graph.nodes)
        last_use = {value: i for i, node in enumerate(nodes) for value in node.all_input_nodes}
        roots: dict[fx.Node, fx.Node] = {}  # of what shares a place, the node that made it
        for index, node in enumerate(nodes):
            self._add(chain, node)
            if node.op == "output":
                break
            source = next(iter(node.all_input_nodes), None)
            shares = source is not None and self._places[node].start == self._places[source].start
            root = roots[source] if shares and source is not None else node
            roots[node] = root
            last_use[root] = max(last_use.get(root, index), last_use.get(node, index))
            for value in {roots[v] for v in node.all_input_nodes}:
                if last_use[value] <= index and value is not root:
                    self._release(self._places[value])
        self.size += 4 * self.width * max(self.lanes, 1) + 64  # read past the end, never used

    def array(self) -> Any:
        """The steps as the engine wants them."""
        return (Step * len(self.steps))(*self.steps)

    def _add(self, chain: fx.GraphModule, node: fx.Node) -> None:
        module = chain.get_submodule(str(node.target)) if node.op == "call_module" else None
        inputs = [self._places[value] for value in node.all_input_nodes]
        if node.op == "placeholder":
            self._places[node] = place = self._map(*_shape(node)[1:])
            self.input = place.end()
        elif node.op == "output":
            if len(inputs) != 1 or node.args[0] is not node.all_input_nodes[0]:
                raise UnsupportedError("several outputs")
            place = self._whole(inputs[0])
            self.output, self.output_shape = place.end(), _shape(node.all_input_nodes[0])[1:]
        elif isinstance(module, nn.Conv2d):
            self._convolution(node, module, self._whole(inputs[0]))
        elif isinstance(module, nn.Linear):
            self._linear(node, module, inputs[0])
        elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)) and module.track_running_stats:
            self._batch_norm(node, module, self._whole(inputs[0]))
        elif isinstance(module, tuple(_CLAMPS)) or node.target in (F.relu, torch.relu, "relu"):
            self._clamp(node, inputs[0], _CLAMPS[nn.ReLU if module is None else type(module)])
        elif isinstance(module, (nn.AvgPool2d, nn.MaxPool2d)):
            self._pool(node, module, self._whole(inputs[0]))
        elif isinstance(module, nn.AdaptiveAvgPool2d) or node.target in (F.adaptive_avg_pool2d,):
            self._global_average(node, self._whole(inputs[0]))
        elif node.target in (torch.add, operator.add) and len(inputs) in (1, 2):
            self._sum(node, inputs[0], inputs[-1])
        elif node.target is F.pad:
            self._places[node] = replace(inputs[0], total=_shape(node)[1])
        elif node.target is torch.cat:
            self._concatenation(node, inputs)
        elif isinstance(module, (nn.Flatten, nn.Identity)) or node.target is torch.flatten:
            self._places[node] = inputs[0]
        else:
            what = type(module).__name__ if module is not None else str(node.target)
            raise UnsupportedError(what)

    # ---- places

    def _map(self, channels: int, rows: int, columns: int) -> Place:
        """Maps with a border, which is zero as no step ever writes there for good."""
        key = (channels, rows, columns)
        if self._free.get(key):
            return self._free[key].pop()
        row = (columns + 2 * self.border) * self.lanes
        slack = self.width if self.lanes == 1 else 0  # the last vector of a plane ends in it
        plane = (rows + 2 * self.border) * row + slack
        start = self.size + self.border * (row + self.lanes)
        self.size += _up(channels * plane, self.width)
        return Place(start, channels, rows, columns, plane, row, channels)

    def _vector(self, channels: int) -> Place:
        """One number per channel."""
        start = self.size
        self.size += _up(channels, self.width) * self.lanes
        return Place(start, channels, 1, 1, self.lanes, self.lanes, channels)

    def _release(self, place: Place) -> None:
        if place.rows * place.columns > 1:
            key = (place.channels, place.rows, place.columns)
            self._free.setdefault(key, []).append(replace(place, total=place.channels))

    def _whole(self, place: Place) -> Place:
        """A place that has all channels of its value."""
        if place.channels == place.total:
            return place
        to = self._map(place.total, place.rows, place.columns)
        self._step(COPY, place, to, inputs=place.channels)
        return to

    # ---- steps

    def _step(self, kind: int, source: Place, to: Place, **more: Any) -> Step:
        """A step that goes row by row, with what differs from that."""
        values = {
            "kind": kind, "source": source.start, "to": to.start, "inputs": source.channels,
            "outputs": to.channels, "rows": to.rows, "columns": to.columns,
            "source_plane": source.plane, "source_row": source.row, "source_column": self.lanes,
            "to_plane": to.plane, "to_row": to.row, "to_column": self.lanes,
            "low": -_INFINITY, "high": _INFINITY, **more,
        }  # fmt: skip
        step = Step(**{k: self._kept(v) for k, v in values.items()})
        self.steps.append(step)
        return step

    def _kept(self, value: Any) -> Any:
        """The address of an array, which is kept as long as the program."""
        if not isinstance(value, np.ndarray):
            return value
        self.arrays.append(value)
        return value.ctypes.data

    def _done(self, node: fx.Node, place: Place, *steps: Step) -> None:
        self._places[node] = place
        self._made_by[node] = list(steps)

    def _convolution(self, node: fx.Node, conv: nn.Conv2d, source: Place) -> None:
        outputs, rows, columns = _shape(node)[1:]
        if conv.padding_mode != "zeros" or len({*conv.stride, *conv.stride}) != 1:
            raise UnsupportedError(f"Conv2d with padding_mode {conv.padding_mode}")
        to = self._map(outputs, rows, columns)
        if self.lanes == 1:
            layout = self._plane_layout(conv, source, to)
        else:
            layout = self._image_layout(conv, source)
        per_group = outputs // conv.groups
        steps = []
        for group in range(conv.groups):
            chosen = slice(group * per_group, (group + 1) * per_group)
            bias = None if conv.bias is None else conv.bias[chosen]
            taps = conv.in_channels // conv.groups
            steps.append(
                self._products(
                    layout.shifts(range(group * taps, (group + 1) * taps), conv),
                    conv.weight[chosen],
                    bias,
                    layout.source,
                    replace(to, start=to.start + group * per_group * to.plane, channels=per_group),
                    **layout.strides,
                )
            )
        if self.lanes == 1:
            self._step(CLEAR, to, to, size=self.width)
        self._done(node, to, *steps)

    def _image_layout(self, conv: nn.Conv2d, source: Place) -> "_Layout":
        padding, stride = _padding(conv), int(conv.stride[0])

        def shift(channel: int, row: int, column: int) -> int:
            down, right = row - padding, column - padding
            return channel * source.plane + down * source.row + right * self.lanes

        strides = {"source_row": stride * source.row, "source_column": stride * self.lanes}
        return _Layout(source, shift, strides)

    def _plane_layout(self, conv: nn.Conv2d, source: Place, to: Place) -> "_Layout":
        """Rows of a plane one after the other, borders between them, as one row."""
        padding, stride = _padding(conv), int(conv.stride[0])
        positions = (to.rows - 1) * to.row + to.columns
        strides = {
            "rows": 1,
            "columns": -(-positions // self.width),
            "source_column": self.width,
            "to_column": self.width,
        }
        if stride == 1 and (source.rows, source.columns) == (to.rows, to.columns):

            def same(channel: int, row: int, column: int) -> int:
                down, right = row - padding, column - padding
                return channel * source.plane + down * source.row + right

            return _Layout(source, same, strides)
        if stride != 2 or 2 * to.columns not in (source.columns, source.columns + 1):
            raise UnsupportedError(f"Conv2d of stride {stride} that changes the size of one image")
        before = self.border - padding
        phases = self._phases(source, to)

        def halved(channel: int, row: int, column: int) -> int:
            row, column = row + before, column + before
            phase = 4 * channel + 2 * (row % 2) + column % 2
            return phase * phases.plane + row // 2 * phases.row + column // 2

        return _Layout(phases, halved, strides)

    def _phases(self, source: Place, to: Place) -> Place:
        """Every second row and column of bordered maps, in rows as long as those of the result."""
        rows = (source.rows + 2 * self.border + 1) // 2
        columns = (source.columns + 2 * self.border + 1) // 2
        plane = (rows + 1) * to.row + self.width
        phases = Place(
            self.size, 4 * source.channels, rows, columns, plane, to.row, 4 * source.channels
        )
        self.size += phases.channels * plane + 4 * self.width
        bordered = source.start - self.border * (source.row + 1)
        self._step(PHASES, replace(source, start=bordered), phases)
        return phases

    def _products(
        self,
        shifts: list[int],
        weight: Tensor,
        bias: Tensor | None,
        source: Place,
        to: Place,
        **more: int,
    ) -> Step:
        """Sums of shifted inputs: a convolution, or a linear layer of many images."""
        columns = more.get("columns", to.columns)
        tiles = _tiles(to.channels, columns, self.most_sums)
        flat = weight.detach().flatten(1).float().numpy()
        packed, first = [], 0
        for tile in tiles:
            packed.append(flat[first : first + tile].T.ravel())
            first += tile
        return self._step(
            CONVOLVE,
            source,
            to,
            taps=len(shifts),
            shifts=np.array(shifts, dtype=np.int64),
            weights=np.concatenate(packed).astype(np.float32),
            bias=_numbers(bias, to.channels),
            tiles=np.array(tiles, dtype=np.int64),
            **more,
        )

    def _linear(self, node: fx.Node, layer: nn.Linear, source: Place) -> None:
        source = self._whole(source)
        shifts = [
            channel * source.plane + row * source.row + column * self.lanes
            for channel in range(source.channels)
            for row in range(source.rows)
            for column in range(source.columns)
        ]
        to = self._vector(layer.out_features)
        if self.lanes > 1:
            one = replace(to, rows=1, columns=1)
            self._done(node, to, self._products(shifts, layer.weight, layer.bias, source, one))
            return
        outputs = _up(layer.out_features, self.width)
        weights = np.zeros((layer.in_features, outputs), np.float32)
        weights[:, : layer.out_features] = layer.weight.detach().T.float().numpy()
        bias = np.zeros(outputs, np.float32)
        bias[: layer.out_features] = _numbers(layer.bias, layer.out_features)
        step = self._step(
            LINEAR, source, to, outputs=outputs, taps=len(shifts),
            shifts=np.array(shifts, dtype=np.int64), weights=weights, bias=bias,
        )  # fmt: skip
        self._done(node, to, step)

    def _batch_norm(self, node: fx.Node, norm: Any, source: Place) -> None:
        scale = (norm.running_var + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -norm.running_mean * scale
        shift = shift if norm.bias is None else shift + norm.bias
        self._affine(node, source, scale, shift)

    def _affine(
        self, node: fx.Node, source: Place, scale: Tensor, shift: Tensor, **more: float
    ) -> None:
        to = self._like(source)
        numbers = [_numbers(value, source.channels) for value in (scale, shift)]
        step = self._step(AFFINE, source, to, weights=numbers[0], bias=numbers[1], **more)
        self._done(node, to, step)

    def _like(self, source: Place) -> Place:
        if source.row == self.lanes:
            return self._vector(source.channels)
        return self._map(source.channels, source.rows, source.columns)

    def _clamp(self, node: fx.Node, source: Place, limits: tuple[float, float]) -> None:
        """Part of the step before, where nothing else reads what that gives."""
        value = node.all_input_nodes[0]
        steps = self._made_by.get(value, [])
        if steps and len(value.users) == 1:
            for step in steps:
                step.low, step.high = limits
            self._done(node, source)
            return
        source = self._whole(source)
        ones = torch.ones(source.channels)
        self._affine(node, source, ones, 0 * ones, low=limits[0], high=limits[1])

    def _pool(self, node: fx.Node, pool: Any, source: Place) -> None:
        size, stride = _pair(pool.kernel_size), _pair(pool.stride or pool.kernel_size)
        dilation = _pair(getattr(pool, "dilation", 1))
        if pool.ceil_mode or _pair(pool.padding) != (0, 0) or dilation != (1, 1):
            raise UnsupportedError(f"{type(pool).__name__} with padding, dilation or ceil_mode")
        to = self._map(source.channels, *_shape(node)[2:])
        shifts = [r * source.row + c * self.lanes for r in range(size[0]) for c in range(size[1])]
        kind = AVERAGE if isinstance(pool, nn.AvgPool2d) else MAXIMUM
        step = self._step(
            kind, source, to, taps=len(shifts), shifts=np.array(shifts, dtype=np.int64),
            source_row=stride[0] * source.row, source_column=stride[1] * self.lanes,
        )  # fmt: skip
        self._done(node, to, step)

    def _global_average(self, node: fx.Node, source: Place) -> None:
        if _shape(node)[2:] != (1, 1):
            raise UnsupportedError("AdaptiveAvgPool2d to more than one point")
        to = self._vector(source.channels)
        shifts = [
            r * source.row + c * self.lanes
            for r in range(source.rows)
            for c in range(source.columns)
        ]
        step = self._step(
            AVERAGE, source, to, taps=len(shifts), shifts=np.array(shifts, dtype=np.int64)
        )
        self._done(node, to, step)

    def _sum(self, node: fx.Node, first: Place, second: Place) -> None:
        if first.row != second.row:
            raise UnsupportedError("a sum of values that lie differently")
        to = self._map(max(first.total, second.total), first.rows, first.columns)
        step = self._step(
            ADD, first, to, other=second.start, others=second.channels, other_plane=second.plane
        )
        self._done(node, to, step)

    def _concatenation(self, node: fx.Node, inputs: list[Place]) -> None:
        channels, rows, columns = _shape(node)[1:]
        to, done = self._map(channels, rows, columns), 0
        for source in inputs:
            part = replace(to, start=to.start + done * to.plane, channels=source.total)
            self._step(COPY, source, part)
            done += source.total
        self._done(node, to)


@dataclass(frozen=True)
class _Layout:
    """How a convolution goes through its input."""

    source: Place
    shift: Callable[[int, int, int], int]
    strides: dict[str, int]

    def shifts(self, channels: range, conv: nn.Conv2d) -> list[int]:
        """The shift of each tap: input channel, row, column of the kernel."""
        rows, columns = conv.kernel_size
        (down, right) = conv.dilation
        return [
            self.shift(channel, row * int(down), column * int(right))
            for channel in channels
            for row in range(int(rows))
            for column in range(int(columns))
        ]


def _tiles(outputs: int, columns: int, most_sums: int) -> list[int]:
    """How many outputs are computed together: like numbers that fill the registers."""
    positions = min(columns, 4 if outputs > 3 else 8)
    most = min(_MOST_OUTPUTS, max(1, most_sums // positions), outputs)
    count = -(-outputs // most)
    return [outputs // count + (tile < outputs % count) for tile in range(count)]


def _shape(node: fx.Node) -> tuple[int, ...]:
    meta = node.meta.get("tensor_meta")
    shape = tuple(getattr(meta, "shape", ()))
    if len(shape) not in (2, 4):
        raise UnsupportedError(f"a value of shape {shape}")
    return shape


def _padding(conv: nn.Conv2d) -> int:
    if conv.padding == "valid":
        return 0
    sides = {int(n) for n in conv._reversed_padding_repeated_twice}
    if len(sides) != 1:
        raise UnsupportedError("Conv2d with unlike padding on its sides")
    return sides.pop()


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _numbers(values: Tensor | None, count: int) -> NDArray[np.float32]:
    if values is None:
        return np.zeros(count, np.float32)
    return np.ascontiguousarray(values.detach().float().numpy())


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
