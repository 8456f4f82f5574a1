"""Blocks around convolutions, found in the forward methods of a model's containers by torch.fx.

A container is a module with submodules and a forward method: a residual block, a sequence. Its
forward is traced with the submodules as they are, so that everything else of the model stays.
"""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from passband.nn.conv_bn_act import run_block, run_chain, run_dropout, run_max_pool
from passband.nn.fused_parts import (
    activation_of,
    is_convolution,
    is_norm,
    is_plain_norm,
    norm_activation,
    pool_of,
)

_ADDITIONS = (operator.add, operator.iadd, torch.add)
_FUNCTIONS: dict[Any, tuple[str, Any]] = {
    F.relu: ("relu", None),
    torch.relu: ("relu", None),
    torch.relu_: ("relu", None),
    F.relu_: ("relu", None),
    F.relu6: ("relu6", None),
    F.silu: ("silu", None),
    F.hardswish: ("hardswish", None),
    torch.tanh: ("tanh", None),
    F.tanh: ("tanh", None),
}
_METHODS: dict[str, tuple[str, Any]] = {
    "relu": ("relu", None),
    "relu_": ("relu", None),
    "tanh": ("tanh", None),
}


@dataclass
class Match:
    """A block that was found: its nodes in the order they run, and what it consists of."""

    nodes: list[fx.Node]
    parts: list[str]
    modules: list[str]
    """Names of its modules in the container."""
    conv: str = ""
    """Name of the first convolution; of the only module where there is none."""
    norm: str | None = None
    activation: str | tuple[str, Any] | None = None
    pool: str | None = None
    residual: fx.Node | None = None
    stages: list[tuple[str, str | tuple[str, Any] | None, str]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """Its parts, "conv-bn-add-relu"."""
        return "-".join(self.parts)


@dataclass
class Left:
    """A module that keeps a map, and why it is in no block."""

    module: str
    kind: str
    reason: str


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def trace(container: nn.Module, training: bool) -> fx.Graph:
    """The forward of a container, its submodules not looked into.

    Raises:
        Exception: Whatever a forward that cannot be traced gives.
    """
    mode = container.training
    container.training = training
    try:
        return _Tracer().trace(container)
    finally:
        container.training = mode


class Finder:
    """Finds the blocks of one traced forward.

    Args:
        container: The module whose forward was traced.
        graph: Its graph.
    """

    def __init__(self, container: nn.Module, graph: fx.Graph) -> None:
        self.container, self.graph = container, graph
        self.taken: set[fx.Node] = set()
        self.order = {node: index for index, node in enumerate(graph.nodes)}

    def find(self) -> list[Match]:
        """The blocks, none of which share a node."""
        found = []
        for rule in (self._chain, self._block, self._single):
            for node in self.graph.nodes:
                match = None if node in self.taken else rule(node)
                if match is not None:
                    self.taken.update(match.nodes)
                    found.append(match)
        return sorted(found, key=lambda match: self.order[match.nodes[0]])

    def left(self) -> Iterator[Left]:
        """Modules that keep a map and are in no block."""
        for node in self.graph.nodes:
            module = self.module(node)
            if module is None or node in self.taken:
                continue
            kind = type(module).__name__
            if is_norm(module):
                yield Left(str(node.target), kind, self._why(node, module))
            elif activation_of(module) is not None:
                yield Left(str(node.target), kind, "not right after a convolution or a batch norm")
            elif pool_of(module) is not None:
                yield Left(str(node.target), kind, "an average, not right after a block")

    def _why(self, node: fx.Node, norm: nn.Module) -> str:
        before = node.args[0] if node.args else None
        if not is_plain_norm(norm):
            return "a batch norm with something else in it that is not known"
        if isinstance(before, fx.Node) and self._convolves(before):
            return "the output of the convolution before it is used in other places too"
        return "no convolution right before it, and none after it and an activation"

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls with one tensor, or None."""
        if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
            return None
        return self.container.get_submodule(str(node.target))

    def _next(self, node: fx.Node, matched: list[fx.Node]) -> fx.Node | None:
        """The only node that uses a value, identities passed over."""
        while len(node.users) == 1:
            following = next(iter(node.users))
            if following in self.taken:
                return None
            if not isinstance(self.module(following), nn.Identity):
                return following
            matched.append(following)
            node = following
        return None

    def _convolves(self, node: fx.Node) -> bool:
        module = self.module(node)
        return module is not None and is_convolution(module)

    def _activation(self, node: fx.Node) -> str | tuple[str, Any] | None:
        """The activation that a node is: a module's name, or what a function computes."""
        module = self.module(node)
        if module is not None:
            return str(node.target) if activation_of(module) is not None else None
        if set(node.kwargs) - {"inplace"} or len(node.args) != 1:
            return None
        if node.op == "call_function":
            return _FUNCTIONS.get(node.target)
        return _METHODS.get(str(node.target)) if node.op == "call_method" else None

    def _take_norm(self, node: fx.Node | None) -> nn.Module | None:
        module = None if node is None else self.module(node)
        return module if module is not None and is_norm(module) and is_plain_norm(module) else None

    def _block(self, node: fx.Node) -> Match | None:
        """conv, then as many as follow of batch norm, addition, activation and pooling."""
        conv = self.module(node)
        if conv is None or not is_convolution(conv):
            return None
        match = Match([node], ["conv"], [str(node.target)], conv=str(node.target))
        passed: list[fx.Node] = []
        following = self._next(node, passed)
        norm = self._take_norm(following)
        inner = None
        if norm is not None and following is not None:
            match.norm = str(following.target)
            self._extend(match, passed, following, "bn", match.norm)
            inner = norm_activation(norm)
            if inner is not None:
                match.parts.append(_name(inner))
            following = self._next(following, passed)
        if inner is None:
            following = self._take_addition(match, passed, following)
            activation = None if following is None else self._activation(following)
            if activation is not None and following is not None:
                match.activation = activation
                self._extend(match, passed, following, self._named(activation), activation)
                following = self._next(following, passed)
        pool = None if following is None else self.module(following)
        known = None if pool is None else pool_of(pool)
        if following is not None and known is not None and match.residual is None:
            match.pool = str(following.target)
            self._extend(match, passed, following, f"{known.kind} pool", match.pool)
        return match if len(match.nodes) > 1 else None

    def _take_addition(
        self, match: Match, passed: list[fx.Node], following: fx.Node | None
    ) -> fx.Node | None:
        """Take the addition that follows, if the other summand can be had before it."""
        if following is None or len(following.args) != 2 or following.kwargs:
            return following
        method = following.op == "call_method" and following.target in ("add", "add_")
        function = following.op == "call_function" and following.target in _ADDITIONS
        last = passed[-1] if passed else match.nodes[-1]
        summands = [a for a in following.args if a is not last]
        if not (method or function) or len(summands) != 1 or not isinstance(summands[0], fx.Node):
            return following
        other = summands[0]
        in_place = following.target in (operator.iadd, "add_")
        if in_place and following.args[0] is other and len(other.users) > 1:
            return following  # the other summand would change for those who use it afterwards
        match.residual = other
        self._extend(match, passed, following, "add", None)
        return self._next(following, passed)

    def _chain(self, node: fx.Node) -> Match | None:
        """(batch norm, activation, conv) once or more, where no convolution comes before."""
        before = node.args[0] if node.args else None
        if self._take_norm(node) is None or (
            isinstance(before, fx.Node) and self._convolves(before) and len(before.users) == 1
        ):
            return None
        match = Match([], [], [])
        following: fx.Node | None = node
        passed: list[fx.Node] = []
        while following is not None:
            taken = self._stage(following)
            if taken is None:
                break
            nodes, stage, parts = taken
            match.nodes += [*passed, *nodes]
            match.parts += parts
            match.stages.append(stage)
            match.modules += [name for name in stage if isinstance(name, str)]
            passed = []
            following = self._next(nodes[-1], passed)
        if not match.stages:
            return None
        match.conv = match.stages[0][2]
        pool = None if following is None else self.module(following)
        known = None if pool is None else pool_of(pool)
        if following is not None and known is not None and known.kind == "average":
            match.pool = str(following.target)
            self._extend(match, passed, following, "average pool", match.pool)
        return self._with_concatenation(match, node)

    def _stage(
        self, node: fx.Node
    ) -> tuple[list[fx.Node], tuple[str, str | tuple[str, Any] | None, str], list[str]] | None:
        norm = self._take_norm(node)
        if norm is None:
            return None
        nodes, parts = [node], ["bn"]
        inner, activation = norm_activation(norm), None
        following = self._next(node, nodes)
        if inner is not None:
            parts.append(_name(inner))
        elif following is not None:
            activation = self._activation(following)
            if activation is not None:
                nodes.append(following)
                parts.append(self._named(activation))
                following = self._next(following, nodes)
        if following is None or not self._convolves(following):
            return None
        nodes.append(following)
        stage = (str(node.target), activation, str(following.target))
        return nodes, stage, [*parts, "conv"]

    def _with_concatenation(self, match: Match, node: fx.Node) -> Match:
        """Take the concatenation along the channels that is the chain's input, too."""
        before = node.args[0]
        if (
            isinstance(before, fx.Node)
            and before.op == "call_function"
            and before.target in (torch.cat, torch.concat)
            and len(before.users) == 1
            and (before.args[1:] == (1,) or before.kwargs == {"dim": 1})
            and before not in self.taken
        ):
            match.nodes.insert(0, before)
            match.parts.insert(0, "cat")
        return match

    def _single(self, node: fx.Node) -> Match | None:
        """Maximum pooling and dropout on their own."""
        module = self.module(node)
        if isinstance(module, nn.Dropout) and module.p > 0:
            return Match([node], ["dropout"], [str(node.target)], conv=str(node.target))
        pool = None if module is None else pool_of(module)
        if pool is not None and pool.kind == "max":
            return Match([node], ["max pool"], [str(node.target)], conv=str(node.target))
        return None

    def _extend(
        self,
        match: Match,
        passed: list[fx.Node],
        node: fx.Node,
        part: str,
        module: str | tuple[str, Any] | None,
    ) -> None:
        match.nodes += [*passed, node]
        passed.clear()
        match.parts.append(part)
        if isinstance(module, str):
            match.modules.append(module)

    def _named(self, activation: str | tuple[str, Any]) -> str:
        if isinstance(activation, tuple):
            return activation[0]
        return _name(self.container.get_submodule(activation))


def _name(module: nn.Module) -> str:
    known = activation_of(module)
    return type(module).__name__ if known is None else known.name


def rewrite(graph: fx.Graph, matches: list[Match], settings: tuple[str | None, str | None]) -> None:
    """Put a call of one function in the place of each block."""
    for match in matches:
        last = match.nodes[-1]
        with graph.inserting_before(last):
            last.replace_all_uses_with(_fused(graph, match, settings))
        for node in reversed(match.nodes):
            graph.erase_node(node)


def _fused(graph: fx.Graph, match: Match, settings: tuple[str | None, str | None]) -> fx.Node:
    def module(name: Any) -> Any:
        return graph.create_node("get_attr", name) if isinstance(name, str) else name

    given = match.nodes[0].args[0]
    if match.stages:
        stages = tuple(tuple(module(part) for part in stage) for stage in match.stages)
        return graph.call_function(run_chain, (given, stages, module(match.pool)))
    if match.parts == ["dropout"]:
        return graph.call_function(run_dropout, (given, module(match.conv)))
    if match.parts == ["max pool"]:
        return graph.call_function(run_max_pool, (given, module(match.conv)))
    parts = (match.conv, match.norm, match.activation, match.pool)
    arguments = (given, match.residual, *(module(part) for part in parts), *settings)
    return graph.call_function(run_block, arguments)


def compiled(graph: fx.Graph) -> Callable[..., Any]:
    """The function that a graph is, of the container and its arguments."""
    code = graph.python_code("self")
    names: dict[str, Any] = dict(code.globals)
    exec(code.src, names)
    function: Callable[..., Any] = names["forward"]
    return function
