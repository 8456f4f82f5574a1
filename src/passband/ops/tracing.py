"""What torch.compile does with functions that it should not look into."""

from collections.abc import Callable
from typing import Any, TypeVar

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def run_as_constant(function: FunctionT) -> FunctionT:
    """Have torch.compile run a function when it meets it, and take the result as a constant.

    For functions that it cannot trace, such as one with a cache. This is all that
    torch.compiler.assume_constant_result does, which imports the whole compiler to do it: that
    would double the time of `import passband` and change the filters of warnings.

    Example:
        >>> @run_as_constant
        ... def answer() -> int:
        ...     return 42
        >>> answer()
        42
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
