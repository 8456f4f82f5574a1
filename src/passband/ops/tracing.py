"""What torch.compile, torch.func, torch.jit and forward mode make of our functions."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch._compile import _disable_dynamo
from torch.autograd import forward_ad

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

STORES = "a layer of SpecNet packs what it keeps by the values, which a compiler does not know"
"""Why spectra that are stored are left out of compiled graphs."""


def run_as_constant(function: FunctionT) -> FunctionT:
    """Have torch.compile run a function when it meets it, and take the result as a constant.

    For functions that it cannot trace, such as one with a cache. This is all that
    torch.compiler.assume_constant_result does, which imports the whole compiler to do it: that
    would double the time of `import passband` and change the filters of warnings.

    Examples:
        >>> @run_as_constant
        ... def answer() -> int:
        ...     return 42
        >>> answer()
        42
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def run_uncompiled(reason: str) -> Callable[[FunctionT], FunctionT]:
    """Have torch.compile leave a function out of its graphs, or say why where it may not.

    What torch.compiler.disable does, without importing the compiler before the first call.

    Examples:
        >>> import torch
        >>> @run_uncompiled("it looks at values")
        ... def is_positive(x: torch.Tensor) -> bool:
        ...     return bool((x > 0).all())
        >>> is_positive(torch.ones(2))
        True
    """

    def decorate(function: FunctionT) -> FunctionT:
        uncompiled: Any = _disable_dynamo(function)
        uncompiled._torchdynamo_disable = True
        uncompiled._torchdynamo_disable_msg = reason
        return uncompiled  # type: ignore[no-any-return]

    return decorate


def is_transformed() -> bool:
    """Whether torch.func, forward-mode differentiation, an export or torch.jit.trace is at work.

    They need torch's own operators. Of one made by torch.library, torch.func.grad says that it
    cannot be differentiated, forward mode takes its derivative for zero, and an exported or traced
    program that holds it runs nowhere but beside this package.

    Examples:
        >>> is_transformed()
        False
    """
    exported = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    return exported or _is_within_torch_func_or_trace()


def is_evaluated_eagerly(*tensors: torch.Tensor | None) -> bool:
    """Whether nothing but the values will be asked for: no gradient, and nobody who records.

    Then a result may be computed without an operator that torch knows of.

    Examples:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> is_evaluated_eagerly(torch.ones(2)), is_evaluated_eagerly(weight)
        (True, False)
    """
    return not (
        torch.compiler.is_compiling()
        or (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors))
        or torch._C._len_torch_dispatch_stack()
        or is_transformed()
    )


def spatial_size(maps: torch.Tensor) -> tuple[int, ...]:
    """Points per axis of maps (B, C, n1, ..), in plain numbers: torch.jit.trace has tensors there.

    Examples:
        >>> spatial_size(torch.ones(2, 3, 8, 6))
        (8, 6)
    """
    return tuple(int(n) for n in maps.shape[2:])


@run_as_constant
def _is_within_torch_func_or_trace() -> bool:
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )
