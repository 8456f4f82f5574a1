"""A model as a graph, and what each of its operations is to maps of channel coefficients."""

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from passband.convert.modes import LINE, trace_both_modes
from passband.measure.layers import undisturbed
from passband.nn.frequency import (
    FrequencyConv1d,
    FrequencyConv2d,
    FrequencyConvTranspose2d,
    FrequencyLinear,
)
from passband.nn.frequency_layer import FrequencyLayer

LAYERS: dict[type[nn.Module], type[FrequencyLayer]] = {
    nn.Conv1d: FrequencyConv1d,
    nn.Conv2d: FrequencyConv2d,
    nn.ConvTranspose2d: FrequencyConvTranspose2d,
    nn.Linear: FrequencyLinear,
}
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)

SHAPE = "passband_shape"
"""Key of a node's meta: the shape of its value for the example."""

_MAX_POOLS = (
    nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
    F.max_pool1d, F.max_pool2d, F.adaptive_max_pool1d, F.adaptive_max_pool2d,
)  # fmt: skip
# Each channel by itself, a zero channel stays zero or is taken for zero.
_CHANNELWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh,
    nn.Sigmoid, nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.Identity, nn.Dropout, nn.Dropout1d,
    nn.Dropout2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
    nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.Upsample,
    nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d, nn.ZeroPad1d, nn.ZeroPad2d,
)  # fmt: skip
_CHANNELWISE_FUNCTIONS = (
    F.relu, torch.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish,
    F.hardswish, F.hardtanh, F.hardsigmoid, F.tanh, torch.tanh, F.sigmoid, torch.sigmoid,
    F.dropout, F.dropout1d, F.dropout2d, F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d, F.max_pool1d, F.max_pool2d, F.adaptive_max_pool1d,
    F.adaptive_max_pool2d, F.interpolate, operator.neg,
)  # fmt: skip
_CHANNELWISE_METHODS = ("relu", "relu_", "tanh", "sigmoid", "contiguous", "clone", "neg")
_NO_TENSORS = (torch.Size, int, float, bool, str, torch.dtype, torch.device, type(None))
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_ADDITION_METHODS = ("add", "add_")
_DIVISIONS = (operator.truediv, operator.itruediv, torch.div)
_SCALINGS = (operator.mul, operator.imul, torch.mul, *_DIVISIONS)
_MEANS = (torch.mean, "mean")
_FLATTENINGS = (torch.flatten, "flatten", "view", "reshape", torch.reshape)


@dataclass(frozen=True)
class Flow:
    """What a node's value is, in the channel domain.

    Args:
        blocks: Channels of the maps that it concatenates.
        points: Points of each map, before it was flattened.
        flat: Whether it was flattened.
        whole: Of each map whether it has all of its channels, however few a layer gives: those of
            the input.
    """

    blocks: tuple[int, ...]
    points: tuple[int, ...]
    flat: bool = False
    whole: tuple[bool, ...] = (False,)


def trace(model: nn.Module, example: Tensor) -> fx.Graph:
    """The graph of a model, with the shapes that its values have for the example.

    Raises:
        ValueError: torch.fx cannot trace it, or it cannot take the example; the message says
            which line.
    """
    graph = trace_both_modes(model)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1 and any(not node.args for node in inputs[1:]):
        raise ValueError(f"model takes {len(inputs)} inputs; allowed is one, a map (B, C, ..)")
    with undisturbed(model), torch.no_grad():
        try:
            ShapeProp(fx.GraphModule(model, graph)).propagate(example)
        except Exception as error:
            cause = error.__cause__ or error
            raise ValueError(
                f"example_input of shape {tuple(example.shape)} does not fit the model: "
                f"{_one_line(cause)}"
            ) from error
    for node in graph.nodes:
        found = getattr(node.meta.get("tensor_meta"), "shape", None)
        if found is not None:
            node.meta[SHAPE] = tuple(found)
        stack = node.meta.get("nn_module_stack", {}).values()
        owners = [type(model), *(kind for _, kind in stack)]
        if all(kind.__module__.startswith("torch.") for kind in owners):
            node.meta.pop(LINE, None)  # torch's own containers: no line of the model calls it
    return graph


def shape(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of a node's value for the example; None of what is no tensor."""
    found: tuple[int, ...] | None = node.meta.get(SHAPE)
    return found


def flows(model: nn.Module, graph: fx.Graph) -> dict[fx.Node, Flow]:
    """What each value is in the channel domain, from the input on.

    Raises:
        ValueError: An operation has no dual and cannot act on coefficients; which and where.
    """
    found: dict[fx.Node, Flow] = {}
    called: dict[str, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            given = shape(node)
            if given is not None and len(given) >= 3:
                found[node] = Flow((given[1],), given[2:], whole=(True,))
            elif given is not None:
                raise ValueError(
                    f"example_input has shape {given}; allowed are maps (B, C, L) and (B, C, H, W)"
                )
            continue
        maps = [value for value in node.all_input_nodes if value in found]
        if node.op == "output":
            _check_outputs([found[value] for value in maps])
        elif maps and node.meta.get("type") not in _NO_TENSORS:
            found[node] = _flow(model, node, maps, found)
            if type(module_of(model, node)) in (*LAYERS, *NORMS):
                first = called.setdefault(str(node.target), maps[0])
                _check_second_call(node, found[first], found[maps[0]], first is maps[0])
    return found


def module_of(model: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, if it calls one."""
    return model.get_submodule(str(node.target)) if node.op == "call_module" else None


def is_addition(node: fx.Node) -> bool:
    """Whether a node adds two values."""
    if node.op == "call_method":
        return node.target in _ADDITION_METHODS
    return node.op == "call_function" and node.target in _ADDITIONS


def is_concatenation(node: fx.Node) -> bool:
    """Whether a node concatenates maps."""
    return node.op == "call_function" and node.target in (torch.cat, torch.concat)


def is_max_pool(model: nn.Module, node: fx.Node) -> bool:
    """Whether a node takes maxima."""
    module = module_of(model, node)
    return node.target in _MAX_POOLS or type(module) in _MAX_POOLS


def concatenated(node: fx.Node) -> list[fx.Node]:
    """What a concatenation concatenates."""
    values: Any = node.args[0] if node.args else node.kwargs["tensors"]
    return list(values)


def added(node: fx.Node) -> tuple[list[Any], Any]:
    """What an addition adds, and the factor of the second."""
    return _operands(node), node.kwargs.get("alpha", 1)


def _operands(node: fx.Node) -> list[Any]:
    return [*node.args, *(node.kwargs[name] for name in ("input", "other") if name in node.kwargs)]


def _flow(model: nn.Module, node: fx.Node, maps: list[fx.Node], found: dict[fx.Node, Flow]) -> Flow:
    """The flow of a node's value."""
    module, given, after = module_of(model, node), found[maps[0]], shape(node)
    if after is None:  # several tensors
        raise _no_dual(node, _name(node) if module is None else type(module).__name__)
    points = given.points if given.flat else after[2:]
    if module is not None:
        if type(module) in LAYERS:
            return _layer_flow(node, module, given, after)
        if type(module) in NORMS:
            if module.num_features != sum(given.blocks):  # a norm of flattened points
                raise _no_dual(node, "batch norm of flattened points")
            return given
        if type(module) in (nn.Flatten,):
            return _flat(node, given, after)
        if type(module) in _CHANNELWISE_MODULES:
            return replace(given, points=points)
        raise _no_dual(node, type(module).__name__)
    if is_addition(node):
        return replace(_sum(node, found), points=points)
    if is_concatenation(node):
        parts = concatenated(node)
        dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if dim not in (1, 1 - len(after)) or any(
            part not in found or found[part].flat for part in parts
        ):
            raise _no_dual(node, "a concatenation along another axis than the channels")
        blocks = tuple(b for part in parts for b in found[part].blocks)
        whole = tuple(w for part in parts for w in found[part].whole)
        return Flow(blocks, after[2:], whole=whole)
    if node.target in _FLATTENINGS:
        return _flat(node, given, after)
    if node.target in _MEANS:
        return _mean(node, given, after)
    if node.target in _SCALINGS:
        if not _is_scaling(node, maps[0]):
            raise _no_dual(node, "the product of a map and something else than a number")
        return given
    if node.target in _CHANNELWISE_FUNCTIONS or (
        node.op == "call_method" and node.target in _CHANNELWISE_METHODS
    ):
        return replace(given, points=points)
    raise _no_dual(node, _name(node))


def _layer_flow(node: fx.Node, layer: nn.Module, given: Flow, after: tuple[int, ...]) -> Flow:
    if len(node.args) + len(node.kwargs) > 1:
        raise _no_dual(node, "a layer with output_size, for which there is output_padding,")
    if isinstance(layer, nn.Linear):
        if not given.flat and given.points != ():
            raise _no_dual(node, "a linear layer along an axis of points")
        return Flow((layer.out_features,), (), flat=True)
    groups, channels = (int(getattr(layer, name)) for name in ("groups", "in_channels"))
    if groups > 1 and (len(given.blocks) > 1 or not isinstance(layer, nn.Conv2d)):
        raise _no_dual(node, "a grouped convolution of series, concatenated or transposed maps")
    depthwise = groups == channels == after[1]
    return Flow((after[1],), after[2:], whole=given.whole if depthwise else (False,))


def _sum(node: fx.Node, found: dict[fx.Node, Flow]) -> Flow:
    values, factor = added(node)
    if (
        len(values) != 2
        or any(value not in found for value in values)
        or not isinstance(factor, (int, float))
        or node.kwargs.keys() - {"input", "other", "alpha"}
    ):
        raise _no_dual(node, "the sum of a map and something else")
    if node.target == "add_" and any(user in values[0].users for user in _after(node)):
        raise _no_dual(node, "an addition in place to a map that is read again")
    first, second = (found[value] for value in values)
    if len(first.blocks) > 1 or len(second.blocks) > 1:
        raise _no_dual(node, "the sum of concatenated maps")
    if (first.blocks, first.flat) != (second.blocks, second.flat):
        raise _no_dual(node, "the sum of maps of unlike channels")
    return replace(first, whole=(first.whole[0] or second.whole[0],))


def _after(node: fx.Node) -> Iterator[fx.Node]:
    while node.op != "output":
        node = node.next
        yield node


def _is_scaling(node: fx.Node, value: fx.Node) -> bool:
    """Whether a node multiplies a map by a number, or by a tensor of one."""
    values = _operands(node)
    if len(values) != 2 or len(node.kwargs.keys() - {"input", "other"}) > 0:
        return False
    if node.target in _DIVISIONS and values[0] is not value:
        return False
    factor = values[1] if values[0] is value else values[0]
    if not isinstance(factor, fx.Node):
        return True
    size = shape(factor)
    one = factor.meta.get("type") in (int, float) if size is None else math.prod(size) == 1
    return one and factor is not value and shape(node) == shape(value)


def _check_second_call(node: fx.Node, first: Flow, given: Flow, same: bool) -> None:
    """A layer has one order of the channels that it reads, which concatenations choose."""
    channels = {
        (flow.blocks, math.prod(flow.points) if flow.flat else 1) for flow in (first, given)
    }
    if len(channels) > 1 or (len(given.blocks) > 1 and not same):
        raise _no_dual(node, "a layer that is called again, on other concatenated maps")


def _check_outputs(flows: list[Flow]) -> None:
    for flow in flows:
        if len(flow.blocks) > 1:
            raise ValueError(
                "model gives concatenated maps, for which there is no one inverse DCT; end it with "
                "a layer"
            )
        if flow.flat and math.prod(flow.points) > 1:
            raise ValueError(
                "model gives flattened maps, which have no inverse DCT; end it with a layer"
            )


def _flat(node: fx.Node, given: Flow, after: tuple[int, ...]) -> Flow:
    before = shape(node.all_input_nodes[0])
    if given.flat and before == after:
        return given
    points = math.prod(given.points)
    if given.flat or len(after) != 2 or after[1] != sum(given.blocks) * points:
        raise _no_dual(node, f"a change of shape from {before} to {after}")
    return replace(given, flat=True)


def _mean(node: fx.Node, given: Flow, after: tuple[int, ...]) -> Flow:
    dims: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    axes = len(given.points) + 2
    dims = {dims} if isinstance(dims, int) else set(dims or range(axes))
    wanted = {dim % axes for dim in dims}
    if given.flat or wanted != set(range(2, axes)):
        raise _no_dual(node, "a mean over channels or examples")
    return replace(given, points=after[2:], flat=len(after) == 2)


def _no_dual(node: fx.Node, what: str) -> ValueError:
    name = f" ({node.target})" if node.op == "call_module" else ""
    return ValueError(
        f"model has {what}{name}{node.meta.get(LINE, '')}, which cannot act on channel "
        "coefficients; use domain='spatial', or convert a part of the model"
    )


def _name(node: fx.Node) -> str:
    target: Callable[..., Any] | str = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
