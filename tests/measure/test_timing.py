import pytest

from passband.measure.timing import alternate


def test_functions_run_in_turn_after_a_warm_up() -> None:
    calls: list[str] = []
    seconds = alternate([lambda: calls.append("a"), lambda: calls.append("b")], 3, warm_up=2)
    assert "".join(calls) == "ab" * 5
    assert len(seconds) == 2
    assert all(second >= 0 for second in seconds)


def test_repeats_are_at_least_one() -> None:
    with pytest.raises(ValueError, match="repeats is 0, allowed is at least 1"):
        alternate([lambda: None], repeats=0)
