import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passband.spectrum.dct import dct, dct_matrix, idct
from tests.spectrum.strategies import grids, seeds
from tests.support import assert_close, properties, random


def by_definition(values: np.ndarray) -> np.ndarray:
    """The orthonormal DCT-II of a vector, term by term."""
    size = len(values)
    return np.array(
        [
            math.sqrt((1 if k == 0 else 2) / size)
            * sum(values[n] * math.cos(math.pi * (2 * n + 1) * k / (2 * size)) for n in range(size))
            for k in range(size)
        ]
    )


@properties
@given(grids, seeds, st.data())
def test_the_dct_along_any_axis_is_its_definition(sizes, seed: int, data) -> None:
    dim = data.draw(st.integers(-len(sizes), len(sizes) - 1))
    maps = random(*sizes, seed=seed)
    expected = torch.from_numpy(np.apply_along_axis(by_definition, dim, maps.numpy()))
    assert_close(dct(maps, dim), expected)


@properties
@given(grids, seeds, st.data())
def test_the_inverse_gives_the_map_back_and_the_energy_stays(sizes, seed: int, data) -> None:
    dim = data.draw(st.integers(-len(sizes), len(sizes) - 1))
    maps = random(*sizes, seed=seed)
    assert_close(idct(dct(maps, dim), dim), maps)
    assert_close(dct(idct(maps, dim), dim), maps)
    assert_close(dct(maps, dim).norm(), maps.norm())


@pytest.mark.parametrize("size", [1, 2, 7, 64, 301])
def test_the_matrix_is_orthonormal(size: int) -> None:
    matrix = dct_matrix(size)
    assert matrix.dtype == torch.float64
    assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_type_is_kept(dtype: torch.dtype) -> None:
    maps = random(3, 9, 2, dtype=dtype)
    assert dct(maps, 1).dtype == dtype
    assert_close(dct(maps, 1), dct(maps.double(), 1))


def test_gradients() -> None:
    maps = random(3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: (dct(x, 0), idct(x, 1)), maps)


@pytest.mark.parametrize("transform", [dct, idct])
@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_what_is_not_real_is_refused(transform, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"a DCT needs a real floating tensor, got {dtype}"):
        transform(torch.ones(4, dtype=dtype))
