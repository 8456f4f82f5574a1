"""The wheel: with kernels where there is a C compiler, pure where there is none."""

import ctypes
import os
import platform
import shutil
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent
NATIVE = "passband/ops/band_limited_conv/native"
COMPILER = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
needs_compiler = pytest.mark.skipif(
    COMPILER is None or os.name == "nt", reason="no C compiler is here"
)


class Built:
    """A wheel and what the build said."""

    def __init__(self, path: Path, warnings: str) -> None:
        self.path, self.warnings = path, warnings
        with zipfile.ZipFile(path) as archive:
            self.names = archive.namelist()
            (metadata,) = (name for name in self.names if name.endswith(".dist-info/WHEEL"))
            self.metadata = archive.read(metadata).decode()

    @property
    def kernels(self) -> set[str]:
        return {Path(name).name for name in self.names if name.endswith(".so")}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the wheel is built from, without what is compiled."""
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)
    return tmp_path


def build(tree: Path, capsys: pytest.CaptureFixture[str]) -> Built:
    """The wheel, without an environment of its own."""
    builder = WheelBuilder(str(tree))
    path = next(builder.build(directory=str(tree / "dist"), versions=["standard"]))
    return Built(Path(path), "".join(capsys.readouterr()))


def replace_kernels(tree: Path, source: str) -> None:
    """By something that compiles in no time."""
    for path in (tree / "src").rglob("*.c"):
        path.write_text(source if path.name == "core.c" else "")  # which all libraries share


def compiled_here() -> set[str]:
    names = ("avx512", "avx2", "default") if platform.machine() == "x86_64" else ("default",)
    return {f"kernels_{name}.so" for name in names}


@needs_compiler
def test_the_wheel_has_kernels(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For one system, but for every Python: they use none of its headers."""
    replace_kernels(
        tree, "static int nothing(void) { return 0; }\nint (*answer)(void) = nothing;\n"
    )
    wheel = build(tree, capsys)
    assert wheel.kernels == compiled_here()
    assert wheel.warnings == ""
    assert "Root-Is-Purelib: false" in wheel.metadata
    assert "Tag: py3-none-" in wheel.metadata and "-any" not in wheel.path.name
    with zipfile.ZipFile(wheel.path) as archive:
        assert ctypes.CDLL(archive.extract(f"{NATIVE}/kernels_default.so", tree / "out"))


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="has one instruction set")
def test_what_does_not_compile_is_left_out(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replace_kernels(tree, "#ifdef __AVX512F__\n#error not this one\n#endif\ntypedef int nothing;\n")
    wheel = build(tree, capsys)
    assert wheel.kernels == compiled_here() - {"kernels_avx512.so"}
    assert "kernels_avx512 do not compile here" in wheel.warnings
    assert "not this one" in wheel.warnings


@pytest.mark.parametrize("compiler", [None, "false", "no-such-compiler --fast"])
def test_without_a_compiler_the_wheel_is_pure(
    compiler: str | None,
    tree: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And has no kernels of an earlier build."""
    (tree / "src" / NATIVE / "kernels_default.so").write_bytes(b"of an earlier build")
    if compiler is None:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setenv("PATH", "")
    else:
        monkeypatch.setenv("CC", compiler)
    wheel = build(tree, capsys)
    assert wheel.path.name.endswith("-py3-none-any.whl")
    assert "Root-Is-Purelib: true" in wheel.metadata
    assert wheel.kernels == set()
    assert f"{NATIVE}/convolution.py" in wheel.names
    expected = "no C compiler" if compiler is None else "do not compile here"
    assert expected in wheel.warnings


@needs_compiler
def test_a_source_distribution_compiles_nothing(tree: Path) -> None:
    """But has what a wheel is compiled from."""
    path = next(SdistBuilder(str(tree)).build(directory=str(tree / "dist")))
    shutil.unpack_archive(path, tree / "out")
    (unpacked,) = (tree / "out").iterdir()
    assert list(unpacked.rglob("*.c")) and not list(unpacked.rglob("*.so"))
    assert (unpacked / "hatch_build.py").exists()
