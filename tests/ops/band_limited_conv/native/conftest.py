"""What the tests of the kernels share: that they are what computes, and each instruction set."""

import ctypes
from collections.abc import Callable

import pytest

from passband.ops.band_limited_conv.native import convolution, library, lowpass
from passband.ops.kernel_files import open_kernels, runnable


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passes that the kernels have computed in this test; it fails if there are none."""
    if library.load_library() is None:
        pytest.skip("no kernels are compiled here")
    passes: list[str] = []

    def noted(name: str) -> Callable[..., object]:
        original = getattr(convolution, name)

        def call(*args: object, **kwargs: object) -> object:
            passes.append(name)
            return original(*args, **kwargs)

        return call

    for name in ("forward", "backward"):
        monkeypatch.setattr(convolution, name, noted(name))
    return passes


@pytest.fixture(params=["avx512", "avx2", "default"])
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Has the kernels of one instruction set compute, of those that this machine can run."""
    loaded = load(request.param)
    if loaded is None:
        pytest.skip(f"kernels_{request.param} are not compiled, or do not run here")
    for module in (convolution, lowpass):
        monkeypatch.setattr(module, "load_library", lambda: loaded)
    return request.param


def load(name: str) -> ctypes.CDLL | None:
    """The kernels of an instruction set, None where this machine has none or cannot run them."""
    path = library._FOLDER / f"kernels_{name}.so"
    if name not in runnable() or not path.exists():
        return None
    return open_kernels(path, library.FUNCTIONS)
