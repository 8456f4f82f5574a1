"""Compiles the kernels into the wheel where there is a C compiler; without one the wheel is pure.

They use no header of Python or PyTorch, so that one wheel serves every version of both. There is
one library per instruction set; passband loads the one that PyTorch says the machine has. Without
any, passband computes the same by PyTorch's own operators.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path("src/passband/ops/kernel_sources.py")
INSTRUCTIONS = {
    "x86_64": {
        "avx512": ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mavx2", "-mfma"],
        "avx2": ["-mavx2", "-mfma"],
        "default": [],
    },
    "amd64": {},  # 64-bit Windows, whose usual compiler knows no vector extensions
}


class KernelBuildHook(BuildHookInterface):
    """The hook that hatchling calls."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before files are collected, for a wheel as for an editable installation."""
        if self.target_name != "wheel":
            return
        sources = _sources(Path(self.root, SOURCES))
        for folder in sources.FOLDERS:
            for old in folder.glob("kernels_*.so"):
                old.unlink()
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            self.app.display_warning("no C compiler: passband will compute by PyTorch alone")
            return
        compiled = [
            self._compile(compiler, folder, sources, name, flags)
            for folder in sources.FOLDERS
            for name, flags in INSTRUCTIONS.get(platform.machine().lower(), {"default": []}).items()
        ]
        if any(compiled):
            build_data["pure_python"] = False
            tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{tag}"

    def _compile(
        self, compiler: str, folder: Path, sources: ModuleType, name: str, flags: list[str]
    ) -> bool:
        target = folder / f"kernels_{name}.so"
        command = [
            *compiler.split(), "-std=gnu11", "-O3", "-fno-math-errno", "-fPIC", "-shared",
            "-Wno-psabi", f"-I{sources.CORE}", f'-DPASSBAND_SOURCES="{sources.digest(folder)}"',
            *flags, *map(str, sources.c_files(folder)), "-o", str(target), "-ldl", "-lpthread",
        ]  # fmt: skip
        if sys.platform == "darwin":
            command.remove("-ldl")
        try:
            subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", error)
            self.app.display_warning(f"kernels_{name} do not compile here:\n{reason}")
            target.unlink(missing_ok=True)
            return False
        return True


def _sources(path: Path) -> ModuleType:
    """The package's file that says what is compiled, of the tree that is built."""
    spec = importlib.util.spec_from_file_location("kernel_sources", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
