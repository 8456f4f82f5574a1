"""First derivatives only, said clearly."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def differentiable_once(backward: FunctionT) -> FunctionT:
    """Have a backward pass that computes a part anew refuse to become part of a graph itself.

    torch's once_differentiable complains only where a second derivative would go through the
    gradient of the output, and is silent where it would go through the input or the weights.
    """

    @wraps(backward)
    def checked(*args: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph=True, but blocks of memory='exact' and layers of SpecNet are "
                "differentiable once: make the model without them, by passband.revert or "
                "BandLimit(memory=None)"
            )
        return backward(*args)

    return checked  # type: ignore[return-value]
