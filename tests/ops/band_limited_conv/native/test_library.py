"""Which kernels are loaded, and what happens where there are none."""

import ctypes
import os
import platform
import shutil
from pathlib import Path

import pytest
import torch

from passband.ops import kernel_files, kernel_sources
from passband.ops.band_limited_conv.native import convolution, library
from tests.ops.band_limited_conv.cases import Call
from tests.ops.band_limited_conv.native.cases import assert_right, draw_call

ROOT = Path(__file__).parents[4]
STALE = r"of other sources than its own, .*`python -m pip install --editable \.`"
CALL = Call((3, 5, 9, 8), (17, 5, 3, 3), {"padding": 1}, {"compression": 0.5})


@pytest.mark.skipif(
    os.name == "nt" or not any(map(shutil.which, ("cc", "gcc"))), reason="no C compiler is here"
)
def test_the_kernels_are_compiled_where_there_is_a_compiler() -> None:
    """Otherwise the other tests would be skipped, and nobody would know."""
    assert library.load_library() is not None
    if platform.machine() == "x86_64":
        compiled = {path.name for path in library._FOLDER.glob("*.so")}
        assert {f"kernels_{name}.so" for name in ("avx512", "avx2", "default")} <= compiled


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of kernels, empty at first, from which they are loaded anew."""
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    kernel_files._warn_of_stale_kernels.cache_clear()
    monkeypatch.setattr(convolution, "load_library", library.load_library.__wrapped__)
    return tmp_path


def test_without_kernels_torch_computes(folder: Path, kernels: list[str]) -> None:
    for index in range(400, 410):
        assert_right(draw_call(index))
    assert kernels == []


def test_with_kernels_they_compute(folder: Path, kernels: list[str]) -> None:
    """By the path that the others take away."""
    for path in Path(library.__file__).parent.glob("kernels_*.so"):
        shutil.copy(path, folder)
    assert_right(CALL)
    assert kernels == ["forward", "backward"]


@pytest.mark.parametrize("content", [b"", b"no library\n" * 1000], ids=["empty", "text"])
def test_a_file_that_is_no_library(content: bytes, folder: Path, kernels: list[str]) -> None:
    for name in ("avx512", "avx2", "default"):
        (folder / f"kernels_{name}.so").write_bytes(content)
    with pytest.warns(UserWarning, match=STALE):
        assert_right(CALL)
    assert kernels == []


def test_a_library_of_something_else(folder: Path, kernels: list[str]) -> None:
    """Or of another version, without one of the functions."""
    some = next(iter(Path(torch.__file__).parent.glob("lib/libshm*")), None)
    if some is None:
        pytest.skip("torch has no small library of its own here")
    for name in ("avx512", "avx2", "default"):
        (folder / f"kernels_{name}.so").symlink_to(some)
    with pytest.warns(UserWarning, match=STALE):
        assert_right(CALL)
    assert kernels == []


def test_kernels_of_other_sources(
    folder: Path, kernels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are passed over, and that is said, once."""
    for path in Path(library.__file__).parent.glob("kernels_*.so"):
        shutil.copy(path, folder)
    monkeypatch.setattr(kernel_files, "digest", lambda _: "0" * 64)
    with pytest.warns(UserWarning, match=STALE) as warned:
        assert_right(CALL)
        assert_right(CALL)
    assert len(warned) == 1
    assert kernels == []


@pytest.mark.parametrize("folder", kernel_sources.FOLDERS, ids=lambda folder: folder.parent.name)
def test_a_change_of_any_source_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, read = kernel_sources.digest(folder), Path.read_bytes
    assert before is not None
    files = [*kernel_sources.c_files(folder), kernel_sources.CORE / "core.h"]
    assert kernel_sources.CORE / "core.c" in files
    for changed in files:
        monkeypatch.setattr(
            Path, "read_bytes", lambda path, own=changed: read(path) + b" " * (path == own)
        )
        assert kernel_sources.digest(folder) != before


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ("AVX512", ["avx512", "avx2", "default"]),
        ("AVX2", ["avx2", "default"]),
        ("DEFAULT", ["default"]),
        ("NO AVX", ["default"]),  # the same in older versions of torch
        ("SVE256", ["default"]),  # ARM
    ],
)
def test_the_best_that_the_machine_can_run_is_tried_first(
    capability: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def fail(path: Path, _: object) -> ctypes.CDLL:
        tried.append(path.name)
        raise OSError

    monkeypatch.setattr(kernel_files, "open_kernels", fail)
    monkeypatch.setattr(kernel_files, "_warn_of_stale_kernels", lambda: None)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert library.load_library.__wrapped__() is None
    assert tried == [f"kernels_{name}.so" for name in expected]
