"""What a conversion to frequency regularization did, layer by layer."""

from dataclasses import dataclass
from typing import Any

from passband.config import FrequencyRegularization
from passband.convert.report import ConversionReport, ReportedLayer
from passband.measure.table import Column, Table, format_value

_COLUMNS = (
    Column("layer", "name"),
    Column("type", heading=None),
    Column("result"),
    Column("reason", heading=None),
    Column("inputs"),
    Column("outputs"),
    Column("coefficients", "count", "coeffs"),
    Column("kept", "count"),
    Column("macs_before", "count", "MACs"),
    Column("macs_after", "count", "after"),
)
_SUMS = ("coefficients", "kept", "macs_before", "macs_after")


@dataclass(frozen=True)
class FrequencyLayerReport(ReportedLayer):
    """What was done to one layer, and what comes of it when the network has shrunk.

    The result of an operation without a dual is how it acts on coefficients, and the reason what
    that means.
    """

    inputs: str = ""
    """Channels that it reads in the end, of all: "5 of 64"."""
    outputs: str = ""
    """Channels that it gives in the end, of all."""
    coefficients: int | None = None
    """Coefficients of its weights."""
    kept: int | None = None
    """Those that are kept in the end."""
    macs_before: int | None = None
    """Multiply-accumulates for one example."""
    macs_after: int | None = None
    """Those of the network when it has shrunk; a chain leaves out besides what no layer reads."""


@dataclass(frozen=True)
class FrequencyReport(ConversionReport):
    """What became of a model's weights and operations, and what is left when they have shrunk."""

    config: FrequencyRegularization
    layers: tuple[FrequencyLayerReport, ...]

    @property
    def macs_ratio(self) -> float:
        """Multiply-accumulates before, over those when the network has shrunk."""
        before, after = (self._total(name) for name in ("macs_before", "macs_after"))
        return before / max(after, 1)

    @property
    def table(self) -> Table:
        """The layers as a table with totals."""
        totals: dict[str, Any] = dict.fromkeys(column.name for column in _COLUMNS)
        totals["layer"] = "total"
        totals |= {name: self._total(name) for name in _SUMS}
        return Table(_COLUMNS, self.rows, totals, self._notes())

    def _total(self, name: str) -> int:
        return sum(row[name] for row in self.rows if row[name] is not None)

    def _notes(self) -> list[str]:
        config = self.config
        coefficients, kept = self._total("coefficients"), self._total("kept")
        notes = [
            f"Converted {len(self.converted)} layers; they shrink to {format_value(kept, 'count')} "
            f"of {format_value(coefficients, 'count')} coefficients in {config.total_steps} steps "
            f"of training. Widths and MACs are those after that, for one example."
        ]
        if config.domain == "channel":
            notes.append(
                f"MACs fall {self.macs_ratio:.1f} times. The maps are channel coefficients: batch "
                "norm and activations act on those, which is another network than before, to be "
                "trained as it is."
            )
        else:
            notes.append("The maps are what they were: files get small, MACs stay.")
        special = {(row.type, row.result, row.reason) for row in self.layers if row.reason}
        notes += [f"{kind}, {result}: {reason}." for kind, result, reason in sorted(special)]
        return notes
