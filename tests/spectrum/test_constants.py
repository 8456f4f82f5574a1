import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from passband.spectrum.constants import cached_constant


@cached_constant
def ramp(size: int) -> torch.Tensor:
    return torch.arange(size)


def test_it_is_built_once() -> None:
    assert ramp(3) is ramp(3)
    assert ramp(3) is not ramp(4)


def test_it_is_an_ordinary_tensor_whatever_surrounds_the_first_call() -> None:
    with FakeTensorMode():
        assert not isinstance(ramp(5), FakeTensor)
    with torch.inference_mode():
        assert not ramp(6).is_inference()
    with torch.device("meta"):
        assert ramp(7).device.type == "cpu"


def test_it_is_bounded() -> None:
    """The oldest of more than 512 are let go, and made again when they are asked for."""
    first = ramp(1000)
    for size in range(1001, 1513):
        ramp(size)
    assert ramp(1000) is not first
