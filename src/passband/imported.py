"""Functions and modules by the names that they are imported by: some of torch's do not pickle."""

import pkgutil
from types import ModuleType
from typing import Any

from torch import fx


class Name(str):
    """Where a function or a module is to be imported from."""


def to_name(value: Any) -> Any:
    """A function's or a module's `Name`; anything else, and what has none, as it is.

    Examples:
        >>> import math
        >>> from_name(to_name(math.sqrt)) is math.sqrt
        True
    """
    if isinstance(value, ModuleType):
        return Name(value.__name__)
    if not callable(value) or isinstance(value, type):
        return value
    for name_of in (_own_name, fx.node._get_qualified_name):
        try:
            name = Name(name_of(value))
            if from_name(name) is value:
                return name
        except (ImportError, AttributeError, ValueError, RuntimeError):
            continue
    return value


def _own_name(value: Any) -> str:
    return f"{value.__module__}:{value.__qualname__}"


def from_name(value: Any) -> Any:
    """What a `Name` names; anything else as it is."""
    return pkgutil.resolve_name(value) if isinstance(value, Name) else value
