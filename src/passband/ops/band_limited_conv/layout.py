"""Memory order and floating types of maps."""

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_channels_last(maps: Tensor) -> bool:
    """Whether the channels of (B, C, n1, ..) are innermost in memory, and only then.

    Of a tensor that torch.func.vmap has put a batch into, torch does not say.
    """
    if torch._C._functorch.is_batchedtensor(maps):
        return False
    return (
        maps.dim() in _CHANNELS_LAST
        and not maps.is_contiguous()
        and maps.is_contiguous(memory_format=_CHANNELS_LAST[maps.dim()])
    )


def memory_format(maps: Tensor) -> torch.memory_format:
    """The memory order that a result computed from these maps should have."""
    return _CHANNELS_LAST[maps.dim()] if is_channels_last(maps) else torch.contiguous_format


def transform_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type in which transforms are computed: at least float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def stored_spectrum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type in which the Triton kernels hand spectra of maps of a type to each other.

    float16 has not the range: a coefficient is up to sqrt(points) times as large as the map.
    """
    return torch.float32 if dtype == torch.float16 else dtype


def is_under_autocast(device: torch.device) -> bool:
    """Whether autocast is on for a device, of a kind that knows autocast."""
    kind = device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def product_dtype(weight: Tensor) -> torch.dtype:
    """Type of the product over channels and of the result: that of the weights, or autocast's.

    Autocast leaves float64 alone, as it does in torch's own convolutions.
    """
    if weight.dtype != torch.float64 and is_under_autocast(weight.device):
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype
