"""Figures of speed: how much faster than torch, over the fraction of the spectrum discarded."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from passband.extras import require
from passband.report.figures import (
    COLOURS,
    GREY,
    MARKERS,
    WIDTH_INCHES,
    new_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST_POINTS = 4  # of a line: fewer compressions than these show no course


def ratio_against_compression(rows: Iterable[Mapping[str, str]]) -> "Figure":
    """Time of the better torch.nn.Conv2d over ours, a line per layer, training above inference.

    Args:
        rows: A result of `passband bench layers` as read from its CSV file. Layers with at least
            four compressions are drawn.

    Raises:
        ValueError: No layer has so many.

    Examples:
        >>> layer = dict(batch="32", in_channels="64", out_channels="64", map="32x32", kernel="3")
        >>> rows = [
        ...     {**layer, "mode": "training", "realised_compression": str(c), "ratio": str(1 + c)}
        ...     for c in (0.0, 0.3, 0.6, 0.9)]
        >>> ratio_against_compression(rows).axes[0].get_ylabel()
        'times as fast as torch'
    """
    lines: dict[str, dict[str, dict[float, float]]] = {}
    for row in rows:
        if row["in_channels"] == row["out_channels"]:
            size = f"{row['map']}, kernel {row['kernel']}, batch {row['batch']}"
            name = f"{row['in_channels']} channels, {size}"
            points = lines.setdefault(row["mode"], {}).setdefault(name, {})
            points[float(row["realised_compression"])] = float(row["ratio"])
    lines = {
        mode: {name: points for name, points in named.items() if len(points) >= LEAST_POINTS}
        for mode, named in lines.items()
    }
    modes = [mode for mode, named in lines.items() if named]
    if not modes:
        raise ValueError(f"no layer has {LEAST_POINTS} compressions, which is what a line needs")
    tickers = require("matplotlib.ticker", extra="report")
    figure = new_figure(WIDTH_INCHES, 1.4 + 2.6 * len(modes))
    panels = figure.subplots(len(modes), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, mode in zip(panels, modes, strict=True):
        axes.axhline(1, color=GREY, linewidth=1.2, linestyle="--")
        for index, (name, points) in enumerate(lines[mode].items()):
            discarded = sorted(points)
            axes.plot(
                [100 * fraction for fraction in discarded],
                [points[fraction] for fraction in discarded],
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
                markersize=6,
                linewidth=1.8,
                label=name,
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(tickers.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_locator(tickers.NullLocator())
        style_axes(axes, title=mode, y="times as fast as torch")
    panels[-1].set_xlabel("spectrum discarded, %", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, frameon=False, loc="outside lower center")
    return figure
