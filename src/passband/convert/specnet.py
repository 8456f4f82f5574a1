"""SpecNet: the handler of its config, and the thresholds' calibration."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from passband.config import SpecNet, config_from_dict
from passband.convert.band_limit import model_input
from passband.convert.convolutions import PARAMETRIZED, ConvolutionHandler, Reason
from passband.convert.handler import become, handlers, register_handler
from passband.convert.modes import trace_both_modes
from passband.convert.specnet_plan import (
    CONVOLUTIONS,
    Planner,
    Stage,
    consumers,
    join_blocks,
    rewire,
)
from passband.measure.layers import LayerUse, call_model, undisturbed
from passband.measure.table import Column, Table
from passband.nn.specnet import (
    SpectralConv,
    SpectralConv1d,
    SpectralConv2d,
)
from passband.nn.spectral_network import SpectralNetwork, network_class
from passband.nn.stage_arguments import ACTIVATIONS, check_stage_arguments
from passband.ops.spectral.on_map import MAP_ACTIVATIONS

NOT_PLAIN = Reason("not plain", "it is not exactly torch's Conv1d or Conv2d")
NOT_ONCE = Reason("not once", "it is called several times, or not in the model's own graph")
PADDING_MODE = Reason("padding", "its padding is neither zeros nor circular")
CIRCULAR = Reason("circular", "circular padding is for spectral activations")
SIZE = Reason(
    "size",
    "its padding changes the size of the map, which a spectral convolution cannot: use "
    "padding='same', or an activation of the map",
)

_SPECTRAL: dict[type[nn.Module], type[SpectralConv1d] | type[SpectralConv2d]] = {
    nn.Conv1d: SpectralConv1d,
    nn.Conv2d: SpectralConv2d,
}


@register_handler(SpecNet)
class SpecNetHandler(ConvolutionHandler[SpecNet]):
    """Makes a model pass spectra from convolution to convolution."""

    changes_tensors = True  # batch norms that are removed, learned scales

    def __init__(self, config: SpecNet) -> None:
        super().__init__(config)
        activation = "relu" if config.activation == "keep" else config.activation
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation is {activation!r}, allowed are {', '.join(ACTIVATIONS)} and keep"
            )
        check_stage_arguments(
            config.threshold,
            activation,
            config.pool,
            config.learned_scale,
            config.storage,
            config.order,
            config.gradient,
            config.dft_norm,
        )
        self.on_map = activation in MAP_ACTIVATIONS
        self._graph: fx.Graph | None = None
        self._stages: dict[nn.Module, Stage] = {}

    def examine(self, model: nn.Module) -> None:
        """Trace the model; one that is converted already is reverted first."""
        if isinstance(model, CONVOLUTIONS):
            raise ValueError("model is a single layer; SpecNet takes a model with several")
        self.revert_model(model)
        for handler in handlers():
            if handler.description(model) is not None:
                raise ValueError(
                    f"model is converted already, by method {handler.method!r}; call "
                    "passband.revert(model) before"
                )
        if layers := _stage_layers(model):
            name, layer = next(iter(layers.items()))
            raise ValueError(
                f"layer {name!r} of model is a {type(layer).__name__}; call passband.revert on the "
                "model that it was converted in, or leave such layers out of what is converted"
            )
        self._graph = trace_both_modes(model)
        found = Planner(self._graph, model, self.config).stages()
        self._stages = {model.get_submodule(str(stage.conv.target)): stage for stage in found}

    def refusal(self, layer: nn.Module, use: LayerUse | None) -> Reason | None:
        """Only plain convolutions that the graph calls once."""
        if nn.utils.parametrize.is_parametrized(layer):
            return PARAMETRIZED
        if type(layer) not in _SPECTRAL:
            return NOT_PLAIN
        assert isinstance(layer, nn.modules.conv._ConvNd)
        if layer not in self._stages:
            return NOT_ONCE
        if layer.padding_mode not in ("zeros", "circular"):
            return PADDING_MODE
        if self.on_map:
            return CIRCULAR if layer.padding_mode == "circular" else None
        spans = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        pads = layer._reversed_padding_repeated_twice  # of the last axis first
        both = [a + b for a, b in zip(pads[::2], pads[1::2], strict=True)][::-1]
        return None if both == spans else SIZE

    def objection(self, layer: nn.Module, use: LayerUse | None) -> Reason | None:
        """None: a map that leaves the spectrum in between is what costs."""
        return None

    def convert_layers(self, model: nn.Module, layers: Iterable[nn.Module]) -> None:
        """Convert these convolutions, with what follows each, and rewire the model."""
        assert self._graph is not None
        chosen = [self._stages[layer] for layer in layers]
        if not chosen:
            return
        rewire(self._graph, model, chosen)
        for stage in chosen:
            self._convert_stage(model, stage)
        convs = {stage.conv for stage in chosen}
        for stage in chosen:
            readers = consumers(stage.conv, convs)
            pads = {_layer(model, other).pads() for other in chosen if other.conv in readers}
            layer = _layer(model, stage)
            if self.on_map and max(layer.pool) > 1 and len(readers) > 1:
                layer.activation_first = True  # else each of them would pool anew
            if layer.activation_first and self.on_map and len(pads) == 1:
                (layer.next_padding,) = pads
        join_blocks(self._graph, convs)
        model.__class__ = network_class(type(model), self._graph)
        assert isinstance(model, SpectralNetwork)
        model.spectral_config = self.config

    @classmethod
    def revert_model(cls, model: nn.Module) -> None:
        """Make it torch's layers again; batch norm that was removed stays away."""
        for network in _networks(model).values():
            for layer in _stage_layers(network).values():
                become(layer, layer.to_conv())
            del network.spectral_config
            network.__class__ = network.made_from  # type: ignore[assignment]

    @classmethod
    def description(cls, model: nn.Module) -> dict[str, Any] | None:
        """The config, and the threshold of every convolution that was converted.

        Of submodules that were converted by themselves, "parts" has the same by their names.
        """
        found = {
            name: {
                "config": network.spectral_config.to_dict(),
                "thresholds": {n: m.threshold for n, m in _stage_layers(network).items()},
            }
            for name, network in _networks(model).items()
        }
        whole = found.pop("", {})
        return {**whole, **({"parts": found} if found else {})} or None

    @classmethod
    def convert_as(cls, model: nn.Module, description: Mapping[str, Any] | None) -> None:
        """Convert the same convolutions, and give them their thresholds."""
        cls.revert_model(model)
        parts = {**(description or {}).get("parts", {})}
        if "config" in (description or {}):
            parts[""] = description
        modules = dict(model.named_modules())
        for name, part in parts.items():
            if name not in modules:
                raise ValueError(f"{name!r} is converted there, but not in model")
            cls._convert_part_as(modules[name], part)

    @classmethod
    def _convert_part_as(cls, model: nn.Module, description: Mapping[str, Any]) -> None:
        thresholds = description["thresholds"]
        config = config_from_dict(dict(description["config"]))
        assert isinstance(config, SpecNet)
        handler, modules = cls(config), dict(model.named_modules())
        handler.examine(model)
        for name in thresholds:
            refusal = handler.refusal(modules[name], None) if name in modules else NOT_ONCE
            if refusal is not None:
                raise ValueError(
                    f"layer {name!r} is converted there, but in model: {refusal.explanation}"
                )
        handler.convert_layers(model, [modules[name] for name in thresholds])
        for name, layer in _stage_layers(model).items():
            layer.threshold = float(thresholds[name])

    def _convert_stage(self, model: nn.Module, stage: Stage) -> None:
        conv = model.get_submodule(str(stage.conv.target))
        norm = None if stage.norm is None else model.get_submodule(str(stage.norm.target))
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and self.config.batch_norm == "remove":
            tensors = (p for p in (conv.weight, conv.bias) if isinstance(p, Tensor))
            self.overwritten += [(t, t.detach().clone()) for t in tensors]
            _fold(conv, norm)
            become(norm, nn.Identity().train(norm.training))
            norm = None
        activation = None if stage.activation is None else self.config.activation
        if activation == "keep":
            activation = stage.activation
        if self.on_map and activation is None:
            activation = "identity"
        layer_type = _SPECTRAL[type(conv)]
        layer = layer_type.__new__(layer_type)
        layer.__dict__.update(conv.__dict__, _parameters=dict(conv._parameters))
        layer.configure(
            threshold=self.config.threshold,
            activation=activation,
            learned_scale=self.config.learned_scale and stage.activation is not None,
            pool=stage.pool,
            pool_mode=self.config.pool,
            compression=self.config.compression,
            storage=self.config.storage,
            order=self.config.order,
            gradient=self.config.gradient,
            dft_norm=self.config.dft_norm,
        )
        if stage.norm is not None and isinstance(norm, nn.modules.batchnorm._BatchNorm):
            owner, _, name = str(stage.norm.target).rpartition(".")
            layer.norm_place = (model.get_submodule(owner), name)
        become(conv, layer)


def calibrate_threshold(
    model: nn.Module, batches: Iterable[Tensor | Sequence[Any]], density: float
) -> Table:
    """Give every stage the threshold at which a fraction of its coefficients is kept.

    The stages are taken from the first to the last, each with those before it at their new
    thresholds; of several batches, the mean of what each asks for.

    Args:
        model: A converted model.
        batches: A few inputs; of tuples and lists, as loaders give them, the first entry.
        density: Fraction of the coefficients to keep, 0 < density <= 1.

    Returns:
        A table with a row for each stage: its threshold.

    Raises:
        ValueError: The density is outside its range, or the model has no such stage.
        TypeError: `batches` is a tensor, where a list of them is meant.

    Examples:
        >>> import passband as pb
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten())
        >>> report = pb.convert(model, pb.SpecNet())
        >>> table = calibrate_threshold(model, [torch.randn(8, 1, 12, 12)], density=0.2)
        >>> 0.15 < model[0](torch.randn(8, 1, 12, 12)).density < 0.25
        True
    """
    if not 0 < density <= 1:
        raise ValueError(f"density is {density}, allowed is 0 < density <= 1")
    if isinstance(batches, Tensor):
        raise TypeError("batches is a tensor, allowed are several: give a list, [batch]")
    layers = _stage_layers(model)
    given = [model_input(batch) for batch in batches]
    if not layers or not given:
        raise ValueError("model has no stages of SpecNet, or batches is empty")
    rows = []
    with undisturbed(model), torch.no_grad():
        for name, layer in layers.items():
            found: list[float] = []
            handle = layer.register_forward_pre_hook(
                lambda m, args, found=found: found.append(m.threshold_for(args[0], density))
            )
            try:
                for batch in given:
                    call_model(model, batch)
            finally:
                handle.remove()
            if found:
                layer.threshold = sum(found) / len(found)
            rows.append({"layer": name, "threshold": f"{layer.threshold:.3g}"})
    return Table((Column("layer", "name"), Column("threshold")), rows)


def _networks(model: nn.Module) -> dict[str, SpectralNetwork]:
    """The model, or its submodules that were converted by themselves."""
    return {n: m for n, m in model.named_modules() if isinstance(m, SpectralNetwork)}


def _stage_layers(model: nn.Module) -> dict[str, SpectralConv]:
    return {n: m for n, m in model.named_modules() if isinstance(m, SpectralConv)}


def _layer(model: nn.Module, stage: Stage) -> SpectralConv:
    layer = model.get_submodule(str(stage.conv.target))
    assert isinstance(layer, SpectralConv)
    return layer


def _fold(conv: nn.Module, norm: nn.modules.batchnorm._BatchNorm) -> None:
    """Give a convolution what the batch norm after it does in evaluation."""
    weight, bias = conv.weight, conv.bias
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        factor = torch.ones_like(weight.flatten(1)[:, 0])
        shift = torch.zeros_like(factor)
        if norm.running_var is not None and norm.running_mean is not None:
            factor = (norm.running_var + norm.eps).rsqrt()
            shift = -norm.running_mean * factor
        if norm.weight is not None:
            factor, shift = factor * norm.weight, shift * norm.weight + norm.bias
        weight.mul_(factor.view(-1, *[1] * (weight.dim() - 1)))
        if bias is None:
            conv.bias = nn.Parameter(shift)
        else:
            assert isinstance(bias, Tensor)
            bias.mul_(factor).add_(shift)
