"""Optional dependencies: import one, or say which extra brings it."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: Name of the module, for example ``"matplotlib.pyplot"``.
        extra: The extra of this package that installs it.

    Raises:
        ImportError: The module is missing; the message names the extra.

    Examples:
        >>> require("json", extra="report").dumps([1])
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ImportError(
            f"{package} is needed here and is not installed: pip install 'passband[{extra}]'"
        ) from error
