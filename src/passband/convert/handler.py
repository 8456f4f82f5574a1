"""What a method does to a model: one handler per config, found by the config's type.

A new method writes its handler and edits nothing here. One that converts convolutions one by one
derives it from `passband.convert.convolutions.LayerHandler`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from passband.config import Config
from passband.convert.report import ConversionReport
from passband.measure.layers import ExampleInput

ConfigT = TypeVar("ConfigT", bound=Config)
Filter = Callable[[str, nn.Module], bool]


class Handler(ABC, Generic[ConfigT]):
    """Converts models by one method, in place, and describes what it did for files."""

    method: ClassVar[str]
    """The name of the config's method."""
    changes_tensors: ClassVar[bool] = False
    """Whether the model's state_dict gets other names or shapes."""

    def __init__(self, config: ConfigT) -> None:
        self.config = config
        self.overwritten: list[tuple[Tensor, Tensor]] = []
        """Parameters that a conversion has given other numbers, and those that they had."""

    @abstractmethod
    def convert_model(
        self,
        model: nn.Module,
        example_input: ExampleInput | None = None,
        filter_fn: Filter | None = None,
    ) -> ConversionReport:
        """Convert a model, or configure it anew; a report of what was done."""

    @classmethod
    @abstractmethod
    def revert_model(cls, model: nn.Module) -> None:
        """Undo the conversion; a model that has nothing of this method stays as it is."""

    @classmethod
    @abstractmethod
    def description(cls, model: nn.Module) -> dict[str, Any] | None:
        """How the model is converted, as plain values; None if it has nothing of this method."""

    @classmethod
    @abstractmethod
    def convert_as(cls, model: nn.Module, description: Mapping[str, Any] | None) -> None:
        """Convert a model as the described one is; without a description, as one that is not.

        Raises:
            ValueError: The model is not of the described one's architecture.
        """

    @staticmethod
    def packed(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of a converted model's state_dict, what a file stores."""
        return tensors

    @staticmethod
    def unpacked(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `packed`, for a model that is converted alike."""
        return tensors


HandlerT = TypeVar("HandlerT", bound="type[Handler[Any]]")

_HANDLERS: dict[type[Config], type[Handler[Any]]] = {}


def register_handler(config: type[Config]) -> Callable[[HandlerT], HandlerT]:
    """Decorator of the handler class of a config's type."""

    def register(handler: HandlerT) -> HandlerT:
        handler.method = config.method
        _HANDLERS[config] = handler
        return handler

    return register


def handler_for(config: Config) -> Handler[Any]:
    """The handler of a config.

    Raises:
        TypeError: There is none.
    """
    if type(config) not in _HANDLERS:
        known = ", ".join(sorted(kind.__name__ for kind in _HANDLERS))
        raise TypeError(f"config is {type(config).__name__} ({config!r}), allowed are {known}")
    return _HANDLERS[type(config)](config)


def handlers() -> list[type[Handler[Any]]]:
    """The handlers of all methods."""
    return list(_HANDLERS.values())


@contextmanager
def all_or_nothing(model: nn.Module, handler: Handler[Any]) -> Iterator[None]:
    """A conversion that fails inside leaves the model as it was."""
    before = [(m, type(m), [_content(vars(m)), *_inner(m)]) for m in model.modules()]
    try:
        yield
    except BaseException:
        for module, kind, contents in before:
            module.__class__ = kind
            for dictionary, content in contents:
                dictionary.clear()
                dictionary.update(content)
        with torch.no_grad():
            for tensor, numbers in handler.overwritten:
                tensor.copy_(numbers)
        raise


def _inner(module: nn.Module) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """A module's parameters, buffers, submodules and hooks."""
    return [_content(value) for value in vars(module).values() if isinstance(value, dict)]


def _content(dictionary: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return dictionary, dict(dictionary)


def become(layer: nn.Module, other: nn.Module) -> None:
    """Turn a layer into another one, in place: class and state."""
    state = dict(other.__dict__)
    layer.__class__ = type(other)
    layer.__dict__.clear()
    layer.__dict__.update(state)
