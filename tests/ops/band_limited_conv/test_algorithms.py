"""Every algorithm is the reference, and at full band torch's own convolution."""

import pytest
import torch

from tests.ops.band_limited_conv.cases import CALLS, FAST
from tests.support import assert_same_function

# torch says that "same" with an even filter copies the map
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])


@dtypes
@pytest.mark.parametrize("algorithm", FAST)
@pytest.mark.parametrize("name", CALLS)
def test_equals_the_reference(name: str, algorithm: str, dtype: torch.dtype) -> None:
    call = CALLS[name]
    assert_same_function(call.ours(algorithm), call.ours("fft"), call.tensors(dtype))


@dtypes
@pytest.mark.parametrize("algorithm", ["fft", *FAST])
@pytest.mark.parametrize("name", CALLS)
def test_at_full_band_equals_torch(name: str, algorithm: str, dtype: torch.dtype) -> None:
    call = CALLS[name]
    full = {"fft_size": call.band.get("fft_size"), "compression": 0.0}
    assert_same_function(call.ours(algorithm, **full), call.native(), call.tensors(dtype))
