"""What a conversion did, layer by layer."""

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from passband.config import Config
from passband.measure.table import Column, Table, format_value

_COLUMNS = (
    Column("layer", "name"),
    Column("type", heading=None),
    Column("kernel"),
    Column("result"),
    Column("reason", heading=None),
    Column("algorithm", heading=None),
    Column("realised_compression", "fraction", "cut"),
    Column("macs_before", "count", "MACs"),
    Column("macs_after", "count", "after"),
    Column("saved_bytes_before", "bytes", "saved"),
    Column("saved_bytes_after", "bytes", "after"),
)
_BLOCK = (
    Column("block", "name"),
    Column("kind"),
    Column("result"),
    Column("reason", heading=None),
    Column("saved_bytes_before", "bytes", "saved"),
    Column("saved_bytes_after", "bytes", "after"),
)
_SUMS = ("macs_before", "macs_after", "saved_bytes_before", "saved_bytes_after")


@dataclass(frozen=True)
class ReportedLayer:
    """What was done to one layer."""

    layer: str
    """Its name in the model; "(model)" for the model itself."""
    type: str
    """Its class before the conversion."""
    result: str
    """"converted", or what else became of it."""
    reason: str = ""
    """Why it was not, in a sentence; empty for a converted layer."""

    @property
    def converted(self) -> bool:
        """Whether the layer is converted now."""
        return self.result.startswith("converted")


@dataclass(frozen=True)
class ConversionReport(ABC):
    """What `passband.convert` did: printed, a table; `rows`, its rows as dictionaries."""

    config: Config
    layers: tuple[ReportedLayer, ...]
    """The layers of the model that the method is for, converted or not."""

    @property
    def converted(self) -> tuple[str, ...]:
        """Names of the converted layers."""
        return tuple(layer.layer for layer in self.layers if layer.converted)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dictionary per layer, with the fields of its class."""
        return [asdict(layer) for layer in self.layers]

    @property
    @abstractmethod
    def table(self) -> Table:
        """The report as a table with totals."""

    def __str__(self) -> str:
        return str(self.table)

    def to_csv(self, path: str | Path | None = None) -> str:
        """The rows as CSV, written to `path` when one is given."""
        return self.table.to_csv(path)


@dataclass(frozen=True)
class LayerReport(ReportedLayer):
    """What was done to a convolution ("converted", or "left: " and a word), and what came of it."""

    kernel: str = ""
    """Taps of its filter, "3x3"."""
    algorithm: str | None = None
    """What runs for example_input: "lowpass", "matmul", "triton" or "fft"; None without."""
    realised_compression: float | None = None
    """Fraction of the spectrum discarded for example_input; None without."""
    macs_before: int | None = None
    """Multiply-accumulates of a forward pass on example_input."""
    macs_after: int | None = None
    saved_bytes_before: int | None = None
    """Bytes that the layer alone keeps for the backward pass."""
    saved_bytes_after: int | None = None


@dataclass(frozen=True)
class BlockReport:
    """What was done to modules that keep maps besides the convolutions."""

    block: str
    """Name of its convolution in the model, or of the module that was left."""
    kind: str
    """Its parts, "conv-bn-relu", or the class of the module that was left."""
    result: str
    """"fused" or "left"."""
    reason: str
    """Why it was left; empty where it was fused."""
    saved_bytes_before: int | None = None
    """Bytes that its modules together keep for the backward pass; None without example_input."""
    saved_bytes_after: int | None = None


@dataclass(frozen=True)
class Report(ConversionReport):
    """What became of every convolution of a model, and what it costs.

    Multiply-accumulates leave out the transform of the filters, which evaluation keeps from call to
    call and training does once per batch. Saved bytes are what a layer alone keeps for the backward
    pass; maps that layers share are counted by each, and once in those of the whole model.
    """

    layers: tuple[LayerReport, ...]
    """Every convolution of the model, converted or not."""
    saved_bytes_before: int | None = None
    """Kept for the backward pass by the whole model; None without example_input."""
    saved_bytes_after: int | None = None
    blocks: tuple[BlockReport, ...] = ()
    """With memory="exact", every block that was fused, and what was left single and why."""

    @property
    def table(self) -> Table:
        """The convolutions as a table with totals."""
        if self.saved_bytes_before is None:  # no example_input: nothing was counted
            counted = ("realised_compression", *_SUMS)
            columns = [replace(c, heading=None) if c.name in counted else c for c in _COLUMNS]
            return Table(columns, self.rows, None, self._notes())
        totals: dict[str, Any] = dict.fromkeys(column.name for column in _COLUMNS)
        totals["layer"] = "total"
        for name in _SUMS:
            totals[name] = sum(row[name] for row in self.rows if row[name] is not None)
        return Table(_COLUMNS, self.rows, totals, self._notes())

    @property
    def block_table(self) -> Table:
        """The blocks as a table."""
        rows = [{**asdict(block), "result": _result(block)} for block in self.blocks]
        counted = self.saved_bytes_before is not None
        columns = [c if counted or c.kind != "bytes" else replace(c, heading=None) for c in _BLOCK]
        fused = sum(block.result == "fused" for block in self.blocks)
        notes = [
            f"{fused} blocks run as one operation each. saved: kept for the backward pass by a "
            "block's modules together; maps that blocks share are counted by each."
        ]
        left = Counter((b.kind, b.reason) for b in self.blocks if b.reason)
        notes += [f"left ({count} {kind}): {reason}." for (kind, reason), count in left.items()]
        return Table(columns, rows, None, notes)

    def __str__(self) -> str:
        return f"{self.table}\n\n{self.block_table}" if self.blocks else str(self.table)

    def _notes(self) -> list[str]:
        done = f"{len(self.converted)} of {len(self.layers)} convolutions"
        notes = [f"Converted {done} by {_given(self.config)}."]
        if not self.converted:
            notes = [f"Nothing was converted: none of {len(self.layers)} convolutions."]
        left = Counter((row.result, row.reason) for row in self.layers if not row.converted)
        notes += [f"{result} ({count}): {reason}." for (result, reason), count in left.items()]
        if any(row.algorithm == "lowpass" for row in self.layers):
            notes.append(
                "lowpass: torch's convolution of the low-passed map, which keeps less for the "
                "backward pass and multiplies a little more; chosen where it is expected faster."
            )
        if self.saved_bytes_before is not None and self.saved_bytes_after is not None:
            notes.append(
                "MACs of a forward pass, filters transformed before. saved: kept for the backward "
                "pass by the layer alone. The whole model, in which layers keep maps in common, "
                f"kept {format_value(self.saved_bytes_before, 'bytes')} and now keeps "
                f"{format_value(self.saved_bytes_after, 'bytes')}."
            )
        if (self.saved_bytes_after or 0) > (self.saved_bytes_before or 0):
            notes.append(
                "It keeps more because other layers (batch norm, ReLU) keep the maps that a "
                "band-limited layer no longer needs, and its spectrum comes on top."
            )
        return notes


def _result(block: BlockReport) -> str:
    return f"left: {block.reason}" if block.reason else block.result


def _given(config: Config) -> str:
    """The config as one would write it, without the fields at their defaults."""
    given = [
        f"{field.name}={getattr(config, field.name)!r}"
        for field in fields(config)
        if getattr(config, field.name) != field.default
    ]
    return f"{type(config).__name__}({', '.join(given)})"
