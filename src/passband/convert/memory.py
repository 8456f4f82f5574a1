"""Exact-memory blocks in existing models: `BandLimit(memory="exact")`.

The modules of a model stay what and where they are. A container whose forward holds blocks gets a
class of its own, derived from the one it has, with a forward that runs each block as one operation.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from passband.config import BandLimit
from passband.convert.convolutions import Block
from passband.convert.patterns import Finder, Left, Match, compiled, rewrite, trace
from passband.nn.fused_class import Fused, FusedBlock, Settings, become_fused, unfuse
from passband.nn.fused_parts import is_norm


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
            become_fused(container, (config.spectrum_dtype, config.offload), _build)
    return blocks


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


def _build(container: nn.Module, settings: Settings) -> Fused:
    """The forwards of a container in training and in evaluation, with blocks in them."""
    functions: dict[bool, Callable[..., Any]] = {}
    blocks: tuple[FusedBlock, ...] = ()
    for training in (False, True):
        graph = trace(container, training)
        matches = Finder(container, graph).find()
        rewrite(graph, matches, settings)
        functions[training] = compiled(graph)
        blocks = tuple(FusedBlock(m.conv, m.kind, tuple(m.modules)) for m in matches)
    return Fused(functions, blocks)
