"""Time of layers and of a training step on a GPU: cuDNN in both layouts against each algorithm.

    python benchmarks/gpu.py [--batches 128] [--kernels 3] [--repeats 20] [--device cpu]

Layers: torch.nn.Conv2d in NCHW, in channels-last and compiled, and the band-limited layer by each
algorithm in both layouts, 3x3 and of the shapes that ResNets have. Network: a training step of
ResNet-18 in CIFAR form, native and converted, each also compiled. All of it in float32 with TF32
allowed, and in bfloat16 (the network by autocast). cuDNN chooses its kernels by timing them.

Contenders run in turn, in one process; a time is the median over the repeats of the time between
two CUDA events around several calls, so it is the host's time where that is what the GPU waits for.
`ratio` is the best of torch's times over the best of ours: above 1 ours is faster.

`--device cpu` checks this script on a machine without a GPU: tiny shapes, no file is written, and
the times mean nothing. TRITON_INTERPRET=1 includes the Triton kernels in that.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from machine import provenance, write_result

import passband as pb
from passband.measure.timing import alternate
from passband.networks import create_model
from passband.ops.band_limited_conv.triton import obstacle

SHAPES = [(64, 32), (128, 16), (256, 8), (512, 4), (64, 56), (128, 28), (256, 14), (512, 7)]
COMPRESSIONS = (0.5, 0.85)
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
PRECISIONS = {"tf32": torch.float32, "bf16": torch.bfloat16}
CALLS = 10  # between two CUDA events

Functions = dict[str, Callable[[], object]]


def times(functions: Functions, repeats: int, device: str) -> dict[str, float]:
    """Median milliseconds of each function, run in turn."""
    if device == "cpu":
        seconds = alternate(list(functions.values()), repeats=repeats)
        return {name: 1e3 * s for name, s in zip(functions, seconds, strict=True)}
    measured: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():  # compiles, times candidates of kernels
        for _ in range(3):
            function()
    for _ in range(repeats):
        for name, function in functions.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(CALLS):
                function()
            end.record()
            end.synchronize()
            measured[name].append(start.elapsed_time(end) / CALLS)
    return {name: statistics.median(values) for name, values in measured.items()}


def summary(measured: dict[str, float]) -> dict[str, str]:
    """The columns of one measurement: milliseconds, the ratio of each algorithm, what was fastest.

    A contender is called ALGORITHM or ALGORITHM_LAYOUT; torch's own begin with native.
    """
    best = min(value for name, value in measured.items() if name.startswith("native"))
    row = {f"{name}_ms": f"{value:.4f}" for name, value in measured.items()}
    for algorithm in dict.fromkeys(name.partition("_")[0] for name in measured):
        ours = min(value for name, value in measured.items() if name.startswith(algorithm))
        if algorithm != "native":
            row[f"{algorithm}_ratio"] = f"{best / ours:.3f}"
    row["winner"] = min(measured, key=measured.__getitem__)
    return row


def measure_layer(
    batch: int, channels: int, size: int, kernel: int, compression: float, dtype: torch.dtype,
    algorithms: tuple[str, ...], repeats: int, device: str,
) -> list[dict[str, Any]]:  # fmt: skip
    """Two rows, training and inference, of one shape in one type."""
    native = torch.nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
    native = native.to(device, dtype)
    modules: dict[str, torch.nn.Module] = {"native": native}
    for algorithm in algorithms:
        modules[algorithm] = pb.BandLimitedConv2d.from_conv(
            native, compression=compression, algorithm=algorithm
        )
    maps = torch.randn(batch, channels, size, size, device=device, dtype=dtype)
    training: Functions = {}
    inference: Functions = {}
    for name, module in modules.items():
        for layout, order in LAYOUTS.items():
            x = maps.contiguous(memory_format=order).requires_grad_()
            training[f"{name}_{layout}"] = train_layer(module, x, native.weight)
            inference[f"{name}_{layout}"] = infer(module, x)
    if device == "cuda":
        compiled = torch.compile(native)
        x = maps.contiguous(memory_format=torch.channels_last).requires_grad_()
        training["native_compiled"] = train_layer(compiled, x, native.weight)
        inference["native_compiled"] = infer(compiled, x)
    band = modules[algorithms[0]].geometry((size, size)).band
    case = {
        "batch": batch, "channels": channels, "map": size, "kernel": kernel,
        "compression": compression, "realised_compression": f"{band.realised_compression:.3f}",
    }  # fmt: skip
    return [
        {**case, "mode": mode, **summary(times(functions, repeats, device))}
        for mode, functions in (("training", training), ("inference", inference))
    ]


def train_layer(
    module: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, weight: torch.Tensor
) -> Callable[[], object]:
    """A forward and a backward pass with gradients of input and weight."""
    grad = torch.randn_like(module(x))
    return lambda: torch.autograd.grad(module(x), (x, weight), grad)


def infer(module: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Callable[[], object]:
    """A forward pass without gradients."""

    def run() -> None:
        with torch.no_grad():
            module(x)

    return run


def measure_network(
    batch: int, size: int, compression: float, dtype: torch.dtype,
    algorithms: tuple[str, ...], repeats: int, device: str,
) -> dict[str, Any]:  # fmt: skip
    """One row: training steps of a ResNet, native and converted, plain and compiled."""
    name = "resnet18" if device == "cuda" else "resnet8"
    x = torch.randn(batch, 3, size, size, device=device).contiguous(
        memory_format=torch.channels_last
    )
    labels = torch.randint(10, (batch,), device=device)
    functions: Functions = {}
    for contender in ("native", *algorithms, "auto"):
        for compile in (False, True) if device == "cuda" else (False,):
            torch.manual_seed(0)
            model = create_model(name, num_classes=10, in_channels=3, input_size=(size, size))
            model = model.to(device).to(memory_format=torch.channels_last)
            if contender != "native":
                pb.convert(model, pb.BandLimit(compression=compression, algorithm=contender))
            run = torch.compile(model) if compile else model
            label = f"{contender}_{'compiled' if compile else 'plain'}"
            functions[label] = train_step(run, model, x, labels, dtype)
    return {
        "network": name, "batch": batch, "map": size, "compression": compression,
        **summary(times(functions, repeats, device)),
    }  # fmt: skip


def train_step(
    run: Callable[[torch.Tensor], torch.Tensor], model: torch.nn.Module, x: torch.Tensor,
    labels: torch.Tensor, dtype: torch.dtype,
) -> Callable[[], object]:  # fmt: skip
    """Forward, loss, backward, and a step of SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        short = dtype != torch.float32
        with torch.autocast(x.device.type, dtype) if short else nullcontext():
            loss = torch.nn.functional.cross_entropy(run(x), labels)
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure every case and write two CSVs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[128])
    parser.add_argument("--kernels", type=int, nargs="+", default=[3])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    device, repeats = arguments.device, arguments.repeats
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA device, and torch finds none here")
    shapes, batches, image = SHAPES, arguments.batches, 32
    if device == "cpu":
        shapes, batches, repeats, image = [(4, 6)], [2], 1, 8
    reason = obstacle(device)
    algorithms = ("lowpass", "matmul") + (() if reason else ("triton",))
    if reason:
        print(f"without algorithm 'triton': {reason}")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("high")
    extent = {**provenance(), "device": device}
    layers, networks = [], []
    for precision, dtype in PRECISIONS.items():
        for batch in batches:
            for channels, size in shapes:
                for kernel in arguments.kernels:
                    for compression in COMPRESSIONS:
                        rows = measure_layer(
                            batch, channels, size, kernel, compression, dtype,
                            algorithms, repeats, device,
                        )  # fmt: skip
                        layers += [{"precision": precision, **row, **extent} for row in rows]
                        for row in rows:
                            show(f"{channels:4} channels {size:2}x{size:<2} {precision}", row)
            for compression in COMPRESSIONS:
                row = measure_network(
                    batch, image, compression, dtype, algorithms, repeats, device
                )  # fmt: skip
                networks.append({"precision": precision, **row, **extent})
                show(f"{row['network']} {precision}", row)
    if device == "cuda":
        write_result("gpu-layers", layers)
        write_result("gpu-network", networks)


def show(what: str, row: dict[str, Any]) -> None:
    """One line for people."""
    ratios = [f"{name} {value}" for name, value in row.items() if name.endswith("_ratio")]
    print(f"{what} {row.get('mode', 'step')} c={row['compression']}:", *ratios, flush=True)


if __name__ == "__main__":
    main()
