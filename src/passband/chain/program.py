"""A chain as the steps of the native engine: what is computed, and where it lies in memory."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from passband.chain.concatenation import Slot, parts_of, slots
from passband.chain.convolution import (
    Before,
    convolution,
    products,
    transposed_border,
    transposed_convolution,
)
from passband.chain.graph import SUMS, Graph, Limits, argument, is_view
from passband.chain.layouts import padding
from passband.chain.pooling import Pool, pool_of, pooling
from passband.chain.steps import (
    ADD,
    AFFINE,
    CONVOLVE,
    COPY,
    LINEAR,
    End,
    Place,
    Step,
    Steps,
    UnsupportedError,
    numbers,
    round_up,
)


@dataclass
class Program(Steps):
    """The steps of a network, for one image at a time or for as many as a register has numbers.

    Args:
        lanes: 1, or the numbers in a register.
        width: Numbers in a register.
        most_sums: Registers for sums.
        most_tall: Outputs at once of a convolution at several rows.
    """

    input: End = field(default_factory=End)
    output: End = field(default_factory=End)
    output_shape: tuple[int, ...] = ()
    direct: bool = False
    _pools: dict[fx.Node, Pool] = field(default_factory=dict)
    _places: dict[fx.Node, Place] = field(default_factory=dict)
    _graph: Graph = field(init=False)
    _made_by: dict[fx.Node, list[Step]] = field(default_factory=dict)
    _before: dict[fx.Node, Before] = field(default_factory=dict)
    _slots: dict[fx.Node, Slot] = field(default_factory=dict)
    _wholes: dict[fx.Node, Place] = field(default_factory=dict)
    _order: dict[fx.Node, int] = field(default_factory=dict)

    def build(self, graph: Graph) -> None:
        """Write the steps of a chain.

        Raises:
            UnsupportedError: There is no step for something in it.
        """
        self._graph, nodes = graph, graph.nodes
        pools = {node: pool_of(graph, node) for node in nodes}
        self._pools = {node: pool for node, pool in pools.items() if pool is not None}
        of_pools = [pool.border for pool in self._pools.values()]
        self.border = max(*(_border(graph.module(node)) for node in nodes), 0, *of_pools)
        self.size = round_up(self.border, self.width)  # what is read before the first map
        self._order = {node: i for i, node in enumerate(nodes)}
        last_use = {value: i for i, node in enumerate(nodes) for value in node.all_input_nodes}
        self._slots = slots(nodes, {node: graph.shape(node)[1] for node in last_use})
        for node, slot in self._slots.items():
            last_use[slot.whole] = max(last_use.get(slot.whole, 0), last_use.get(node, 0))
        roots: dict[fx.Node, fx.Node] = {}  # of what shares a place, the node whose place it is
        for index, node in enumerate(nodes):
            self._add(node)
            if node.op == "output":
                break
            start = self._places[node].start
            shared = [roots[v] for v in node.all_input_nodes if self._places[v].start == start]
            own = self._slot(node)
            roots[node] = root = shared[0] if shared else own.whole if own else node
            last_use[root] = max(last_use.get(root, index), last_use.get(node, index))
            for value in {roots[v] for v in node.all_input_nodes}:
                if last_use[value] <= index and value is not root:
                    self.release(self._wholes.get(value) or self._places[value])
        self.size += 4 * self.width * max(self.lanes, 1) + 64  # read past the end, never used

    def _add(self, node: fx.Node) -> None:
        module = self._graph.module(node)
        inputs = [self._places[value] for value in node.all_input_nodes]
        flat = any(self._is_flat(value) for value in node.all_input_nodes)
        if flat and not self._reads_flat(node, module):
            raise UnsupportedError(f"{self._graph.name(node)} after torch.flatten")
        if module is not None and (len(node.args) != 1 or node.kwargs):
            raise UnsupportedError(f"{self._graph.name(node)} of more than one argument")
        if node.op == "placeholder":
            self._places[node] = place = self._to(node)
            self.input = place.end()
        elif node.op == "output":
            if len(inputs) != 1 or node.args[0] is not node.all_input_nodes[0]:
                raise UnsupportedError("several outputs")
            place = self.whole(inputs[0])
            self.output = place.end()
            self.output_shape = self._graph.shape(node.all_input_nodes[0])[1:]
            self._write_directly(place)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            source, to = self.whole(inputs[0]), self._to(node)
            if isinstance(module, nn.Conv2d):
                before = self._before.get(node.all_input_nodes[0])
                steps = convolution(self, module, source, to, before)
            else:
                steps = transposed_convolution(self, module, source, to)
            self._done(node, to, *steps)
        elif isinstance(module, nn.Linear):
            self._linear(node, module, inputs[0])
        elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)) and module.track_running_stats:
            self._batch_norm(node, module, self.whole(inputs[0]))
        elif is_view(node, module):
            self._places[node] = inputs[0]
        elif (limits := self._graph.limits(node)) is not None:
            self._clamp(node, inputs[0], limits)
        elif node in self._pools:
            self._pool(node, self._pools[node], self.whole(inputs[0]))
        elif (scaling := self._graph.scaling(node)) is not None:
            source = self.whole(inputs[0])
            scale, shift = (torch.full((source.channels,), number) for number in scaling)
            self._scaled(node, source, scale, shift)
        elif node.target in SUMS:
            self._sum(node)
        elif node.target is F.pad:
            self._pad(node, inputs[0])
        elif node.target is torch.cat:
            self._concatenation(node)
        else:
            raise UnsupportedError(self._graph.name(node))

    def _reads_flat(self, node: fx.Node, module: nn.Module | None) -> bool:
        """Whether it can read maps that are flattened, which lie as they did before."""
        passes = is_view(node, module) or self._graph.limits(node) is not None
        return passes or isinstance(module, nn.Linear) or node.op == "output"

    def _is_flat(self, value: fx.Node) -> bool:
        place = self._places[value]
        return len(self._graph.shape(value)) == 2 and place.rows * place.columns > 1

    def _write_directly(self, output: Place) -> None:
        """Let a convolution that gives the output write it where the caller wants it.

        That is row by row, so rows must be whole registers, of one image.
        """
        if not self.steps:
            return
        step, registers = self.steps[-1], output.columns // self.width
        self.direct = (
            self.lanes == 1
            and (step.kind, step.others, step.to) == (CONVOLVE, 0, output.start)
            and (step.outputs, step.to_row) == (output.channels, output.row)
            and output.columns == registers * self.width
        )
        if self.direct:
            step.source_row, step.source_column, step.inside = output.row, self.width, None
            step.rows, step.columns, step.to = output.rows, registers, 0
            step.to_row, step.to_plane = output.columns, output.rows * output.columns

    def _done(self, node: fx.Node, place: Place, *steps: Step) -> None:
        self._places[node] = place
        self._made_by[node] = list(steps)

    def _linear(self, node: fx.Node, layer: nn.Linear, source: Place) -> None:
        if len(shape := self._graph.shape(node.all_input_nodes[0])) != 2:
            raise UnsupportedError(f"Linear along the last axis of {shape} without torch.flatten")
        source = self.whole(source)
        shifts = [
            channel * source.plane + row * source.row + column * self.lanes
            for channel in range(source.channels)
            for row in range(source.rows)
            for column in range(source.columns)
        ]
        to = self.vector(layer.out_features)
        if self.lanes > 1:
            one = replace(to, rows=1, columns=1)
            self._done(node, to, products(self, shifts, layer.weight, layer.bias, source, one))
            return
        outputs = round_up(layer.out_features, self.width)
        weights = np.zeros((layer.in_features, outputs), np.float32)
        weights[:, : layer.out_features] = layer.weight.detach().T.float().numpy()
        bias = np.zeros(outputs, np.float32)
        bias[: layer.out_features] = numbers(layer.bias, layer.out_features)
        step = self.add(
            LINEAR, source, to, outputs=outputs, taps=len(shifts),
            shifts=np.array(shifts, dtype=np.int64), weights=weights, bias=bias,
        )  # fmt: skip
        self._done(node, to, step)

    def _batch_norm(self, node: fx.Node, norm: Any, source: Place) -> None:
        scale = (norm.running_var + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -norm.running_mean * scale
        shift = shift if norm.bias is None else shift + norm.bias
        self._scaled(node, source, scale, shift)

    def _scaled(self, node: fx.Node, source: Place, scale: Tensor, shift: Tensor) -> None:
        """A step of its own, or part of the convolution that alone reads it."""
        if self._graph.is_for_a_product(node):
            self._before[node] = Before(scale, shift)
            self._places[node] = source
        else:
            self._affine(node, source, scale, shift)

    def _affine(
        self, node: fx.Node, source: Place, scale: Tensor, shift: Tensor, **more: float
    ) -> None:
        is_vector = source.plane == self.lanes
        if is_vector:
            to = self.vector(source.channels)
        elif self._is_flat(node.all_input_nodes[0]):
            to = self.map(source.channels, source.rows, source.columns)
        else:
            to = self._to(node)
        both = [numbers(value, source.channels) for value in (scale, shift)]
        whole = self.lanes == 1 and source.row == to.row and not is_vector
        rows = self.one_row(to) | {"inside": self.inside(to)} if whole else {}
        step = self.add(AFFINE, source, to, weights=both[0], bias=both[1], **rows, **more)
        self._done(node, to, step)

    def _to(self, node: fx.Node) -> Place:
        """Where the value of a node is to be written."""
        channels, rows, columns = (*self._graph.shape(node)[1:], 1, 1)[:3]
        slot = self._slot(node)
        if slot is None:
            return self.map(channels, rows, columns)
        if slot.whole not in self._wholes:
            self._wholes[slot.whole] = self.map(self._graph.shape(slot.whole)[1], rows, columns)
        whole = self._wholes[slot.whole]
        start = whole.start + slot.first * whole.plane
        return replace(whole, start=start, channels=channels, total=channels)

    def _slot(self, node: fx.Node) -> Slot | None:
        """Its part of a concatenation; that of an activation which becomes part of it."""
        users = list(node.users)
        if node not in self._slots and len(users) == 1 and self._graph.limits(users[0]):
            return self._slots.get(users[0])
        return self._slots.get(node)

    def _clamp(self, node: fx.Node, source: Place, limits: Limits) -> None:
        """Part of the step before, where nothing else reads what that gives."""
        value = node.all_input_nodes[0]
        if value in self._before:
            self._before[node] = replace(self._before[value], low=limits[0], high=limits[1])
            self._places[node] = source
            return
        steps = self._made_by.get(value, [])
        if steps and len(value.users) == 1:
            for step in steps:
                step.low, step.high = max(step.low, limits[0]), min(step.high, limits[1])
            self._done(node, source)
            return
        source = self.whole(source)
        ones = torch.ones(source.channels)
        self._affine(node, source, ones, 0 * ones, low=limits[0], high=limits[1])

    def _pool(self, node: fx.Node, pool: Pool, source: Place) -> None:
        is_vector = pool.adaptive and len(pool.rows) == len(pool.columns) == 1
        to = self.vector(source.channels) if is_vector else self._to(node)
        self._done(node, to, *pooling(self, pool, source, to))

    def _sum(self, node: fx.Node) -> None:
        """A step of its own, or part of the convolution that gives the later of both values."""
        inputs = node.all_input_nodes
        alike = {self._graph.shape(value) for value in inputs} == {self._graph.shape(node)}
        if node.kwargs or len(node.args) != 2 or not alike or not set(node.args) <= set(inputs):
            raise UnsupportedError("sum other than of two values of one shape")
        first, second = (self._places[value] for value in (inputs[0], inputs[-1]))
        if first.row != second.row:
            raise UnsupportedError("sum of values that lie differently")
        total = max(first.total, second.total)
        later = max(inputs, key=self._order.__getitem__)
        earlier = first if later is inputs[-1] else second
        steps, to = self._made_by.get(later, []), self._places[later]
        if (
            len(inputs) == 2
            and len(steps) == 1
            and steps[0].kind == CONVOLVE
            and steps[0].others == 0
            and steps[0].to == to.start
            and steps[0].to_row == to.row
            and len(later.users) == 1
            and earlier.channels <= to.channels
        ):
            steps[0].other, steps[0].other_plane = earlier.start, earlier.plane
            steps[0].others = earlier.channels
            self._done(node, replace(to, total=total), *steps)
            return
        to = self._to(node)
        # Of one image with the borders, where the sum is zero, and zero is within all limits.
        shape = {"rows": 1, "columns": self.row_length(to)} if self.lanes == 1 else {}
        step = self.add(
            ADD, first, to, other=second.start, others=second.channels, other_plane=second.plane,
            **shape,
        )  # fmt: skip
        self._done(node, to, step)

    def _pad(self, node: fx.Node, source: Place) -> None:
        """Channels of zeros after the others, which need no place."""
        shape = self._graph.shape(node)
        *others, more = argument(node, 1, "pad")
        is_zero = argument(node, 2, "mode", "constant") == "constant" and not argument(
            node, 3, "value"
        )
        if any(others) or len(others) != 2 * len(shape) - 3 or more < 0 or not is_zero:
            raise UnsupportedError("padding other than zeros of channels at their end")
        self._places[node] = replace(source, total=shape[1])

    def _concatenation(self, node: fx.Node) -> None:
        """Nothing to do for a part that lies there already."""
        axis = argument(node, 1, "dim", 0)
        if axis not in (1, 1 - len(self._graph.shape(node))):
            raise UnsupportedError(f"concatenation along axis {axis}")
        to, done = self._to(node), 0
        for source in (self._places[value] for value in parts_of(node)):
            part = replace(to, start=to.start + done * to.plane, channels=source.total)
            if (source.start, source.channels) != (part.start, part.channels):
                self.add(COPY, source, part)
            done += source.total
        self._done(node, to)


def _border(module: nn.Module | None) -> int:
    """The zeros that a layer reads around its input."""
    if isinstance(module, nn.Conv2d):
        return padding(module)
    return transposed_border(module) if isinstance(module, nn.ConvTranspose2d) else 0
