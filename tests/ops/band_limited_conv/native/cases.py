"""Random calls in one and two axes, at the sizes where the kernels change their way."""

from collections.abc import Callable, Mapping
from random import Random

import torch
from torch import Tensor

from tests.ops.band_limited_conv.cases import Call
from tests.support import TOLERANCE, output_and_gradients, relative_error

# Around the widths of registers (4, 8, 16 numbers) and of rows of lanes (64).
CHANNELS = (1, 2, 3, 4, 8, 15, 16, 17, 48, 63, 64, 65, 130)
BATCHES = (1, 1, 2, 3, 5, 33)


def draw_call(index: int) -> Call:
    """The call that an index names, on every machine."""
    random = Random(index)
    axes = random.choice((1, 2, 2))

    def one_per_axis(choices: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(random.choice(choices) for _ in range(axes))

    kernel, dilation = one_per_axis((1, 2, 3, 3, 4, 5, 7)), one_per_axis((1, 1, 2, 3))
    stride, padding = one_per_axis((1, 1, 2, 3)), one_per_axis((0, 1, 2, 3))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    # more padding than this and some taps would meet nothing but zeros
    padding = tuple(min(p, (k - 1) // 2) for p, k in zip(padding, spans, strict=True))
    size = tuple(
        random.randint(max(k - 2 * p, p + 1), k + (12 if axes == 2 else 150))
        for k, p in zip(spans, padding, strict=True)
    )
    grid = tuple(
        n + 2 * p + random.choice((0, 0, 1, 2, 5)) for n, p in zip(size, padding, strict=True)
    )
    kept = tuple(
        random.choice((random.randint(1, n // 2 + 1), max(1, n // 4), n // 2 + 1)) for n in grid
    )
    inputs, outputs, batch = (random.choice(c) for c in (CHANNELS, CHANNELS, BATCHES))
    if inputs * outputs > 4000:  # one of the three is enough at a time
        batch = min(batch, 3)
    return Call(
        (batch, inputs, *size),
        (outputs, inputs, *kernel),
        {"stride": stride, "padding": padding, "dilation": dilation},
        {"fft_size": grid, "band": kept},
        bias=random.random() < 0.5,
    )


def assert_right(
    call: Call,
    tensors: Mapping[str, Tensor] | None = None,
    after: Callable[[Tensor], Tensor] = lambda output: output,
    algorithm: str = "matmul",
) -> None:
    """Output and every gradient are those of the reference in float64, of the same numbers.

    `after` is done with the output, and shapes the gradient that reaches the convolution.
    """
    tensors = call.tensors(torch.float32) if tensors is None else tensors
    ours, reference = call.ours(algorithm), call.ours("fft")
    found = output_and_gradients(lambda **leaves: after(ours(**leaves)), tensors)
    long = {name: tensor.double() for name, tensor in tensors.items()}
    expected = output_and_gradients(lambda **leaves: after(reference(**leaves)), long)
    # a sum that a single coefficient is left of cancels: its error is in proportion to its terms
    scale = 1e-3 * long["input"].norm().item() * long["weight"].norm().item()
    for name, value in found.items():
        assert value.dtype == tensors["input"].dtype
        error = relative_error(value, expected[name], scale if name == "output" else 0.0)
        assert error <= TOLERANCE[value.dtype], f"{name}: relative error {error:.1e} of {call}"
