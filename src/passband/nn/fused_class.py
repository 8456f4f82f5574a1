"""What a container with fused blocks is: an instance of a class derived from the one it had."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any

from torch import nn

from passband.nn.fused_parts import BAND_LIMITED

Settings = tuple[str | None, str | None]
"""spectrum_dtype and offload of a config."""

_STATE = "_passband_fused"


@dataclass(frozen=True)
class FusedBlock:
    """A block of a container."""

    conv: str
    """Name of its first convolution; of the only module where there is none."""
    kind: str
    """Its parts, "conv-bn-relu"."""
    modules: tuple[str, ...]
    """Names of its modules."""


@dataclass(frozen=True)
class Fused:
    """The forward of a container, rewritten."""

    functions: dict[bool, Callable[..., Any]]
    """What runs in training (True) and in evaluation."""
    blocks: tuple[FusedBlock, ...]


Build = Callable[[nn.Module, Settings], Fused]
"""Rewrites the forward of a container that is not fused."""

_CLASSES: dict[Any, Any] = {}


def become_fused(container: nn.Module, settings: Settings, build: Build) -> None:
    """Give a container a class like its own but for the forward; its name is the same."""
    base = type(container)
    container.__dict__[_STATE] = build(container, settings)
    container.__class__ = _fused_class(base, settings, build)


def unfuse(model: nn.Module) -> None:
    """Give every container of a model back the class it had."""
    for module in model.modules():
        if _STATE in module.__dict__:
            module.__class__ = type(module).__mro__[1]
            del module.__dict__[_STATE]


def fused_settings(model: nn.Module) -> Settings | None:
    """How the blocks of a model are fused; None where none are."""
    for module in model.modules():
        if _STATE in module.__dict__:
            settings: Any = module._passband_settings
            return (settings[0], settings[1])
    return None


def fused_blocks(model: nn.Module) -> Iterator[FusedBlock]:
    """The blocks of a model, with the names that their modules have in it."""
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        fused = module.__dict__.get(_STATE)
        for block in fused.blocks if fused is not None else ():
            modules = tuple(prefix + own for own in block.modules)
            yield FusedBlock(prefix + block.conv, block.kind, modules)


def make_plain(model: nn.Module) -> None:
    """Take the blocks of a model apart, and make its band-limited layers torch's again."""
    unfuse(model)
    for module in model.modules():
        if isinstance(module, BAND_LIMITED):
            conv = module.to_conv()
            module.__class__ = type(conv)  # type: ignore[assignment]
            module.__dict__ = conv.__dict__


def _fused_class(base: type[nn.Module], settings: Settings, build: Build) -> Any:
    if (base, settings) in _CLASSES:
        return _CLASSES[base, settings]

    @wraps(base.forward)  # exports and others look at its arguments
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        fused: Fused = self.__dict__[_STATE]
        return fused.functions[self.training](self, *args, **kwargs)

    def reduce(self: nn.Module, protocol: Any) -> Any:
        state = {key: value for key, value in self.__dict__.items() if key != _STATE}
        return _empty, (base, settings, build), state

    def set_state(self: nn.Module, state: dict[str, Any]) -> None:
        self.__class__ = base
        self.__setstate__(state)  # type: ignore[no-untyped-call]
        become_fused(self, settings, build)

    members = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": reduce,
        "__setstate__": set_state,
        "forward": forward,
        "_passband_settings": settings,
    }
    _CLASSES[base, settings] = type(base.__name__, (base,), members)
    return _CLASSES[base, settings]


def _empty(base: type[nn.Module], settings: Settings, build: Build) -> nn.Module:
    """An empty fused container, which its state will fill."""
    kind = _fused_class(base, settings, build)
    container: nn.Module = kind.__new__(kind)
    return container
