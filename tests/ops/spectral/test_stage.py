"""What a stage keeps, and its gradients."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from passband.measure.memory import SavedBytes
from passband.ops.spectral.sources import DENSE_BYTES, Sources, StageOptions
from passband.ops.spectral.stage import StoredSpectrum, run_stage, run_to_dense, store
from tests.support import assert_close, random


def scaled(sources: list[Tensor], parameters: Any, first: bool) -> Tensor:
    return torch.cat(sources, 3) * parameters[0]


def sparse(batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    dense = random(2, 7, batch, 3, dtype=dtype)
    return dense * (dense.square().sum(0) > 1)


@pytest.mark.parametrize("batch", [1, 8, 21])
@pytest.mark.parametrize("splits", [True, False])
def test_a_stage_is_its_function(batch: int, splits: bool) -> None:
    first, second = sparse(batch).requires_grad_(), sparse(batch).requires_grad_()
    factor = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    # so many bytes for one image that every unit is a group of its own
    options = StageOptions(splits=splits, image_bytes=DENSE_BYTES)
    stored = [store(first, options), store(second, options)]
    result = run_stage(scaled, stored, [factor], options).dense()
    cotangent = random(*result.shape, seed=5)
    found = torch.autograd.grad(result, [first, second, factor], cotangent)
    expected = torch.cat([first, second], 3) * factor
    assert_close(result, expected)
    kept = (expected != 0).any(0)
    wanted = torch.autograd.grad(expected, [first, second, factor], cotangent * kept)
    for own, others in zip(found, wanted, strict=True):
        assert_close(own, others)


def test_derivatives() -> None:
    options = StageOptions(sparse=False)

    def function(x: Tensor, factor: Tensor) -> Tensor:
        return run_stage(scaled, [store(x, options)], [factor], options).dense()

    x = random(2, 3, 11, 2).requires_grad_()
    assert torch.autograd.gradcheck(function, (x, random(2, seed=1).requires_grad_()))


def test_only_packed_spectra_are_kept() -> None:
    options = StageOptions()
    stored = store(sparse(16, torch.float32), options)
    factor = torch.nn.Parameter(torch.ones(3))
    with SavedBytes() as saved:
        result = run_stage(scaled, [stored], [factor], options)
    bits = sum(unit.bits.nbytes for unit in result.units if unit.bits is not None)
    assert saved.total == stored.nbytes + bits + factor.nbytes
    with SavedBytes() as saved:  # the next stage keeps the same bits, and the values
        run_stage(scaled, [result], [factor], options)
    assert saved.total == result.nbytes + bits + factor.nbytes


def test_no_dense_spectrum_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only what autograd says that it keeps: no tensor that the function made is there."""
    alive: list[Any] = []

    def watched(sources: list[Tensor], parameters: Any, first: bool) -> Tensor:
        result = scaled(sources, parameters, first)
        alive.extend(weakref.ref(t) for t in (*sources, result))
        return result

    options = StageOptions()
    x = sparse(16).requires_grad_()
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    result = run_stage(watched, [store(x, options)], [factor], options)
    assert alive
    assert not [reference for reference in alive if reference() is not None]
    for placeholder in result.placeholders:
        assert placeholder.untyped_storage().nbytes() == 8


def test_a_gradient_goes_as_soon_as_it_has_been_read() -> None:
    grads: list[Tensor] = []
    there: list[list[bool]] = []

    def watched(sources: list[Tensor], parameters: Any, first: bool) -> Tensor:
        if not first:
            there.append([grad.untyped_storage().nbytes() > 0 for grad in grads])
        return scaled(sources, parameters, first)

    options = StageOptions(image_bytes=DENSE_BYTES)  # every unit is a group of its own
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    result = run_stage(watched, [store(sparse(24), options)], [factor], options)
    for placeholder in result.placeholders:
        placeholder.register_hook(grads.append)
    result.dense().sum().backward()
    assert there == [[True, True, True], [False, True, True], [False, False, True]]


@pytest.mark.parametrize("batch", [1, 19])
def test_a_last_stage_gives_maps(batch: int) -> None:
    def means(sources: list[Tensor], parameters: Any, first: bool) -> Tensor:
        return sources[0].square().mean((0, 1)) * parameters[0]

    options = StageOptions(image_bytes=DENSE_BYTES)
    x = sparse(batch).requires_grad_()
    factor = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    found = run_to_dense(means, [store(x, options)], [factor], options)
    expected = means([x], [factor], True)
    cotangent = random(*found.shape, seed=5)
    assert_close(found, expected)
    own = torch.autograd.grad(found, [x, factor], cotangent)
    wanted = torch.autograd.grad(expected, [x, factor], cotangent)
    for a, b in zip(own, wanted, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_rounded_values_have_gradients(storage: str) -> None:
    options = StageOptions(storage)
    x = sparse(5, torch.float32).requires_grad_()
    factor = torch.tensor(2.0, requires_grad=True)
    result = run_stage(scaled, [store(x, options)], [factor], options)
    assert all(unit.values.dtype != torch.float32 for unit in result.units)
    result.dense().sum().backward()
    assert torch.equal(x.grad, 2.0 * (x != 0).any(0).expand_as(x))


def test_a_spectrum_that_is_read_twice() -> None:
    options = StageOptions()
    x = sparse(5).requires_grad_()
    factor = torch.tensor(2.0, dtype=torch.float64)
    stored = store(x, options)
    total = sum(run_stage(scaled, [stored], [factor], options).dense().sum() for _ in range(3))
    assert isinstance(total, Tensor)
    total.backward()
    assert_close(x.grad, 6.0 * (x != 0).any(0).expand_as(x).to(x))


def test_what_no_gradient_comes_back_for_has_a_zero_gradient() -> None:
    options = StageOptions()
    x = sparse(16).requires_grad_()
    stored = store(x, options)
    half = StoredSpectrum(stored.units[:1], stored.placeholders[:1])
    half.dense().sum().backward()
    assert not x.grad[:, :, 8:].any()
    assert x.grad[:, :, :8].any()


def test_autocast_is_that_of_the_forward_pass() -> None:
    seen = []

    def watched(sources: list[Tensor], parameters: Any, first: bool) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return scaled(sources, parameters, first)

    options, factor = StageOptions(), torch.ones((), requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = run_stage(watched, [store(sparse(3, torch.float32), options)], [factor], options)
    result.dense().sum().backward()
    assert seen == [True, True]


@pytest.mark.parametrize(
    ("batch", "image_bytes", "groups"),
    [
        (128, DENSE_BYTES // 104, [64, 64]),
        (128, DENSE_BYTES // 48, [40, 40, 48]),
        (20, DENSE_BYTES // 16, [8, 12]),
        (20, 2 * DENSE_BYTES, [8, 8, 4]),
        (3, 1, [3]),
        (0, 1, [0]),
    ],
)
def test_groups_of_images_are_of_even_size(batch: int, image_bytes: int, groups: list[int]) -> None:
    sources = Sources([], [torch.zeros(batch, 1)], StageOptions(image_bytes=image_bytes))
    assert [sum(group.images) for group in sources.groups()] == groups
