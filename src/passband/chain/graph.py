"""What the nodes of a chain are, whether modules, functions or methods say so."""

import operator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from passband.chain.steps import INFINITY, UnsupportedError

Limits = tuple[float, float]

_AT_LEAST_0: Limits = (0.0, INFINITY)
_ACTIVATIONS: dict[Any, Limits] = {
    **dict.fromkeys([nn.ReLU, F.relu, torch.relu, "relu", torch.relu_, "relu_"], _AT_LEAST_0),
    **dict.fromkeys([nn.ReLU6, F.relu6], (0.0, 6.0)),
}
_IN_PLACE = (torch.relu_, "relu_")
SUMS = (torch.add, operator.add)
_BATCH = 2  # where a value's batch is not in front, another number is there


class Graph:
    """The nodes of a chain, and the shapes of their values.

    Args:
        chain: The chain.
        example: A map of the size that it is called with, any batch.

    Raises:
        UnsupportedError: An activation in place changes a value that something else reads too.
        ValueError: The chain does not run on the example.
    """

    def __init__(self, chain: fx.GraphModule, example: Tensor) -> None:
        self._chain = chain
        maps = example[:1].expand(_BATCH, *example.shape[1:])
        try:
            self._shapes = _Shapes(chain).of(maps)
        except RuntimeError as error:
            raise ValueError(
                f"the chain does not run on maps of shape {tuple(maps.shape)}, which example_input "
                f"stands for with its batch in front: {str(error).splitlines()[0]}"
            ) from error
        self.nodes = self._ordered()
        for node in self.nodes:
            if self._is_in_place(node):
                self._refuse_aliases(node)

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls; None of another node."""
        return self._chain.get_submodule(str(node.target)) if node.op == "call_module" else None

    def name(self, node: fx.Node) -> str:
        """What a node does, for messages."""
        module = self.module(node)
        if module is not None:
            return type(module).__name__
        return getattr(node.target, "__name__", str(node.target))

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a node's value, (B, C, H, W) or (B, C).

        Raises:
            UnsupportedError: It has another one.
        """
        shape = self._shapes.get(node)
        if shape is None or node.op == "get_attr":
            raise UnsupportedError(self.name(node))
        if len(shape) not in (2, 4) or shape[0] != _BATCH:
            raise UnsupportedError(
                f"value of shape {shape} for {_BATCH} images, only maps (B, C, H, W) and (B, C)"
            )
        return shape

    def limits(self, node: fx.Node) -> Limits | None:
        """What an activation keeps its input within; None for anything else."""
        module = self.module(node)
        return _ACTIVATIONS.get(node.target if module is None else type(module))

    def scaling(self, node: fx.Node) -> tuple[float, float] | None:
        """What a node multiplies its input by, and then adds; None for anything else."""
        numbers = [value for value in node.args if type(value) in (int, float)]
        if len(node.args) != 2 or len(numbers) != 1 or node.kwargs:
            return None
        number, is_second = cast(float, numbers[0]), isinstance(node.args[0], fx.Node)
        if node.target in (torch.mul, operator.mul):
            return number, 0.0
        if node.target in (torch.add, operator.add):
            return 1.0, number
        if node.target in (torch.sub, operator.sub):
            return (1.0, -number) if is_second else (-1.0, number)
        if node.target in (torch.div, operator.truediv) and is_second and number:
            return 1 / number, 0.0
        return None

    def is_for_a_product(self, node: fx.Node) -> bool:
        """Whether only a convolution of single points reads a value, or an activation of it."""
        users = list(node.users)
        if len(users) == 1 and self.limits(users[0]):
            users = list(users[0].users)
        module = self.module(users[0]) if len(users) == 1 else None
        return isinstance(module, nn.Conv2d) and (
            module.kernel_size, module.stride, module.groups, module.padding
        ) == ((1, 1), (1, 1), 1, (0, 0))  # fmt: skip

    def _ordered(self) -> list[fx.Node]:
        """The nodes, the widest convolution of a sum right before that, where it adds the rest.

        Nothing but the sum reads it, so that it may come as late.
        """
        ordered = list(self._chain.graph.nodes)
        for node in self._chain.graph.nodes:
            if node.target not in SUMS:
                continue
            own = [value for value in node.all_input_nodes if len(value.users) == 1]
            own = [value for value in own if isinstance(self.module(value), nn.Conv2d)]
            if own:
                widest = max(own, key=lambda value: self.shape(value)[1])
                ordered.remove(widest)
                ordered.insert(ordered.index(node), widest)
        return ordered

    def _is_in_place(self, node: fx.Node) -> bool:
        if self.limits(node) is None:
            return False
        module = self.module(node)
        if module is not None:
            return bool(module.inplace)
        return node.target in _IN_PLACE or bool(argument(node, 1, "inplace", False))

    def _refuse_aliases(self, node: fx.Node) -> None:
        """The engine changes no value, so that what else reads it would read the old one."""
        value = node.all_input_nodes[0]
        while len(value.users) == 1 and is_view(value, self.module(value)):
            value = value.all_input_nodes[0]
        if len(value.users) > 1:
            raise UnsupportedError(f"{self.name(node)} in place of a value that is read again")


class _Shapes(fx.Interpreter):
    """Notes the shape of each value that is a tensor."""

    def of(self, example: Tensor) -> dict[fx.Node, tuple[int, ...]]:
        """The shapes of the values for an example."""
        self._found: dict[fx.Node, tuple[int, ...]] = {}
        self.run(example)
        return self._found

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self._found[n] = tuple(value.shape)
        return value


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """An argument of a function, given by its position or its name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def is_view(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the value of a node is that of its input, which may have been given another shape."""
    if node.target is F.dropout:
        return argument(node, 2, "training", True) is False
    views = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)
    return isinstance(module, views) or node.target in (torch.flatten, "flatten")
