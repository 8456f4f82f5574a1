import pytest

from passband.names import unknown_name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt8", "unknown model 'resnt8': did you mean 'ResNet8'? known are ResNet8, fcn"),
        ("zzz", "unknown model 'zzz': known are ResNet8, fcn"),
    ],
)
def test_the_closest_name_is_suggested_whatever_its_case(name: str, message: str) -> None:
    assert str(unknown_name("model", name, ["fcn", "ResNet8"])) == message


def test_many_names_are_counted_and_not_listed() -> None:
    error = unknown_name("set", "name7x", [f"name{i}" for i in range(100)])
    assert str(error) == "unknown set 'name7x': did you mean 'name7'? 100 are known"
