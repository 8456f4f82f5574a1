"""The compiled kernels pack and unpack what torch's operators do."""

from typing import Any

import pytest
import torch
from torch import Tensor

from passband.ops.spectral.codec import SPECTRA, Maps
from passband.ops.spectral.frame import Frame
from passband.ops.spectral.native import kernels
from passband.spectrum.packed import PackedSpectrum, pack, unpack
from tests.support import assert_close, random

pytestmark = pytest.mark.skipif(kernels.load_library() is None, reason="no kernels are compiled")

SIZES = [(6, 5), (8, 8), (1, 7), (2, 1), (13,), (16,), (1,)]


def frames(size: tuple[int, ...]) -> list[Frame]:
    return [
        Frame.of(size),
        Frame.of(size, [(1, 1)] * len(size)),
        Frame.of(size, [(2, 0)] * len(size), compression=0.4),
    ]


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A context in which the kernels do not apply."""

    def switch(off: bool) -> None:
        monkeypatch.setattr(kernels, "suits", (lambda *_: False) if off else suits)

    suits = kernels.suits
    return switch


def kept(units: list[PackedSpectrum], grads: list[Tensor]) -> list[Any]:
    return [(unit, unit.bits, grad) for unit, grad in zip(units, grads, strict=True)]


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("beta", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("size", SIZES)
def test_kernels_do_what_torch_does(
    size: tuple[int, ...], beta: float, storage: str, by_torch: Any
) -> None:
    images = [8, 3]
    for frame in frames(size):
        codec = Maps(frame, beta)
        maps = random(11, 5, *size, dtype=torch.float32, seed=1)
        grad = random(11, 5, *size, dtype=torch.float32, seed=2)
        results = []
        for off in (False, True):
            by_torch(off)
            units = codec.encode(maps, images, storage, beta > 0)
            if results:  # where rounding decides about a coefficient, both may be right
                assert abs(sum(u.count for u in units) - sum(u.count for u in results[0][0])) <= 2
                units = results[0][0]
            values = [
                random(2, u.count, dtype=torch.float32, seed=3 + i) for i, u in enumerate(units)
            ]
            results.append(
                (
                    units,
                    SPECTRA.decode(units),
                    codec.decode(units),
                    codec.encode_adjoint(kept(units, values), maps.device),
                    torch.cat(codec.decode_adjoint(grad, units), 1),
                )
            )
        for own, others in zip(results[0][1:], results[1][1:], strict=True):
            assert_close(own, others)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_what_is_stored_is_the_thresholded_spectrum(beta: float) -> None:
    frame = Frame.of((9, 6), [(1, 1), (0, 2)])
    maps = random(7, 3, 9, 6, dtype=torch.float32)
    (unit,) = Maps(frame, beta).encode(maps, [7], "float32", beta > 0)
    expected = frame.from_map(maps.double())
    expected = expected * (expected.square().sum(0) >= beta**2)
    assert_close(unpack(unit), expected, 1e-5)  # float32
    assert unit.bits is None or unit.count < unit.shape[1] * 21


def test_what_is_not_a_number_stays_with_its_image() -> None:
    frame = Frame.of((4, 4))
    maps = random(3, 2, 4, 4, dtype=torch.float32)
    maps[1, 1, 2, 3] = float("nan")
    codec = Maps(frame, 1.0)
    back = codec.decode(codec.encode(maps, [3], "float32", True))
    assert back.isnan().flatten(2).all(2).tolist() == [[False] * 2, [False, True], [False] * 2]
    assert back[[0, 2]].isfinite().all()
    assert back[1, 0].isfinite().all()


def test_the_adjoint_is_the_adjoint() -> None:
    frame = Frame.of((7, 6), [(1, 1), (1, 1)])
    codec = Maps(frame, 0.8)
    maps = random(5, 4, 7, 6, dtype=torch.float32)
    units = codec.encode(maps, [5], "float32", True)
    (unit,) = units
    values = random(2, unit.count, dtype=torch.float32, seed=1)
    other = random(5, 4, 7, 6, dtype=torch.float32, seed=2)
    # <encode maps, values> with the choice held fixed, and <decode values, other>
    assert_close(
        (unit.values * values).sum().view(1),
        (maps * codec.encode_adjoint(kept(units, [values]), maps.device)).sum().view(1),
        1e-4,  # float32 sums that cancel
    )
    (gathered,) = codec.decode_adjoint(other, units)
    own = PackedSpectrum(values, unit.bits, None, unit.shape, unit.dtype)
    assert_close((gathered * values).sum().view(1), (codec.decode([own]) * other).sum().view(1),
                 1e-4)  # fmt: skip


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_kernels_round_to_8_bits_as_pack_does(beta: float, sparse: bool) -> None:
    codec = Maps(Frame.of((9, 8)), beta)
    maps = random(5, 7, 9, 8, dtype=torch.float32)
    maps[:, :, 0] *= 20  # frequencies whose other values are small
    (exact,) = codec.encode(maps, [5], "float32", True)  # the coefficients to the last bit
    (found,) = codec.encode(maps, [5], "int8", sparse)
    expected = pack(unpack(exact), "int8", sparse)
    assert found.scale is not None and expected.scale is not None
    assert torch.equal(found.scale, expected.scale)
    assert torch.equal(found.values, expected.values)
    assert (found.bits is None) == (expected.bits is None) == (not sparse)
    if found.bits is not None and expected.bits is not None:
        assert torch.equal(found.bits, expected.bits)


@pytest.mark.parametrize("sparse", [True, False])
def test_what_is_not_a_number_shows_in_8_bits(sparse: bool) -> None:
    codec = Maps(Frame.of((4, 4)), 0.5)
    maps = random(3, 2, 4, 4, dtype=torch.float32)
    maps[1, 1, 2, 3] = float("nan")
    back = codec.decode(codec.encode(maps, [3], "int8", sparse))
    assert back[1, 1].isnan().all()


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("size", [(6, 5), (8, 8), (13,), (1,)])
@pytest.mark.parametrize("channels", [3, 64, 70])
def test_gradients_with_what_is_stored(
    channels: int, size: tuple[int, ...], beta: float, storage: str, by_torch: Any
) -> None:
    codec = Maps(Frame.of(size), beta)
    assert codec.is_whole
    maps = random(11, channels, *size, dtype=torch.float32)
    stored = codec.encode(maps, [8, 3], storage, beta > 0)
    grads = [random(2, u.count, dtype=torch.float32, seed=1 + i) for i, u in enumerate(stored)]
    units = kept(stored, grads)
    numbers = [random(channels, dtype=torch.float32, seed=5 + i) for i in range(3)]
    gradient, back = codec.encode_adjoint(units, maps.device), codec.decode(stored)
    axes = (0, *range(2, maps.dim()))
    first, second, constant = (n.view(1, -1, *[1] * len(size)) for n in numbers)
    expected = first * gradient + second * back + constant
    for off in (False, True):
        by_torch(off)
        assert_close(codec.encode_adjoint_with(units, stored, *numbers), expected)
        products, of_gradient, of_maps = codec.products(units, stored)
        # of sums that may cancel, the error is that of their terms
        size_of_terms = (gradient * back).abs().double().sum(axes)
        assert (
            (products - (gradient * back).double().sum(axes)).abs().le(2e-6 * size_of_terms).all()
        )
        assert_close(of_gradient, gradient.double().sum(axes), 1e-5)  # of float32 maps
        assert_close(of_maps, back.double().sum(axes), 1e-5)


def test_the_gradient_of_values_that_none_came_back_for_is_zero() -> None:
    codec = Maps(Frame.of((6, 6)), 0.5)
    maps = random(11, 3, 6, 6, dtype=torch.float32)
    stored = codec.encode(maps, [8, 3], "float32", True)
    values = random(2, stored[0].count, dtype=torch.float32, seed=1)
    zeros = torch.zeros(2, stored[1].count)
    given = [(stored[0], stored[0].bits, values), (stored[1], stored[1].bits, None)]
    numbers = [random(3, dtype=torch.float32, seed=5 + i) for i in range(3)]
    assert_close(
        codec.encode_adjoint_with(given, stored, *numbers),
        codec.encode_adjoint_with(kept(stored, [values, zeros]), stored, *numbers),
    )
    for found, expected in zip(
        codec.products(given, stored), codec.products(kept(stored, [values, zeros]), stored),
        strict=True,
    ):  # fmt: skip
        assert_close(found, expected)


def test_memory_that_is_free_is_used_again() -> None:
    codec = Maps(Frame.of((8, 8)), 0.3)
    maps = random(11, 4, 8, 8, dtype=torch.float32)
    units = codec.encode(maps, [8, 3], "float32", True)
    expected = [grad.clone() for grad in codec.decode_adjoint(maps, units)]
    large, small = torch.ones(2, units[0].count + 5), torch.ones(2, units[1].count - 1)
    found = codec.decode_adjoint(maps, units, [small, large])
    assert found[0].data_ptr() == large.data_ptr()
    assert found[1].data_ptr() != small.data_ptr() and torch.equal(small, torch.ones_like(small))
    for own, others in zip(found, expected, strict=True):
        assert torch.equal(own, others)
