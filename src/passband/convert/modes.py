"""A model as a graph that is right in both modes, training and evaluation."""

import inspect
import traceback
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from passband.measure.layers import undisturbed
from passband.nn.fused_parts import is_norm

LINE = "passband_line"
"""Key of a node's meta: the line of the model's own code that it comes from, for messages."""

_DROPOUTS = (
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout,
)  # fmt: skip


def trace_both_modes(model: nn.Module) -> fx.Graph:
    """The operations of a model, as torch.fx traces them, for both modes.

    It is traced in training and in evaluation mode. Functional dropout whose `training` argument
    is another one follows the mode of the module that calls it: the argument becomes a node
    ``get_attr`` of that module's ``training``. Batch norms, timm's too, and submodules that compute
    something else in each mode are not looked into. Arguments of the model whose default is None
    are taken as not given, where it can be traced so.

    Each node has the line of the model's own code that it comes from, in ``node.meta[LINE]``.

    Args:
        model: The model; its mode, and that of its modules, stays as it is.

    Raises:
        ValueError: torch.fx cannot trace it, or the model itself computes something else in each
            mode; the message says which line.

    Examples:
        >>> class Model(nn.Module):
        ...     def forward(self, x):
        ...         return F.dropout(x, 0.5, training=self.training)
        >>> graph = trace_both_modes(Model())
        >>> [(node.op, str(node.target)) for node in graph.nodes][1]
        ('get_attr', 'training')
    """
    leaves: set[str] = set()
    own = set(model.__dict__)
    while True:
        training, evaluation = (_trace(model, mode, leaves) for mode in (True, False))
        different = _difference(model, training, evaluation)
        inner = _differing_modules(model, training, evaluation)
        used = set() if different else {str(node.target) for node in training.nodes}
        for name in set(model.__dict__) - own - used:  # tensors that torch.fx has put there
            delattr(model, name)
        if different is None:
            break
        if not inner:
            raise ValueError(
                f"model computes something else in training than in evaluation"
                f"{different.meta.get(LINE, '')}; leave that to layers of torch.nn, which know "
                "their mode, or convert the parts of the model before and after it"
            )
        leaves |= inner
    for node, other in zip(training.nodes, evaluation.nodes, strict=True):
        if node.target in _DROPOUTS and node.kwargs != other.kwargs:
            with training.inserting_before(node):
                mode = training.get_attr(".".join([*_owners(node)[-1:], "training"]))
            mode.meta = dict(node.meta)
            node.kwargs = {**node.kwargs, "training": mode}
    return training


class _Tracer(fx.Tracer):
    """Does not look into batch norms and given modules; notes the lines that nodes come from."""

    def __init__(self, leaves: set[str]) -> None:
        super().__init__()
        self.leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if is_norm(m) or module_qualified_name in self.leaves:
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        if node.op not in ("placeholder", "output"):
            node.meta[LINE] = _last_line(traceback.extract_stack())
        return node


def _trace(model: nn.Module, mode: bool, leaves: set[str]) -> fx.Graph:
    with undisturbed(model):
        model.train(mode)
        absent = {
            name: None
            for name, parameter in inspect.signature(model.forward).parameters.items()
            if parameter.default is None
        }
        if absent:
            try:
                return _without(absent, _Tracer(leaves).trace(model, absent))
            except Exception:  # the model needs them; if it is something else, that comes again
                pass
        try:
            return _Tracer(leaves).trace(model)
        except Exception as error:  # whatever a model's own code may raise on a stand-in
            line = _last_line(traceback.extract_tb(error.__traceback__))
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"model cannot be traced by torch.fx{line}: {reason}; rewrite it without control "
                "flow that depends on tensors, or convert a part of it"
            ) from error


def _without(absent: dict[str, None], graph: fx.Graph) -> fx.Graph:
    """A graph whose arguments that are not given have their own names again."""
    for node in graph.nodes:
        name = str(node.target).rpartition("_")[0]
        if node.op == "placeholder" and name in absent:
            node.target = name
    return graph


def _difference(model: nn.Module, training: fx.Graph, evaluation: fx.Graph) -> fx.Node | None:
    """A node that is there in one mode only, the first; dropout may be on or off."""
    places: dict[fx.Node, int] = {}
    pairs = zip_longest(training.nodes, evaluation.nodes)
    for place, pair in enumerate(pairs):
        contents = {None if n is None else _content(model, n, places) for n in pair}
        nodes = [node for node in pair if node is not None]
        if len(contents) > 1:
            outer: fx.Node = min(nodes, key=lambda node: len(_owners(node)))
            return outer
        places.update(dict.fromkeys(nodes, place))
    return None


def _differing_modules(model: nn.Module, *graphs: fx.Graph) -> set[str]:
    """The innermost submodules that compute something else in each mode."""
    one, two = (_by_module(model, graph) for graph in graphs)
    found = {name for name in {*one, *two} if one.get(name) != two.get(name)}
    return {n for n in found if not any(other.startswith(f"{n}.") for other in found)}


def _by_module(model: nn.Module, graph: fx.Graph) -> dict[str, list[tuple[Any, ...]]]:
    """What is computed in each submodule that was looked into, as far as it is its own."""
    found: dict[str, list[tuple[Any, ...]]] = {}
    places: dict[str, dict[fx.Node, int]] = {}
    for node in graph.nodes:
        for name in _owners(node):
            inside = places.setdefault(name, {})
            found.setdefault(name, []).append(_content(model, node, inside))
            inside[node] = len(inside)
    return found


def _content(model: nn.Module, node: fx.Node, places: dict[fx.Node, int]) -> tuple[Any, ...]:
    """What a node computes, of values that are known by their places."""
    kwargs, target = dict(node.kwargs), node.target
    if target in _DROPOUTS:
        kwargs["training"] = None
    if str(target).startswith("_tensor_constant"):  # with another number for every trace
        target = repr(getattr(model, str(target)).tolist())
    arguments = fx.node.map_arg((node.args, kwargs), lambda n: ("value", places.get(n)))
    return node.op, target, repr(arguments)


def _owners(node: fx.Node) -> list[str]:
    """The submodules in whose forward a node was made, from the outermost to the innermost."""
    names = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    return [name for name in names if not (node.op == "call_module" and name == node.target)]


def _last_line(frames: traceback.StackSummary) -> str:
    """The last line that is neither torch's nor the conversion's; nothing if there is none."""
    others = {Path(torch.__file__).parent, Path(__file__).parent}
    own = [f for f in frames if others.isdisjoint(Path(f.filename).parents)]
    return f" at line {own[-1].lineno} of {own[-1].filename} ({own[-1].line})" if own else ""
