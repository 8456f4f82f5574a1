import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from passband.spectrum.packed import (
    STORAGE,
    PackedSpectrum,
    gather,
    pack,
    pack_bits,
    scatter,
    unpack,
    unpack_bits,
)
from tests.support import properties, random, relative_error

sparsities = st.sampled_from([0.0, 0.1, 0.5, 1.0])


def sparse(bins: int, batch: int, channels: int, density: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    dense = random(2, bins, batch, channels, dtype=torch.float32, seed=seed)
    return dense * (torch.rand(bins, batch, channels, generator=generator) < density)


@properties
@given(st.lists(st.booleans(), max_size=70))
def test_bits_give_the_flags_back(flags: list[bool]) -> None:
    packed = pack_bits(torch.tensor(flags, dtype=torch.bool))
    assert packed.dtype == torch.uint8
    assert len(packed) == -(-len(flags) // 8)
    assert unpack_bits(packed, len(flags)).tolist() == flags


def test_bits_of_flags_at_a_distance_in_memory() -> None:
    flags = torch.arange(64) % 3 == 0
    assert torch.equal(unpack_bits(pack_bits(flags[::2]), 32), flags[::2])


def test_bits_of_flags_that_begin_anywhere_in_memory() -> None:
    flags = torch.arange(64) % 3 == 0
    assert torch.equal(unpack_bits(pack_bits(flags[3:]), 61), flags[3:])


@properties
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 7), sparsities, st.integers(0, 99))
def test_unpack_is_the_inverse(b: int, n: int, c: int, density: float, seed: int) -> None:
    dense = sparse(b, n, c, density, seed)
    assert torch.equal(unpack(pack(dense)), dense)
    assert torch.equal(unpack(pack(dense, sparse=False)), dense)


def test_a_coefficient_with_one_part_zero_is_kept_whole() -> None:
    dense = torch.tensor([[[0.0, 2.0, 0.0]], [[1.0, 0.0, 0.0]]])
    packed = pack(dense)
    assert packed.count == 2
    assert torch.equal(unpack(packed), dense)


@pytest.mark.parametrize(("storage", "value_bytes"), list(zip(STORAGE, (4, 2, 1), strict=True)))
def test_every_byte_is_counted(storage: str, value_bytes: int) -> None:
    dense = sparse(10, 3, 7, 0.3, seed=1)
    packed = pack(dense, storage)
    count = int((dense != 0).any(0).sum())
    unit_bytes = 2 * 10 if storage == "int8" else 0
    assert packed.nbytes == 2 * count * value_bytes + -(-10 * 3 * 7 // 8) + unit_bytes
    tensors = (packed.values, packed.bits, packed.scale)
    # no tensor is a view of something larger that would stay in memory
    assert packed.nbytes == sum(t.untyped_storage().nbytes() for t in tensors if t is not None)
    assert packed.density == pytest.approx(count / 210)


@pytest.mark.parametrize(
    ("storage", "tolerance"),
    [
        ("bfloat16", 2**-8),  # its unit roundoff
        # half a step of 1/127 of a frequency's largest value, which of normal numbers is about 3
        # times their deviation: 3 / 127 / sqrt(12) is 0.007
        ("int8", 0.02),
    ],
)
def test_rounded_values(storage: str, tolerance: float) -> None:
    dense = sparse(30, 4, 9, 0.5, seed=2) * torch.logspace(3, -3, 30).view(-1, 1, 1)
    for bin in range(30):
        found = unpack(pack(dense, storage))[:, bin]
        assert relative_error(found, dense[:, bin]) < tolerance


def test_eight_bits_of_nothing() -> None:
    assert torch.equal(unpack(pack(torch.zeros(2, 3, 1, 1), "int8")), torch.zeros(2, 3, 1, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_eight_bits_of_the_largest_value(dtype: torch.dtype) -> None:
    """A step rounded to the type of the values could make 128 of them, which 8 bits do not have."""
    largest = torch.linspace(0.1, 8, 400).to(dtype)
    dense = torch.stack([largest, -largest]).unsqueeze(2)
    packed = pack(dense, "int8")
    assert torch.equal(packed.values, torch.tensor([[127], [-127]]).expand(2, 400))
    assert unpack(packed).dtype == dtype
    # one rounding of the step, to 8 bits, and one of the result
    assert relative_error(unpack(packed), dense) < 2.0**-8 + 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("others", [(), (1,), (63,), (64,), (5, 29)])
def test_each_block_of_a_coefficient_has_steps_of_its_own(others: tuple[int, ...]) -> None:
    dense = random(2, 7, *others, seed=3) * torch.logspace(0, -3, 7).view(-1, *[1] * len(others))
    packed = pack(dense, "int8")
    assert packed.scale is not None
    values, found = (t.reshape(2, 7, -1).split(64, 2) for t in (dense, unpack(packed)))
    assert packed.scale.shape == (7, len(values))
    for block, (own, again) in enumerate(zip(values, found, strict=True)):
        step = own.abs().amax((0, 2)) / 127
        # a step of 8 significant bits is wrong by 2^-8 of itself; rounding costs half of one
        assert ((packed.scale[:, block] - step).abs() <= step * 2.0**-8).all()
        assert (
            (own - again).abs() <= packed.scale[:, block].double().view(-1, 1) / 2 + 1e-12
        ).all()


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 0, 4), (2, 0, 3, 4)])
def test_nothing_is_stored_as_nothing(storage: str, sparse: bool, shape: tuple[int, ...]) -> None:
    packed = pack(torch.zeros(shape), storage, sparse)
    assert packed.count == 0
    assert unpack(packed).shape == shape


def test_gather_is_the_adjoint_of_scatter() -> None:
    dense = sparse(8, 3, 5, 0.4, seed=3)
    packed = pack(dense)
    other = random(2, 8, 3, 5, dtype=torch.float32, seed=4)
    spread = scatter(packed.values, packed.bits, packed.shape)
    # float32 sums of 96 products
    assert float((spread * other).sum()) == pytest.approx(
        float((packed.values * gather(other, packed.bits)).sum()), rel=1e-5
    )


def test_float64_stays_float64() -> None:
    dense = random(2, 3, 2, 2)
    packed = pack(dense)
    assert packed.values.dtype == torch.float64
    assert unpack(packed).dtype == torch.float64


def test_an_unknown_storage_is_refused() -> None:
    with pytest.raises(ValueError, match="storage is 'int4', allowed are 'float32', 'bfloat16'"):
        pack(torch.zeros(2, 1), "int4")


def test_nothing_is_kept_of_zeros() -> None:
    packed = pack(torch.zeros(2, 16, 1, 1))
    assert isinstance(packed, PackedSpectrum)
    assert (packed.count, packed.nbytes) == (0, 2)
