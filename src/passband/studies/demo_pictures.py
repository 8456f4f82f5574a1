"""The demo's pictures: what the bands of the trained networks do to a real input and to filters."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from passband.measure.macs import BandLimitedConv
from passband.measure.table import format_value
from passband.report import Picture
from passband.report.figures import accuracy_against_compression, learning_curves
from passband.report.run_report import read_metrics
from passband.report.spectra import filters, series, spectrum_of_map
from passband.spectrum.band import Band
from passband.train import load_run
from passband.train.run_folder import RunFolder

EXAMPLE = 3  # of the test data; any would do
FILTERS = 4


def accuracy_picture(
    case: str,
    title: str,
    reference: Mapping[str, Sequence[float]],
    methods: Mapping[str, Mapping[float, Sequence[float]]],
    test_examples: int,
) -> Picture:
    """Test accuracy against what was discarded, and how to read it."""
    caption = (
        "Test accuracy against the fraction discarded: of the band-limited layers' spectra, or of "
        "the input's points. Bars reach from the worst to the best seed; dots are the seeds. One "
        f"test example of {test_examples} is {100 / test_examples:.1f} points."
    )
    figure = accuracy_against_compression(
        methods, title=f"{title}: accuracy against compression", reference=reference
    )
    return Picture(f"{case}-accuracy", figure, caption)


def learning_picture(case: str, title: str, runs: Mapping[str, Path]) -> Picture:
    """Learning curves of one run of each kind."""
    curves = {label: read_metrics(RunFolder(path).metrics) for label, path in runs.items()}
    caption = (
        "Loss and accuracy after each epoch of the first seed, on test data (solid) and training "
        "data (dashed). Where a curve is not seen, it lies under one that is drawn after it."
    )
    figure = learning_curves(curves, title=f"{title}: learning curves")
    return Picture(f"{case}-learning", figure, caption)


def band_pictures(case: str, runs: Mapping[str, Path]) -> list[Picture]:
    """What enters the first layer, and the filters of the second, before and after their bands.

    Args:
        case: What the files' names begin with.
        runs: What is asked for, in words, to the folder of a network trained with it.
    """
    models = {}
    for label, path in runs.items():
        models[label], _, bundle = load_run(path)
    inputs = bundle.test[EXAMPLE][0].unsqueeze(0)
    bands = {}
    for label, model in models.items():
        layer = _band_limited_layers(model)[0]
        entering = _entering(model, layer, inputs)
        band = layer.geometry(entering.shape[2:]).band
        bands[_in_words(label, band)] = band
    if entering.ndim == 3:
        return [_series_picture(case, entering[0, 0], bands)]
    return [_map_picture(case, entering[0, 0], bands), _filter_picture(case, models, inputs)]


def _map_picture(case: str, entering: Tensor, bands: Mapping[str, Band]) -> Picture:
    figure = spectrum_of_map(
        entering, bands, title="A test image entering the first layer, two bands"
    )
    caption = (
        f"Top: the {'x'.join(map(str, entering.shape))} map, and its spectrum on the layer's "
        "padded grid, frequency zero in the middle, bright is strong; an outline encloses what is "
        "kept. "
        "Bottom: what the layer sees of the map, framed in the outline's colour."
    )
    return Picture(f"{case}-map", figure, caption)


def _series_picture(case: str, entering: Tensor, bands: Mapping[str, Band]) -> Picture:
    figure = series(entering, bands, title="A test series entering the first layer, two bands")
    caption = (
        "Top: the series, with the layer's zero padding at both ends, and what the layer sees of "
        "it. Bottom: its spectrum."
    )
    return Picture(f"{case}-series", figure, caption)


def _filter_picture(case: str, models: Mapping[str, nn.Module], inputs: Tensor) -> Picture:
    """The strongest filters of the second layer of the first network."""
    label, model = next(iter(models.items()))
    layer = _band_limited_layers(model)[1]
    band = layer.geometry(_entering(model, layer, inputs).shape[2:]).band
    every = layer.weight.detach().flatten(0, 1)
    strongest = every[every.flatten(1).norm(dim=1).topk(FILTERS).indices]
    figure = filters(
        strongest,
        band,
        label=label,
        title=f"Trained filters at {_in_words(label, band)}",
    )
    caption = (
        f"The {FILTERS} largest {'x'.join(map(str, every.shape[1:]))} filters of the second layer, "
        "on its padded grid (red positive, blue negative), and their spectra, frequency zero in "
        "the middle. Without the frequencies outside the outline a filter keeps part of its "
        "energy, as stated, and spreads over the grid."
    )
    return Picture(f"{case}-filters", figure, caption)


def _band_limited_layers(model: nn.Module) -> list[BandLimitedConv]:
    return [module for module in model.modules() if isinstance(module, BandLimitedConv)]


def _entering(model: nn.Module, layer: nn.Module, inputs: Tensor) -> Tensor:
    """What a layer is given when the model runs on these inputs."""
    given: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    with torch.no_grad():
        model(inputs)
    handle.remove()
    return given[0]


def _in_words(label: str, band: Band) -> str:
    return f"{label}: {format_value(band.realised_compression, 'fraction')} discarded"
