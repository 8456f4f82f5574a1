"""What a method does to single layers: one handler per config, found by the config's type.

A new method writes its handler and edits nothing here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from torch import nn

from passband.config import Config
from passband.measure.layers import ExampleInput, LayerUse

ConfigT = TypeVar("ConfigT", bound=Config)


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


class Handler(ABC, Generic[ConfigT]):
    """Converts the layers of a model by one method.

    Layers are changed in place: they stay the same objects, with their parameters, hooks, mode and
    every reference to them, wherever it is held.
    """

    layer_types: ClassVar[tuple[type[nn.Module], ...]] = ()
    """The types of the layers that this method makes."""
    whole_model: ClassVar[bool] = False
    """Whether `convert` and `revert` take a model, not a layer."""

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    def examine(self, model: nn.Module) -> None:
        """Look at the whole model, before its layers are asked about one by one."""

    @abstractmethod
    def refusal(self, layer: nn.Module, use: LayerUse | None) -> Reason | None:
        """Why the layer cannot be converted, or None. `use` is None where it was not observed."""

    @abstractmethod
    def objection(self, layer: nn.Module, use: LayerUse | None) -> Reason | None:
        """Why converting the layer would not help, or None: the rule without a `filter_fn`."""

    @abstractmethod
    def convert(self, layer: nn.Module) -> None:
        """Convert the layer, or configure it anew if it is converted already."""

    def convert_layers(self, model: nn.Module, layers: Iterable[nn.Module]) -> None:
        """Convert the layers of a model that were chosen."""
        for layer in layers:
            self.convert(layer)

    @classmethod
    def made(cls, layer: nn.Module) -> bool:
        """Whether a layer, or a model, is one that this method has made."""
        return type(layer) in cls.layer_types

    @staticmethod
    @abstractmethod
    def revert(layer: nn.Module) -> None:
        """Make a converted layer the torch layer again that it was."""

    def finish(self, model: nn.Module) -> tuple[Block, ...]:
        """What is done to the whole model when its layers have been converted."""
        return ()

    @staticmethod
    def restore(model: nn.Module) -> None:
        """Undo what `finish` did."""

    @staticmethod
    @abstractmethod
    def config_of(layer: nn.Module) -> Config:
        """The config that makes a torch layer the converted layer that this one is."""


class ModelHandler(ABC, Generic[ConfigT]):
    """Converts whole models, where layers cannot be converted one by one."""

    def __init__(self, config: ConfigT) -> None:
        self.config = config

    @abstractmethod
    def convert_model(
        self,
        model: nn.Module,
        example_input: ExampleInput | None,
        filter_fn: Callable[[str, nn.Module], bool] | None,
    ) -> Any:
        """Convert a model in place, and return a report of what was done."""

    @staticmethod
    @abstractmethod
    def converts(model: nn.Module) -> bool:
        """Whether the model is one that this handler converted."""

    @staticmethod
    @abstractmethod
    def revert_model(model: nn.Module) -> None:
        """Undo the conversion of a whole model."""


HandlerT = TypeVar("HandlerT", bound="type[Handler[Any]] | type[ModelHandler[Any]]")

_HANDLERS: dict[type[Config], Any] = {}


def register_handler(config: type[Config]) -> Callable[[HandlerT], HandlerT]:
    """Decorator of the handler class of a config's type."""

    def register(handler: HandlerT) -> HandlerT:
        _HANDLERS[config] = handler
        return handler

    return register


def handler_for(config: Config) -> Any:
    """The handler of a config.

    Raises:
        TypeError: There is none.
    """
    if type(config) not in _HANDLERS:
        known = ", ".join(sorted(kind.__name__ for kind in _HANDLERS))
        raise TypeError(f"config is {type(config).__name__} ({config!r}), allowed are {known}")
    return _HANDLERS[type(config)](config)


def handlers() -> list[type[Handler[Any]]]:
    """The handlers that convert layers."""
    return [handler for handler in _HANDLERS.values() if issubclass(handler, Handler)]


def model_handlers() -> list[type[ModelHandler[Any]]]:
    """The handlers that convert whole models."""
    return [handler for handler in _HANDLERS.values() if issubclass(handler, ModelHandler)]


def maker_of(layer: nn.Module) -> type[Handler[Any]] | None:
    """The handler class that made a layer; None for a layer that is not converted."""
    made_by = (h for h in handlers() if h.made(layer))
    return next(made_by, None)


def become(layer: nn.Module, other: nn.Module) -> None:
    """Turn a layer into another one, in place: class and state."""
    state = dict(other.__dict__)
    layer.__class__ = type(other)
    layer.__dict__.clear()
    layer.__dict__.update(state)
