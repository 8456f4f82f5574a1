"""From a network in the channel domain to the small ordinary network that it is."""

import copy
import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from passband.chain.layers import (
    Affine,
    batch_norm_affine,
    channel_matrix_layer,
    plain_batch_norm,
    plain_depthwise,
    plain_grouped,
    plain_layer,
)
from passband.chain.needs import needed_channels
from passband.convert.frequency import FrequencyNetwork, FrequencyScheduler
from passband.convert.frequency import trace as tracing
from passband.convert.frequency.network import Widths, frequency_state, read_channels, widths
from passband.convert.frequency.scheduler import unfinished
from passband.convert.frequency.trace import concatenated, is_concatenation, module_of
from passband.measure.layers import undisturbed
from passband.nn.frequency_layer import FrequencyLayer
from passband.nn.frequency_maps import ChannelDCT, CoefficientConv2d, FrequencyBatchNorm, add_maps

# Largest relative norm of the difference between the chain's output and the network's. Folding
# rounds each weight anew (6e-8 in float32), which grows over a hundred layers to about 1e-5.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
_NOTHING = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity)  # in evaluation
_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d)


def to_chain(
    model: nn.Module,
    example_input: Tensor,
    *,
    fold: bool = True,
    round_to: int = 1,
    finish: bool = False,
) -> nn.Module:
    """The small network that a network in the channel domain is, for evaluation.

    Channels that are zero, and those that nothing reads, are left out. The result is a
    torch.fx.GraphModule of torch.nn modules, which needs nothing of passband to run, to be saved
    or to be exported. It computes what the model computes in evaluation mode, to rounding; the
    two are compared on the example.

    Args:
        model: The network that `passband.convert` made, trained; it is left as it is.
        example_input: A map (B, C, ..) of the size that it is called with.
        fold: Fold batch norm into the layer before it, the DCT into the layers that read the
            input, and its inverse into the last layer. Otherwise each is a layer of its own.
        round_to: Round numbers of channels up to multiples of this, with zeros.
        finish: Where the schedule is not at its end, drop at once what it would still drop.

    Raises:
        ValueError: The model is not in the channel domain, or has not finished shrinking; the
            example does not fit it, or its output for it is not finite.
        TypeError: The example is not of the model's type.
        RuntimeError: The result computes something else, which is an error of this function.

    Examples:
        >>> import passband as pb
        >>> model = nn.Sequential(
        ...     nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 8, 3)
        ... )
        >>> x = torch.randn(2, 3, 9, 9)
        >>> report = pb.convert(model, pb.FrequencyRegularization(keep=0.1), x)
        >>> chain = to_chain(model, x, finish=True)
        >>> print(chain)
        Chain(
          (layer_0): Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
          (layer_2): ReLU()
          (layer_3): Conv2d(4, 8, kernel_size=(3, 3), stride=(1, 1))
        )
        ...
    """
    if not isinstance(model, FrequencyNetwork):
        state = model.__dict__.get("_passband_frequency")
        why = "is in the spatial domain" if state is not None else "is not converted"
        raise ValueError(
            f"model {why}; a chain is cut from what passband.convert(model, "
            "FrequencyRegularization(...), example_input) makes in domain 'channel'"
        )
    if isinstance(round_to, bool) or not isinstance(round_to, int):
        raise TypeError(f"round_to must be a whole number, got {round_to!r}")
    if round_to < 1:
        raise ValueError(f"round_to is {round_to}; it must be at least 1")
    _check_example(model, example_input)
    network = copy.deepcopy(model).eval()
    kept = unfinished(model)
    if kept is not None and not finish:
        raise ValueError(
            f"model has not finished shrinking: it keeps {100 * kept:.3g} % of its coefficients "
            f"and is to keep {100 * frequency_state(model).config.keep:.3g} %; train on, or use "
            "to_chain(..., finish=True) to drop the rest at once"
        )
    if kept is not None:
        FrequencyScheduler(network).finish()
    shape = frequency_state(model).example_shape
    wanted = _output(network, example_input, shape)
    chain = Cutting(network, fold, fold, round_to).chain()
    _compare(_output(chain, example_input, shape), wanted)
    return chain


def _check_example(model: FrequencyNetwork, example: Tensor) -> None:
    wanted = frequency_state(model).example_shape[1:]
    if not isinstance(example, Tensor):
        raise TypeError(f"example_input is {type(example).__name__}; allowed is a map (B, C, ..)")
    given = tuple(example.shape)[1:]
    if len(given) != len(wanted) or given[:1] != wanted[:1]:
        raise ValueError(
            f"example_input has shape {tuple(example.shape)}; the model was converted for (B, "
            f"{', '.join(map(str, wanted))})"
        )
    types = list(dict.fromkeys(parameter.dtype for parameter in model.parameters()))
    if example.dtype not in types:
        raise TypeError(
            f"example_input is {example.dtype}, and the model {types[0]}; use "
            f"example_input.to({types[0]})"
        )


def _output(network: nn.Module, example: Tensor, shape: tuple[int, ...]) -> Any:
    """What a network computes that was converted for maps of a shape."""
    with undisturbed(network), torch.no_grad():
        try:
            found = network(example)
        except Exception as error:  # whatever its layers raise
            raise ValueError(
                f"example_input of shape {tuple(example.shape)} does not fit the model, which was "
                f"converted for maps like {shape}: {' '.join(str(error).split())}"
            ) from error
    if isinstance(found, Tensor) and not found.isfinite().all():
        raise ValueError(
            "model gives NaN or infinity for example_input; look for them in its parameters and "
            "running statistics"
        )
    return found


@dataclass
class Cutting:
    """One cut: the network, and the chain as far as it is built.

    Args:
        network: The network in the channel domain, in evaluation mode.
        fold_norms: Fold batch norms into the layers before them.
        fold_transforms: Fold the DCT and its inverse into the first and the last layers.
        round_to: Round numbers of channels up to multiples of this.
    """

    network: FrequencyNetwork
    fold_norms: bool
    fold_transforms: bool
    round_to: int
    graph: fx.Graph = field(default_factory=fx.Graph)
    root: nn.Module = field(default_factory=nn.Module)
    values: dict[fx.Node, fx.Node] = field(default_factory=dict)
    counts: dict[fx.Node, Widths] = field(default_factory=dict)
    folded: set[fx.Node] = field(default_factory=set)
    added: int = 0

    def chain(self) -> nn.Module:
        """Build it."""
        self.live = widths(self.network)
        self.needs = needed_channels(self.network, self.live)
        nodes = list(self.network.graph.nodes)
        for node in nodes:
            if node.op == "output":
                result = fx.node.map_arg(node.args[0], lambda value: self.values[value])
                self.graph.output(result)
            elif node in self.folded:
                self._pass_on(node)
            else:
                self._add(node, module_of(self.network, node))
        chain = fx.GraphModule(self.root, self.graph, class_name="Chain")
        for parameter in chain.parameters():
            parameter.requires_grad_(False)
        return chain.eval()

    def _add(self, node: fx.Node, module: nn.Module | None) -> None:
        """Build what a node becomes."""
        inputs = [value for value in node.all_input_nodes if value in self.counts]
        if node.op == "placeholder":
            self.values[node] = self.graph.placeholder(
                str(node.target), default_value=_default(node)
            )
        elif isinstance(module, ChannelDCT):
            self._add_transform(node, module)
        elif isinstance(module, FrequencyLayer):
            self._add_layer(node, module)
        elif isinstance(module, FrequencyBatchNorm):
            index = self._channels(inputs[0])
            self._call(node, plain_batch_norm(module, index, self._norm_type(node)), node)
        elif isinstance(module, CoefficientConv2d):
            self._add_grouped(node, module)
        elif node.target is add_maps:
            self._add_sum(node, inputs)
        elif isinstance(module, _NOTHING) or node.target in _DROPOUTS:
            self._pass_on(node)
        elif module is not None:
            self._call(node, copy.deepcopy(module), node)
        elif node.op == "get_attr":
            self._add_attribute(node)
        else:
            self.values[node] = self.graph.node_copy(node, lambda value: self.values[value])
            if is_concatenation(node):
                parts = concatenated(node)
                self.counts[node] = tuple(w for part in parts for w in self.counts[part])
            elif inputs:
                self.counts[node] = self.counts[inputs[0]]

    def _add_attribute(self, node: fx.Node) -> None:
        """A tensor of the model, or what it is set to in evaluation."""
        owner, _, name = str(node.target).rpartition(".")
        value = getattr(self.network.get_submodule(owner), name)
        if isinstance(value, Tensor):
            name = f"value_{self.added}"
            self.added += 1
            self.root.register_buffer(name, value.detach().clone())
            value = self.graph.get_attr(name)
        self.values[node] = value

    def _add_transform(self, node: fx.Node, module: ChannelDCT) -> None:
        source = node.all_input_nodes[0]
        users = [module_of(self.network, user) for user in node.users]
        if not module.inverse:
            self.counts[node] = ((module.channels, module.channels),)
            if self.fold_transforms and all(isinstance(user, FrequencyLayer) for user in users):
                self.values[node] = self.values[source]
                return
        matrix = self._transform_matrix(node, module)
        shape = tracing.shape(source)
        assert shape is not None
        axes = len(shape)
        self._call(node, channel_matrix_layer(matrix, axes), node, keep_counts=True)

    def _transform_matrix(self, node: fx.Node, module: ChannelDCT) -> Tensor:
        reference = next(iter(self.network.parameters()))
        if not module.inverse:
            return module.matrix(reference.new_empty(1, module.channels))
        source = node.all_input_nodes[0]
        ((_, width),), ((_, live),) = self.counts[source], self.live[source]
        matrix = module.matrix(reference.new_empty(1, min(live, width)))
        return F.pad(matrix, (0, width - matrix.shape[1]))

    def _add_layer(self, node: fx.Node, layer: FrequencyLayer) -> None:
        """A layer, with what can be folded into it: transforms at both ends, batch norm after."""
        (source,) = node.all_input_nodes
        given = self.counts[source]
        reads = read_channels(layer, given, self.live[source])
        inputs = sum(width for _, width in given)
        before = after = None
        if self._is_folded_dct(source):
            dct = module_of(self.network, source)
            assert isinstance(dct, ChannelDCT)
            before = self._transform_matrix(source, dct)
        outputs = self._rounded(self.needs[node][0])
        follower = self._only_follower(node)
        following = None if follower is None else module_of(self.network, follower)
        affine: Affine | None = None
        if isinstance(following, FrequencyBatchNorm) and following.running_mean is not None:
            affine = batch_norm_affine(following, list(range(self.needs[node][0])))
        self.counts[node] = ((layer.out_size, outputs),)
        if isinstance(following, ChannelDCT) and following.inverse and follower is not None:
            outputs = self.needs[node][0]
            self.counts[node] = ((layer.out_size, outputs),)
            after = self._transform_matrix(follower, following)
        if follower is not None and (affine is not None or after is not None):
            self.folded.add(follower)
        made = plain_layer(
            layer, reads, inputs, self.needs[node][0], outputs, affine, before, after
        )
        self._call(node, made, node, keep_counts=True)

    def _is_folded_dct(self, source: fx.Node) -> bool:
        module = module_of(self.network, source)
        is_dct = isinstance(module, ChannelDCT) and not module.inverse
        return is_dct and self.values[source] is self.values[source.all_input_nodes[0]]

    def _only_follower(self, node: fx.Node) -> fx.Node | None:
        """What alone reads a value, and is to be folded into the layer that gives it."""
        if len(node.users) != 1:
            return None
        follower = next(iter(node.users))
        module = module_of(self.network, follower)
        if isinstance(module, FrequencyBatchNorm):
            return follower if self.fold_norms else None
        return follower if self.fold_transforms else None

    def _add_grouped(self, node: fx.Node, module: CoefficientConv2d) -> None:
        (source,) = node.all_input_nodes
        ((size, width),), ((_, live),) = self.counts[source], self.live[source]
        value = self.values[source]
        follower = self._only_follower(node)
        following = None if follower is None else module_of(self.network, follower)
        affine = None
        if isinstance(following, FrequencyBatchNorm) and following.running_mean is not None:
            channels = min(width, live) if module.is_depthwise else module.out_channels
            affine = batch_norm_affine(following, list(range(channels)))
            assert follower is not None
            self.folded.add(follower)
        if module.is_depthwise:
            made = plain_depthwise(module, min(live, width), width, affine)
            self.counts[node] = ((size, width),)
        else:
            value = self._padded(source, width, size)
            made = plain_grouped(module, affine)
            self.counts[node] = ((module.out_channels, module.out_channels),)
        self.values[node] = self._called(node, made, value)

    def _add_sum(self, node: fx.Node, inputs: list[fx.Node]) -> None:
        counts = [self.counts[value][0] for value in inputs]
        most = max(width for _, width in counts)
        parts = (
            [
                self._padded(value, width, most)
                for value, (_, width) in zip(node.all_input_nodes, counts, strict=True)
            ]
            if len(inputs) == 2
            else [self.values[inputs[0]]] * 2
        )
        self.values[node] = self.graph.call_function(torch.add, tuple(parts))
        self.counts[node] = ((counts[0][0], most),)

    def _padded(self, source: fx.Node, width: int, wanted: int) -> fx.Node:
        """Zeros for the channels that a map lacks, at each of its points where it is flattened."""
        value, shape = self.values[source], tracing.shape(source)
        if width == wanted:
            return value
        assert shape is not None
        points = shape[1] // sum(size for size, _ in self.counts[source])
        pads = [*[0, 0] * (len(shape) - 2), 0, (wanted - width) * points]
        return self.graph.call_function(F.pad, (value, pads))

    def _call(
        self, node: fx.Node, made: nn.Module, source: fx.Node, keep_counts: bool = False
    ) -> None:
        first = source.all_input_nodes[0]
        self.values[node] = self._called(node, made, self.values[first])
        if not keep_counts and first in self.counts:
            self.counts[node] = self.counts[first]

    def _called(self, node: fx.Node, made: nn.Module, value: fx.Node) -> fx.Node:
        name = f"layer_{str(node.target).replace('.', '_')}"
        if name in dict(self.root.named_children()):
            self.added += 1
            name = f"{name}_again_{self.added}"
        self.root.add_module(name, made)
        return self.graph.call_module(name, (value,))

    def _pass_on(self, node: fx.Node) -> None:
        source = node.all_input_nodes[0]
        self.values[node] = self.values[source]
        if source in self.counts:
            self.counts[node] = self.counts[source]

    def _rounded(self, channels: int) -> int:
        return -(-max(1, channels) // self.round_to) * self.round_to

    def _channels(self, value: fx.Node) -> list[int | None]:
        """The channels that a value has, among all of its maps; None for one that is zero."""
        index: list[int | None] = []
        start = 0
        for (size, width), (_, live) in zip(self.counts[value], self.live[value], strict=True):
            index += [start + k if k < live else None for k in range(width)]
            start += size
        return index

    def _norm_type(self, node: fx.Node) -> type[nn.Module]:
        return frequency_state(self.network).norms[str(node.target)]


def _default(node: fx.Node) -> Any:
    return node.args[0] if node.args else inspect.Signature.empty


def _compare(found: Any, wanted: Any) -> None:
    """The output of the chain, with that of the network that it was cut from."""
    if not isinstance(wanted, Tensor) or wanted.dtype not in _TOLERANCE:
        return
    difference = float((found - wanted).double().norm())
    if not difference <= _TOLERANCE[wanted.dtype] * max(float(wanted.double().norm()), 1e-12):
        raise RuntimeError(
            f"the chain's output differs from the model's by {difference:.1e}; please report this"
        )
