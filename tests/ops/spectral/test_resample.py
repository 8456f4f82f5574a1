import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from passband.ops.spectral.frame import Frame, self_conjugate_bins
from passband.ops.spectral.resample import (
    crop,
    cropped_frame,
    fold,
    folded_frame,
    low_pass_and_sample,
)
from tests.support import assert_close, properties, random

factors = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple)


@properties
@given(factors, st.integers(1, 4), st.booleans())
def test_folding_takes_every_nth_point(factor: tuple[int, ...], m: int, average: bool) -> None:
    size = tuple(s * (m + axis) for axis, s in enumerate(factor))
    frame, maps = Frame.of(size), random(2, 3, *size)
    folded = folded_frame(frame, factor)
    found = folded.to_map(fold(frame.from_map(maps), frame, factor, average))
    if average:
        expected = F.avg_pool1d(maps, factor) if len(size) == 1 else F.avg_pool2d(maps, factor)
    else:
        expected = maps[(..., *(slice(None, None, s) for s in factor))]
    assert_close(found, expected)


@properties
@given(factors, st.integers(1, 9), st.integers(1, 9))
def test_cropping_is_low_passing_and_sampling(factor: tuple[int, ...], n: int, m: int) -> None:
    size = (n, m)[: len(factor)]
    assume(all(n >= s for n, s in zip(size, factor, strict=True)))
    frame, maps = Frame.of(size), random(2, 3, *size)
    smaller = cropped_frame(frame, factor)
    spectrum = crop(frame.from_map(maps), frame, smaller)
    # a map of a single even axis may lose all but its mean
    found, expected = smaller.to_map(spectrum), low_pass_and_sample(maps, smaller.size)
    if max(factor) > 1:
        assert (found - expected).abs().max() < 1e-12  # rounding of numbers of size 1
    assert not spectrum[1, self_conjugate_bins(smaller.band)].any()


def test_cropping_keeps_a_slow_wave() -> None:
    n = torch.arange(12, dtype=torch.float64)
    wave = 1 + torch.cos(2 * torch.pi * n / 12)
    frame = Frame.of((12,))
    smaller = cropped_frame(frame, (3,))
    found = smaller.to_map(crop(frame.from_map(wave.view(1, 1, 12)), frame, smaller))
    assert_close(found.flatten(), wave[::3])


@pytest.mark.parametrize("average", [False, True])
def test_derivatives(average: bool) -> None:
    frame = Frame.of((6, 4))
    x = random(2, frame.bins, 2, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: fold(x, frame, (3, 2), average), x)
    assert torch.autograd.gradcheck(lambda x: crop(x, frame, cropped_frame(frame, (2, 2))), x)


def test_a_stride_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(7,\) points cannot be folded by \(2,\)"):
        folded_frame(Frame.of((7,)), (2,))


def test_more_pooling_than_points_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) points, fewer than the pooling of \(4,\)"):
        cropped_frame(Frame.of((3,)), (4,))


def test_a_padded_frame_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the frame has padding"):
        cropped_frame(Frame.of((8,), [(1, 1)]), (2,))
