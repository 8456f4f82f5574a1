"""What is done to single coefficients: the threshold, and activations."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ODD_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "spectral-tanh": torch.tanh,
    "spectral-softsign": F.softsign,
    "spectral-hardtanh": F.hardtanh,
    "spectral-arctan": torch.atan,
}
"""Activations of real and of imaginary parts, by name.

Each is odd, so that conjugates stay conjugates and the map stays real; zero stays zero, so that a
sparse spectrum stays as sparse.
"""


ODD_DERIVATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "spectral-tanh": lambda y: 1 - y.square(),
    "spectral-softsign": lambda y: (1 - y.abs()).square(),
    "spectral-hardtanh": lambda y: (y.abs() < 1).to(y.dtype),
    "spectral-arctan": lambda y: y.cos().square(),
}
"""Their derivatives, by the name, from what they give."""


DFT_NORMS = ("ortho", "backward", "forward")
"""How a DFT is normalised, by torch.fft's names: by 1/sqrt(N), not at all, by 1/N."""


def orthonormal_beta(beta: float, points: int, dft_norm: str) -> float:
    """The threshold of orthonormal coefficients that is `beta` for those of another DFT.

    Args:
        beta: Compared with coefficients of a DFT normalised as `dft_norm` says.
        points: Points N of that DFT.
        dft_norm: One of `DFT_NORMS`.

    Examples:
        >>> orthonormal_beta(1.0, 64, "backward")
        0.125
    """
    root = math.sqrt(points)
    return beta * {"ortho": 1.0, "backward": 1 / root, "forward": root}[dft_norm]


def threshold(spectrum: Tensor, beta: float) -> Tensor:
    """The spectrum with coefficients of magnitude below `beta` set to zero.

    Args:
        spectrum: (2, F, ...).
        beta: Compared with sqrt(re^2 + im^2) of coefficients of the orthonormal DFT, so that it
            means the same on maps of any size; 0 leaves the spectrum as it is.

    Examples:
        >>> threshold(torch.tensor([[3.0, 0.6], [4.0, 0.7]]), 1.0)
        tensor([[3., 0.],
                [4., 0.]])
    """
    if beta == 0:
        return spectrum
    return spectrum.masked_fill(squared_magnitude(spectrum.detach()) < beta**2, 0.0)


def squared_magnitude(spectrum: Tensor) -> Tensor:
    """re^2 + im^2 (F, ...) of coefficients (2, F, ...)."""
    return torch.addcmul(spectrum[0].square(), spectrum[1], spectrum[1])


def activate(spectrum: Tensor, name: str | None, scale: Tensor | None = None) -> Tensor:
    """f(re) + i f(im), for an odd f.

    Args:
        spectrum: (2, F, B, C).
        name: One of `ODD_ACTIVATIONS`; None leaves the spectrum as it is.
        scale: (C,), or None: s f(x / s) in each channel. A large s makes the activation linear.

    Examples:
        >>> activate(torch.tensor([[9.0], [-9.0]]).view(2, 1, 1, 1), "spectral-hardtanh").flatten()
        tensor([ 1., -1.])
    """
    if name is None:
        return spectrum
    if scale is None:
        return ODD_ACTIVATIONS[name](spectrum)
    return ODD_ACTIVATIONS[name](spectrum / scale) * scale


def known_activation(spectrum: Tensor, result: Tensor, name: str | None) -> Tensor:
    """A stand-in for a result that is known: `activate`'s gradient without the activation.

    Args:
        spectrum: What is activated; its numbers do not matter.
        result: What came of it.
        name: One of `ODD_ACTIVATIONS`, or None.

    Examples:
        >>> x = torch.randn(2, 3, 1, 1, requires_grad=True)
        >>> known = known_activation(x, torch.tanh(x.detach()), "spectral-tanh")
        >>> own, expected = (torch.autograd.grad(y.sum(), x)[0] for y in (known, torch.tanh(x)))
        >>> torch.allclose(own, expected)
        True
    """
    if name is None:
        return spectrum
    known: Tensor = _Known.apply(spectrum, result, name)
    return known


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, result: Tensor, name: str) -> Tensor:
        ctx.save_for_backward(result)
        ctx.name = name
        return spectrum.view_as(spectrum)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        (result,) = ctx.saved_tensors
        return grad * ODD_DERIVATIVES[ctx.name](result), None, None
