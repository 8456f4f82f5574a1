"""Cut networks in every engine, against the dense network in its best one.

    python benchmarks/engines.py                           # all networks, about twenty minutes
    python benchmarks/engines.py vgg8 --minutes 2          # one of them
    python benchmarks/engines.py vgg8 --per-layer macs
    python benchmarks/engines.py densenet121 --engines pytorch,onnx_runtime,openvino,passband

The networks are untrained: time does not depend on the weights. Engines that are not installed
are noted (openvino, unless you install it). Times are medians of rounds in which all engines take
turns; the ratio is the dense network's time in the fastest engine that runs it over this one's.
Rows of other networks that the file has already stay in it.
"""

import argparse
import copy
import csv
import io
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from machine import RESULTS, file_stem, provenance, write_result
from torch import nn

from passband import FrequencyRegularization, FrequencyScheduler, convert, export_onnx, to_chain
from passband.bench.layers import digits
from passband.chain.compare import model_macs
from passband.chain.engines import Run, eager, native, onnx_runtime
from passband.measure.timing import time_rounds
from passband.networks import create_model

NETWORKS = (
    "vgg8", "vgg13", "resnet20", "resnet56", "resnet18", "wrn-40-2", "densenet121", "mobilenetv2",
    "unet16",
)  # fmt: skip
BATCHES = (1, 128)
SHAPES = {"unet16": (1, 128, 128)}  # of an image; the others' are CIFAR's


def channels_last(model: nn.Module, maps: torch.Tensor) -> Run:
    model.to(memory_format=torch.channels_last)
    return eager(model, maps.contiguous(memory_format=torch.channels_last))


def compiled(model: nn.Module, maps: torch.Tensor) -> Run:
    """torch.compile, which takes the weights for constants."""
    from torch._inductor import config

    torch.compiler.reset()
    function = torch.compile(model)

    def run() -> torch.Tensor:
        with torch.no_grad(), config.patch(freezing=True):
            return function(maps)

    return run


def ahead_of_time(model: nn.Module, maps: torch.Tensor) -> Run:
    """AOTInductor: a library of what torch.export found."""
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    with torch.no_grad():
        program = torch.export.export(model, (maps,))
    folder = tempfile.mkdtemp()
    loaded = aoti_load_package(
        aoti_compile_and_package(program, package_path=f"{folder}/model.pt2")
    )

    def run() -> torch.Tensor:
        with torch.no_grad():
            return loaded(maps)

    return run


def openvino(model: nn.Module, maps: torch.Tensor) -> Run:
    """OpenVINO in float32, tuned for the time of a call."""
    import openvino as library

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        export_onnx(model, maps, file, dynamic_batch=False, check=False)
        core = library.Core()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        request = core.compile_model(core.read_model(file), "CPU", settings).create_infer_request()
    array = maps.numpy()
    return lambda: torch.from_numpy(request.infer([array])[0])


ENGINES = {
    "pytorch": eager,
    "pytorch_channels_last": channels_last,
    "torch_compile": compiled,
    "aot_inductor": ahead_of_time,
    "onnx_runtime": onnx_runtime,
    "openvino": openvino,
    "passband": native,
}


TURN_SECONDS = 0.03


def repeat(run: Run, calls: int) -> None:
    for _ in range(calls):
        run()


def calls_at_a_time(run: Run) -> int:
    """How often an engine is called when its turn comes.

    Other engines' threads wait busily for a while after their turn, and would count as time of
    this one if that were a single short call.
    """
    run()
    return max(1, round(TURN_SECONDS / min(time_rounds([run], 5)[0])))


def shape(name: str) -> tuple[int, ...]:
    return SHAPES.get(name, (3, 32, 32))


def networks(name: str, config: FrequencyRegularization) -> tuple[nn.Module, nn.Module]:
    """The dense network, and the chain of it."""
    torch.manual_seed(0)
    channels, *size = shape(name)
    dense = create_model(name, num_classes=10, in_channels=channels, input_size=tuple(size))
    model = copy.deepcopy(dense)
    example = torch.randn(8, *shape(name))
    convert(model, config, example)
    FrequencyScheduler(model).finish()
    model(example)  # statistics of the batch norms
    return dense.eval(), to_chain(model, example)


def measure(
    name: str, config: FrequencyRegularization, batch: int, seconds: float, only: list[str]
) -> list[dict]:
    """One row for each network and engine."""
    dense, chain = networks(name, config)
    maps = torch.randn(batch, *shape(name))
    expected = chain(maps)
    runs: dict[tuple[str, str], Run] = {}
    notes: dict[tuple[str, str], str] = {}
    for kind, model in (("dense", dense), ("chain", chain)):
        for engine in only:
            if (kind, engine) == ("dense", "passband"):
                continue  # made for chains
            try:
                runs[kind, engine] = run = ENGINES[engine](copy.deepcopy(model), maps)
                run()
            except Exception as error:  # whatever an engine may miss; the others go on
                runs.pop((kind, engine), None)
                notes[kind, engine] = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
    calls = {key: calls_at_a_time(run) for key, run in runs.items()}
    passes = [partial(repeat, run, calls[key]) for key, run in runs.items()]
    rounds = time_rounds(passes, 15, 3, longest=seconds)
    times = {key: [t / calls[key] for t in own] for key, own in zip(runs, rounds, strict=True)}
    medians = {key: statistics.median(rounds) for key, rounds in times.items()}
    best = min((key for key in medians if key[0] == "dense"), key=medians.__getitem__)
    macs = {"dense": model_macs(dense, maps), "chain": model_macs(chain, maps)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "chain.onnx")
        export_onnx(chain, maps[:2], file, check=False)
        file_bytes = file.stat().st_size
    rows = []
    for key in [(kind, engine) for kind in ("dense", "chain") for engine in only]:
        if key not in medians and key not in notes:
            continue
        kind, engine = key
        each = [a / b for a, b in zip(times[best], times[key], strict=True)] if key in times else []
        found = runs[key]() if key in runs and kind == "chain" else expected
        rows.append(
            {
                "network": name,
                "keep": config.keep,
                "per_layer": config.per_layer or "",
                "batch": batch,
                "kind": kind,
                "engine": engine,
                "macs": macs[kind],
                "macs_ratio": digits(macs["dense"] / macs[kind]),
                "ms": digits(1e3 * medians[key]) if each else "",
                "time_ratio": digits(medians[best] / medians[key]) if each else "",
                "lowest_time_ratio": digits(min(each)) if each else "",
                "least_ms": digits(1e3 * min(times[key])) if each else "",
                "dense_engine": best[1],
                "rounds": len(each),
                "difference": f"{float((found - expected).norm() / expected.norm()):.0e}",
                "onnx_bytes": file_bytes if kind == "chain" else "",
                "parameters": sum(
                    p.numel() for p in (dense if kind == "dense" else chain).parameters()
                ),
                "note": notes.get(key, ""),
            }
        )
        print({k: rows[-1][k] for k in ("network", "batch", "kind", "engine", "ms", "time_ratio")})
        sys.stdout.flush()
    return rows


def merged(rows: list[dict]) -> list[dict]:
    """The rows, and before them those of other measurements that the file has."""
    file = RESULTS / f"{file_stem('engines', 'cpu')}.csv"
    with file.open(newline="") if file.exists() else io.StringIO() as stream:
        before = list(csv.DictReader(stream))
    measured = {measurement(row) for row in rows}
    return [row for row in before if measurement(row) not in measured] + rows


def measurement(row: dict) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("network", "keep", "per_layer", "batch"))


def main() -> None:
    """Measure and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    parser.add_argument("--keep", type=float, default=0.007)
    parser.add_argument("--per-layer", choices=["macs"])
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    config = FrequencyRegularization(keep=options.keep, per_layer=options.per_layer)
    batches = [int(batch) for batch in options.batches.split(",")]
    share = 60 * options.minutes / (len(options.networks) * len(batches))
    origin = provenance("cpu")
    rows = [
        {**row, **origin}
        for name in options.networks
        for batch in batches
        for row in measure(name, config, batch, share, options.engines.split(","))
    ]
    write_result("engines", merged(rows))


if __name__ == "__main__":
    main()
