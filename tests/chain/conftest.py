import pytest

from passband.chain import compiled
from passband.chain.compiled import FUNCTIONS
from passband.ops import kernel_files
from passband.ops.kernel_files import open_kernels
from tests.chain.support import LIBRARIES


@pytest.fixture(params=LIBRARIES, ids=lambda path: path.stem)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the compiled libraries that this machine can run."""
    runnable = kernel_files.runnable()
    if request.param.stem.removeprefix("kernels_") not in runnable:
        pytest.skip("of another processor")
    monkeypatch.setattr(compiled, "load_library", lambda: open_kernels(request.param, FUNCTIONS))
