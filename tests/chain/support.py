"""Chains on the native engine, checked against PyTorch."""

from pathlib import Path

import torch
from torch import fx, nn

from passband.chain import compile_chain, compiled
from passband.chain.compiled import CompiledChain
from tests.convert.frequency.cases import maps
from tests.support import relative_error

ROUNDING = 1e-5  # the same sums in another order, in float32, in up to a hundred layers
LIBRARIES = sorted(Path(compiled.__file__).parent.glob("native/kernels_*.so"))


def engine(model: nn.Module, shape: tuple[int, ...]) -> CompiledChain:
    graph = model if isinstance(model, fx.GraphModule) else fx.symbolic_trace(model)
    return compile_chain(graph.eval(), torch.zeros(1, *shape))


def check(model: nn.Module, shape: tuple[int, ...], batches: tuple[int, ...] = (1, 3, 21)) -> None:
    fast = engine(model, shape)
    assert fast.engine == "native", fast.reason
    for batch in batches:
        x = maps(shape, batch)
        with torch.no_grad():
            assert relative_error(fast(x), model(x)) < ROUNDING
