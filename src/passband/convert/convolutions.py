"""Methods that choose among a model's convolutions, one by one, and report on each."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from passband.config import Config, config_from_dict
from passband.convert.handler import ConfigT, Filter, Handler
from passband.convert.report import BlockReport, LayerReport, Report
from passband.measure.layers import ExampleInput, LayerUse, ModelUse, observe


@dataclass(frozen=True)
class Block:
    """Several modules that run as one operation, or one that could not be taken in, and why."""

    name: str
    """Name of its convolution in the model, or of the module that was left."""
    kind: str
    """Its parts, "conv-bn-relu", or the type of the module that was left."""
    modules: tuple[str, ...]
    """Names of its modules in the model."""
    reason: str = ""
    """Why it was left; empty for a block that was made."""


@dataclass(frozen=True)
class Reason:
    """Why a layer is left as it is: a word or two, and the sentence that explains them."""

    short: str
    explanation: str


PARAMETRIZED = Reason(
    "parametrized", "its weight is computed from other parameters: remove that, then convert"
)
FILTERED = Reason("filter_fn", "filter_fn returned False")
NOT_RUN = Reason("not run", "it did not run on example_input, so its shapes are not known")


class ConvolutionHandler(Handler[ConfigT]):
    """Asks about every convolution whether it can and should be converted."""

    def examine(self, model: nn.Module) -> None:
        """Look at the whole model, before its layers are asked about one by one."""

    @abstractmethod
    def refusal(self, layer: nn.Module, use: LayerUse | None) -> Reason | None:
        """Why the layer cannot be converted, or None. `use` is None where it was not observed."""

    @abstractmethod
    def objection(self, layer: nn.Module, use: LayerUse | None) -> Reason | None:
        """Why converting the layer would not help, or None: the rule without a `filter_fn`."""

    @abstractmethod
    def convert_layers(self, model: nn.Module, layers: Iterable[nn.Module]) -> None:
        """Convert the layers of a model that were chosen."""

    def finish(self, model: nn.Module) -> tuple[Block, ...]:
        """What is done to the whole model when its layers have been converted."""
        return ()

    def convert_model(
        self,
        model: nn.Module,
        example_input: ExampleInput | None = None,
        filter_fn: Filter | None = None,
    ) -> Report:
        """Convert what can be, and what helps or `filter_fn` wants."""
        before = observe(model, example_input) if example_input is not None else None
        self.examine(model)
        reasons: dict[str, Reason | None] = {}
        types = {name: type(layer).__name__ for name, layer in _convolutions(model)}
        for name, layer in _convolutions(model):
            use = before.layers.get(name) if before is not None else None
            reason = self.refusal(layer, use)
            if reason is None and filter_fn is not None:
                reason = None if filter_fn(name, layer) else FILTERED
            elif reason is None and before is not None and use is None:
                reason = NOT_RUN
            elif reason is None:
                reason = self.objection(layer, use)
            reasons[name] = reason
        chosen = [layer for name, layer in _convolutions(model) if reasons[name] is None]
        self.convert_layers(model, chosen)
        made = self.finish(model)
        after = observe(model, example_input) if example_input is not None else None
        rows = tuple(
            _row(name, layer, types[name], reasons[name], before, after)
            for name, layer in _convolutions(model)
        )
        blocks = tuple(_block(block, before, after) for block in made)
        if before is None or after is None:
            return Report(self.config, rows, blocks=blocks)
        return Report(self.config, rows, before.saved_bytes, after.saved_bytes, blocks)


class LayerHandler(ConvolutionHandler[ConfigT]):
    """Converts each layer by itself, to a layer of another class.

    Layers stay the same objects, with their parameters, hooks, mode and every reference to them,
    wherever it is held.
    """

    layer_types: ClassVar[tuple[type[nn.Module], ...]] = ()
    """The types of the layers that this method makes."""

    @abstractmethod
    def convert(self, layer: nn.Module) -> None:
        """Convert the layer, or configure it anew if it is converted already."""

    @staticmethod
    @abstractmethod
    def revert(layer: nn.Module) -> None:
        """Make a converted layer the torch layer again that it was."""

    @staticmethod
    @abstractmethod
    def config_of(layer: nn.Module) -> Config:
        """The config that makes a torch layer the converted layer that this one is."""

    def convert_layers(self, model: nn.Module, layers: Iterable[nn.Module]) -> None:
        """Convert each."""
        for layer in layers:
            self.convert(layer)

    @classmethod
    def revert_model(cls, model: nn.Module) -> None:
        """Revert each layer that this method made."""
        for layer in cls.made(model).values():
            cls.revert(layer)

    @classmethod
    def made(cls, model: nn.Module) -> dict[str, nn.Module]:
        """The layers that this method made, by name."""
        return {n: layer for n, layer in model.named_modules() if type(layer) in cls.layer_types}

    @classmethod
    def description(cls, model: nn.Module) -> dict[str, Any] | None:
        """The config of every converted layer."""
        made = cls.made(model)
        return {n: cls.config_of(layer).to_dict() for n, layer in made.items()} or None

    @classmethod
    def convert_as(cls, model: nn.Module, description: Mapping[str, Any] | None) -> None:
        """Convert the layers that are named, and revert the others that this method made."""
        modules = dict(model.named_modules())
        converters = {}
        for name, values in (description or {}).items():
            converter = cls(config_from_dict(dict(values)))  # type: ignore[arg-type]
            refusal = None if name not in modules else converter.refusal(modules[name], None)
            if name not in modules or refusal is not None:
                why = refusal.explanation if refusal is not None else "there is no such layer"
                raise ValueError(f"layer {name!r} is converted there, but in model: {why}")
            converters[name] = converter
        for name, layer in modules.items():
            if name in converters:
                converters[name].convert(layer)
            elif type(layer) in cls.layer_types:
                cls.revert(layer)


def _convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return (
        (name, m) for name, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd)
    )


def _row(
    name: str,
    layer: nn.Module,
    type_name: str,
    reason: Reason | None,
    before: ModelUse | None,
    after: ModelUse | None,
) -> LayerReport:
    old = before.layers.get(name) if before is not None else None
    new = after.layers.get(name) if after is not None else None
    return LayerReport(
        layer=name or "(model)",
        type=type_name,
        kernel="x".join(str(k) for k in getattr(layer, "kernel_size", ())),
        result=f"left: {reason.short}" if reason is not None else _converted(new),
        reason=reason.explanation if reason is not None else "",
        algorithm=new.algorithm if new is not None else None,
        realised_compression=new.realised_compression if new is not None else None,
        macs_before=old.macs if old is not None else None,
        macs_after=new.macs if new is not None else None,
        saved_bytes_before=old.saved_bytes if old is not None else None,
        saved_bytes_after=new.saved_bytes if new is not None else None,
    )


def _block(block: Block, before: ModelUse | None, after: ModelUse | None) -> BlockReport:
    return BlockReport(
        block=block.name,
        kind=block.kind,
        result="left" if block.reason else "fused",
        reason=block.reason,
        saved_bytes_before=None if before is None else before.saved.of(block.modules),
        saved_bytes_after=None if after is None else after.saved.of(block.modules),
    )


def _converted(use: LayerUse | None) -> str:
    return f"converted: {use.algorithm}" if use is not None and use.algorithm else "converted"
