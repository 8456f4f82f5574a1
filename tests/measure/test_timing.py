import itertools

import pytest

from passband.measure import timing
from passband.measure.timing import alternate, time_rounds


def test_functions_run_in_turn_after_a_warm_up() -> None:
    calls: list[str] = []
    seconds = alternate([lambda: calls.append("a"), lambda: calls.append("b")], 3, warm_up=2)
    assert "".join(calls) == "ab" * 5
    assert len(seconds) == 2
    assert all(second >= 0 for second in seconds)


def test_repeats_are_at_least_one() -> None:
    with pytest.raises(ValueError, match="repeats is 0, allowed is at least 1"):
        alternate([lambda: None], repeats=0)


def test_rounds_go_on_until_they_have_taken_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves one second each time it is looked at: three looks a round."""
    looks = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(looks)))
    (seconds,) = time_rounds([lambda: None], repeats=1, shortest=7.0)
    assert seconds == [1.0, 1.0, 1.0]


def test_rounds_end_early_but_not_before_the_third() -> None:
    calls: list[int] = []
    rounds = time_rounds([lambda: calls.append(1)], repeats=100, longest=0.0)
    assert len(rounds[0]) == 3
    assert len(calls) == 4  # and the warm-up
