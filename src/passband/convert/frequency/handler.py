"""Whole models in the channel domain, or with DCT coefficients for weights: the handler."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from passband.config import FrequencyRegularization, config_from_dict
from passband.convert.frequency import trace as tracing
from passband.convert.frequency.budget import corners_at
from passband.convert.frequency.network import (
    FrequencyNetwork,
    FrequencyState,
    after_loading,
    frequency_layers,
    read_channels,
    refresh,
    widths,
)
from passband.convert.frequency.report import FrequencyLayerReport, FrequencyReport
from passband.convert.frequency.storage import packed, unpacked
from passband.convert.frequency.trace import LAYERS, NORMS, Flow, module_of
from passband.convert.handler import Filter, Handler, become, register_handler
from passband.measure.layers import ExampleInput, observe
from passband.nn.frequency import FrequencyLinear
from passband.nn.frequency_layer import FrequencyLayer
from passband.nn.frequency_maps import (
    ChannelDCT,
    CoefficientConv2d,
    FrequencyBatchNorm,
    add_maps,
)

_DEPTHWISE = (
    "coefficientwise",
    "it has no dual; each channel's kernel acts on the coefficient of that number, and it keeps "
    "the channels that it is given",
)
_GROUPED = (
    "uncut",
    "it has no dual; its groups act on all coefficients, zeros where they were dropped, and none "
    "of its weights are dropped",
)
_MAX_POOL = (
    "coefficientwise",
    "it has no dual; the maxima are of the coefficients, which average pooling would not change",
)


@register_handler(FrequencyRegularization)
class FrequencyHandler(Handler[FrequencyRegularization]):
    """Gives the layers of a model DCT coefficients for weights, of which fewer and fewer are kept.

    In the channel domain the model becomes a `FrequencyNetwork`, in place: its graph as torch.fx
    traced it, with a DCT after the input, the inverse before the output, and sums that take maps of
    unlike widths.
    """

    changes_tensors = True  # weights become coefficients

    packed = staticmethod(packed)
    unpacked = staticmethod(unpacked)

    def convert_model(
        self,
        model: nn.Module,
        example_input: ExampleInput | None = None,
        filter_fn: Filter | None = None,
    ) -> FrequencyReport:
        """Convert, or configure anew what is converted already."""
        state = model.__dict__.get("_passband_frequency")
        if isinstance(state, FrequencyState):
            if (state.config.domain, state.config.order) != (self.config.domain, self.config.order):
                raise ValueError(
                    f"model has domain {state.config.domain!r} and order {state.config.order!r}; "
                    "use passband.revert(model) before another"
                )
            state.config = self.config
            return self._report(model, state, {})
        if self.config.domain == "spatial":
            return self._convert_layers(model, example_input, filter_fn)
        example = _only_tensor(example_input)
        if filter_fn is not None:
            raise ValueError(
                "filter_fn is given, but in domain 'channel' the whole model is converted; use "
                "domain='spatial', or leave it out"
            )
        return self._convert_network(model, example)

    @classmethod
    def description(cls, model: nn.Module) -> dict[str, Any] | None:
        """The config, and the shape of the map that the model was traced with."""
        state = model.__dict__.get("_passband_frequency")
        if not isinstance(state, FrequencyState):
            return None
        return {"config": state.config.to_dict(), "example_shape": state.example_shape}

    @classmethod
    def convert_as(cls, model: nn.Module, description: Mapping[str, Any] | None) -> None:
        """Convert, by a map of the shape that the other was traced with."""
        if description is None:
            cls.revert_model(model)
            return
        config = config_from_dict(dict(description["config"]))
        assert isinstance(config, FrequencyRegularization)
        shape = tuple(description["example_shape"])
        weight = next(model.parameters())
        example = torch.zeros(shape, dtype=weight.dtype, device=weight.device) if shape else None
        cls(config).convert_model(model, example)

    @classmethod
    def revert_model(cls, model: nn.Module) -> None:
        """Ordinary layers with the weights that the coefficients stand for.

        Of a network in the channel domain the graph stays, without its transforms. It computes
        something else than the converted network, on maps that are not coefficients.
        """
        state = model.__dict__.get("_passband_frequency")
        if not isinstance(state, FrequencyState):
            return
        for _, layer in list(frequency_layers(model)):
            become(layer, layer.to_layer())
        if isinstance(model, FrequencyNetwork):
            for name, norm in list(model.named_modules()):
                if isinstance(norm, FrequencyBatchNorm):
                    become(norm, norm.to_norm(state.norms[name]))
                elif isinstance(norm, CoefficientConv2d):
                    norm.__class__ = nn.Conv2d  # type: ignore[assignment]
            graph = model.graph
            for node in list(graph.nodes):
                if isinstance(module_of(model, node), ChannelDCT):
                    node.replace_all_uses_with(node.all_input_nodes[0])
                    graph.erase_node(node)
                elif node.target is add_maps:
                    node.target = torch.add
            training, architecture = model.training, model.__dict__.get("_passband_architecture")
            become(model, fx.GraphModule(model, graph))
            model.training = training
            if architecture is not None:
                model.__dict__["_passband_architecture"] = architecture
        model.__dict__.pop("_passband_frequency", None)

    def _convert_layers(
        self,
        model: nn.Module,
        example_input: ExampleInput | None,
        filter_fn: Filter | None,
    ) -> FrequencyReport:
        """The spatial domain: other weights, the same network."""
        uses = observe(model, example_input).layers if example_input is not None else {}
        types: dict[str, str] = {}
        for name, layer in list(model.named_modules()):
            if type(layer) in LAYERS and (filter_fn is None or filter_fn(name, layer)):
                types[name] = type(layer).__name__
                kind = LAYERS[type(layer)]
                order = self.config.order
                become(layer, kind.from_layer(layer, domain="spatial", order=order))
        last = tuple(types)[-1:]
        shape = tuple(example_input.shape) if isinstance(example_input, Tensor) else ()
        state = FrequencyState(self.config, shape, last=last)
        model.__dict__["_passband_frequency"] = state
        macs = {name: use.macs // shape[0] if shape else use.macs for name, use in uses.items()}
        return self._report(model, state, types, macs)

    def _convert_network(self, model: nn.Module, example: Tensor) -> FrequencyReport:
        graph = tracing.trace(model, example)
        flows = tracing.flows(model, graph)
        state = FrequencyState(self.config, (1, *example.shape[1:]))
        types: dict[str, str] = {}
        _insert_transforms(model, graph, flows, state)
        pools = [node.name for node in graph.nodes if tracing.is_max_pool(model, node)]
        for node in graph.nodes:
            module = module_of(model, node)
            if node in flows and module is not None:
                self._convert_module(node, module, flows, state, types)
            elif node in flows and tracing.is_addition(node):
                node.op, node.target = "call_function", add_maps
                node.args, node.kwargs = tuple(node.all_input_nodes), {}
            elif (
                node in flows
                and flows[node].flat
                and node.target in ("view", "reshape", torch.reshape)
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
        return self._report(model, state, types, pools=pools)

    def _convert_module(
        self,
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
            given = flows[_source(node)]
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.__class__ = CoefficientConv2d
                assert isinstance(module, CoefficientConv2d)
                size = tracing.shape(_source(node))
                if module.is_depthwise and size is not None:
                    each = module.macs((1, 1, *size[2:]))
                    state.depthwise[name] = (each, module.in_channels)
                return
            options: dict[str, Any] = {"order": self.config.order, "in_blocks": given.blocks}
            if isinstance(module, nn.Linear):
                points = given.points if math.prod(given.points) > 1 else ()
                become(module, FrequencyLinear.from_layer(module, positions=points, **options))
            else:
                become(module, LAYERS[type(module)].from_layer(module, **options))
            assert isinstance(module, FrequencyLayer)
            before = tracing.shape(_source(node))
            assert before is not None
            state.points[name] = math.prod(module._points((1, *before[1:])))

    def _report(
        self,
        model: nn.Module,
        state: FrequencyState,
        types: dict[str, str],
        macs: dict[str, int] | None = None,
        pools: list[str] | None = None,
    ) -> FrequencyReport:
        corners = corners_at(model, state, state.config.keep)
        rows = []
        for name, layer in frequency_layers(model):
            corner, total = corners[name], math.prod(layer.sizes)
            points = state.points.get(name)
            counted = (macs or {}).get(name, None if points is None else points * total)
            rows.append(
                FrequencyLayerReport(
                    name or "(model)",
                    types.get(name, type(layer).__name__),
                    "converted",
                    inputs=_of(corner.extents[layer._in_axis], layer.sizes[layer._in_axis]),
                    outputs=_of(corner.extents[layer._out_axis], layer.out_size),
                    coefficients=total,
                    kept=corner.count,
                    macs_before=counted,
                    macs_after=counted,
                )
            )
        if isinstance(model, FrequencyNetwork):
            rows = _with_widths(model, state, corners, rows)
            rows += [FrequencyLayerReport(n, "max pooling", *_MAX_POOL) for n in pools or ()]
        return FrequencyReport(state.config, tuple(rows))


def _with_widths(
    model: FrequencyNetwork,
    state: FrequencyState,
    corners: dict[str, Any],
    rows: list[FrequencyLayerReport],
) -> list[FrequencyLayerReport]:
    """The rows with what each layer really reads, and those of grouped convolutions."""
    layers = dict(frequency_layers(model))

    def out_kept(name: str) -> int:
        return int(corners[name].extents[layers[name]._out_axis])

    found, by_name = widths(model, out_kept), {row.layer: row for row in rows}
    done: list[FrequencyLayerReport] = []
    for node in model.graph.nodes:
        module, name = module_of(model, node), str(node.target)
        if isinstance(module, FrequencyLayer) and name in by_name:
            given = found[node.all_input_nodes[0]]
            saved, module.corner = module.corner, corners[name]
            read = len(read_channels(module, given))
            module.corner = saved
            taps = math.prod(module.sizes[2:])
            row = by_name.pop(name)
            done.append(
                FrequencyLayerReport(
                    **vars(row)
                    | {
                        "inputs": _of(read, module.sizes[module._in_axis]),
                        "macs_after": state.points[name] * read * out_kept(name) * taps,
                    }
                )
            )
        elif isinstance(module, CoefficientConv2d):
            how = _DEPTHWISE if module.is_depthwise else _GROUPED
            shape = tracing.shape(node.all_input_nodes[0])
            assert shape is not None
            live = sum(width for _, width in found[node.all_input_nodes[0]])
            whole = (1, *shape[1:])
            done.append(
                FrequencyLayerReport(
                    name,
                    "Conv2d",
                    *how,
                    inputs=_of(live, module.in_channels),
                    outputs=_of(sum(w for _, w in found[node]), module.out_channels),
                    macs_before=module.macs(whole, dense=True),
                    macs_after=module.macs((1, live, *shape[2:])),
                )
            )
    return done


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
        flow = flows[value]
        if len(flow.blocks) > 1:
            raise ValueError(
                "model gives concatenated maps, for which there is no one inverse DCT; end it with "
                "a layer"
            )
        if flow.flat and math.prod(flow.points) > 1:
            raise ValueError(
                "model gives flattened maps, which have no inverse DCT; end it with a layer"
            )
        name = _free_name(model, "channel_idct")
        model.add_module(name, ChannelDCT(flow.blocks[0], inverse=True).train(model.training))
        with graph.inserting_before(output):
            back = graph.create_node("call_module", name, (value,))
        output.replace_input_with(value, back)
        state.last += tuple(_last_layers(model, value))


def _last_layers(model: nn.Module, node: fx.Node) -> list[str]:
    """The layer that a value comes from, through whatever has no weights."""
    module = module_of(model, node)
    if type(module) in LAYERS:
        return [str(node.target)]
    return [name for value in node.all_input_nodes[:1] for name in _last_layers(model, value)]


def _source(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _free_name(model: nn.Module, name: str) -> str:
    taken = dict(model.named_children())
    return next(n for n in (name, *(f"{name}_{i}" for i in range(1000))) if n not in taken)


def _of(some: int, all_of_them: int) -> str:
    return f"{some} of {all_of_them}"


def _only_tensor(example_input: ExampleInput | None) -> Tensor:
    """The one map that the model takes.

    Raises:
        ValueError: There is none; or there are more.
    """
    if example_input is None:
        raise ValueError(
            "example_input is None; domain 'channel' converts whole models and needs a map "
            "(B, C, ..) of the size that the model is called with"
        )
    if isinstance(example_input, (tuple, list)) and len(example_input) == 1:
        example_input = example_input[0]
    if not isinstance(example_input, Tensor):
        raise TypeError(
            f"example_input is {type(example_input).__name__}; allowed is one map (B, C, ..)"
        )
    return example_input
