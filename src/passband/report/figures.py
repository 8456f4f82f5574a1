"""Figures of training: accuracy against compression, learning curves.

Every function returns a `matplotlib.figure.Figure` drawn without pyplot, so that no backend is
chosen and nothing global changes. Figures are about 13 cm wide: two fit side by side on a desk, one
fills a phone, and the letters stay readable on both.
"""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from passband.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with every common form of colour blindness.
COLOURS = ("#0072B2", "#009E73", "#E69F00", "#56B4E9", "#D55E00", "#CC79A7")
MARKERS = ("o", "s", "^", "D", "v", "P")
GREY = "#555555"
WIDTH_INCHES = 5.2


def new_figure(width: float, height: float, *, title: str = "", pictures: bool = False) -> "Figure":
    """An empty figure on white paper, in inches, whose parts never overlap.

    Args:
        width: Width in inches.
        height: Height in inches.
        title: Title over all panels, broken into lines where it is too long.
        pictures: The panels are pictures with square pixels: move them together.
    """
    figures = require("matplotlib.figure", extra="report")
    figure: Figure = figures.Figure(
        figsize=(width, height),
        dpi=160,
        layout="compressed" if pictures else "constrained",
        facecolor="white",
    )
    if title:
        lines = textwrap.fill(title, int(10 * width))
        figure.suptitle(lines, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def style_axes(axes: "Axes", *, title: str = "", x: str = "", y: str = "") -> None:
    """The look that all axes share: title at the left, faint grid, no box."""
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(x, fontsize=10)
    axes.set_ylabel(y, fontsize=10)
    axes.tick_params(labelsize=9)
    axes.grid(True, color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def accuracy_against_compression(
    methods: Mapping[str, Mapping[float, Sequence[float]]],
    *,
    title: str,
    reference: Mapping[str, Sequence[float]] | None = None,
) -> "Figure":
    """Test accuracy over the fraction of the spectrum that was thrown away, a line per method.

    With several seeds a marker is their mean, a bar reaches from the worst to the best of them, and
    each seed is a small dot.

    Args:
        methods: Name of a method to {fraction discarded: accuracies as fractions, one per seed}.
        title: What was trained on what.
        reference: Name of something without a compression, such as the unconverted network, to its
            accuracies; a dashed line across the figure.

    Raises:
        ValueError: Nothing to draw.

    Examples:
        >>> figure = accuracy_against_compression(
        ...     {"band-limited": {0.0: [0.93, 0.95], 0.5: [0.92, 0.93]}},
        ...     title="digits, lenet5", reference={"nn.Conv2d": [0.94]})
        >>> figure.axes[0].get_xlabel()
        'spectrum discarded, %'
    """
    if not methods or not all(methods.values()):
        raise ValueError(f"methods is {dict(methods)!r}; give at least one point for each method")
    figure = new_figure(WIDTH_INCHES, 3.9, title=title)
    axes = figure.add_subplot()
    for name, accuracies in (reference or {}).items():
        percent = [100 * value for value in accuracies]
        axes.axhline(
            sum(percent) / len(percent), color=GREY, linestyle="--", linewidth=1.6, label=name
        )
        if len(percent) > 1:
            axes.axhspan(min(percent), max(percent), color=GREY, alpha=0.12, linewidth=0)
    for index, (name, points) in enumerate(methods.items()):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        discarded = sorted(points)
        values = [[100 * accuracy for accuracy in points[at]] for at in discarded]
        means = [sum(seeds) / len(seeds) for seeds in values]
        spread = [
            [mean - min(seeds) for mean, seeds in zip(means, values, strict=True)],
            [max(seeds) - mean for mean, seeds in zip(means, values, strict=True)],
        ]
        positions = [100 * at for at in discarded]
        axes.errorbar(
            positions,
            means,
            yerr=spread if any(len(seeds) > 1 for seeds in values) else None,
            color=colour,
            marker=marker,
            markersize=7,
            linewidth=1.8,
            capsize=4,
            label=name,
        )
        for position, seeds in zip(positions, values, strict=True):
            if len(seeds) > 1:
                axes.plot(
                    [position] * len(seeds), seeds, ".", color=colour, alpha=0.5, markersize=5
                )
    style_axes(axes, x="spectrum discarded, %", y="test accuracy, %")
    axes.margins(x=0.06, y=0.12)
    axes.legend(fontsize=9, frameon=False, loc="best")
    return figure


def learning_curves(runs: Mapping[str, Mapping[str, Sequence[float]]], *, title: str) -> "Figure":
    """Loss and accuracy over the epochs: a colour per run, solid for test, dashed for training.

    Args:
        runs: Name of a run to its columns `epoch` (from 0), `train_loss`, `test_loss`,
            `train_accuracy`, `test_accuracy` (fractions), one value per epoch.
        title: What was trained on what.

    Raises:
        ValueError: Nothing to draw.
        KeyError: A run lacks a column.
    """
    if not runs:
        raise ValueError("runs is empty; give at least one run")
    tickers = require("matplotlib.ticker", extra="report")
    figure = new_figure(WIDTH_INCHES, 5.2, title=title)
    loss, accuracy = figure.subplots(2, 1, sharex=True)
    for index, (name, columns) in enumerate(runs.items()):
        colour = COLOURS[index % len(COLOURS)]
        epochs = [epoch + 1 for epoch in columns["epoch"]]
        marker = "o" if len(epochs) == 1 else None  # a line of one point is invisible
        for axes, quantity, scale in ((loss, "loss", 1.0), (accuracy, "accuracy", 100.0)):
            for part, style, width in (("train", "--", 1.1), ("test", "-", 1.8)):
                axes.plot(
                    epochs,
                    [scale * value for value in columns[f"{part}_{quantity}"]],
                    linestyle=style,
                    linewidth=width,
                    color=colour,
                    marker=marker,
                    label=name if part == "test" else None,
                )
    style_axes(loss, y="loss, nats")
    style_axes(accuracy, x="epochs trained", y="accuracy, %")
    loss.set_yscale("log")
    loss.yaxis.set_major_locator(tickers.LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    loss.yaxis.set_minor_locator(tickers.NullLocator())
    accuracy.xaxis.set_major_locator(tickers.MaxNLocator(integer=True))
    if all(len(columns["epoch"]) == 1 for columns in runs.values()):
        accuracy.margins(x=1)
    _legend_of_curves(accuracy, figure, several_runs=len(runs) > 1)
    return figure


def _legend_of_curves(axes: "Axes", figure: "Figure", *, several_runs: bool) -> None:
    """Names of the runs, if there are several, and what solid and dashed mean, under the panels."""
    lines = require("matplotlib.lines", extra="report")
    handles: list[Any] = list(axes.get_legend_handles_labels()[0]) if several_runs else []
    colour = GREY if several_runs else COLOURS[0]
    handles += [
        lines.Line2D([], [], color=colour, linestyle=style, label=part)
        for part, style in (("test", "-"), ("training", "--"))
    ]
    _legend_below(figure, handles)


def _legend_below(figure: "Figure", handles: Sequence[Any]) -> None:
    """A legend under the panels, in as many columns as its names leave room for.

    The figure grows with its rows, so that the panels do not shrink.
    """
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(3, 66 // (longest + 6)))  # letters that fit side by side
    rows = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.18 * max(0, rows - 2))
    figure.legend(
        handles=handles, fontsize=9, frameon=False, loc="outside lower center", ncols=columns
    )


def against_threshold(
    methods: Mapping[str, Mapping[float, tuple[float, float]]],
    *,
    title: str,
    twins: Mapping[str, float],
) -> "Figure":
    """Accuracy and memory against SpecNet's threshold, a line per method.

    Args:
        methods: Name of a method to {threshold: (accuracy, memory relative to the twin)}.
        title: What was trained.
        twins: Names of the spatial twins (with and without batch norm) to their accuracy, a
            broken line each.

    Raises:
        ValueError: Nothing to draw.
    """
    if not methods or not all(methods.values()):
        raise ValueError(f"methods is {dict(methods)!r}; give at least one point for each method")
    figure = new_figure(WIDTH_INCHES, 5.2, title=title)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for (name, accuracy), style in zip(twins.items(), itertools.cycle(("--", ":", "-."))):
        upper.axhline(100 * accuracy, color=GREY, linestyle=style, linewidth=1.6, label=name)
    for index, (name, points) in enumerate(methods.items()):
        look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
        at = sorted(points)
        upper.plot(at, [100 * points[beta][0] for beta in at], label=name, **look)
        lower.plot(at, [100 * points[beta][1] for beta in at], **look)
    style_axes(upper, y="test accuracy, %")
    style_axes(lower, x="threshold", y="bytes kept, % of the twin's")
    _legend_below(figure, upper.get_legend_handles_labels()[0])
    return figure
