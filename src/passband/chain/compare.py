"""An exported file beside PyTorch: the same numbers, how many multiplications, how much time."""

import copy
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from passband.chain.engines import Run, eager, native, onnx_runtime
from passband.measure.layers import observe
from passband.measure.table import Column, Table
from passband.measure.timing import alternate

_COLUMNS = (
    Column("network"),
    Column("engine"),
    Column("batch", "number"),
    Column("macs", "count", "MACs"),
    Column("seconds", "seconds", "time"),
    Column("times_less", "number", "times less"),
    Column("difference", heading="difference"),
    Column("bytes", "bytes", "file"),
)

# Rounding in float32 makes 1e-5 through a hundred layers, another network about 1.
_AGREEMENT = 1e-3


def model_macs(model: nn.Module, maps: Tensor) -> int:
    """Multiply-accumulates of a forward pass."""
    return sum(use.macs for use in observe(model, maps).layers.values())


def compare(
    dense: nn.Module,
    small: nn.Module,
    example_input: Tensor,
    file: str | Path,
    batches: tuple[int, ...] = (1, 128),
    repeats: int = 20,
) -> Table:
    """Time of a chain in PyTorch, in ONNX Runtime and in this package's engine, and of the dense.

    Args:
        dense: The network before it was converted.
        small: The chain.
        example_input: A map (B, C, ..).
        file: The chain as ONNX.
        batches: Numbers of images at once.
        repeats: Rounds; the times are medians.

    Returns:
        A table: for each batch the time of each, how many times less it is than the dense
        network's in the faster of PyTorch and ONNX Runtime, and the relative norm of the difference
        from the chain's output in PyTorch, infinite where the shapes differ.

    Raises:
        ValueError: A batch is empty, or ONNX Runtime cannot read the file.
        ImportError: onnxruntime is missing; the message names the extra.
    """
    if min(batches) < 1:
        raise ValueError(f"batches are {batches}; allowed are 1 and more images at once")
    rows: list[dict[str, Any]] = []
    notes = []
    for batch in batches:
        maps = example_input[:1].repeat(batch, *[1] * (example_input.dim() - 1)).contiguous()
        maps = maps + torch.randn(maps.shape, generator=torch.Generator().manual_seed(0))
        runs: dict[tuple[str, str], Run] = {
            ("dense", "PyTorch"): eager(copy.deepcopy(dense).eval(), maps),
            ("dense", "ONNX Runtime"): onnx_runtime(copy.deepcopy(dense).eval(), maps),
            ("chain", "PyTorch"): eager(small, maps),
            ("chain", "ONNX Runtime"): onnx_runtime(small, maps, file),
        }
        try:
            runs["chain", "passband"] = native(small, maps)
        except RuntimeError as error:
            note = f"passband's engine does not run this chain: {error}."
            notes += [note] if note not in notes else []
        times = dict(zip(runs, alternate(list(runs.values()), repeats, warm_up=3), strict=True))
        wanted = runs["chain", "PyTorch"]().double()
        best = min(seconds for (network, _), seconds in times.items() if network == "dense")
        macs = {"dense": model_macs(dense, maps), "chain": model_macs(small, maps)}
        for (network, engine), seconds in times.items():
            found = runs[network, engine]().double()
            difference = _difference(found, wanted)
            is_file = (network, engine) == ("chain", "ONNX Runtime")
            rows.append(
                {
                    "network": network,
                    "engine": engine,
                    "batch": batch,
                    "macs": macs[network],
                    "seconds": seconds,
                    "times_less": round(best / seconds, 1),
                    "difference": f"{difference:.0e}" if network == "chain" else "-",
                    "bytes": Path(file).stat().st_size if is_file else None,
                }
            )
    notes.append(
        f"Median of {repeats} on {torch.get_num_threads()} threads. times less: than the dense "
        "network's in its faster engine at that batch. difference: relative, from PyTorch's."
    )
    return Table(_COLUMNS, rows, None, notes)


def disagreement(table: Table) -> str | None:
    """Which engine gives other numbers for the chain than PyTorch, more than rounding would.

    Args:
        table: What `compare` returned.
    """
    for row in table.rows:
        if row["network"] == "chain" and not float(row["difference"]) <= _AGREEMENT:
            return (
                f"the chain's output in {row['engine']} differs by {row['difference']} from "
                f"PyTorch's; rounding makes less than {_AGREEMENT:.0e}"
            )
    return None


def _difference(found: Tensor, wanted: Tensor) -> float:
    if found.shape != wanted.shape:
        return math.inf
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))
