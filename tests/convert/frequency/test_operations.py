"""What operations between layers are to channel coefficients, and which are refused."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from passband import FrequencyRegularization, FrequencyScheduler, convert, to_chain
from passband.convert.frequency.network import frequency_layers
from tests.support import relative_error

EXACT = 1e-12  # rounding of float64 through a few layers
WHOLE = FrequencyRegularization(keep=1.0)
Forward = Callable[[Any, Tensor], Any]


def example(channels: int = 6, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, size, size, dtype=torch.float64, generator=generator)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def network(forward: Forward, **modules: Any) -> nn.Module:
    """A network of these modules and parameters, which is not linear only if `forward` is not."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, module in modules.items():
                setattr(self, name, module)

        def forward(self, x: Tensor) -> Any:
            return forward(self, x)

    return Net().double()


def refused(message: str, model: nn.Module, x: Tensor | None = None) -> None:
    before = [(name, type(module)) for name, module in model.named_modules()]
    with pytest.raises(ValueError, match=message):
        convert(model, WHOLE, example() if x is None else x)
    assert [(name, type(module)) for name, module in model.named_modules()] == before


def cut(model: nn.Module, keep: float = 0.1, x: Tensor | None = None) -> nn.Module:
    """A network converted and shrunk, of which the chain computes the same."""
    x = example() if x is None else x
    convert(model, FrequencyRegularization(keep=keep), x)
    FrequencyScheduler(model).finish()
    model.eval()
    for fold in (True, False):
        for round_to in (1, 8):
            chain = to_chain(model, x, fold=fold, round_to=round_to)
            assert relative_error(chain(x), model(x)) < EXACT
    return model


def twice(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.a(x)
    return y + y


def squared(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.a(x)
    return y * y


def in_place(m: Any, x: Tensor) -> Tensor:
    y: Tensor = m.a(x)
    y += m.b(x)
    return y


SUMS: dict[str, Forward] = {
    "torch.add": lambda m, x: torch.add(m.a(x), m.b(x), alpha=0.25),
    "keywords": lambda m, x: torch.add(input=m.a(x), other=m.b(x), alpha=2),
    "method": lambda m, x: m.a(x).add(m.b(x), alpha=-1.5),
    "twice": lambda m, x: m.a(x) + m.a(x) * 0.5,
    "itself": twice,
    "in place": in_place,
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_and_their_factors(name: str) -> None:
    """Linear networks, of which the dual is the same function."""
    model = network(SUMS[name], a=conv(6, 8), b=conv(6, 8))
    expected = model(example())
    convert(model, WHOLE, example())
    assert relative_error(model(example()), expected) < EXACT
    cut(network(SUMS[name], a=conv(6, 8), b=conv(6, 8)))


def test_sums_in_place_of_what_is_read_again() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        return y.add_(m.b(x)) + y

    model = network(forward, a=conv(6, 8), b=conv(6, 8))
    refused(r"an addition in place to a map that is read again at line \d+ of", model)
    cut(network(lambda m, x: m.a(x).add_(m.b(x)), a=conv(6, 8), b=conv(6, 8)))


def test_sums_of_flattened_maps_of_unlike_widths() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        h = m.a(x).flatten(1) + m.b(x).flatten(1)
        h = m.first(h)
        return m.last(h + m.second(h))

    size = 24 * 16
    layers = {"first": nn.Linear(size, 20), "second": nn.Linear(20, 20), "last": nn.Linear(20, 5)}
    x = example(size=4)
    model = network(forward, a=conv(6, 24), b=conv(6, 24), **layers)
    convert(model, FrequencyRegularization(keep=0.5), x)
    FrequencyScheduler(model).finish()
    for name, count in {"a": 100, "b": 20, "first": 300, "second": 9}.items():
        layer = model.get_submodule(name)
        layer.keep_count(count)  # type: ignore[operator]
    widths = {name: layer.out_kept for name, layer in frequency_layers(model)}
    assert widths["a"] != widths["b"] and widths["first"] != widths["second"]
    model.eval()
    assert relative_error(to_chain(model, x)(x), model(x)) < EXACT


def test_scaling_by_numbers_and_tensors_of_one() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return m.b(m.scale * m.a(x) * m.offset.exp() / 3)

    def made() -> nn.Module:
        model = network(
            forward, a=conv(6, 16), b=conv(16, 8), scale=nn.Parameter(torch.tensor(2.0))
        )
        model.register_buffer("offset", torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64))
        return model

    model = made()
    expected = model(example())
    convert(model, WHOLE, example())
    assert relative_error(model(example()), expected) < EXACT
    cut(made())
    last = network(lambda m, x: 2 * m.a(x) * m.g, a=conv(6, 8), g=nn.Parameter(torch.ones(1)))
    layer = cut(last).get_submodule("a")
    assert layer.out_kept == 8  # type: ignore[comparison-overlap]


def test_products_that_are_no_scaling() -> None:
    message = r"the product of a map and something else than a number at line \d+ of .*test_oper"
    layers = {"a": conv(6, 16), "g": nn.Parameter(torch.ones(16, 1, 1))}
    refused(message, network(lambda m, x: m.a(x) * m.g, **layers))
    refused(message, network(lambda m, x: 1 / m.a(x), a=conv(6, 8)))
    refused(message, network(squared, a=conv(6, 8)))
    refused(message, network(lambda m, x: torch.div(m.a(x), 2, rounding_mode="floor"), **layers))


def test_operations_that_give_several_maps() -> None:
    line = r"at line \d+ of .*test_operations.py"
    layers = {"a": conv(6, 16), "b": conv(8, 8)}
    refused(f"chunk {line}", network(lambda m, x: m.b(m.a(x).chunk(2, 1)[0]), **layers))
    refused(f"split {line}", network(lambda m, x: m.b(torch.split(m.a(x), 8, 1)[0]), **layers))
    layers = {"a": conv(6, 16), "p": nn.MaxPool2d(2, return_indices=True), "b": conv(16, 8)}
    refused(rf"MaxPool2d \(p\) {line}", network(lambda m, x: m.b(m.p(m.a(x))[0]), **layers))
    sizes = network(lambda m, x: F.interpolate(m.a(x), size=x.shape[2:]), a=conv(6, 16))
    cut(sizes)  # those are no maps


def test_layers_that_are_called_again() -> None:
    def again(m: Any, x: Tensor) -> Any:
        a, b = m.a(x), m.b(x)
        return m.c(torch.cat([a, b], 1)) + m.c(torch.cat([b, a], 1))

    layers = {"a": conv(6, 16), "b": conv(6, 8), "c": conv(24, 5)}
    message = r"a layer that is called again, on other concatenated maps \(c\) at line \d+ of"
    refused(message, network(again, **layers))

    def normed(m: Any, x: Tensor) -> Any:
        a, b = m.a(x), m.b(x)
        return m.c(m.n(torch.cat([a, b], 1))) + m.d(m.n(torch.cat([b, a], 1)))

    layers = {"a": conv(6, 8), "b": conv(6, 8), "c": conv(16, 5), "d": conv(16, 5)}
    normed_twice = network(normed, n=nn.BatchNorm2d(16), **layers)
    refused(message.replace("(c", "(n"), normed_twice)
    cut(network(lambda m, x: m.c(m.b(m.b(m.a(x)))), a=conv(6, 16), b=conv(16, 16), c=conv(16, 5)))


def test_output_sizes_of_transposed_convolutions() -> None:
    layers = {"a": nn.Conv2d(6, 16, 3, 2, 1), "u": nn.ConvTranspose2d(16, 8, 3, 2, 1)}
    message = r"a layer with output_size, for which there is output_padding, \(u\) at line \d+ of"
    for size in (lambda x: x.shape[2:], lambda x: [8, 8]):
        refused(message, network(lambda m, x: m.u(m.a(x), size(x)), **layers))  # noqa: B023
    spatial = network(lambda m, x: m.u(m.a(x), output_size=x.shape[2:]), **layers)
    convert(spatial, FrequencyRegularization(keep=0.5, domain="spatial"))
    with pytest.raises(ValueError, match=r"output_size is .*; use output_padding"):
        spatial(example())


def test_functional_dropout_follows_the_mode() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return m.b(F.dropout(F.relu(m.a(x)), 0.5, training=m.training))

    for training in (True, False):
        model = network(forward, a=conv(6, 16), b=conv(16, 8)).train(training)
        cut(model, keep=0.5)
        assert model.training is False
        assert torch.equal(model(example()), model(example()))
        model.train()
        assert not torch.equal(model(example()), model(example()))


def test_parameters_that_are_shared() -> None:
    a, b = conv(6, 6), conv(6, 6)
    b.weight = a.weight
    model = network(lambda m, x: m.b(m.a(x)), a=a, b=b)
    refused(r"model has Conv2d \(a\), whose weight is also b's; give each a parameter", model)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weights_that_are_computed_before_each_call() -> None:
    from torch.nn.utils import prune, remove_weight_norm, weight_norm

    model = nn.Sequential(weight_norm(conv(6, 8)), conv(8, 4)).double()
    refused(r"Conv2d \(0\), whose weight is computed before each call, as by weight norm", model)
    remove_weight_norm(model[0])
    expected = model(example())
    convert(model, WHOLE, example())
    assert relative_error(model(example()), expected) < EXACT
    pruned = nn.Sequential(conv(6, 8), conv(8, 4)).double()
    prune.l1_unstructured(pruned[1], "bias", 0.5)
    refused(r"Conv2d \(1\), whose bias is computed before each call", pruned)


def test_what_is_refused_leaves_the_model_as_it_is() -> None:
    def both(m: Any, x: Tensor) -> Any:
        f = F.relu(m.a(x))
        return torch.cat([f, m.b(f)], 1)

    refused("model gives concatenated maps", network(both, a=conv(6, 16), b=conv(16, 4)))


@pytest.mark.parametrize("channels", [15, 16, 17])
def test_budgets_with_images_of_as_many_channels_as_a_map(channels: int) -> None:
    sizes = [channels, 16, 16, 16, 64, 5]
    model = nn.Sequential(*(conv(a, b) for a, b in itertools.pairwise(sizes)))
    config = FrequencyRegularization(keep=0.1, per_layer="macs")
    report = convert(model, config, torch.zeros(1, channels, 16, 16))
    # at most the budget, and little less: maps of 16 channels go in steps of a sixteenth
    assert 10 <= report.macs_ratio < 14
    assert report.rows[0]["inputs"] == f"{channels} of {channels}"


def test_budgets_with_depthwise_convolutions_of_the_image() -> None:
    depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    model = nn.Sequential(depthwise, conv(16, 40), conv(40, 40), conv(40, 16), conv(16, 5))
    report = convert(
        model, FrequencyRegularization(keep=0.1, per_layer="macs"), torch.zeros(1, 16, 16, 16)
    )
    rows = {row["layer"]: row for row in report.rows}
    assert rows["1"]["inputs"] == "16 of 16" and rows["4"]["inputs"] != "16 of 16"
    assert 10 <= report.macs_ratio < 14  # as above


def test_messages_name_the_module_and_the_line_of_the_model() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return m.head(m.a(x))

    inside = network(forward, a=conv(6, 8), head=nn.Sequential(nn.Softmax(1)))
    refused(r"Softmax \(head.0\) at line \d+ of .*test_operations.py \(return m.head", inside)
    model = nn.Sequential(conv(6, 8), nn.Softmax(1), conv(8, 4)).double()
    with pytest.raises(ValueError, match=r"model has Softmax \(1\), which cannot act"):
        convert(model, WHOLE, example())
    with pytest.raises(ValueError, match=r"model is a single Conv2d, .*; use torch.nn.Sequential"):
        convert(conv(6, 8).double(), WHOLE, example())
