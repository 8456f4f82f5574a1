"""Hooks that only look: they do not make a fused block run its modules one by one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn

HookT = TypeVar("HookT", bound=Callable[..., Any])

_MARK = "_passband_probe"


def probe(hook: HookT) -> HookT:
    """Mark a forward hook, or pre-hook, as one that looks at a call without changing it.

    A fused block calls the marked hooks of its convolution itself; the input is the convolution's,
    the output that of the block.

    Examples:
        >>> conv = nn.Conv2d(1, 1, 1)
        >>> handle = conv.register_forward_pre_hook(probe(lambda *_: None))
        >>> has_other_hooks(conv)
        False
    """
    setattr(hook, _MARK, True)
    return hook


def has_other_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks that are not probes."""
    hooks = (
        *module._forward_pre_hooks.values(),
        *module._forward_hooks.values(),
        *module._backward_hooks.values(),
        *module._backward_pre_hooks.values(),
    )
    return any(not hasattr(hook, _MARK) for hook in hooks)


@contextmanager
def probed(module: nn.Module, x: Tensor) -> Iterator[None]:
    """Call a module's probes around what is done in its place."""
    for key, hook in module._forward_pre_hooks.items():
        if key in module._forward_pre_hooks_with_kwargs:
            hook(module, (x,), {})
        else:
            hook(module, (x,))
    try:
        yield
    finally:
        for hook in module._forward_hooks.values():
            hook(module, (x,), None)
