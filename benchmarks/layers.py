"""Time and saved bytes of one layer: torch.nn.Conv2d in both layouts against each algorithm.

    python benchmarks/layers.py [--batch 32] [--repeats 7] [--quick]

All contenders of a row run in turn, in one process; a time is the median of the repeats. `ratio` is
the better of torch's two layouts over ours: above 1 ours is faster. Training is a forward and a
backward pass with gradients of input and weight; inference is a forward pass without gradients.
"""

import argparse
import math

import torch
from machine import provenance, write_result

import passband as pb
from passband.measure.memory import saved_bytes
from passband.measure.timing import alternate
from passband.ops.band_limited_conv.select import select_algorithm

SHAPES = [(64, 32), (128, 16), (256, 8), (512, 4), (64, 56), (128, 28), (256, 14), (512, 7)]
ALGORITHMS = ("lowpass", "matmul")


def layers(channels: int, compression: float) -> dict[str, torch.nn.Conv2d]:
    """The contenders, with the same weights."""
    native = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    ours = {
        algorithm: pb.BandLimitedConv2d.from_conv(
            native, compression=compression, algorithm=algorithm
        )
        for algorithm in ALGORITHMS
    }
    return {"native": native, **ours}


def measure(batch: int, channels: int, size: int, compression: float, repeats: int) -> dict:
    """One row: median milliseconds of every contender, training and inference."""
    contenders = layers(channels, compression)
    maps = torch.randn(batch, channels, size, size)
    grad = torch.randn_like(maps)
    last = torch.channels_last

    def train(layer: torch.nn.Module, x: torch.Tensor, g: torch.Tensor):
        x = x.detach().requires_grad_()
        return lambda: torch.autograd.grad(layer(x), (x, layer.weight), g)

    def infer(layer: torch.nn.Module, x: torch.Tensor):
        def run() -> None:
            with torch.no_grad():
                layer.eval()(x)
                layer.train()

        return run

    training = {name: train(layer, maps, grad) for name, layer in contenders.items()}
    inference = {name: infer(layer, maps) for name, layer in contenders.items()}
    native = contenders["native"]
    channels_last = maps.contiguous(memory_format=last)
    training["channels_last"] = train(native, channels_last, grad.contiguous(memory_format=last))
    inference["channels_last"] = infer(native, channels_last)
    geometry = contenders["matmul"].geometry((size, size))
    chosen = select_algorithm("auto", geometry, batch, channels, channels)
    row: dict = {
        "realised_compression": f"{geometry.band.realised_compression:.3f}",
        "auto": chosen,
    }
    for mode, functions in (("training", training), ("inference", inference)):
        times = dict(
            zip(functions, alternate(list(functions.values()), repeats=repeats), strict=True)
        )
        best = min(times["native"], times["channels_last"])
        for name, seconds in times.items():
            row[f"{mode}_{name}_ms"] = f"{1e3 * seconds:.3f}"
        for name in ALGORITHMS:
            row[f"{mode}_{name}_ratio"] = f"{best / times[name]:.3f}"
        row[f"{mode}_auto_ratio"] = row[f"{mode}_{chosen}_ratio"]
        row[f"{mode}_winner"] = min(times, key=times.__getitem__)
    maps.requires_grad_()
    for name, layer in contenders.items():
        row[f"saved_{name}_bytes"] = saved_bytes(lambda layer=layer: layer(maps), layer)
    row["saved_auto_bytes"] = row[f"saved_{chosen}_bytes"]
    return row


def main() -> None:
    """Measure every shape and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="two shapes; writes no file")
    arguments = parser.parse_args()
    rows = []
    for channels, size in SHAPES[:2] if arguments.quick else SHAPES:
        for compression in (0.0, 0.5, 0.85):
            row = {
                "batch": arguments.batch,
                "channels": channels,
                "map": size,
                "kernel": 3,
                "compression": compression,
                **measure(arguments.batch, channels, size, compression, arguments.repeats),
            }
            rows.append({**row, **provenance()})
            print(
                f"{channels:4} channels {size:3}x{size:<3} c={compression:<5}"
                + "".join(
                    f" {mode} {name} {row[f'{mode}_{name}_ratio']}"
                    for mode in ("training", "inference")
                    for name in ALGORITHMS
                )
                + f" auto {row['auto']}",
                flush=True,
            )
    for mode in ("training", "inference"):
        for compression in (0.5, 0.85):
            chosen = [
                math.log(float(row[f"{mode}_auto_ratio"]))
                for row in rows
                if row["compression"] == compression
            ]
            mean = math.exp(sum(chosen) / len(chosen))
            print(f"geometric mean of auto, {mode}, c={compression}: {mean:.2f}")
    if not arguments.quick:
        write_result("layers", rows)


if __name__ == "__main__":
    main()
