"""torch.compile(fullgraph=True) computes what eager mode computes, forward and backward."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import passband as pb
from tests.compat.networks import ALGORITHMS, assert_same, maps, small_network, training_step
from tests.support import relative_error

# The operators run as they are in both modes, so that only what surrounds them could round
# differently: batch norm, ReLU and sums, some 6e-8 each.
TOLERANCE = 1e-6
# Inductor computes batch norm by other formulas and sums in another order, twice in this network.
INDUCTOR_TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _nothing_compiled_yet() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def traced(function: Any, **arguments: Any) -> Callable[..., Any]:
    """Compiled in every respect but C++: captured in one graph, differentiated, run op by op."""
    compiled: Callable[..., Any] = torch.compile(
        function, fullgraph=True, backend="aot_eager", **arguments
    )
    return compiled


@pytest.mark.parametrize(
    ("algorithm", "axes"), [("auto", 2), *((a, n) for a in ALGORITHMS[1:] for n in (1, 2, 3))]
)
def test_training_step_and_evaluation(algorithm: str, axes: int) -> None:
    """At one band and at the full one; a second batch and a second size compile again."""
    model = small_network(algorithm, axes)
    compiled = traced(model)
    larger = {1: (24,), 2: (8, 11), 3: (6, 6, 5)}[axes]
    for x in (maps(3, axes), maps(5, axes), maps(2, axes, larger)):
        assert_same(training_step(model, x, compiled), training_step(model, x), TOLERANCE)
    model.eval()
    with torch.no_grad():
        x = maps(4, axes)
        assert relative_error(compiled(x), model(x)) <= TOLERANCE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_dynamic_sizes(algorithm: str) -> None:
    """With dynamic=True one graph serves all batches; each map size has its own."""
    model = small_network(algorithm)
    graphs: list[Any] = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=count)
    for batch in (3, 5, 8):
        x = maps(batch)
        assert_same(training_step(model, x, compiled), training_step(model, x), TOLERANCE)
    assert len(graphs) == 1
    x = maps(3, size=(12, 9))
    assert_same(training_step(model, x, compiled), training_step(model, x), TOLERANCE)
    assert len(graphs) == 2


def test_the_run_time_knob() -> None:
    """A compiled model follows set_compression, and each layer's own set_band."""
    model = small_network("matmul")
    compiled = traced(model)
    x = maps()
    outputs = []
    for compression in (0.5, 0.7, 0.2, 0.0):
        model[0].set_band(compression=compression)
        outputs.append(compiled(x))
        assert relative_error(outputs[-1], model(x)) <= TOLERANCE
    assert all(relative_error(a, b) > 1e-3 for a, b in pairwise(outputs))


@pytest.mark.parametrize("name", ["compression", "band"])
def test_a_band_given_to_the_compiled_function(name: str) -> None:
    """An argument that changes, which the compiler would like to make a dynamic number."""
    weight = torch.randn(6, 4, 3, 3)

    def function(x: Tensor, value: float) -> Tensor:
        return pb.band_limited_conv2d(x, weight, padding=1, **{name: value})  # type: ignore[arg-type]

    compiled = traced(function)
    values = {"compression": (0.5, 1 / 3, 0.8, 0), "band": (2, 4, 3, 1)}[name]
    for value in values:
        assert relative_error(compiled(maps(), value), function(maps(), value)) <= TOLERANCE


@pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])
def test_by_inductor_with_an_optimizer(algorithm: str) -> None:
    """Three steps of training, compiled to C++, in channels last; then evaluation."""
    x = maps(3).to(memory_format=torch.channels_last)
    trained = []
    for compile in (False, True):
        model = small_network(algorithm).to(memory_format=torch.channels_last)
        run = torch.compile(model, fullgraph=True) if compile else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            output = run(x)
            output.square().mean().backward()
            optimizer.step()
        assert output.is_contiguous(memory_format=torch.channels_last)
        assert not output.is_contiguous()
        state = {name: value for name, value in model.state_dict().items() if "num" not in name}
        model.eval()
        with torch.no_grad():
            trained.append({"output": output, **state, "evaluation": run(x)})
    assert_same(trained[1], trained[0], INDUCTOR_TOLERANCE)


@pytest.mark.parametrize("algorithm", ["lowpass", "matmul"])
def test_under_autocast(algorithm: str) -> None:
    model = small_network(algorithm)
    compiled = traced(model)
    x = maps()

    def steps(run: Any) -> dict[str, Tensor]:
        def under_autocast(x: Tensor) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return run(x)

        return training_step(model, x, under_autocast)

    found, expected = steps(compiled), steps(model)
    assert found["output"].dtype == torch.bfloat16
    assert_same(found, expected, TOLERANCE)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"energy": 0.9}, "_convolve_by_energy"),
        ({"energy": 0.9, "energy_mode": "fine"}, "_convolve_by_energy"),
        ({"compression": 0.5, "algorithm": "fft"}, "_convolve_by_fft"),
    ],
)
def test_what_cannot_be_compiled_runs_outside(arguments: dict[str, Any], reason: str) -> None:
    """Bands that follow values, and complex numbers: not in one graph, quietly in several."""
    model = nn.Sequential(pb.BandLimitedConv2d(4, 6, 3, padding=1, **arguments), nn.ReLU())
    with pytest.raises(torch._dynamo.exc.Unsupported, match=reason):
        traced(model)(maps())
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager")
    for x in (maps(3), maps(5), maps(3) + 1, maps(2, size=(6, 8))):
        assert_same(training_step(model, x, compiled), training_step(model, x), TOLERANCE)


def test_bad_arguments_are_named() -> None:
    model = small_network()
    model[0].compression = 1.5
    with pytest.raises((torch._dynamo.exc.Unsupported, ValueError)) as raised:
        traced(model)(maps())
    if torch.__version__ >= (2, 15):  # 2.6 does not hand on what was raised
        raised.match(r"compression is 1.5, allowed is 0 <= compression < 1")


# what the compiler looks at behind a break of its own
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_exact_memory_blocks_run_eagerly_between_graphs() -> None:
    """And with fullgraph=True they say so."""
    model = small_network("matmul")
    expected = training_step(model, maps(3, 2))
    pb.convert(model, pb.BandLimit(memory="exact"), filter_fn=lambda *_: False)
    compiled = torch.compile(model, backend="aot_eager")
    assert_same(training_step(model, maps(3, 2), compiled), expected, TOLERANCE)
    with pytest.raises(Exception, match="exact-memory block"):
        traced(model)(maps(3, 2))
    with torch.no_grad():  # one graph of the single modules
        model.eval()
        assert relative_error(traced(model)(maps(3, 2)), model(maps(3, 2))) <= TOLERANCE
