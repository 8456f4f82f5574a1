"""The pictures of spectra show what the band keeps, and that is what the layers compute with."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from passband import band_limited_conv2d
from passband.report.spectra import (
    BAND_COLOURS,
    decibels,
    energy_kept,
    filters,
    low_pass,
    magnitudes,
    series,
    spectrum_of_map,
)
from passband.spectrum.band import Band, band_from_compression, full_band

# Sums of a few hundred float64 products, relative to the largest value.
TOLERANCE = {"rtol": 0, "atol": 1e-12}


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sizes", [(9,), (10,), (9, 12), (10, 7)])
def test_full_band_keeps_the_map(sizes: tuple[int, ...]) -> None:
    values = random(*(size - 2 for size in sizes)).numpy()
    kept = low_pass(values, full_band(sizes))
    inside = tuple(slice(0, size) for size in values.shape)
    np.testing.assert_allclose(kept[inside], values, **TOLERANCE)
    np.testing.assert_allclose(energy_kept(values, full_band(sizes)), 1, **TOLERANCE)


def test_low_pass_is_what_a_layer_sees() -> None:
    """A 1 x 1 filter of 1 returns the low-passed map itself."""
    values = random(9, 11)
    band = band_from_compression((9, 11), 0.6)
    seen = band_limited_conv2d(
        values[None, None], torch.ones(1, 1, 1, 1, dtype=torch.float64), band=band.kept,
        algorithm="lowpass",
    )  # fmt: skip
    np.testing.assert_allclose(low_pass(values.numpy(), band), seen[0, 0].numpy(), **TOLERANCE)


def test_energy_of_a_cosine_is_inside_or_outside() -> None:
    wave = np.cos(2 * np.pi * 3 * np.arange(20) / 20)
    np.testing.assert_allclose(energy_kept(wave, Band((20,), (4,))), 1, **TOLERANCE)
    np.testing.assert_allclose(energy_kept(wave, Band((20,), (3,))), 0, **TOLERANCE)


def test_energy_of_zeros_is_all_kept() -> None:
    assert energy_kept(np.zeros((4, 4)), full_band((4, 4))) == 1


def test_decibels_of_zeros_are_the_floor() -> None:
    assert decibels(np.zeros(3)).tolist() == [-60, -60, -60]


def test_magnitudes_have_zero_frequency_in_the_middle() -> None:
    assert np.unravel_index(magnitudes(np.ones((8, 7)), (8, 7)).argmax(), (8, 7)) == (4, 3)


@pytest.mark.parametrize("sizes", [(10, 10), (9, 12), (7, 9)])
def test_an_outline_encloses_the_kept_frequencies(sizes: tuple[int, int]) -> None:
    band = Band(sizes, (2, 3))
    figure = spectrum_of_map(random(*sizes), {"c": band}, title="t")
    (outline,) = figure.axes[1].patches
    assert (outline.get_x(), outline.get_width()) == (-2.5, 5)  # frequencies -2 to 2
    assert (outline.get_y(), outline.get_height()) == (-1.5, 3)  # frequencies -1 to 1


@pytest.mark.parametrize("sizes", [(10, 10), (9, 12)])
def test_the_outline_of_the_full_band_is_the_picture(sizes: tuple[int, int]) -> None:
    axes = spectrum_of_map(random(*sizes), {"c = 0": full_band(sizes)}, title="t").axes[1]
    left, right, bottom, top = axes.images[0].get_extent()
    (outline,) = axes.patches
    assert (outline.get_x(), outline.get_x() + outline.get_width()) == (left, right)
    assert (outline.get_y(), outline.get_y() + outline.get_height()) == (bottom, top)


def test_pixels_of_a_spectrum_stand_at_their_frequencies() -> None:
    """A wave of 2 cycles down and 1 across lights the pixels (2, 1) and (-2, -1)."""
    rows, columns = np.mgrid[:9, :8]
    wave = torch.from_numpy(np.cos(2 * np.pi * (2 * rows / 9 + columns / 8)))
    axes = spectrum_of_map(wave, {"c": Band((9, 8), (2, 2))}, title="t").axes[1]
    image = axes.images[0]
    left, _, bottom, _ = image.get_extent()
    assert image.origin == "lower"
    lit = np.argwhere(image.get_array() > -1) + np.array([bottom + 0.5, left + 0.5])
    assert sorted(map(tuple, lit.tolist())) == [(-2, -1), (2, 1)]


def test_map_before_and_after() -> None:
    values = random(8, 8)
    bands = {"half": band_from_compression((10, 10), 0.5), "most": Band((10, 10), (2, 2))}
    figure = spectrum_of_map(values, bands, title="t")
    before, _, *after = figure.axes[:4]
    np.testing.assert_array_equal(before.images[0].get_array(), values)
    for axes, (label, band), colour in zip(after, bands.items(), BAND_COLOURS, strict=False):
        kept = low_pass(values.numpy(), band)[:8, :8]
        np.testing.assert_array_equal(axes.images[0].get_array(), kept)
        assert axes.images[0].get_clim() == before.images[0].get_clim()  # one grey scale
        assert axes.get_title().startswith(label)
        assert to_hex(axes.spines["left"].get_edgecolor()) == colour.lower()


def test_series_before_and_after_with_its_spectrum() -> None:
    values = random(31)
    band = band_from_compression((38,), 0.5)
    time, frequency = series(values, {"c = 0.5": band}, title="t").axes
    np.testing.assert_array_equal(time.lines[0].get_ydata(), values)
    np.testing.assert_array_equal(time.lines[1].get_ydata(), low_pass(values.numpy(), band)[:31])
    expected = decibels(torch.fft.rfft(values, n=38).abs().numpy())
    np.testing.assert_allclose(frequency.lines[0].get_ydata(), expected, **TOLERANCE)
    assert set(frequency.lines[1].get_xdata()) == {band.kept[0] - 0.5}
    assert frequency.get_ylabel() == "magnitude, dB"


def test_filters_before_and_after() -> None:
    weights = random(3, 3, 3)
    band = band_from_compression((10, 10), 0.5)
    figure = filters(weights, band, label="c = 0.5", title="t")
    panels = np.array(figure.axes[:12]).reshape(4, 3)
    for column, weight in enumerate(weights.numpy()):
        before = panels[0, column].images[0].get_array()
        np.testing.assert_array_equal(before[3:6, 3:6], weight)
        assert np.count_nonzero(before) == 9
        after = panels[2, column].images[0].get_array()
        low = low_pass(weight, band)
        np.testing.assert_allclose(np.roll(after, (-3, -3), (0, 1)), low, **TOLERANCE)
        kept = panels[3, column].images[0].get_array() > -60
        assert kept.sum() == (2 * band.kept[0] - 1) ** 2
        assert len(panels[1, column].patches) == 1


@pytest.mark.parametrize(
    ("values", "bands", "message"),
    [
        (random(8, 8), {}, r"bands have the grids \[\]"),
        (random(8, 8), {"a": full_band((8, 8)), "b": full_band((9, 9))}, "bands of one grid"),
        (random(8), {"a": full_band((8, 8))}, "both need 2 axes"),
        (random(8, 8), {"a": full_band((8, 7))}, "larger than the grid"),
    ],
)
def test_maps_that_do_not_fit_are_an_error(
    values: torch.Tensor, bands: dict[str, Band], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        spectrum_of_map(values, bands, title="t")


def test_too_many_filters_are_an_error() -> None:
    with pytest.raises(ValueError, match="1 <= F <= 5"):
        filters(random(6, 3, 3), full_band((8, 8)), label="", title="")
