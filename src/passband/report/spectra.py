"""Figures of spectra: what a band keeps of a map, of a series and of filters.

The band itself, with every rule about frequencies, comes from `passband.spectrum.band`; here its
mask is only drawn.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy
import numpy.typing
import torch

from passband.extras import require
from passband.report.figures import COLOURS, GREY, WIDTH_INCHES, new_figure, style_axes
from passband.spectrum.band import Band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Array = numpy.typing.NDArray[numpy.float64]
FLOOR_DECIBELS = -60.0
DARKEST_DECIBELS = -40.0  # black in pictures; most of a spectrum's differences lie above
BAND_COLOURS = COLOURS[2:]  # those that show on grey pictures and on white paper


def decibels(magnitude: Array, reference: float | None = None) -> Array:
    """Magnitudes relative to a reference, or else to the largest one, in dB, not below -60.

    Examples:
        >>> decibels(numpy.array([1.0, 0.1, 0.0]))
        array([  0., -20., -60.])
    """
    reference = float(magnitude.max()) if reference is None else reference
    if reference == 0:
        return numpy.full_like(magnitude, FLOOR_DECIBELS)
    relative = numpy.maximum(magnitude / reference, 10 ** (FLOOR_DECIBELS / 20))
    levels: Array = 20.0 * numpy.log10(relative)
    return levels


def low_pass(values: Array, band: Band) -> Array:
    """The part of a map, zero-padded to the band's grid, that lies in the band; the whole grid."""
    axes = tuple(range(len(band.sizes)))
    kept = numpy.fft.rfftn(values, s=band.sizes, axes=axes) * band.mask().numpy()
    passed: Array = numpy.fft.irfftn(kept, s=band.sizes, axes=axes)
    return passed


def magnitudes(values: Array, sizes: tuple[int, ...]) -> Array:
    """Magnitudes of a map's full spectrum on a grid, frequency zero in the middle."""
    axes = tuple(range(len(sizes)))
    shifted: Array = numpy.abs(numpy.fft.fftshift(numpy.fft.fftn(values, s=sizes, axes=axes)))
    return shifted


def energy_kept(values: Array, band: Band) -> float:
    """Fraction of a map's energy that lies in the band.

    Examples:
        >>> from passband.spectrum.band import full_band
        >>> round(energy_kept(numpy.ones((4, 4)), full_band((6, 6))), 6)
        1.0
    """
    total = float((values**2).sum())
    return float((low_pass(values, band) ** 2).sum()) / total if total else 1.0


def spectrum_of_map(values: torch.Tensor, bands: Mapping[str, Band], *, title: str) -> "Figure":
    """A map, its spectrum in dB with each band outlined, and what each band leaves of the map.

    Args:
        values: One map, shape (H, W).
        bands: Label of a band to the band, all on one grid at least as large as the map.
        title: What the map is.

    Raises:
        ValueError: The map has not two axes, there is no band, or the bands' grids differ.

    Source: Dziedzic et al., ICML 2019, figures 1 and 14.
    """
    array = _checked(values, bands, axes=2)
    columns = 2 if len(bands) % 2 == 0 else 3
    rows = -(-(2 + len(bands)) // columns)
    figure = new_figure(
        2.6 * columns, 2.75 * rows + (0.6 if rows == 1 else 0.1), title=title, pictures=True
    )
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    low, high = float(array.min()), float(array.max())
    _picture(panels[0], array, "the map", low, high)
    image = _spectrum_picture(panels[1], array, bands, "its spectrum, dB")
    panels[1].set_xlabel("cycles per grid", fontsize=9)
    figure.colorbar(image, ax=panels[1], shrink=0.8).ax.tick_params(labelsize=8)
    for index, (axes, (label, band)) in enumerate(zip(panels[2:], bands.items(), strict=True)):
        height, width = array.shape
        kept = low_pass(array, band)[:height, :width]
        share = 100 * energy_kept(array, band)
        _picture(axes, kept, f"{label}\nkeeps {share:.1f} % of its energy", low, high)
        for spine in axes.spines.values():
            spine.set(color=BAND_COLOURS[index % len(BAND_COLOURS)], linewidth=2.5)
    return figure


def series(values: torch.Tensor, bands: Mapping[str, Band], *, title: str) -> "Figure":
    """A time series before and after band-limiting, and its spectrum in dB with the kept bands.

    Args:
        values: One series, shape (L,).
        bands: Label of a band to the band, all on one grid at least as long as the series.
        title: What the series is.

    Raises:
        ValueError: The series has not one axis, there is no band, or the bands' grids differ.

    Source: Dziedzic et al., ICML 2019, figure 15.
    """
    array = _checked(values, bands, axes=1)
    (size,) = next(iter(bands.values())).sizes
    figure = new_figure(WIDTH_INCHES, 5.6, title=title)
    time, frequency = figure.subplots(2, 1)
    time.plot(array, color=GREY, linewidth=1.6, label="the series")
    spectrum = decibels(numpy.abs(numpy.fft.rfft(array, n=size)))
    frequency.plot(spectrum, color=GREY, linewidth=1.4)
    for index, (label, band) in enumerate(bands.items()):
        colour = BAND_COLOURS[index % len(BAND_COLOURS)]
        kept = low_pass(array, band)[: len(array)]
        share = 100 * energy_kept(array, band)
        time.plot(
            kept, color=colour, linewidth=1.5, label=f"{label}, keeps {share:.1f} % of its energy"
        )
        edge = int(band.mask().nonzero().max()) + 0.5
        frequency.axvline(edge, color=colour, linewidth=2.2, linestyle="--")
        frequency.axvspan(-0.5, edge, color=colour, alpha=0.12, linewidth=0)
    style_axes(time, x="time, samples", y="value (z-score)")
    style_axes(
        frequency,
        title="Its spectrum: kept left of the line of the band's colour",
        x="frequency, cycles per padded series",
        y="magnitude, dB",
    )
    frequency.set_xlim(-0.5, len(spectrum) - 0.5)
    frequency.set_ylim(FLOOR_DECIBELS - 2, 3)
    figure.legend(handles=time.lines, loc="outside lower left", fontsize=9, frameon=False)
    return figure


def filters(weights: torch.Tensor, band: Band, *, label: str, title: str) -> "Figure":
    """Filters before and after band-limiting: in space, on the layer's grid, and their spectra.

    Args:
        weights: Up to five filters, shape (F, kh, kw).
        band: The band, whose grid is at least as large as the filters.
        label: What the band keeps, in words.
        title: Whose filters these are.

    Raises:
        ValueError: The filters have not three axes, or do not fit the band's grid.
    """
    if weights.ndim != 3 or not 1 <= len(weights) <= 5:
        raise ValueError(
            f"weights has shape {tuple(weights.shape)}; it must be (F, kh, kw) with 1 <= F <= 5"
        )
    bands = {label: band}
    arrays = [_checked(weight, bands, axes=2) for weight in weights]
    count = len(arrays)
    figure = new_figure(1.2 * count + 0.9, 5.6, title=title, pictures=True)
    panels = figure.subplots(4, count, squeeze=False)
    for column, array in enumerate(arrays):
        kernel = tuple(array.shape)
        before = _centred(_padded(array, band), kernel)
        after = low_pass(array, band)
        largest = float(numpy.abs(array).max())
        share = 100 * energy_kept(array, band)
        _picture(panels[0][column], before, "", -largest, largest, diverging=True)
        reference = float(magnitudes(array, band.sizes).max())
        image = _spectrum_picture(panels[1][column], array, bands, "", reference=reference)
        _picture(panels[2][column], _centred(after, kernel), "", -largest, largest, diverging=True)
        _spectrum_picture(panels[3][column], after, bands, "", reference=reference)
        for row in (panels[1], panels[3]):
            row[column].set_xticks([])
            row[column].set_yticks([])
        panels[0][column].set_title(f"filter {column + 1}", fontsize=10)
        panels[2][column].set_title(f"keeps {share:.0f} %", fontsize=10)
    figure.colorbar(image, ax=panels[1], shrink=0.9).ax.tick_params(labelsize=8)
    figure.colorbar(image, ax=panels[3], shrink=0.9).ax.tick_params(labelsize=8)
    names = ("before", "before:\nspectrum, dB", "after", "after:\nspectrum, dB")
    for row, name in zip(panels, names, strict=True):
        row[0].set_ylabel(name, fontsize=10)
    return figure


def _checked(values: torch.Tensor, bands: Mapping[str, Band], *, axes: int) -> Array:
    """The values as float64, if they and all bands share one grid with that many axes."""
    grids = {band.sizes for band in bands.values()}
    if len(grids) != 1:
        raise ValueError(f"bands have the grids {sorted(grids)}; give bands of one grid")
    grid = grids.pop()
    if values.ndim != axes or len(grid) != axes:
        raise ValueError(
            f"values has shape {tuple(values.shape)} and the grid is {grid}; both need {axes} axes"
        )
    if any(size > limit for size, limit in zip(values.shape, grid, strict=True)):
        raise ValueError(f"values has shape {tuple(values.shape)}, larger than the grid {grid}")
    array: Array = values.detach().cpu().double().numpy()
    return array


def _padded(array: Array, band: Band) -> Array:
    return numpy.pad(
        array, [(0, limit - size) for size, limit in zip(array.shape, band.sizes, strict=True)]
    )


def _centred(array: Array, kernel: tuple[int, ...]) -> Array:
    """Roll a filter that starts at the origin of its grid into the middle of it."""
    shifts = tuple((size - length) // 2 for size, length in zip(array.shape, kernel, strict=True))
    return numpy.roll(array, shifts, axis=tuple(range(array.ndim)))


def _picture(
    axes: "Axes", array: Array, title: str, low: float, high: float, *, diverging: bool = False
) -> None:
    axes.imshow(array, cmap="RdBu_r" if diverging else "gray", vmin=low, vmax=high)
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])


def _spectrum_picture(
    axes: "Axes",
    array: Array,
    bands: Mapping[str, Band],
    title: str,
    *,
    reference: float | None = None,
) -> "AxesImage":
    """The centred spectrum in dB, frequency zero in the middle, each band outlined on it."""
    sizes = next(iter(bands.values())).sizes
    # the last column and row of a grid of N points are frequency N - N//2 - 1
    left, bottom = (-(size // 2) - 0.5 for size in reversed(sizes))
    image = axes.imshow(
        decibels(magnitudes(array, sizes), reference),
        cmap="gray",
        vmin=DARKEST_DECIBELS,
        vmax=0,
        extent=(left, left + sizes[1], bottom, bottom + sizes[0]),
        origin="lower",
    )
    for index, band in enumerate(bands.values()):
        _outline(axes, band, BAND_COLOURS[index % len(BAND_COLOURS)])
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=9)
    return image


def _outline(axes: "Axes", band: Band, colour: str) -> None:
    """A rectangle round the kept coefficients of a centred spectrum."""
    patches = require("matplotlib.patches", extra="report")
    # A mask that keeps -f with f is the half-spectrum of a real signal: its full spectrum is the
    # mask over all frequencies.
    signal = numpy.fft.irfftn(band.mask().double().numpy(), s=band.sizes, axes=(-2, -1))
    kept = numpy.fft.fftshift(numpy.fft.fftn(signal).real) > 0.5
    corner, lengths = [], []
    for axis, size in enumerate(band.sizes):
        inside = numpy.flatnonzero(kept.any(axis=1 - axis))
        corner.append(inside[0] - size // 2 - 0.5)
        lengths.append(len(inside))
    axes.add_patch(
        patches.Rectangle(
            (corner[1], corner[0]),
            lengths[1],
            lengths[0],
            fill=False,
            edgecolor=colour,
            linewidth=2.5,
            clip_on=False,
        )
    )
