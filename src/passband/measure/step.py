"""A whole training step: what it keeps, its peak, its time, against the network in plain torch."""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from passband.measure.layers import ExampleInput, call_model
from passband.measure.memory import SavedBytes, peak_bytes
from passband.measure.table import Column, Table
from passband.measure.timing import alternate
from passband.nn.fused_class import fused_blocks, make_plain

_COLUMNS = (
    Column("part", "name"),
    Column("kind"),
    Column("saved_bytes", "bytes", "saved"),
    Column("native_saved_bytes", "bytes", "native"),
    Column("peak_bytes", "bytes", "peak"),
    Column("native_peak_bytes", "bytes", "native"),
    Column("seconds", "seconds", "time"),
    Column("native_seconds", "seconds", "native"),
)


def profile_step(model: nn.Module, example_input: ExampleInput, repeats: int = 3) -> Table:
    """Memory and time of a training step of a model and of the same network in plain torch.

    The step is a forward pass in training mode and a backward pass from the mean square of what
    comes out; gradients are new in each. It is run on copies: the model is left as it was.

    Args:
        model: The model, converted or not.
        example_input: What it is called with: a tensor, positional or keyword arguments.
        repeats: Timed steps of each.

    Returns:
        A row for each block that is fused (what its modules keep for the backward pass together)
        and a last one, "step", for the whole: saved_bytes (kept for the backward pass, each storage
        counted once), peak_bytes (most bytes of tensors at once, above what was there before, by
        every allocation), seconds; `native_` columns are those of plain torch.

    Examples:
        >>> from passband import BandLimitedConv2d
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        >>> table = profile_step(model, torch.randn(4, 3, 16, 16), repeats=1)
        >>> [(row["part"], row["saved_bytes"] == row["native_saved_bytes"]) for row in table.rows]
        [('step', True)]
    """
    own = copy.deepcopy(model).train()
    plain = copy.deepcopy(own)
    make_plain(plain)
    probes = []
    for network in (own, plain):
        with SavedBytes(network) as saved:
            _output(network, example_input)
        probes.append(saved)
    rows: list[dict[str, Any]] = [
        {
            **dict.fromkeys(column.name for column in _COLUMNS),
            "part": block.conv,
            "kind": block.kind,
            "saved_bytes": probes[0].of(block.modules),
            "native_saved_bytes": probes[1].of(block.modules),
        }
        for block in fused_blocks(own)
    ]
    steps = [partial(training_step, network, example_input) for network in (own, plain)]
    device = next(model.parameters()).device
    peaks = [peak_bytes(step, device) for step in steps]
    seconds = alternate(steps, repeats, device=device)
    rows.append(
        {
            "part": "step",
            "kind": "forward and backward pass",
            "saved_bytes": probes[0].total,
            "native_saved_bytes": probes[1].total,
            "peak_bytes": peaks[0],
            "native_peak_bytes": peaks[1],
            "seconds": seconds[0],
            "native_seconds": seconds[1],
        }
    )
    notes = (
        "saved: kept for the backward pass; maps that blocks share are counted by each, and once "
        "in the step's. peak: most bytes allocated at once in a step, gradients of the weights "
        "included. native: the same network of torch's layers alone.",
    )
    return Table(_COLUMNS, rows, None, notes)


def training_step(model: nn.Module, example_input: ExampleInput) -> None:
    """A forward and a backward pass; gradients of earlier steps are dropped first."""
    model.zero_grad(set_to_none=True)
    output = _output(model, example_input)
    output.float().square().mean().backward()  # type: ignore[no-untyped-call]


def _output(model: nn.Module, example_input: ExampleInput) -> Tensor:
    with torch.enable_grad():
        output = call_model(model, example_input)
    while not isinstance(output, Tensor):  # auxiliary outputs are left out
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output
