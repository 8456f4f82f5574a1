"""Chains on the native engine: whole networks in C, for few or for many images."""

import ctypes
import math
import threading
from ctypes import c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from passband.chain.program import Program
from passband.chain.steps import Network, Step, UnsupportedError
from passband.measure.layers import undisturbed
from passband.ops.kernel_files import Functions, load_kernels

_FOLDER = Path(__file__).parent / "native"

# A block of images takes about as long as this many single ones.
_LIKE_SINGLES = 5
_FLOAT_BYTES = 4
# A block that takes more is slower than its images one by one.
_CACHE_BYTES = 2**24


class CompiledChain:
    """A chain as a function of maps (B, C, H, W), on the CPU and without gradients.

    Where the engine cannot run it, PyTorch does; `engine` says which, and `reason` why.

    Args:
        chain: What `passband.to_chain` made, or another torch.fx.GraphModule in evaluation mode.
        example_input: A map of the size that it is called with, any batch.
    """

    def __init__(self, chain: fx.GraphModule, example_input: Tensor) -> None:
        self.chain = chain.eval()
        self.input_shape = tuple(example_input.shape[1:])
        self.reason: str | None = None
        self._lock = threading.Lock()
        self._programs: dict[int, _Prepared] = {}
        library = load_library()
        if library is None:
            self.reason = "no kernels were compiled for this machine"
            return
        width = int(library.passband_chain_width())
        for lanes in (width, 1):
            program = Program(lanes, width, int(library.passband_chain_sums()))
            try:
                with undisturbed(chain), torch.no_grad():
                    program.build(chain, example_input[:1])
            except UnsupportedError as error:
                if lanes == width:
                    self.reason = f"the engine has no {error}"
                    return
                continue
            self._programs[lanes] = _Prepared(library, program)
        self.width = width
        self._is_large = _FLOAT_BYTES * self._programs[width].program.size > _CACHE_BYTES
        self._like = torch.empty(0, *self._programs[width].program.output_shape)
        self._numbers_in = math.prod(self.input_shape)
        self._numbers_out = math.prod(self._programs[width].program.output_shape)

    @property
    def engine(self) -> str:
        """What runs it: "native" or "torch"."""
        return "torch" if self.reason is not None else "native"

    def __call__(self, images: Tensor) -> Tensor:
        """The output of the network for images (B, C, H, W).

        Raises:
            ValueError: They have another shape than the example.
        """
        if images.shape[1:] != self.input_shape:
            raise ValueError(
                f"images have shape {tuple(images.shape)}; allowed is (B, "
                f"{', '.join(map(str, self.input_shape))})"
            )
        if self.reason is not None or images.dtype != torch.float32 or images.is_cuda:
            with torch.no_grad():
                output: Tensor = self.chain(images)
            return output
        images = images.contiguous()
        many, count = self._programs[self.width], images.shape[0]
        like = self._like
        if like.shape[0] != count:
            like = self._like = torch.empty(count, *many.program.output_shape)
        results = torch.empty_like(like)  # in half the time of torch.empty
        single = count % self.width  # images that fill no block
        if 1 not in self._programs:
            single = 0
        elif self._is_large:
            single = count
        elif single >= _LIKE_SINGLES:
            single = 0
        source, target, rest = images.data_ptr(), results.data_ptr(), count - single
        with self._lock:
            if rest:
                many.run(source, target, rest)
            if single:
                source += rest * _FLOAT_BYTES * self._numbers_in
                target += rest * _FLOAT_BYTES * self._numbers_out
                self._programs[1].run(source, target, single)
        return results


class _Prepared:
    """A program with its memory."""

    def __init__(self, library: ctypes.CDLL, program: Program) -> None:
        self.run_chain = library.passband_run_chain
        self.program = program
        self.steps = (Step * len(program.steps))(*program.steps)
        self.network = Network(
            ctypes.addressof(self.steps), len(self.steps), program.input, program.output,
            program.lanes, program.size,
        )  # fmt: skip
        self.address = ctypes.addressof(self.network)
        self.work = torch.empty(0)

    def run(self, images: int, results: int, count: int) -> None:
        """Compute so many images at one address, to another."""
        blocks = -(-count // self.program.lanes)
        workers = 1 if blocks == 1 else min(torch.get_num_threads(), blocks)
        if self.work.numel() < workers * self.program.size:
            self.work = torch.zeros(workers * self.program.size)
        self.run_chain(self.address, images, results, count, self.work.data_ptr(), workers)


def compile_chain(chain: nn.Module, example_input: Tensor) -> CompiledChain:
    """A chain as a fast function on the CPU.

    Args:
        chain: What `passband.to_chain` made.
        example_input: A map (B, C, H, W) of the size that it is called with.

    Raises:
        TypeError: The chain is no torch.fx.GraphModule.

    Examples:
        >>> import passband as pb
        >>> model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 8, 1))
        >>> x = torch.randn(3, 3, 9, 9)
        >>> report = pb.convert(model, pb.FrequencyRegularization(keep=0.1), x)
        >>> chain = pb.to_chain(model, x, finish=True)
        >>> fast = compile_chain(chain, x)
        >>> torch.allclose(fast(x), chain(x), atol=1e-5)
        True
    """
    if not isinstance(chain, fx.GraphModule):
        raise TypeError(
            f"chain is {type(chain).__name__}; allowed is what passband.to_chain returns"
        )
    return CompiledChain(chain, example_input)


FUNCTIONS: Functions = {
    "run_chain": ([c_void_p, c_void_p, c_void_p, c_int64, c_void_p, c_int64], None),
    "chain_width": ([], c_int64),
    "chain_sums": ([], c_int64),
}


@cache
def load_library() -> Any:
    """The best kernels for this machine; None where none were compiled for it."""
    return load_kernels(_FOLDER, FUNCTIONS)
