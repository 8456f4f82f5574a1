"""How a kept spectrum is stored: in fewer bits, or outside of the device's memory."""

import tempfile
from dataclasses import dataclass

import torch
from torch import Tensor

SPECTRUM_DTYPES = ("bfloat16", "int8")
OFFLOADS = ("cpu", "disk")

_INT8_MAX = 127.0


def round_spectrum(spectrum: Tensor, dtype: str | None) -> tuple[Tensor, ...]:
    """A spectrum in fewer bits: bfloat16, or int8 with a scale for each frequency or map.

    Examples:
        >>> number, scale = round_spectrum(torch.tensor([[[1.0, -0.5]]]), "int8")
        >>> number.tolist(), round(127 * scale.item(), 3)
        ([[[127, -64]]], 1.0)
    """
    if dtype is None:
        return (spectrum,)
    if dtype == "bfloat16":
        return (spectrum.to(torch.bfloat16),)
    axes = (
        tuple(range(1, spectrum.dim())) if spectrum.dim() == 3 else tuple(range(2, spectrum.dim()))
    )
    scale = spectrum.abs().amax(axes, keepdim=True).clamp_min(1e-30) / _INT8_MAX
    return (spectrum / scale).round_().to(torch.int8), scale


def widen_spectrum(kept: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    """The spectrum that `round_spectrum` has stored."""
    spectrum, *scale = kept
    return spectrum.to(dtype) * scale[0] if scale else spectrum.to(dtype)


@dataclass(frozen=True)
class Offloaded:
    """A tensor kept in the memory of the host, or in a file that is mapped into memory."""

    stored: Tensor
    shape: torch.Size
    device: torch.device
    event: "torch.cuda.Event | None" = None

    def fetch(self) -> Tensor:
        """The tensor on its device again."""
        if self.event is not None:
            self.event.synchronize()
        return self.stored.view(self.shape).to(self.device, non_blocking=True)


def offload(tensor: Tensor, where: str) -> Offloaded:
    """Move a tensor to pinned memory of the host ("cpu") or to a temporary file ("disk").

    The file has no name any more when this returns: the system gives its space back with the
    tensor, also when the process is killed.
    """
    if where == "disk":
        with tempfile.NamedTemporaryFile(prefix="passband-") as file:
            file.truncate(max(tensor.nbytes, 1))
            stored = torch.from_file(
                file.name, shared=True, size=tensor.numel(), dtype=tensor.dtype
            )
        stored.copy_(tensor.reshape(-1))
        return Offloaded(stored, tensor.shape, tensor.device)
    if tensor.device.type != "cuda":
        return Offloaded(tensor.reshape(-1), tensor.shape, tensor.device)
    stored = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    stored.copy_(tensor, non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return Offloaded(stored, tensor.shape, tensor.device, event)
