"""Exact-memory blocks in existing models: `BandLimit(memory="exact")`.

The modules of a model stay what and where they are. A container whose forward holds blocks gets a
class of its own, derived from the one it has, with a forward that runs each block as one operation.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from torch import fx, nn

from passband.config import BandLimit
from passband.convert.handler import Block
from passband.convert.patterns import Finder, Left, Match, compiled, rewrite, trace
from passband.nn.fused_parts import is_norm

Settings = tuple[str | None, str | None]
"""spectrum_dtype and offload of a config."""

_FUNCTIONS = "_passband_functions"


def settings_of(config: BandLimit) -> Settings:
    """What blocks have to know of a config."""
    return config.spectrum_dtype, config.offload


def fuse(model: nn.Module, config: BandLimit) -> list[Block]:
    """Fuse the blocks of a model in place, anew if it was fused before."""
    unfuse(model)
    blocks: list[Block] = []
    for name, container in list(_containers(model)):
        prefix = f"{name}." if name else ""
        try:
            graph = trace(container, container.training)
            finder = Finder(container, graph)
            matches = finder.find()
        except Exception as error:  # whatever a forward does that cannot be traced
            blocks += [_left(prefix, left) for left in _untraced(container, error)]
            continue
        blocks += [_fused(prefix, match) for match in matches]
        blocks += [_left(prefix, left) for left in finder.left()]
        if matches:
            container.__class__ = _fused_class(type(container), settings_of(config))
            _build(container)
    return blocks


def unfuse(model: nn.Module) -> None:
    """Give every container of a model back the class it had."""
    for module in model.modules():
        base = getattr(type(module), "_passband_base", None)
        if base is not None:
            module.__class__ = base
            module.__dict__.pop(_FUNCTIONS, None)


def memory_settings(model: nn.Module) -> Settings | None:
    """How the blocks of a model are fused; None where none are."""
    for module in model.modules():
        if hasattr(module, "_passband_settings"):
            settings: Any = module._passband_settings
            return (settings[0], settings[1])
    return None


def _containers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        own = type(module).__module__.startswith("torch.nn.") and type(module) is not nn.Sequential
        if next(module.children(), None) is not None and not own and not is_norm(module):
            yield name, module


def _untraced(container: nn.Module, error: Exception) -> Iterator[Left]:
    reason = f"forward of {type(container).__name__} cannot be traced: {_line(error)}"
    for name, child in container.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            yield Left(name, type(child).__name__, reason)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _fused(prefix: str, match: Match) -> Block:
    modules = tuple(prefix + name for name in match.modules)
    return Block(prefix + match.conv, match.kind, modules)


def _left(prefix: str, left: Left) -> Block:
    return Block(prefix + left.module, left.kind, (prefix + left.module,), left.reason)


_FUSED: dict[Any, Any] = {}


def _fused_class(base: Any, settings: Settings) -> Any:
    """A class like another one but for its forward; its name is the same."""
    if (base, settings) in _FUSED:
        return _FUSED[base, settings]

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        functions: dict[bool, Callable[..., Any]] = self.__dict__[_FUNCTIONS]
        return functions[self.training](self, *args, **kwargs)

    def reduce(self: nn.Module, protocol: Any) -> Any:
        state = {key: value for key, value in self.__dict__.items() if key != _FUNCTIONS}
        return _rebuild, (base, settings), state

    def set_state(self: nn.Module, state: dict[str, Any]) -> None:
        base.__setstate__(self, state)
        _build(self)

    _FUSED[base, settings] = type(
        base.__name__,
        (base,),
        {
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
            "__doc__": base.__doc__,
            "__reduce_ex__": reduce,
            "__setstate__": set_state,
            "forward": forward,
            "_passband_base": base,
            "_passband_settings": settings,
        },
    )
    return _FUSED[base, settings]


def _rebuild(base: type[nn.Module], settings: Settings) -> nn.Module:
    """An empty container, which its state will fill."""
    kind = _fused_class(base, settings)
    container: nn.Module = kind.__new__(kind)
    return container


def _build(container: nn.Module) -> None:
    """Make the functions that a fused container runs in training and in evaluation."""
    kind: Any = type(container)
    base, settings = kind._passband_base, kind._passband_settings
    plain = copy.copy(container.__dict__)
    container.__dict__[_FUNCTIONS] = {
        mode: _function(base, plain, settings, mode) for mode in (True, False)
    }


def _function(
    base: type[nn.Module], state: dict[str, Any], settings: Settings, training: bool
) -> Callable[..., Any]:
    container = base.__new__(base)
    container.__dict__.update(state)
    graph: fx.Graph = trace(container, training)
    rewrite(graph, Finder(container, graph).find(), settings)
    return compiled(graph)
