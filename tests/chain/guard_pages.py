"""Chains whose images, results and working memory lie against pages that may not be touched.

Run by test_compiled.py on its own, with the names of instruction sets, because a touch ends the
process.
"""

import sys
from unittest import mock

import torch
from torch import fx, nn

from passband.chain import compile_chain, compiled
from passband.chain.compiled import FUNCTIONS, load_library
from passband.ops.kernel_files import open_kernels
from tests.convert.frequency.cases import maps
from tests.ops.band_limited_conv.native.guard_pages import guarded
from tests.support import relative_error

FOLDER = compiled._FOLDER


def layers(size: int) -> list[nn.Module]:
    return [
        nn.Conv2d(2, 1, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(2, 9, 5, padding=2),
        nn.Conv2d(2, 4, 3, 2, 1), nn.Conv2d(2, 2, 3, padding=1, groups=2), nn.Conv2d(2, 5, 1),
        nn.Conv2d(2, 2, 3, 2, 1, groups=2), nn.AvgPool2d(2), nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1), nn.AdaptiveMaxPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.ConvTranspose2d(2, 3, 2, 2), nn.BatchNorm2d(2),
        nn.Sequential(nn.Flatten(), nn.Linear(2 * size * (size + 1), 5)),
    ]  # fmt: skip


def check(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """The layer alone, where it is the first and the last to touch what it reads and writes."""
    model = fx.symbolic_trace(nn.Sequential(layer, nn.ReLU()).eval())
    for prepared in compile_chain(model, torch.zeros(1, *shape))._programs.values():
        x = maps(shape, prepared.program.lanes + 1)
        with torch.no_grad():
            right = model(x)
        images, results = (
            guarded.copy(x),
            guarded.empty(tuple(right.shape), torch.contiguous_format),
        )
        work = guarded.empty((prepared.program.size,), torch.contiguous_format).zero_()
        prepared.run_chain(
            prepared.address, images.data_ptr(), results.data_ptr(), len(x), work.data_ptr(), 1
        )
        assert relative_error(results, right) < 1e-5  # rounding in float32
        guarded.clear()


def main() -> None:
    torch.manual_seed(0)
    for name in sys.argv[1:]:
        library = open_kernels(FOLDER / f"kernels_{name}.so", FUNCTIONS)
        with mock.patch.object(compiled, "load_library", lambda library=library: library):
            for guarded.at_end in (True, False):
                for size in (3, 4, 8, 16, 19, 32):
                    for layer in layers(size):
                        check(layer, (2, size, size + 1))
                        if not isinstance(layer, nn.Sequential):
                            check(layer, (2, size + 1, size))
                            if size in (4, 8):  # of one image without a border
                                check(layer, (2, size, size))
    print("guarded", *sys.argv[1:])


if __name__ == "__main__":
    assert load_library() is not None
    main()
