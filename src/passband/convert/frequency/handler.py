"""Whole models in the channel domain, or with DCT coefficients for weights: the handler."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from passband.config import FrequencyRegularization, config_from_dict
from passband.convert.frequency.account import account
from passband.convert.frequency.channel import convert_network
from passband.convert.frequency.network import (
    FrequencyNetwork,
    FrequencyState,
    Left,
    frequency_layers,
)
from passband.convert.frequency.parameters import obstacles
from passband.convert.frequency.report import FrequencyReport
from passband.convert.frequency.storage import packed, unpacked
from passband.convert.frequency.trace import LAYERS, module_of
from passband.convert.handler import Filter, Handler, become, register_handler
from passband.measure.layers import ExampleInput, named_layers, observe
from passband.nn.frequency_maps import (
    ChannelDCT,
    CoefficientConv2d,
    FrequencyBatchNorm,
    add_maps,
)

_OTHER_TYPE = (
    "left: type",
    "allowed are exactly torch's " + ", ".join(kind.__name__ for kind in LAYERS),
)
_FILTERED = ("left: filter_fn", "filter_fn did not choose it")


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
            return account(model, state, {})
        if self.config.domain == "spatial":
            return self._convert_layers(model, example_input, filter_fn)
        example = _only_tensor(example_input)
        if filter_fn is not None:
            raise ValueError(
                "filter_fn is given, but in domain 'channel' the whole model is converted; use "
                "domain='spatial', or leave it out"
            )
        _check_unconverted(model)
        return convert_network(model, self.config, example)

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
        order, why_not = self.config.order, obstacles(model)
        shape = tuple(example_input.shape) if isinstance(example_input, Tensor) else ()
        state = FrequencyState(self.config, shape)
        for name, layer in list(named_layers(model)):
            kind = LAYERS.get(type(layer))
            if kind is None:
                state.left[name] = Left(type(layer).__name__, *_OTHER_TYPE)
            elif name in why_not:
                state.left[name] = Left(type(layer).__name__, "left: parameters", why_not[name])
            elif filter_fn is not None and not filter_fn(name, layer):
                state.left[name] = Left(type(layer).__name__, *_FILTERED)
            else:
                types[name] = type(layer).__name__
                become(layer, kind.from_layer(layer, domain="spatial", order=order))
        state.last = tuple(types)[-1:]
        model.__dict__["_passband_frequency"] = state
        macs = {name: use.macs // shape[0] if shape else use.macs for name, use in uses.items()}
        return account(model, state, types, macs)


def _check_unconverted(model: nn.Module) -> None:
    if type(model) in LAYERS:
        raise ValueError(
            f"model is a single {type(model).__name__}, in which there is nothing to trace; use "
            "torch.nn.Sequential(model)"
        )
    for name, module in model.named_modules():
        if type(module).__module__.startswith("passband.nn."):
            raise ValueError(
                f"model has {type(module).__name__} ({name or 'itself'}), which cannot act on "
                "channel coefficients; use passband.revert(model) before"
            )


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
