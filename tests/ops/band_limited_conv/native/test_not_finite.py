"""NaN and infinity spread as they do in torch, and not by the way the kernels share registers."""

import pytest
import torch

from tests.ops.band_limited_conv.cases import Call
from tests.support import output_and_gradients, random

HALF = {"compression": 0.5}
BOTH = ["forward", "backward"]
IN_ROWS, IN_CHANNELS = torch.contiguous_format, torch.channels_last
NOT_FINITE = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("channels", [3, 16, 65])
def test_what_is_not_finite_stays_in_its_image(
    channels: int, value: float, kernels: list[str]
) -> None:
    """Wherever torch's output or gradient is not finite ours is not, and other images are clean."""
    call = Call((33, channels, 9, 8), (17, channels, 3, 3), {"padding": 1}, HALF)
    for order in (IN_ROWS, IN_CHANNELS):
        tensors = call.tensors(torch.float32)
        tensors["input"] = tensors["input"].contiguous(memory_format=order)
        tensors["input"][7, -1, 4, 3] = value
        found = output_and_gradients(call.ours("matmul"), tensors)
        torchs = output_and_gradients(call.native(), tensors)
        others = torch.arange(33) != 7
        assert found["output"][others].isfinite().all()
        assert found["gradient of input"].isfinite().all()
        for name in ("output", "gradient of weight"):
            wrong = ~torchs[name].isfinite()
            assert wrong.any()
            assert not found[name][wrong].isfinite().any()
        # other channels' filters have not met it
        assert found["gradient of weight"][:, :-1].isfinite().all()
    assert kernels == BOTH * 2


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_gradient_that_is_not_finite_stays_in_its_image(value: float, kernels: list[str]) -> None:
    call = Call((5, 17, 9, 8), (18, 17, 3, 3), {"padding": 1}, HALF, bias=False)
    leaves = {n: t.requires_grad_() for n, t in call.tensors(torch.float32).items()}
    output = call.ours("matmul")(**leaves)
    cotangent = random(*output.shape, dtype=torch.float32)
    cotangent[3, 2, 4, 4] = value
    grad_input, grad_weight = torch.autograd.grad(output, leaves.values(), cotangent)
    assert grad_input[[0, 1, 2, 4]].isfinite().all()
    assert not grad_input[3].isfinite().any()
    assert not grad_weight[2].isfinite().any()
    assert grad_weight[torch.arange(18) != 2].isfinite().all()
    assert kernels == BOTH


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_filter_that_is_not_finite_spoils_its_own_output_only(
    value: float, kernels: list[str]
) -> None:
    for outputs in (1, 18, 65):
        call = Call((3, 17, 9, 8), (outputs, 17, 3, 3), {"padding": 1}, HALF)
        tensors = call.tensors(torch.float32)
        tensors["weight"][-1, 2, 0, 0] = value
        found = call.ours("matmul")(**tensors)
        assert not found[:, -1].isfinite().any()
        assert found[:, :-1].isfinite().all()
    assert kernels == ["forward"] * 3
