"""`convert` and `revert`: one verb for every method."""

from collections.abc import Callable
from typing import overload

from torch import nn

from passband.config import BandLimit, Config, FrequencyRegularization, SpecNet
from passband.convert.frequency.report import FrequencyReport
from passband.convert.handler import Filter, all_or_nothing, handler_for, handlers
from passband.convert.report import ConversionReport, Report
from passband.measure.layers import ExampleInput


@overload
def convert(
    model: nn.Module,
    config: BandLimit | SpecNet,
    example_input: ExampleInput | None = None,
    filter_fn: Filter | None = None,
) -> Report: ...


@overload
def convert(
    model: nn.Module,
    config: FrequencyRegularization,
    example_input: ExampleInput | None = None,
    filter_fn: Filter | None = None,
) -> FrequencyReport: ...


@overload
def convert(
    model: nn.Module,
    config: Config,
    example_input: ExampleInput | None = None,
    filter_fn: Filter | None = None,
) -> ConversionReport: ...


def convert(
    model: nn.Module,
    config: Config,
    example_input: ExampleInput | None = None,
    filter_fn: Callable[[str, nn.Module], bool] | None = None,
) -> ConversionReport:
    """Convert the layers of a model in place, and say what was done.

    Layers stay the same objects, with their parameters (an optimizer made before goes on working),
    hooks, mode, device and type; a layer used at two places stays shared; the model may be a
    single layer. Only layers of exactly torch's types are converted. A layer that is converted
    already is configured anew. `revert` undoes it. A conversion that fails leaves the model as it
    was.

    `SpecNet` takes a whole model, as torch.fx traces it. Layers that become part of a convolution,
    its activation and pooling, are passed by, and so are their hooks. Where batch norm is removed,
    a convolution without a bias gets one, which an optimizer made before does not know.

    Which layers: without `filter_fn`, those that it helps. With `example_input` the fewest
    multiplications of any algorithm at the actual shapes must be less than the layer's own;
    without, it must have enough input channels (`passband.convert.band_limit.LEAST_GAIN`). Kernels
    of one point and depthwise layers are left. With `filter_fn`, it alone decides among the layers
    that can be converted at all.

    `FrequencyRegularization` converts the whole model, as torch.fx traces it, and needs
    `example_input`; see `passband.convert.frequency`.

    Args:
        model: The model, converted in place.
        config: What to do, for example ``BandLimit(compression=0.5)``.
        example_input: What the model is called with (a tensor, positional or keyword arguments), of
            the sizes it will run at. The model is run on it, in evaluation mode and undisturbed,
            before and after; without it the report has no multiplications and no bytes.
        filter_fn: Called with the name and the layer; True converts the layer.

    Returns:
        A report with a line for every convolution: converted, or left and why. It prints as a
        table (`Report`, or `FrequencyReport`).

    Raises:
        TypeError: There is no such method.
        ValueError: Its algorithm is unknown or cannot run here.

    Examples:
        >>> import torch
        >>> from passband import BandLimit
        >>> model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1))
        >>> report = convert(model, BandLimit(compression=0.5), torch.zeros(8, 3, 32, 32))
        >>> [(row["layer"], row["result"]) for row in report.rows]
        [('0', 'left: no gain'), ('1', 'converted: ...')]
        >>> type(model[1]).__name__
        'BandLimitedConv2d'
    """
    handler = handler_for(config)
    with all_or_nothing(model, handler):
        return handler.convert_model(model, example_input, filter_fn)


def revert(model: nn.Module) -> None:
    """Make every converted layer the torch layer again that it was, with the trained weights.

    Layers stay the same objects, as in `convert`. A model without converted layers is left alone.

    Examples:
        >>> from passband import BandLimitedConv2d
        >>> model = nn.Sequential(BandLimitedConv2d(8, 8, 3, compression=0.5))
        >>> revert(model)
        >>> type(model[0])
        <class 'torch.nn.modules.conv.Conv2d'>
    """
    for handler in handlers():
        handler.revert_model(model)
