"""The figures hold the data they are given, in the units that their labels say."""

import subprocess
import sys

import numpy as np
import pytest

from passband.report.figures import (
    accuracy_against_compression,
    against_threshold,
    learning_curves,
    new_figure,
)
from passband.report.formats import png

CURVES = {
    "epoch": [0.0, 1.0, 2.0],
    "train_loss": [2.0, 1.0, 0.5],
    "test_loss": [2.1, 1.2, 0.9],
    "train_accuracy": [0.3, 0.6, 0.9],
    "test_accuracy": [0.2, 0.5, 0.7],
}


def test_accuracy_is_the_mean_over_seeds_in_percent() -> None:
    points = {0.5: [0.9, 0.8], 0.0: [0.95, 0.93]}
    (axes,) = accuracy_against_compression({"band-limited": points}, title="t").axes
    line = axes.containers[0][0]
    assert list(line.get_xdata()) == pytest.approx([0, 50])  # sorted
    assert list(line.get_ydata()) == pytest.approx([94, 85])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("spectrum discarded, %", "test accuracy, %")


def test_error_bars_reach_from_the_worst_to_the_best_seed() -> None:
    points = {0.5: [0.9, 0.7, 0.86]}
    (axes,) = accuracy_against_compression({"band-limited": points}, title="t").axes
    (bars,) = axes.containers[0][2]
    np.testing.assert_allclose(bars.get_segments(), [[[50, 70], [50, 90]]])


def test_one_seed_has_no_error_bar() -> None:
    (axes,) = accuracy_against_compression({"a": {0.0: [0.5]}}, title="t").axes
    assert not axes.containers[0].has_yerr


def test_reference_is_a_dashed_line_at_its_mean() -> None:
    figure = accuracy_against_compression(
        {"a": {0.0: [0.5]}}, title="t", reference={"torch.nn": [0.9, 0.8]}
    )
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "torch.nn"]
    np.testing.assert_allclose(line.get_ydata(), 85)
    assert line.get_linestyle() == "--"


def test_methods_differ_in_colour_and_marker() -> None:
    methods = {name: {0.0: [0.5], 0.5: [0.4]} for name in "abc"}
    (axes,) = accuracy_against_compression(methods, title="t").axes
    lines = [container[0] for container in axes.containers]
    assert len({line.get_color() for line in lines}) == 3
    assert len({line.get_marker() for line in lines}) == 3
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "c"]


@pytest.mark.parametrize("methods", [{}, {"a": {}}])
def test_nothing_to_draw_is_an_error(methods: dict[str, dict[float, list[float]]]) -> None:
    with pytest.raises(ValueError, match="at least one point for each method"):
        accuracy_against_compression(methods, title="t")


def test_learning_curves_of_one_run() -> None:
    figure = learning_curves({"run": CURVES}, title="a title")
    loss, accuracy = figure.axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[2.0, 1.0, 0.5], [2.1, 1.2, 0.9]]
    assert [line.get_linestyle() for line in loss.lines] == ["--", "-"]
    assert list(loss.lines[0].get_xdata()) == [1, 2, 3]
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [20, 50, 70])
    assert figure.get_suptitle() == "a title"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["test", "training"]


def test_learning_curves_of_several_runs_name_them_once() -> None:
    figure = learning_curves({"a": CURVES, "b": CURVES}, title="t")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["a", "b", "test", "training"]


def test_a_single_epoch_is_visible() -> None:
    one = {name: values[:1] for name, values in CURVES.items()}
    loss, _ = learning_curves({"run": one}, title="t").axes
    assert all(line.get_marker() == "o" for line in loss.lines)


def test_learning_curves_of_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match="runs is empty"):
        learning_curves({}, title="t")


def test_accuracy_and_memory_against_the_threshold_beside_both_twins() -> None:
    methods = {"a": {1.0: (0.6, 0.1), 0.0: (0.7, 0.4)}}
    figure = against_threshold(methods, title="t", twins={"twin": 0.5, "twin, batch norm": 0.8})
    upper, lower = figure.axes
    plain, normalised, own = upper.lines
    assert list(own.get_xdata()) == [0, 1]  # sorted
    np.testing.assert_allclose(own.get_ydata(), [70, 60])
    np.testing.assert_allclose(lower.lines[0].get_ydata(), [40, 10])
    np.testing.assert_allclose([plain.get_ydata()[0], normalised.get_ydata()[0]], [50, 80])
    assert plain.get_linestyle() != normalised.get_linestyle()


def test_legends_of_long_names_stay_within_the_figure() -> None:
    curves = {f"a name of {i} that is as long as names of methods become": CURVES for i in range(5)}
    figure = learning_curves(curves, title="t")
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


def test_long_titles_are_broken() -> None:
    figure = new_figure(4, 2, title="word " * 20)
    assert "\n" in figure.get_suptitle()


def test_png_is_the_same_every_time() -> None:
    first, second = (png(learning_curves({"run": CURVES}, title="t")) for _ in range(2))
    assert first.startswith(b"\x89PNG")
    assert first == second


def test_drawing_leaves_pyplot_and_the_settings_alone() -> None:
    script = (
        "import sys, matplotlib; before = dict(matplotlib.rcParams)\n"
        "from passband.report.figures import accuracy_against_compression\n"
        "from passband.report.formats import png\n"
        "png(accuracy_against_compression({'a': {0.0: [0.5]}}, title='t'))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert dict(matplotlib.rcParams) == before\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=120)
