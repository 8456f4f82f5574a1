"""A model as a graph, and what each of its operations is to maps of channel coefficients."""

import operator
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

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
_ADDITIONS = (operator.add, operator.iadd, torch.add)
_ADDITION_METHODS = ("add", "add_")
_SCALINGS = (operator.mul, operator.imul, operator.truediv, torch.mul, torch.div)
_MEANS = (torch.mean, "mean")
_LINE = "passband_line"
_FLATTENINGS = (torch.flatten, "flatten", "view", "reshape", torch.reshape)


@dataclass(frozen=True)
class Flow:
    """What a node's value is, in the channel domain.

    Args:
        blocks: Channels of the maps that it concatenates.
        points: Points of each map, before it was flattened.
        flat: Whether it was flattened.
    """

    blocks: tuple[int, ...]
    points: tuple[int, ...]
    flat: bool = False


class _LineTracer(fx.Tracer):
    """Notes the line of the model's own code that each node comes from."""

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A node with its line."""
        node = super().create_node(*args, **kwargs)
        node.meta[_LINE] = _last_line(traceback.extract_stack())
        return node


def trace(model: nn.Module, example: Tensor) -> fx.Graph:
    """The graph of a model, with the shapes that its values have for the example.

    Raises:
        ValueError: torch.fx cannot trace it, or it cannot take the example; the message says
            which line.
    """
    try:
        graph = _LineTracer().trace(model)
    except Exception as error:  # whatever a model's own code may raise on a stand-in
        raise ValueError(
            f"model cannot be traced by torch.fx{_line_of(error)}: {_one_line(error)}; rewrite it "
            "without control flow that depends on tensors, or convert a part of it"
        ) from error
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
    return graph


def shape(node: fx.Node) -> tuple[int, ...] | None:
    """The shape of a node's value for the example; None of what is no tensor."""
    found = getattr(node.meta.get("tensor_meta"), "shape", None)
    return None if found is None else tuple(found)


def flows(model: nn.Module, graph: fx.Graph) -> dict[fx.Node, Flow]:
    """What each value is in the channel domain, from the input on.

    Raises:
        ValueError: An operation has no dual and cannot act on coefficients; which and where.
    """
    found: dict[fx.Node, Flow] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            given = shape(node)
            if given is not None and len(given) >= 3:
                found[node] = Flow((given[1],), given[2:])
            elif given is not None:
                raise ValueError(
                    f"example_input has shape {given}; allowed are maps (B, C, L) and (B, C, H, W)"
                )
            continue
        maps = [value for value in node.all_input_nodes if value in found]
        if not maps or node.op in ("output", "get_attr"):
            continue
        flow = _flow(model, node, maps, found)
        if flow is not None:
            found[node] = flow
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


def is_flattening(node: fx.Node, flow: Flow, before: Flow) -> bool:
    """Whether a node makes one axis of channels and points."""
    return flow.flat and not before.flat


def is_max_pool(model: nn.Module, node: fx.Node) -> bool:
    """Whether a node takes maxima."""
    module = module_of(model, node)
    return node.target in _MAX_POOLS or type(module) in _MAX_POOLS


def concatenated(node: fx.Node) -> list[fx.Node]:
    """What a concatenation concatenates."""
    values: Any = node.args[0] if node.args else node.kwargs["tensors"]
    return list(values)


def _flow(
    model: nn.Module, node: fx.Node, maps: list[fx.Node], found: dict[fx.Node, Flow]
) -> Flow | None:
    """The flow of a node's value; None for what is no map, such as a size."""
    module, given, after = module_of(model, node), found[maps[0]], shape(node)
    if after is None:  # a size, or a shape
        return None
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
            return Flow(given.blocks, after[2:] if not given.flat else given.points, given.flat)
    elif is_addition(node):
        if len(maps) != 2:
            raise _no_dual(node, "the sum of a map and something else")
        if any(len(found[m].blocks) > 1 for m in maps):
            raise _no_dual(node, "the sum of concatenated maps")
        if found[maps[0]].blocks != found[maps[1]].blocks:
            raise _no_dual(node, "the sum of maps of unlike channels")
        return given
    elif is_concatenation(node):
        parts = concatenated(node)
        dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if dim not in (1, 1 - len(after)) or any(
            part not in found or found[part].flat for part in parts
        ):
            raise _no_dual(node, "a concatenation along another axis than the channels")
        return Flow(tuple(b for part in parts for b in found[part].blocks), after[2:])
    elif node.target in _FLATTENINGS:
        return _flat(node, given, after)
    elif node.target in _MEANS:
        return _mean(node, given, after)
    elif node.target in _SCALINGS and len(maps) == 1:
        return given
    elif node.target in _CHANNELWISE_FUNCTIONS or (
        node.op == "call_method" and node.target in _CHANNELWISE_METHODS
    ):
        return Flow(given.blocks, given.points if given.flat else after[2:], given.flat)
    raise _no_dual(node, f"{type(module).__name__}" if module is not None else _name(node))


def _layer_flow(node: fx.Node, layer: nn.Module, given: Flow, after: tuple[int, ...]) -> Flow:
    if isinstance(layer, nn.Linear):
        if not given.flat and given.points != ():
            raise _no_dual(node, "a linear layer along an axis of points")
        return Flow((layer.out_features,), (), flat=True)
    channels = int(getattr(layer, "groups"))  # noqa: B009  # of a module
    if channels > 1 and (len(given.blocks) > 1 or not isinstance(layer, nn.Conv2d)):
        raise _no_dual(node, "a grouped convolution of series, concatenated or transposed maps")
    return Flow((after[1],), after[2:])


def _flat(node: fx.Node, given: Flow, after: tuple[int, ...]) -> Flow:
    before = shape(node.all_input_nodes[0])
    if given.flat and before == after:
        return given
    points = 1
    for n in given.points:
        points *= n
    if given.flat or len(after) != 2 or after[1] != sum(given.blocks) * points:
        raise _no_dual(node, f"a change of shape from {before} to {after}")
    return Flow(given.blocks, given.points, flat=True)


def _mean(node: fx.Node, given: Flow, after: tuple[int, ...]) -> Flow:
    dims: Any = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
    axes = len(given.points) + 2
    dims = {dims} if isinstance(dims, int) else set(dims or range(axes))
    wanted = {dim % axes for dim in dims}
    if given.flat or wanted != set(range(2, axes)):
        raise _no_dual(node, "a mean over channels or examples")
    return Flow(given.blocks, after[2:], flat=len(after) == 2)


def _no_dual(node: fx.Node, what: str) -> ValueError:
    return ValueError(
        f"model has {what}{node.meta.get(_LINE, '')}, which cannot act on channel coefficients; "
        "use domain='spatial', or convert a part of the model"
    )


def _name(node: fx.Node) -> str:
    target: Callable[..., Any] | str = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _line_of(error: BaseException) -> str:
    """The line of the model's own code that could not be traced."""
    return _last_line(traceback.extract_tb(error.__traceback__))


def _last_line(frames: traceback.StackSummary) -> str:
    """The last line that is neither torch's nor this file's; nothing if there is none."""
    inner = Path(torch.__file__).parent
    own = [f for f in frames if inner not in Path(f.filename).parents and f.filename != __file__]
    return f" at line {own[-1].lineno} of {own[-1].filename} ({own[-1].line})" if own else ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
