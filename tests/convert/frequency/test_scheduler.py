import itertools

import pytest
import torch
from torch import nn

from passband import FrequencyRegularization, FrequencyScheduler, convert
from passband.convert.frequency.network import frequency_layers
from tests.convert.frequency.cases import dense, maps

SHAPE = (3, 8, 8)


def converted(**options: object) -> nn.Module:
    model = dense("resnet20", SHAPE)
    convert(model, FrequencyRegularization(**options), maps(SHAPE))  # type: ignore[arg-type]
    return model


def sizes(model: nn.Module) -> list[int]:
    return [layer.corner.count for _, layer in frequency_layers(model)]


def test_the_papers_schedule() -> None:
    """keep + (1 - keep)(1 - d)^t, then constant."""
    config = FrequencyRegularization(keep=0.007, rate=0.01)
    for step in (0, 1, 10, 500):
        expected = 0.007 + 0.993 * 0.99**step
        # the end is at a whole number of steps, which changes the rate a little
        assert config.kept_at(step) == pytest.approx(expected, rel=0.01)
    assert config.kept_at(config.total_steps) == 0.007
    assert config.kept_at(config.total_steps - 1) < 0.007 * 1.02


@pytest.mark.parametrize("schedule", ["geometric", "linear", "cosine"])
def test_schedules_fall_from_everything_to_keep(schedule: str) -> None:
    config = FrequencyRegularization(keep=0.05, schedule=schedule, steps=40)
    kept = [config.kept_at(step) for step in range(45)]
    assert kept[0] == 1
    assert all(a > b for a, b in itertools.pairwise(kept[:41]))
    assert kept[40:] == [0.05] * 5


def test_restarts_begin_at_everything() -> None:
    config = FrequencyRegularization(keep=0.05, schedule="linear", steps=10, restarts=1)
    assert config.total_steps == 20
    assert config.kept_at(9) == pytest.approx(0.05 + 0.95 / 10)
    assert config.kept_at(10) == 1
    assert config.kept_at(20) == 0.05
    model = converted(keep=0.05, schedule="linear", steps=4, restarts=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
    scheduler = FrequencyScheduler(model, optimizer)
    whole = sizes(model)
    counts = []
    for _ in range(8):
        optimizer.zero_grad()
        model(maps(SHAPE)).square().mean().backward()
        optimizer.step()
        scheduler.step()
        counts.append(sizes(model))
    assert counts[3] == whole and counts[7] < counts[2] < whole


def test_evaluation_does_not_advance_it() -> None:
    model = converted(keep=0.1)
    FrequencyScheduler(model).step()
    before = sizes(model)
    for mode in (True, False):
        model.train(mode)(maps(SHAPE))
    assert sizes(model) == before


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_with_an_optimizer_parameters_shrink_and_training_is_the_same(
    make: type[torch.optim.Optimizer],
) -> None:
    """Cutting what is not kept out of memory changes no number that is kept."""
    found = []
    for cut in (False, True):
        model = converted(keep=0.05, schedule="linear", steps=5)
        arguments = {"momentum": 0.9} if make is torch.optim.SGD else {}
        optimizer = make(model.parameters(), lr=0.01, **arguments)  # type: ignore[call-arg]
        scheduler = FrequencyScheduler(model, optimizer if cut else None)
        for step in range(8):
            optimizer.zero_grad()
            model(maps(SHAPE, seed=step)).square().mean().backward()
            optimizer.step()
            scheduler.step()
        found.append(model.eval()(maps(SHAPE)))
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in model.parameters()}
        weights = sum(layer.weight.numel() for _, layer in frequency_layers(model))
        assert (weights < 30_000) == cut
    # the same sums in other orders, in float32
    assert (found[0] - found[1]).norm() < 1e-4 * found[0].norm()


def test_floors_per_kind_of_layer() -> None:
    model = converted(keep=0.001, least_conv=50, least_linear=20, keep_last=0.001)
    FrequencyScheduler(model).finish()
    counts = sizes(model)
    assert min(counts[:-1]) == 50 and counts[-1] == 20


def test_the_last_layer_keeps_all_unless_told() -> None:
    model = converted(keep=0.05)
    FrequencyScheduler(model).finish()
    assert sizes(model)[-1] == 64 * 4
    model = converted(keep=0.05, keep_last=0.5)
    FrequencyScheduler(model).finish()
    assert sizes(model)[-1] == 64 * 4 // 2


def test_numbers_of_channels_are_rounded_up() -> None:
    model = converted(keep=0.05, round_to=8)
    FrequencyScheduler(model).finish()
    for _, layer in list(frequency_layers(model))[:-1]:
        assert layer.corner.is_box
        assert layer.out_kept % 8 == 0
        assert layer.in_kept % 8 == 0 or layer.in_kept == 3


def test_its_state() -> None:
    model = converted(keep=0.05, schedule="linear", steps=10)
    scheduler = FrequencyScheduler(model)
    scheduler.set_step(4)
    other = FrequencyScheduler(model)
    other.load_state_dict(scheduler.state_dict())
    assert other.steps == 4 and other.kept == scheduler.kept and not other.is_finished
    other.finish()
    assert other.is_finished and other.kept == 0.05


def test_a_model_that_is_not_converted() -> None:
    with pytest.raises(ValueError, match="model is not converted to frequency regularization"):
        FrequencyScheduler(nn.Conv2d(1, 1, 1))
