"""Which layers of a model form a stage of SpecNet: a convolution and what follows it."""

import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from passband.config import SpecNet
from passband.nn.fused_parts import pool_of
from passband.nn.spectral_block import dense_block
from passband.nn.spectral_map import SpectralMap
from passband.ops.conv_block.pooling import Pool
from passband.ops.spectral.on_map import MAP_ACTIVATIONS, NON_DECREASING

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)

ACTIVATION_NAMES: dict[Any, str] = {
    nn.ReLU: "relu",
    nn.Tanh: "tanh",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.ELU: "elu",
    nn.LeakyReLU: "leaky-relu",
    F.relu: "relu",
    torch.relu: "relu",
    torch.tanh: "tanh",
    F.tanh: "tanh",
    F.gelu: "gelu",
    F.silu: "silu",
    "relu": "relu",
    "tanh": "tanh",
}
"""What calls an activation in a graph, and the activation's name."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_OPTIONS = {"alpha": 1.0, "negative_slope": 0.01, "approximate": "none"}
"""Options of activations that change what they compute, as a stage has them."""
_CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
_SUMS = (operator.add, torch.add)
_MEANS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
_VIEWS = {
    "contiguous", "detach", "diagonal", "expand", "expand_as", "flatten", "float", "getattr",
    "getitem", "movedim", "moveaxis", "narrow", "permute", "ravel", "reshape", "reshape_as",
    "select", "squeeze", "swapaxes", "swapdims", "t", "to", "transpose", "type", "unflatten",
    "unfold", "unsqueeze", "view", "view_as",
}  # fmt: skip
"""Functions and methods whose result may lie in the memory of what they are given."""
_VIEWING_MODULES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout)
"""Modules of which that holds, in evaluation or always."""


@dataclass
class Stage:
    """A convolution and the layers after it that become part of it."""

    conv: fx.Node
    last: fx.Node
    """The node whose result is the stage's."""
    norm: fx.Node | None = None
    activation: str | None = None
    pool: int | tuple[int, ...] = 1
    pool_mode: str | None = None
    """What the model pools by: "max" or "average"."""


class Planner:
    """Finds the stages of a traced model.

    Args:
        graph: The model's operations.
        model: The model.
        config: What it is converted by.
    """

    def __init__(self, graph: fx.Graph, model: nn.Module, config: SpecNet) -> None:
        self.graph, self.model, self.config = graph, model, config
        self.modules = dict(model.named_modules())
        called = Counter(n.target for n in graph.nodes if n.op == "call_module")
        self.once = {target for target, count in called.items() if count == 1}
        read = [_attribute(model, n) for n in graph.nodes if n.op == "get_attr"]
        own = [p for module in model.modules() for p in module._parameters.values()]
        self.users = Counter(map(id, [*own, *read]))

    def stages(self) -> Iterator[Stage]:
        """Every convolution that is called once, with what follows it alone."""
        for node in self.graph.nodes:
            if node.target in self.once and isinstance(self._module(node), CONVOLUTIONS):
                yield self._stage(node)

    def _stage(self, conv: fx.Node) -> Stage:
        stage = Stage(conv, conv)
        while len(stage.last.users) == 1:
            (node,) = stage.last.users
            module = self._module(node)
            begun = stage.activation is not None or stage.pool_mode is not None
            pool = _pool(module)
            if isinstance(module, nn.Identity):
                pass
            elif stage.norm is None and not begun and self._takes_norm(conv, node):
                stage.norm = node
            elif stage.activation is None and self._takes_activation(stage, node):
                stage.activation = _activation(node, module)
            elif stage.pool_mode is None and pool is not None:
                stage.pool, stage.pool_mode = pool
            else:
                break
            stage.last = node
        return stage

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def _takes_norm(self, conv: fx.Node, node: fx.Node) -> bool:
        """Whether a node is a batch norm; where it is to be folded, one that can be.

        That is one with statistics, called once, after a convolution that alone has its weights.
        """
        norm = self._module(node)
        if type(norm) not in _NORMS:
            return False
        assert isinstance(norm, _NORMS)
        if self.config.batch_norm == "keep":
            return True
        own = all(self.users[id(p)] == 1 for p in self.modules[str(conv.target)].parameters())
        return own and node.target in self.once and norm.running_mean is not None

    def _takes_activation(self, stage: Stage, node: fx.Node) -> bool:
        """Whether a node is an activation that a stage can have, which pools after it."""
        module = self._module(node)
        name, keeps = _activation(node, module), self.config.activation == "keep"
        if name is None or (keeps and not _has_usual_options(node, module)):
            return False
        name = name if keeps else self.config.activation
        if stage.pool_mode is None:
            return True
        if name not in MAP_ACTIVATIONS:
            return self.config.pool == "spectral"  # both act on single frequencies
        return self.config.pool == "stride" or (
            self.config.pool == "max" and name in NON_DECREASING
        )


def _attribute(model: nn.Module, node: fx.Node) -> Any:
    return operator.attrgetter(str(node.target))(model)


def _activation(node: fx.Node, module: nn.Module | None) -> str | None:
    """The name of the activation that a node calls."""
    called = type(module) if module is not None else node.target
    if node.op not in ("call_module", "call_function", "call_method"):
        return None
    return ACTIVATION_NAMES.get(called)


def _has_usual_options(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether an activation is the one of its name, without options that change it."""
    if len(node.args) != 1:
        return False
    given = {**node.kwargs, **(vars(module) if module is not None else {})}
    return all(given.get(name, usual) == usual for name, usual in _OPTIONS.items())


def _pool(module: nn.Module | None) -> tuple[int | tuple[int, ...], str] | None:
    """Factor and kind of a pooling whose windows lie side by side."""
    pool = None if module is None else pool_of(module)
    if pool is None:
        return None
    alone = Pool(pool.kind, pool.kernel, pool.kernel, (0, 0))
    if pool != replace(alone, count_include_pad=pool.count_include_pad):
        return None
    rows, columns = pool.kernel
    is_of_series = isinstance(module, (nn.MaxPool1d, nn.AvgPool1d))
    return columns if is_of_series else (rows, columns), pool.kind


def rewire(graph: fx.Graph, model: nn.Module, chosen: list[Stage]) -> None:
    """Let the stages pass spectra on to each other, and maps to everything else."""
    for stage in chosen:
        node = stage.last
        if node is not stage.conv:
            node.replace_all_uses_with(stage.conv)
        while node is not stage.conv:
            before = node.all_input_nodes[0]
            graph.erase_node(node)
            node = before
    modules = dict(model.named_modules())
    convs = {stage.conv for stage in chosen}
    spectral: set[fx.Node] = set()
    for node in list(graph.nodes):
        given = [n for n in node.all_input_nodes if n in spectral]
        if node not in convs and given:
            if _passes_spectra_on(node, given):
                spectral.add(node)
            elif _is_global_mean(node, modules):
                node.op, node.target, node.args, node.kwargs = (
                    *("call_function", global_mean, (given[0],), {}),
                )
            else:
                for source in given:
                    _use_map(graph, source, node)
        if node in convs:
            spectral.add(node)
        if node in spectral and _is_changed_in_place(node, modules):
            _use_map(graph, node)
            spectral.remove(node)
    graph.lint()


def _is_changed_in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether one of several that read a value changes it for the others."""
    return len(node.users) > 1 and any(_changes(user, node, modules) for user in node.users)


def _changes(user: fx.Node, node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a user writes where a value lies, itself or by a view of it."""
    if user.kwargs.get("out") is node:
        return True
    if node not in (*user.args[:1], user.kwargs.get("input")):
        return False
    if user.op == "call_module":
        module = modules[str(user.target)]
        in_place = bool(getattr(module, "inplace", False))
        is_view = isinstance(module, _VIEWING_MODULES)
    else:
        name = user.target if isinstance(user.target, str) else getattr(user.target, "__name__", "")
        in_place = name.endswith("_") and not name.endswith("__")
        in_place = in_place or bool(user.kwargs.get("inplace"))
        is_view = name in _VIEWS
    return in_place or (is_view and any(_changes(after, user, modules) for after in user.users))


def consumers(node: fx.Node, convs: set[fx.Node]) -> set[fx.Node]:
    """The stages that read a stage's spectrum, directly or in a sum or concatenation."""
    found = set()
    for user in node.users:
        if user in convs:
            found.add(user)
        elif user.target in (SpectralMap.cat, SpectralMap.__add__):
            found |= consumers(user, convs)
    return found


def join_blocks(graph: fx.Graph, convs: set[fx.Node]) -> None:
    """Let stages run together of which each result is put beside what the stage was given.

    A stage that alone reads what they give is the last of them.
    """
    joined: set[fx.Node] = set()
    for first in [node for node in graph.nodes if node in convs]:
        layers, together = _dense_layers(first, convs) if first not in joined else ([], first)
        users = list(together.users)
        last = users[0] if layers and len(users) == 1 and users[0] in convs else None
        members = layers if last is None else [*layers, last]
        if len(members) < 2:
            continue
        joined.update(members)
        result = together if last is None else last
        with graph.inserting_before(result):
            block = graph.call_function(
                dense_block,
                (
                    first.all_input_nodes[0],
                    [graph.get_attr(str(node.target)) for node in layers],
                    None if last is None else graph.get_attr(str(last.target)),
                ),
            )
        result.replace_all_uses_with(block)
        if last is not None:
            graph.erase_node(last)
        for node in reversed(layers):
            graph.erase_node(*node.users)
            graph.erase_node(node)
    graph.lint()


def _dense_layers(first: fx.Node, convs: set[fx.Node]) -> tuple[list[fx.Node], fx.Node]:
    """Stages from one on, each beside its input for the next; and what they give together."""
    layers: list[fx.Node] = []
    node, beside = first, _beside_its_input(first)
    together = first
    while beside is not None:
        layers.append(node)
        together = beside
        readers = [user for user in together.users if user in convs]
        beside = _beside_its_input(readers[0]) if len(readers) == 1 else None
        if beside is not None and set(together.users) == {readers[0], beside}:
            node = readers[0]
        else:
            beside = None
    return layers, together


def _beside_its_input(conv: fx.Node) -> fx.Node | None:
    """The concatenation of what a stage was given and of its result, where only that reads it."""
    (given,), users = conv.all_input_nodes, list(conv.users)
    if len(users) != 1 or users[0].target is not SpectralMap.cat:
        return None
    return users[0] if users[0].args == ([given, conv],) else None


def global_mean(maps: SpectralMap) -> torch.Tensor:
    """Global average pooling as torch's layers have it: (B, C, 1, ..)."""
    return maps.mean().reshape(*maps.shape[:2], *[1] * (len(maps.shape) - 2))


def _passes_spectra_on(node: fx.Node, given: list[fx.Node]) -> bool:
    """Whether the node is a concatenation or a sum of spectra alone; makes it one."""
    if node.op == "call_function" and node.target in _CONCATENATIONS:
        arguments = {**dict(zip(("tensors", "dim"), node.args, strict=False)), **node.kwargs}
        tensors: Any = arguments.pop("tensors")
        if arguments != {"dim": 1} or not all(t in given for t in tensors):
            return False
        node.target, node.args, node.kwargs = SpectralMap.cat, (tensors,), {}
        return True
    is_sum = (node.op, node.target) == ("call_method", "add") or node.target in _SUMS
    if is_sum and len(node.args) == 2 and not node.kwargs and all(a in given for a in node.args):
        node.op, node.target = "call_function", SpectralMap.__add__
        return True
    return False


def _is_global_mean(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    one = (1, (1,), (1, 1))
    if node.op == "call_module":
        module = modules[str(node.target)]
        return isinstance(module, _MEANS) and module.output_size in one
    functions = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d)
    return node.target in functions and len(node.args) == 2 and node.args[1] in one


def _use_map(graph: fx.Graph, source: fx.Node, only: fx.Node | None = None) -> None:
    """Let those who read a spectrum, or one of them, read its map instead."""
    known = [n for n in source.users if n.target is SpectralMap.to_map]
    if not known:
        with graph.inserting_after(source):
            known = [graph.call_function(SpectralMap.to_map, (source,))]
    maps = known[0]
    source.replace_all_uses_with(maps, lambda user: user is (only or user) and user is not maps)
