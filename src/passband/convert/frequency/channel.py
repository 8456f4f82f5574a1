"""From a model to a network in the channel domain."""

import math
import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from passband.config import FrequencyRegularization
from passband.convert.frequency import trace as tracing
from passband.convert.frequency.account import account
from passband.convert.frequency.network import (
    FrequencyNetwork,
    FrequencyState,
    after_loading,
    refresh,
)
from passband.convert.frequency.parameters import obstacles
from passband.convert.frequency.report import FrequencyReport
from passband.convert.frequency.trace import LAYERS, NORMS, Flow, module_of
from passband.convert.handler import become
from passband.nn.frequency import FrequencyLinear
from passband.nn.frequency_layer import FrequencyLayer
from passband.nn.frequency_maps import (
    ChannelDCT,
    CoefficientConv2d,
    FrequencyBatchNorm,
    add_maps,
)


def convert_network(
    model: nn.Module, config: FrequencyRegularization, example: Tensor
) -> FrequencyReport:
    """Convert a whole model, in place.

    Raises:
        ValueError: It cannot be traced, or has something that cannot act on channel coefficients;
            the model is as it was.
    """
    graph = tracing.trace(model, example)
    flows = tracing.flows(model, graph)
    _check_parameters(model, flows)
    state = FrequencyState(config, (1, *example.shape[1:]))
    types: dict[str, str] = {}
    _insert_transforms(model, graph, flows, state)
    pools = [node.name for node in graph.nodes if tracing.is_max_pool(model, node)]
    for node in graph.nodes:
        module = module_of(model, node)
        if node in flows and module is not None:
            _convert_module(node, module, flows, state, types)
        elif node in flows and tracing.is_addition(node):
            _make_sum(node)
        elif (
            node in flows and flows[node].flat and node.target in ("view", "reshape", torch.reshape)
        ):
            node.op, node.target = "call_function", torch.flatten
            node.args, node.kwargs = (node.all_input_nodes[0], 1), {}
    training, architecture = model.training, model.__dict__.get("_passband_architecture")
    network = FrequencyNetwork(model, graph)
    network.graph.eliminate_dead_code()  # sizes, for changes of shape
    network.recompile()
    become(model, network)
    model.__dict__["_passband_frequency"] = state
    if architecture is not None:
        model.__dict__["_passband_architecture"] = architecture
    model.training = training
    model.register_load_state_dict_post_hook(after_loading)  # type: ignore[no-untyped-call]
    assert isinstance(model, FrequencyNetwork)
    refresh(model)
    return account(model, state, types, pools=pools)


def _check_parameters(model: nn.Module, flows: dict[fx.Node, Flow]) -> None:
    found = obstacles(model)
    for name in (str(node.target) for node in flows if node.op == "call_module"):
        if name in found:
            kind = type(model.get_submodule(name)).__name__
            raise ValueError(f"model has {kind} ({name}), {found[name]}")


def _make_sum(node: fx.Node) -> None:
    """An addition of maps of unlike widths; torch's may have a factor for the second."""
    values, factor = tracing.added(node)
    if factor != 1:
        with node.graph.inserting_before(node):
            scaled = node.graph.call_function(operator.mul, (values[1], factor))
        scaled.meta = dict(values[1].meta)
        values = [values[0], scaled]
    node.op, node.target = "call_function", add_maps
    node.args, node.kwargs = tuple(values), {}


def _convert_module(
    node: fx.Node,
    module: nn.Module,
    flows: dict[fx.Node, Flow],
    state: FrequencyState,
    types: dict[str, str],
) -> None:
    name = str(node.target)
    if name in types or name in state.norms:
        return
    if type(module) in NORMS:
        state.norms[name] = type(module)
        become(module, FrequencyBatchNorm.from_norm(module))
    elif type(module) in LAYERS:
        types[name] = type(module).__name__
        flow = flows[_source(node)]
        given = tuple(zip(flow.blocks, flow.whole, strict=True))
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.__class__ = CoefficientConv2d
            assert isinstance(module, CoefficientConv2d)
            size = tracing.shape(_source(node))
            if module.is_depthwise and size is not None:
                each = module.macs((1, 1, *size[2:]))
                state.depthwise[name] = (each, given)
            return
        options: dict[str, Any] = {"order": state.config.order, "in_blocks": flow.blocks}
        if isinstance(module, nn.Linear):
            points = flow.points if math.prod(flow.points) > 1 else ()
            become(module, FrequencyLinear.from_layer(module, positions=points, **options))
        else:
            become(module, LAYERS[type(module)].from_layer(module, **options))
        assert isinstance(module, FrequencyLayer)
        before = tracing.shape(_source(node))
        assert before is not None
        state.points[name] = math.prod(module._points((1, *before[1:])))
        state.reads[name] = given


def _insert_transforms(
    model: nn.Module, graph: fx.Graph, flows: dict[fx.Node, Flow], state: FrequencyState
) -> None:
    """The DCT after the input, and its inverse before each output."""
    for node in [n for n in graph.nodes if n.op == "placeholder" and n in flows]:
        name = _free_name(model, "channel_dct")
        model.add_module(name, ChannelDCT(flows[node].blocks[0]).train(model.training))
        with graph.inserting_after(node):
            transformed = graph.create_node("call_module", name, (node,))
        for user in [user for user in node.users if user is not transformed]:
            user.replace_input_with(node, transformed)
        transformed.meta = dict(node.meta)
        flows[transformed] = flows[node]
    (output,) = (node for node in graph.nodes if node.op == "output")
    for value in [v for v in output.all_input_nodes if v in flows]:
        name = _free_name(model, "channel_idct")
        model.add_module(
            name, ChannelDCT(flows[value].blocks[0], inverse=True).train(model.training)
        )
        with graph.inserting_before(output):
            back = graph.create_node("call_module", name, (value,))
        output.replace_input_with(value, back)
        state.last += tuple(_last_layers(model, value, flows))


def _last_layers(model: nn.Module, node: fx.Node, flows: dict[fx.Node, Flow]) -> list[str]:
    """The layer that a value comes from, through whatever has no weights."""
    if type(module_of(model, node)) in LAYERS:
        return [str(node.target)]
    maps = [value for value in node.all_input_nodes if value in flows]
    return [name for value in maps[:1] for name in _last_layers(model, value, flows)]


def _source(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _free_name(model: nn.Module, name: str) -> str:
    taken = dict(model.named_children())
    return next(n for n in (name, *(f"{name}_{i}" for i in range(1000))) if n not in taken)
