"""Where a model's work is: each layer against the torch layer it stands for."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from passband.measure.layers import ExampleInput, LayerUse, named_layers, observe, undisturbed
from passband.measure.macs import BandLimitedConv
from passband.measure.memory import saved_bytes
from passband.measure.step import profile_step
from passband.measure.table import Column, Kind, Table, format_value
from passband.measure.timing import alternate
from passband.nn.fused_class import fused_settings
from passband.nn.specnet import SpectralConv
from passband.nn.spectral_map import SpectralMap

_COLUMNS = (
    Column("layer", "name"),
    Column("type", heading=None),
    Column("algorithm"),
    Column("reason", heading=None),
    Column("realised_compression", "fraction", "cut"),
    Column("macs", "count", "MACs"),
    Column("native_macs", "count", "native"),
    Column("seconds", "seconds", "time"),
    Column("native_seconds", "seconds", "native"),
    Column("saved_bytes", "bytes", "saved"),
    Column("native_saved_bytes", "bytes", "native"),
)
_SUMS = ("macs", "native_macs", "seconds", "native_seconds", "saved_bytes", "native_saved_bytes")


_STEP: tuple[tuple[str, str, str, Kind], ...] = (
    ("keeps", "saved_bytes", "native_saved_bytes", "bytes"),
    ("peak", "peak_bytes", "native_peak_bytes", "bytes"),
    ("takes", "seconds", "native_seconds", "seconds"),
)


def profile(
    model: nn.Module, example_input: ExampleInput, training: bool = True, repeats: int = 7
) -> Table:
    """Multiply-accumulates, time and saved bytes of every layer, against the original layer.

    The model runs once, in evaluation mode, to see what its convolutions and linear layers are
    given. Then each layer is run on random inputs of the same shapes, band-limited layers in turn
    with their torch convolution (medians, so that the two columns of times can be compared; other
    layers are their own original). The model is left as it was.

    Args:
        model: The model, converted or not.
        example_input: What it is called with: a tensor, positional or keyword arguments.
        training: Time the forward and the backward pass and count what is kept between them;
            otherwise the forward pass in evaluation mode, without gradients.
        repeats: Timed runs of each layer.

    Returns:
        A table with the columns layer, type, algorithm (of a band-limited layer), reason (why it
        is this one; in print a note under the table),
        realised_compression (fraction of the spectrum discarded), macs and native_macs (forward
        pass, without the transform of the filters, which evaluation keeps and training does once
        per batch), seconds and native_seconds, saved_bytes and native_saved_bytes (kept for the
        backward pass by the layer alone; None unless `training`), and with totals. Of a model with
        fused blocks a note gives a whole training step's memory and time, beside those of plain
        torch; `passband.measure.step.profile_step` has them block by block.

    Examples:
        >>> from passband import BandLimitedConv2d
        >>> layer = BandLimitedConv2d(16, 16, 3, padding=1, compression=0.5)
        >>> model = nn.Sequential(layer, nn.ReLU(), nn.Conv2d(16, 4, 1))
        >>> table = profile(model, torch.zeros(8, 16, 32, 32))
        >>> [(row["layer"], row["macs"] < row["native_macs"]) for row in table.rows]
        [('0', True), ('2', False)]
    """
    layers = dict(named_layers(model))
    with undisturbed(model):
        uses = observe(model, example_input, training).layers
        rows = [_row(name, layers[name], use, training, repeats) for name, use in uses.items()]
    totals: dict[str, Any] = dict.fromkeys(column.name for column in _COLUMNS)
    totals["layer"] = "total"
    for name in _SUMS:
        values = [row[name] for row in rows]
        totals[name] = None if None in values else sum(values)
    what = "forward and backward pass" if training else "forward pass in evaluation mode"
    notes: tuple[str, ...] = (
        f"time: {what} of the layer alone; native: the torch layer it stands for. "
        "saved: kept for the backward pass by the layer alone; maps that layers share are counted "
        "by each.",
    )
    notes = notes if training else (notes[0].partition(" saved")[0],)
    if training and fused_settings(model) is not None:
        notes += (_step_note(profile_step(model, example_input, max(1, repeats // 2)).rows[-1]),)
    return Table(_COLUMNS, rows, totals, (*notes, *_choices(rows)))


def _step_note(step: Mapping[str, Any]) -> str:
    """A whole training step in a sentence."""
    parts = [
        f"{word} {format_value(step[name], kind)} (native {format_value(step[other], kind)})"
        for word, name, other, kind in _STEP
    ]
    return f"whole training step, blocks fused: {', '.join(parts)}."


def _choices(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each band-limited layer whose algorithm was chosen."""
    return [
        f"{row['layer']}: {row['algorithm']}, {row['reason']}"
        for row in rows
        if row["reason"] not in (None, "asked for")
    ]


def _row(
    name: str, layer: nn.Module, use: LayerUse, training: bool, repeats: int
) -> dict[str, Any]:
    kinds = [layer]
    if isinstance(layer, (BandLimitedConv, SpectralConv)):
        kinds.append(layer.to_conv())
    device, dtype = _place(layer)
    inputs = [
        torch.randn(x.shape, device=device, dtype=dtype, requires_grad=x.requires_grad)
        for x in use.inputs
    ]
    runs = [partial(_step if training else _infer, kind, inputs) for kind in kinds]
    for kind in kinds:
        kind.train(training)
    seconds = alternate(runs, repeats, device=device)
    saved = [saved_bytes(partial(_forward, k, inputs), k) for k in kinds] if training else []
    return {
        "layer": name or "(model)",
        "type": type(layer).__name__,
        "algorithm": use.algorithm,
        "reason": use.reason,
        "realised_compression": use.realised_compression,
        "macs": use.macs,
        "native_macs": use.native_macs,
        "seconds": seconds[0],
        "native_seconds": seconds[-1],
        "saved_bytes": saved[0] if saved else None,
        "native_saved_bytes": saved[-1] if saved else None,
    }


def _place(layer: nn.Module) -> tuple[torch.device, torch.dtype]:
    weight = next(layer.parameters())
    return weight.device, weight.dtype


def _forward(layer: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    """The layer's own computation, without the hooks a user has put on it."""
    forward: Callable[[Tensor], Tensor | SpectralMap] = layer.forward
    outputs = (forward(x) for x in inputs)
    return [y.to_map() if isinstance(y, SpectralMap) else y for y in outputs]


def _infer(layer: nn.Module, inputs: list[Tensor]) -> None:
    with torch.no_grad():
        _forward(layer, inputs)


def _step(layer: nn.Module, inputs: list[Tensor]) -> None:
    """Forward and backward pass; the gradients of the parameters are left alone."""
    leaves = [leaf for leaf in (*inputs, *layer.parameters()) if leaf.requires_grad]
    with torch.enable_grad():
        outputs = _forward(layer, inputs)
        if leaves:
            torch.autograd.grad(outputs, leaves, [torch.ones_like(y) for y in outputs])
