"""A network in the channel domain: which channels each of its values has."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from passband.config import FrequencyRegularization
from passband.convert.frequency.trace import SHAPE, concatenated, is_concatenation, module_of
from passband.imported import from_name, to_name
from passband.nn.frequency_layer import FrequencyLayer, frequency_ranks
from passband.nn.frequency_maps import ChannelDCT, CoefficientConv2d, FrequencyBatchNorm, add_maps

Widths = tuple[tuple[int, int], ...]
"""Of each map that a value concatenates its channels, and how many of them, the lowest, it has."""

Reads = tuple[tuple[int, bool], ...]
"""Of each map that a value concatenates its channels, and whether it has all of them."""


class Left(NamedTuple):
    """A layer that was not converted, for the report."""

    type: str
    result: str
    reason: str


@dataclass
class FrequencyState:
    """What a converted model remembers of its conversion.

    Args:
        config: What was asked for.
        example_shape: Shape of the example that it was converted with, one image of it.
        points: Points of each layer at which every weight multiplies once, for one example.
        last: Names of the layers before the output.
        reads: Of each layer the maps that its input concatenates: their channels, and whether
            they have them all, as the model's input has, however few layers give.
        depthwise: Of each depthwise convolution multiplications per channel, and what it reads.
        norms: Of each batch norm torch's type.
        left: Layers that were not converted.
    """

    config: FrequencyRegularization
    example_shape: tuple[int, ...]
    points: dict[str, int] = field(default_factory=dict)
    last: tuple[str, ...] = ()
    reads: dict[str, Reads] = field(default_factory=dict)
    depthwise: dict[str, tuple[int, Reads]] = field(default_factory=dict)
    norms: dict[str, type[nn.Module]] = field(default_factory=dict)
    left: dict[str, Left] = field(default_factory=dict)


class FrequencyNetwork(fx.GraphModule):
    """A model whose maps are channel coefficients, from a DCT after its input to the inverse.

    Made by `passband.convert`; its graph is that of the model, as torch.fx traced it.
    """

    _passband_frequency: FrequencyState

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrequencyNetwork":
        made: Any = super().__deepcopy__(memo)
        for name in _OWN:
            if name in self.__dict__:
                made.__dict__[name] = copy.deepcopy(self.__dict__[name], memo)
        network: FrequencyNetwork = made
        return network

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickling: the nodes themselves, where torch's own would trace the code again."""
        state = {name: self.__dict__[name] for name in _STATE if name in self.__dict__}
        return _unpickled, ([_plain(node) for node in self.graph.nodes], state)


_OWN = ("_passband_frequency", "_passband_architecture")
_STATE = ("training", "_parameters", "_buffers", "_modules", *_OWN)


@dataclass(frozen=True)
class _Value:
    """Stands for a node in the arguments of another."""

    name: str


def _plain(node: fx.Node) -> dict[str, Any]:
    """What `fx.Graph.create_node` takes, with the shape that the value has for the example."""
    stand_in: Any = lambda value: _Value(value.name)  # noqa: E731
    args, kwargs = fx.node.map_arg(node.args, stand_in), fx.node.map_arg(node.kwargs, stand_in)
    made = {
        "op": node.op,
        "target": to_name(node.target),
        "name": node.name,
        "args": args,
        "kwargs": kwargs,
    }
    return made | {"shape": node.meta.get(SHAPE)}


def _unpickled(nodes: list[dict[str, Any]], state: dict[str, Any]) -> FrequencyNetwork:
    graph = fx.Graph()
    values: dict[str, fx.Node] = {}

    def value(found: Any) -> Any:
        return values[found.name] if isinstance(found, _Value) else found

    for node in nodes:
        args, kwargs = (fx.node.map_aggregate(node[key], value) for key in ("args", "kwargs"))
        made = graph.create_node(node["op"], from_name(node["target"]), args, kwargs, node["name"])
        made.meta = {} if node["shape"] is None else {SHAPE: node["shape"]}
        values[node["name"]] = made
    root = nn.Module()
    root.__dict__.update(state)
    network = FrequencyNetwork(root, graph)
    network.__dict__.update({name: state[name] for name in _OWN if name in state})
    network.register_load_state_dict_post_hook(after_loading)  # type: ignore[no-untyped-call]
    return network


def after_loading(network: nn.Module, incompatible: object) -> None:
    """A hook for `load_state_dict`, which may have changed what is kept."""
    assert isinstance(network, FrequencyNetwork)
    refresh(network)


def frequency_state(model: nn.Module) -> FrequencyState:
    """What a converted model remembers.

    Raises:
        ValueError: The model is not converted.
    """
    state = model.__dict__.get("_passband_frequency")
    if not isinstance(state, FrequencyState):
        raise ValueError(
            "model is not converted to frequency regularization; use passband.convert(model, "
            "FrequencyRegularization(...), example_input) before"
        )
    return state


def frequency_layers(model: nn.Module) -> Iterator[tuple[str, FrequencyLayer]]:
    """The layers with coefficients, by name."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, FrequencyLayer))


def widths(
    network: FrequencyNetwork, out_kept: Callable[[str], int] | None = None
) -> dict[fx.Node, Widths]:
    """The channels of each value, from the input to the output.

    Args:
        network: The network.
        out_kept: Channels that the layer of a name gives; None: those that it gives now.
    """
    found: dict[fx.Node, Widths] = {}
    for node in network.graph.nodes:
        module = module_of(network, node)
        maps = [found[value] for value in node.all_input_nodes if value in found]
        if isinstance(module, ChannelDCT):
            if not module.inverse:
                found[node] = ((module.channels, module.channels),)
        elif not maps:
            continue
        elif isinstance(module, FrequencyLayer):
            name = str(node.target)
            kept = module.out_kept if out_kept is None else out_kept(name)
            found[node] = ((module.out_size, kept),)
        elif isinstance(module, CoefficientConv2d) and not module.is_depthwise:
            found[node] = ((module.out_channels, module.out_channels),)
        elif node.target is add_maps:
            found[node] = (max(maps, key=lambda w: w[0][1])[0],)
        elif is_concatenation(node):
            found[node] = tuple(part for value in concatenated(node) for part in found[value])
        else:
            found[node] = maps[0]
    return found


def refresh(network: FrequencyNetwork) -> None:
    """Tell the layers that read concatenated maps which channels there are."""
    found = None
    for node in network.graph.nodes:
        module = module_of(network, node)
        concatenates = isinstance(module, FrequencyLayer) and len(module.in_blocks) > 1
        if concatenates or isinstance(module, FrequencyBatchNorm):
            found = found if found is not None else widths(network)
            given = found[node.all_input_nodes[0]]
            if isinstance(module, FrequencyLayer):
                _tell_layer(module, given)
            elif isinstance(module, FrequencyBatchNorm) and len(given) > 1:
                index, device = present_channels(given), module.index_device
                module.channel_index = torch.tensor(index, device=device)


def _tell_layer(layer: FrequencyLayer, given: Widths) -> None:
    device = layer.weight.device
    reads = read_channels(layer, given)
    layer.input_index = torch.tensor([position for position, _ in reads], device=device)
    layer.weight_index = torch.tensor([rank for _, rank in reads], device=device)


def read_channels(
    layer: FrequencyLayer, given: Widths, live: Widths | None = None
) -> list[tuple[int, int]]:
    """The channels that a layer reads: position in its input, rank in its weights.

    Args:
        layer: The layer.
        given: Channels of its input.
        live: Those of them that can be other than zero; None: all.
    """
    starts, total = [], 0
    for _, width in given:
        starts.append(total)
        total += width
    there = [min(a[1], b[1]) for a, b in zip(given, live or given, strict=True)]
    ranks = frequency_ranks(layer.in_blocks)[: layer.in_kept]
    read = [(starts[block] + k, rank) for rank, (block, k) in enumerate(ranks) if k < there[block]]
    return sorted(read)


def present_channels(given: Widths) -> list[int]:
    """The channels that are there, among all channels of concatenated maps."""
    index: list[int] = []
    start = 0
    for size, live in given:
        index += range(start, start + live)
        start += size
    return index
