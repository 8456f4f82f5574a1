"""Which layers of a model form a stage of SpecNet: a convolution and what follows it."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from passband.nn.spectral_block import dense_block
from passband.nn.spectral_map import SpectralMap

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
_POOLS = {
    nn.MaxPool1d: "max",
    nn.MaxPool2d: "max",
    nn.AvgPool1d: "average",
    nn.AvgPool2d: "average",
}
_CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
_SUMS = (operator.add, torch.add)
_MEANS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)


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


def stages(graph: fx.Graph, model: nn.Module) -> Iterator[Stage]:
    """Every convolution of a graph that is called once, with what follows it alone."""
    modules = dict(model.named_modules())
    calls = [n for n in graph.nodes if n.op == "call_module"]
    once = {n.target for n in calls if sum(m.target == n.target for m in calls) == 1}
    for node in calls:
        if node.target in once and isinstance(modules[node.target], CONVOLUTIONS):
            yield _stage(node, modules, once)


def _stage(conv: fx.Node, modules: dict[str, nn.Module], once: set[Any]) -> Stage:
    stage = Stage(conv, conv)
    while len(stage.last.users) == 1:
        (node,) = stage.last.users
        module = modules[str(node.target)] if node.op == "call_module" else None
        if node.op == "call_module" and node.target not in once and module is None:
            break
        begun = stage.activation is not None or stage.pool_mode is not None
        if isinstance(module, nn.Identity):
            pass
        elif type(module) in _NORMS and stage.norm is None and not begun:
            stage.norm = node
        elif stage.activation is None and _activation(node, module) is not None:
            stage.activation = _activation(node, module)
        elif stage.pool_mode is None and _pool(module) is not None:
            stage.pool, stage.pool_mode = _pool(module) or (1, None)
        else:
            break
        stage.last = node
    return stage


def _activation(node: fx.Node, module: nn.Module | None) -> str | None:
    called = type(module) if module is not None else node.target
    if node.op not in ("call_module", "call_function", "call_method"):
        return None
    return ACTIVATION_NAMES.get(called)


def _pool(module: nn.Module | None) -> tuple[int | tuple[int, ...], str] | None:
    """Factor and kind of a pooling whose windows lie side by side."""
    mode = _POOLS.get(type(module))
    if module is None or mode is None:
        return None
    kernel, stride = _pair(module.kernel_size), _pair(module.stride)
    plain = kernel == stride and not module.ceil_mode and max(_pair(module.padding)) == 0
    if not plain or max(_pair(getattr(module, "dilation", 1))) > 1:
        return None
    factor: int | tuple[int, ...] = kernel if len(kernel) > 1 else kernel[0]
    return factor, mode


def _pair(value: Any) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


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
    spectral = {stage.conv for stage in chosen}
    convs = set(spectral)
    for node in list(graph.nodes):
        given = [n for n in node.all_input_nodes if n in spectral]
        if not given or node in convs:
            continue
        if _passes_spectra_on(node, given):
            spectral.add(node)
        elif _is_global_mean(node, modules):
            node.op, node.target, node.args, node.kwargs = (
                *("call_function", global_mean, (given[0],), {}),
            )
        else:
            for source in given:
                node.replace_input_with(source, _as_map(graph, source, node))
    graph.lint()


def consumers(node: fx.Node, convs: set[fx.Node]) -> set[fx.Node]:
    """The stages that read a stage's spectrum, directly or in a sum or concatenation."""
    found = set()
    for user in node.users:
        if user in convs:
            found.add(user)
        elif user.target in (SpectralMap.cat, operator.add):
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
    if len(given) < len(node.all_input_nodes):
        return False
    if node.op == "call_function" and node.target in _CONCATENATIONS:
        tensors, *rest = node.args
        if (rest or [node.kwargs.get("dim", 0)])[0] != 1:
            return False
        node.target, node.args, node.kwargs = SpectralMap.cat, (tensors,), {}
        return True
    is_sum = (node.op, node.target) == ("call_method", "add") or node.target in _SUMS
    if is_sum and len(node.args) == 2 and not node.kwargs:
        node.op, node.target = "call_function", operator.add
        return True
    return False


def _is_global_mean(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        module = modules[str(node.target)]
        return isinstance(module, _MEANS) and set(_pair(module.output_size)) == {1}
    one = (1, (1,), (1, 1))
    functions = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d)
    return node.target in functions and len(node.args) == 2 and node.args[1] in one


def _as_map(graph: fx.Graph, source: fx.Node, before: fx.Node) -> fx.Node:
    known = [n for n in source.users if n.op == "call_method" and n.target == "to_map"]
    if known:
        return known[0]
    with graph.inserting_after(source):
        return graph.call_method("to_map", (source,))
