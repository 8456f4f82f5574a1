"""`convert` and `revert`: one verb for every method."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from passband.config import Config
from passband.convert.handler import (
    Block,
    ModelHandler,
    Reason,
    handler_for,
    handlers,
    maker_of,
    model_handlers,
)
from passband.convert.report import BlockReport, LayerReport, Report
from passband.measure.layers import ExampleInput, LayerUse, ModelUse, observe

FILTERED = Reason("filter_fn", "filter_fn returned False")
NOT_RUN = Reason("not run", "it did not run on example_input, so its shapes are not known")


def convert(
    model: nn.Module,
    config: Config,
    example_input: ExampleInput | None = None,
    filter_fn: Callable[[str, nn.Module], bool] | None = None,
) -> Any:
    """Convert the layers of a model in place, and say what was done.

    Layers stay the same objects, with their parameters (an optimizer made before goes on working),
    hooks, mode, device and type; a layer used at two places stays shared; the model may be a
    single layer. Only layers of exactly torch's types are converted. A layer that is converted
    already is configured anew. `revert` undoes it.

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
    if isinstance(handler, ModelHandler):
        return handler.convert_model(model, example_input, filter_fn)
    before = observe(model, example_input) if example_input is not None else None
    handler.examine(model)
    reasons: dict[str, Reason | None] = {}
    types = {name: type(layer).__name__ for name, layer in _convolutions(model)}
    for name, layer in _convolutions(model):
        use = before.layers.get(name) if before is not None else None
        reason = handler.refusal(layer, use)
        if reason is None and filter_fn is not None:
            reason = None if filter_fn(name, layer) else FILTERED
        elif reason is None and before is not None and use is None:
            reason = NOT_RUN
        elif reason is None:
            reason = handler.objection(layer, use)
        reasons[name] = reason
    chosen = [layer for name, layer in _convolutions(model) if reasons[name] is None]
    handler.convert_layers(model, chosen)
    made = handler.finish(model)
    after = observe(model, example_input) if example_input is not None else None
    rows = tuple(
        _row(name, layer, types[name], reasons[name], before, after)
        for name, layer in _convolutions(model)
    )
    blocks = tuple(_block(block, before, after) for block in made)
    if before is None or after is None:
        return Report(config, rows, blocks=blocks)
    return Report(config, rows, before.saved_bytes, after.saved_bytes, blocks)


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
    for whole in model_handlers():
        if whole.converts(model):
            whole.revert_model(model)
    for made_by in handlers():
        made_by.restore(model)
    for layer in model.modules():
        maker = maker_of(layer)
        if maker is not None:
            maker.revert(layer)


def _convolutions(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return (
        (name, m) for name, m in model.named_modules() if isinstance(m, nn.modules.conv._ConvNd)
    )


def _row(
    name: str,
    layer: nn.Module,
    type_name: str,
    reason: Reason | None,
    before: ModelUse | None,
    after: ModelUse | None,
) -> LayerReport:
    old = before.layers.get(name) if before is not None else None
    new = after.layers.get(name) if after is not None else None
    return LayerReport(
        layer=name or "(model)",
        type=type_name,
        kernel="x".join(str(k) for k in getattr(layer, "kernel_size", ())),
        result=f"left: {reason.short}" if reason is not None else _converted(new),
        reason=reason.explanation if reason is not None else "",
        algorithm=new.algorithm if new is not None else None,
        realised_compression=new.realised_compression if new is not None else None,
        macs_before=old.macs if old is not None else None,
        macs_after=new.macs if new is not None else None,
        saved_bytes_before=old.saved_bytes if old is not None else None,
        saved_bytes_after=new.saved_bytes if new is not None else None,
    )


def _block(block: Block, before: ModelUse | None, after: ModelUse | None) -> BlockReport:
    return BlockReport(
        block=block.name,
        kind=block.kind,
        result="left" if block.reason else "fused",
        reason=block.reason,
        saved_bytes_before=None if before is None else before.saved.of(block.modules),
        saved_bytes_after=None if after is None else after.saved.of(block.modules),
    )


def _converted(use: LayerUse | None) -> str:
    return f"converted: {use.algorithm}" if use is not None and use.algorithm else "converted"
