"""Random band-limited convolutions against the reference, and at full band against torch.nn.

python -m tests.fuzz_band_limited_conv --count 2000 --seed 1
python -m tests.fuzz_band_limited_conv --case 1:1234      # one case again, by seed and index

Every case is checked in 1, 2 or 3 dimensions, for output and gradients, with every algorithm.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import passband as pb
from tests.support import TOLERANCE, output_and_gradients, relative_error

OURS = {1: pb.band_limited_conv1d, 2: pb.band_limited_conv2d, 3: pb.band_limited_conv3d}
NATIVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
FAST = ("auto", "lowpass", "matmul")

# Largest map and filter, in points per axis.
MAP_LIMIT = {1: 70, 2: 18, 3: 8}
FILTER_LIMIT = {1: 11, 2: 5, 3: 3}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


@dataclass(frozen=True)
class Case:
    """Everything that makes one call."""

    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    differentiated: tuple[str, ...]  # the tensors that need gradients
    bias: bool
    dtype: torch.dtype
    layout: str
    convolution: dict[str, Any]  # stride, padding, dilation, groups
    grid: dict[str, Any]  # fft_size
    band: dict[str, Any]  # compression, energy or band

    @property
    def axes(self) -> int:
        return len(self.weight_shape) - 2


def per_axis_or_one(random: Random, values: list[int]) -> int | tuple[int, ...]:
    """The values as a tuple, or as one number where they are equal and chance says so."""
    return values[0] if len(set(values)) == 1 and random.random() < 0.7 else tuple(values)


def draw_case(seed: int, index: int) -> Case:
    """The case that a seed and an index name, on every machine."""
    random = Random(f"{seed}:{index}")
    axes = random.choice((1, 2, 2, 3))
    same_on_every_axis = random.random() < 0.5

    def one_per_axis(choices: list[int]) -> list[int]:
        if same_on_every_axis:
            return [random.choice(choices)] * axes
        return [random.choice(choices) for _ in range(axes)]

    kernel = one_per_axis(list(range(1, FILTER_LIMIT[axes] + 1)))
    dilation = one_per_axis([1, 1, 1, 2, 3] if axes < 3 else [1, 1, 2])
    stride = one_per_axis([1, 1, 2, 3])
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding: int | str | tuple[int, ...]
    kind = random.choice(("numbers", "numbers", "numbers", "same", "valid"))
    if kind == "same":
        padding, stride = "same", [1] * axes
        zeros = [k - 1 for k in span]
    elif kind == "valid":
        padding, zeros = "valid", [0] * axes
    else:
        pads = one_per_axis([0, 1, 1, 2, 3])
        padding, zeros = per_axis_or_one(random, pads), [2 * p for p in pads]
    size = []
    for k, z in zip(span, zeros, strict=True):
        least = max(1, k - z)
        size.append(random.randint(least, max(least, MAP_LIMIT[axes])))
    padded = [n + z for n, z in zip(size, zeros, strict=True)]

    grid, fft_size = padded, None
    if random.random() < 0.25:
        grid = [n + random.choice((0, 1, 2, 5)) for n in padded]
        fft_size = per_axis_or_one(random, grid)
    band: dict[str, Any] = random.choice(
        (
            {},
            {"compression": random.choice((0.0, 0.25, 0.5, 0.85, 0.99, random.random()))},
            {"energy": random.choice((1.0, random.uniform(0.5, 1), random.uniform(0.01, 1)))},
            {"band": per_axis_or_one(random, [random.randint(1, n // 2 + 1) for n in grid])},
        )
    )
    if "energy" in band:
        band["energy_mode"] = random.choice(("coarse", "fine"))

    groups = random.choice((1, 1, 1, 2, 3))
    # 66 is more than the kernels have lanes
    per_group, outputs = random.choice((1, 1, 2, 3, 5, 66)), random.choice((1, 1, 2, 3, 5, 66))
    batch = () if random.random() < 0.15 else (random.choice((0, 1, 2, 2, 3, 3)),)
    tensors = ["input", "weight", "bias"][: random.choice((2, 3))]
    differentiated = [n for n in tensors if random.random() < 0.8] or [random.choice(tensors)]
    return Case(
        input_shape=(*batch, groups * per_group, *size),
        weight_shape=(groups * outputs, per_group, *kernel),
        differentiated=tuple(differentiated),
        bias="bias" in tensors,
        dtype=random.choice((torch.float64, torch.float64, torch.float32)),
        layout=random.choice(("contiguous", "channels last", "strided")),
        convolution={
            "stride": per_axis_or_one(random, stride),
            "padding": padding,
            "dilation": per_axis_or_one(random, dilation),
            "groups": groups,
        },
        grid={"fft_size": fft_size},
        band=band,
    )


def make_tensors(case: Case) -> dict[str, Tensor]:
    """Input, weight and bias.

    All numbers are positive: nothing cancels in a sum, even where one coefficient is all that is
    kept, so that the relative error of a right result is rounding alone.
    """
    generator = torch.Generator().manual_seed(0)

    def positive(shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(case.dtype)

    maps = positive(case.input_shape)
    if case.layout == "channels last" and maps.dim() - 2 in CHANNELS_LAST:
        maps = maps.contiguous(memory_format=CHANNELS_LAST[maps.dim() - 2])
    elif case.layout == "strided":
        maps = maps.mT.contiguous().mT.repeat_interleave(2, -1)[..., ::2]
    tensors = {"input": maps, "weight": positive(case.weight_shape)}
    if case.bias:
        tensors["bias"] = positive(case.weight_shape[:1])
    return tensors


def make_scales(case: Case) -> dict[str, float]:
    """The norms of what is multiplied in the output and in each gradient, multiplied.

    Rounding errors are in proportion to it, also where a filter that meets nothing but the padding
    makes the true result zero. Elsewhere the result itself is as large or larger.
    """
    norms = {name: tensor.norm().item() for name, tensor in make_tensors(case).items()}
    outputs = results(case, None, full_band=True)["output"].numel()
    cotangent = outputs**0.5  # the gradients are those of a product with numbers of order one
    return {
        "output": norms["input"] * norms["weight"],
        "gradient of input": cotangent * norms["weight"],
        "gradient of weight": cotangent * norms["input"],
        "gradient of bias": cotangent,
    }


def results(case: Case, algorithm: str | None, full_band: bool) -> dict[str, Tensor]:
    """Output and gradients of an algorithm, or of torch.nn.functional where it is None."""
    tensors = make_tensors(case)
    fixed = {n: t for n, t in tensors.items() if n not in case.differentiated}
    free = {n: t for n, t in tensors.items() if n in case.differentiated}

    def call(**leaves: Tensor) -> Tensor:
        arguments = {**fixed, **leaves, **case.convolution}
        if algorithm is None:
            return NATIVE[case.axes](**arguments)
        band = {} if full_band else case.band
        return OURS[case.axes](**arguments, **case.grid, **band, algorithm=algorithm)

    with warnings.catch_warnings():
        # torch says that "same" with an even filter copies the map
        warnings.filterwarnings("ignore", message="Using padding='same'")
        return output_and_gradients(call, free, positive=True)


def comparisons(case: Case) -> Iterator[tuple[str, dict[str, Tensor], dict[str, Tensor]]]:
    """(what is compared, found, expected)."""
    native = results(case, None, full_band=True)
    for algorithm in ("fft", *FAST):
        yield f"{algorithm} at full band", results(case, algorithm, full_band=True), native
    reference = results(case, "fft", full_band=False)
    for algorithm in FAST:
        yield algorithm, results(case, algorithm, full_band=False), reference


def failures(case: Case) -> list[str]:
    """One line for everything that is wrong with a case."""
    lines = []
    try:
        scales = make_scales(case)
        for what, found, expected in comparisons(case):
            for name, value in found.items():
                if value.dtype != expected[name].dtype:
                    lines.append(f"{what}: {name} is {value.dtype}, not {expected[name].dtype}")
                error = relative_error(value, expected[name], least=scales[name])
                if not error <= TOLERANCE[case.dtype]:
                    lines.append(f"{what}: relative error of the {name} is {error:.1e}")
    except Exception as error:  # any error is a finding, and the other cases go on
        lines.append(f"{type(error).__name__}: {error}")
    return lines


def describe(case: Case) -> str:
    return "\n".join(f"    {name} = {value!r}" for name, value in asdict(case).items())


def run(seed: int, indices: range, every: int = 0) -> int:
    """Check the cases, print those that fail, and return how many do."""
    failed, start = 0, time.monotonic()
    for done, index in enumerate(indices, 1):
        case = draw_case(seed, index)
        lines = failures(case)
        if lines:
            failed += 1
            print(f"FAILED --case {seed}:{index}\n{describe(case)}", *lines, sep="\n    ")
        if every and done % every == 0:
            seconds = time.monotonic() - start
            print(f"{done}/{len(indices)} cases, {failed} failed, {seconds:.0f} s", file=sys.stderr)
    return failed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="number of cases (2000)")
    parser.add_argument("--seed", type=int, default=1, help="names the cases (1)")
    parser.add_argument("--case", metavar="SEED:INDEX", help="check one case and show it")
    options = parser.parse_args(arguments)
    torch.use_deterministic_algorithms(
        True
    )  # fills torch.empty with NaN: what is not written shows
    if options.case:
        seed, index = map(int, options.case.split(":"))
        print(describe(draw_case(seed, index)))
        indices = range(index, index + 1)
    else:
        seed, indices = options.seed, range(options.count)
    failed = run(seed, indices, every=max(1, len(indices) // 20))
    print(f"{len(indices) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
