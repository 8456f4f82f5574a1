"""Where the time of one image goes in the chain's engine: the call, and each kind of step.

    OMP_NUM_THREADS=1 python benchmarks/single_image.py        # five networks, half a minute

The engine runs the steps of one kind alone, on 64 images one after the other, on one thread as it
does for a single image. What is left of a call from Python is its overhead.
"""

import argparse
import ctypes
from collections.abc import Callable

import torch
from engines import networks, shape
from machine import provenance, write_result

from passband import FrequencyRegularization
from passband.bench.layers import digits
from passband.chain import compile_chain, steps
from passband.chain.compare import model_macs
from passband.measure.timing import time_rounds

PARTS = {
    "convolutions": (steps.CONVOLVE, steps.LINEAR),
    "sums": (steps.ADD,),
    "every second row and column": (steps.PHASES,),
    "pooling": (steps.AVERAGE, steps.MAXIMUM),
    "copies": (steps.COPY, steps.AFFINE, steps.INTERLEAVE),
}
NETWORKS = ("resnet20", "vgg8", "densenet121", "mobilenetv2", "unet16")
IMAGES = 64
TURN_SECONDS = 0.01


def seconds(function: Callable[[], object]) -> float:
    """The least time of a call, over many."""
    calls = max(1, round(TURN_SECONDS / min(time_rounds([function], 3)[0])))

    def run() -> None:
        for _ in range(calls):
            function()

    return min(time_rounds([run], 25)[0]) / calls


def measure(name: str, config: FrequencyRegularization) -> list[dict]:
    _, chain = networks(name, config)
    maps = torch.randn(IMAGES, *shape(name))
    fast, one = compile_chain(chain, maps), maps[:1].clone()
    prepared = fast._programs[1]
    results = torch.empty(IMAGES, *prepared.program.output_shape)
    fast(one)

    def with_steps(chosen: list[steps.Step]) -> float:
        array = (steps.Step * len(chosen))(*chosen)
        network = type(prepared.network).from_buffer_copy(prepared.network)
        network.steps, network.count = ctypes.addressof(array), len(chosen)
        arguments = (
            ctypes.addressof(network), maps.data_ptr(), results.data_ptr(), IMAGES,
            prepared._work, 1,
        )  # fmt: skip
        return seconds(lambda: prepared.run_chain(*arguments)) / IMAGES

    ends = with_steps([])
    times = {"call": seconds(lambda: fast(one)), "input and output": ends}
    for part, kinds in PARTS.items():
        chosen = [step for step in prepared.program.steps if step.kind in kinds]
        if chosen:
            times[part] = with_steps(chosen) - ends
    times["Python"] = times["call"] - with_steps(prepared.program.steps)
    macs = model_macs(chain, one)
    return [
        {
            "network": name,
            "keep": config.keep,
            "part": part,
            "microseconds": digits(1e6 * time),
            "share": digits(time / times["call"]),
            "multiplications_per_second": digits(macs / time) if part == "convolutions" else "",
        }
        for part, time in times.items()
    ]


def main() -> None:
    """Measure and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS)
    options = parser.parse_args()
    config = FrequencyRegularization(keep=0.007)
    rows = [
        {**row, **provenance("cpu")} for name in options.networks for row in measure(name, config)
    ]
    write_result("single-image", rows)


if __name__ == "__main__":
    main()
