"""Orthonormal discrete cosine transforms along any axis, as matrix products.

DCT-II: X[k] = a_k sum_n x[n] cos(pi (2n + 1) k / (2N)) with a_0 = sqrt(1/N), a_k = sqrt(2/N).
Its inverse is its transpose, the DCT-III; both keep the energy.
"""

import math

import numpy as np
import torch
from torch import Tensor

from passband.spectrum.constants import cached_constant
from passband.spectrum.dft import transform


@cached_constant
def dct_matrix(
    size: int, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> Tensor:
    """The orthonormal DCT-II as a matrix D (frequency, position); D^T is the DCT-III.

    It is cached: do not change it.

    Examples:
        >>> d = dct_matrix(5)
        >>> torch.allclose(d @ d.T, torch.eye(5, dtype=d.dtype))
        True
    """
    k, n = np.arange(size)[:, None], np.arange(size)[None, :]
    # the product is reduced modulo a full turn, exactly, before it is rounded
    matrix = np.cos(np.pi / (2 * size) * ((2 * n + 1) * k % (4 * size)))
    matrix *= np.where(k == 0, math.sqrt(1 / size), math.sqrt(2 / size))
    return torch.tensor(matrix, dtype=dtype, device=device)


def dct(tensor: Tensor, dim: int = -1) -> Tensor:
    """Orthonormal DCT-II along one axis.

    Examples:
        >>> dct(torch.ones(4))
        tensor([2., 0., 0., 0.])
    """
    return _along(tensor, dim, inverse=False)


def idct(tensor: Tensor, dim: int = -1) -> Tensor:
    """Orthonormal DCT-III along one axis, the inverse of `dct`.

    Examples:
        >>> x = torch.arange(6.0).view(2, 3)
        >>> torch.allclose(idct(dct(x, 0), 0), x, atol=1e-6)
        True
    """
    return _along(tensor, dim, inverse=True)


def _along(tensor: Tensor, dim: int, inverse: bool) -> Tensor:
    if not tensor.is_floating_point():
        raise TypeError(f"a DCT needs a real floating tensor, got {tensor.dtype}")
    matrix = dct_matrix(tensor.shape[dim], tensor.dtype, tensor.device)
    return transform(tensor, [matrix.T if inverse else matrix], dim % tensor.dim())
