"""Chains on the native engine: whole networks in C, for few or for many images."""

import ctypes
import math
import threading
from ctypes import c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from passband.chain.graph import Graph
from passband.chain.program import Program
from passband.chain.steps import Network, Step, UnsupportedError
from passband.measure.layers import undisturbed
from passband.ops.kernel_files import Functions, load_kernels

_FOLDER = Path(__file__).parent / "native"

# A block of images takes about as long as this many single ones.
_LIKE_SINGLES = 10
_FLOAT, _FLOAT_BYTES = torch.float32, 4
# A block that takes more is slower than its images one by one.
_CACHE_BYTES = 2**24


class CompiledChain:
    """A chain as a function of maps (B, C, H, W), on the CPU and without gradients.

    Where the engine cannot run it, PyTorch does; `engine` says which, and `reason` why. The engine
    has its own copy of the weights: compile the chain again after changing them.

    Args:
        chain: What `passband.to_chain` made, or another torch.fx.GraphModule in evaluation mode.
        example_input: A map of the size that it is called with, any batch.

    Raises:
        TypeError: `example_input` is no tensor.
        ValueError: The chain does not run on maps of its size.
    """

    def __init__(self, chain: fx.GraphModule, example_input: Tensor) -> None:
        if not isinstance(example_input, Tensor):
            raise TypeError(
                f"example_input is {type(example_input).__name__}; allowed is a tensor (B, C, H, W)"
            )
        self.chain = chain.eval()
        self.input_shape = tuple(example_input.shape[1:])
        self._dtype = example_input.dtype
        self.reason: str | None = None
        self._lock = threading.Lock()
        self._programs: dict[int, _Prepared] = {}
        library = load_library()
        if library is None:
            self.reason = "no kernels were compiled for this machine"
            return
        values = [*chain.parameters(), *chain.buffers()]
        if elsewhere := [value.device for value in values if value.device.type != "cpu"]:
            self.reason = f"the chain is on {elsewhere[0]}, and the engine runs on the CPU"
            return
        width = int(library.passband_chain_width())
        sums, tall = library.passband_chain_sums(), library.passband_chain_tall_outputs()
        try:
            with undisturbed(chain), torch.no_grad():
                graph = Graph(chain, self._example())
                for lanes in (width, 1):
                    program = Program(lanes, width, int(sums), int(tall))
                    program.build(graph)
                    self._programs[lanes] = _Prepared(library, program)
        except UnsupportedError as error:
            if not self._programs:
                self.reason = (
                    f"the engine has no {error}; PyTorch runs the chain, and ONNX Runtime "
                    "what passband.export_onnx makes of it"
                )
                return
        self.width = width
        self._is_large = _FLOAT_BYTES * self._programs[width].program.size > _CACHE_BYTES
        self._plan = self._planned(torch.Size([0, *self.input_shape]), 1)

    @property
    def engine(self) -> str:
        """What runs it: "native" or "torch"."""
        return "torch" if self.reason is not None else "native"

    def __call__(self, images: Tensor) -> Tensor:
        """The output of the network for images (B, C, H, W).

        Raises:
            TypeError: The images are no tensor.
            ValueError: They have another shape than the example, or PyTorch would have to run the
                chain and they have another type or device than its weights.
        """
        if not isinstance(images, Tensor):
            raise TypeError(f"images are {type(images).__name__}; allowed is a tensor")
        shape = images.shape
        if (
            self.reason is not None
            or images.dtype is not _FLOAT
            or not images.is_cpu
            or images.is_neg()
        ):
            return self._by_torch(images)
        plan, threads = self._plan, torch.get_num_threads()
        if plan.shape != shape or plan.threads != threads:
            self._check(shape)
            plan = self._plan = self._planned(shape, threads)
        images = images.contiguous()
        results = torch.empty_like(plan.like)  # in half the time of torch.empty
        source, target = images.data_ptr(), results.data_ptr()
        if not source and plan.parts:  # a tensor without memory, as torch.export traces with
            return self._by_torch(images)
        with self._lock:
            for program, start, to, count, workers in plan.parts:
                program.run(source + start, target + to, count, workers)
        return results

    def __reduce__(self) -> tuple[type["CompiledChain"], tuple[fx.GraphModule, Tensor]]:
        """Copies, and what is read from a file, are compiled anew."""
        return type(self), (self.chain, self._example())

    def _example(self) -> Tensor:
        return torch.zeros(1, *self.input_shape, dtype=self._dtype)

    def _by_torch(self, images: Tensor) -> Tensor:
        self._check(images.shape)
        try:
            with torch.no_grad():
                output: Tensor = self.chain(images)
        except RuntimeError as error:
            own = next(self.chain.parameters(), images)
            if (images.dtype, images.device) == (own.dtype, own.device):
                raise
            raise ValueError(
                f"images are {images.dtype} on {images.device}; allowed are, as the chain's "
                f"weights, {own.dtype} on {own.device}"
            ) from error
        return output

    def _check(self, shape: torch.Size) -> None:
        if shape[1:] != self.input_shape:
            raise ValueError(
                f"images have shape {tuple(shape)}; allowed is (B, "
                f"{', '.join(map(str, self.input_shape))})"
            )

    def _planned(self, shape: torch.Size, threads: int) -> "_Plan":
        """Which images are computed in blocks, and which one by one."""
        count, width = shape[0], self.width
        blocks = self._programs[width]
        like = torch.empty(count, *blocks.program.output_shape)

        def cost(single: int) -> int:
            in_blocks = -(-(count - single) // width)
            return -(-in_blocks // threads) * _LIKE_SINGLES + -(-single // threads)

        single = min(0, count % width, count, key=cost) if 1 in self._programs else 0
        if self._is_large and 1 in self._programs:
            single = count
        first, parts = count - single, []
        if first:
            parts.append(_Part(blocks, 0, 0, first, min(threads, -(-first // width))))
        if single:
            start, to = (_FLOAT_BYTES * first * math.prod(s[1:]) for s in (shape, like.shape))
            parts.append(_Part(self._programs[1], start, to, single, min(threads, single)))
        return _Plan(shape, threads, like, parts)


class _Part(NamedTuple):
    """Images, from their bytes `start` on, that a program computes."""

    program: "_Prepared"
    start: int
    to: int
    images: int
    workers: int


class _Plan(NamedTuple):
    """How images of one shape are computed, and what their results are like."""

    shape: torch.Size
    threads: int
    like: Tensor
    parts: list[_Part]


class _Prepared:
    """A program with its memory."""

    def __init__(self, library: ctypes.CDLL, program: Program) -> None:
        self.run_chain = library.passband_run_chain
        self.program = program
        self.steps = (Step * len(program.steps))(*program.steps)
        self.network = Network(
            ctypes.addressof(self.steps), len(self.steps), program.input, program.output,
            program.lanes, program.size, program.direct,
        )  # fmt: skip
        self.address = ctypes.addressof(self.network)
        self._work, self._workers = 0, 0
        self._memory = torch.empty(0)

    def run(self, images: int, results: int, count: int, workers: int) -> None:
        """Compute so many images at one address, to another."""
        if workers > self._workers:
            self._memory = torch.zeros(workers * self.program.size)
            self._work, self._workers = self._memory.data_ptr(), workers
        self.run_chain(self.address, images, results, count, self._work, workers)


def compile_chain(chain: nn.Module, example_input: Tensor) -> CompiledChain:
    """A chain as a fast function on the CPU.

    Args:
        chain: What `passband.to_chain` made.
        example_input: A map (B, C, H, W) of the size that it is called with.

    Raises:
        TypeError: The chain is no torch.fx.GraphModule, or the example no tensor.
        ValueError: The chain does not run on maps of the example's size.

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
    "chain_step_bytes": ([], c_int64),
    "chain_width": ([], c_int64),
    "chain_sums": ([], c_int64),
    "chain_tall_outputs": ([], c_int64),
}


@cache
def load_library() -> Any:
    """The best kernels for this machine; None where none were compiled for it."""
    return load_kernels(_FOLDER, FUNCTIONS)
