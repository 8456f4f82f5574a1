"""Where something was measured, and what that machine can do at most."""

import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from passband import __version__
from passband.measure.timing import time_rounds


@dataclass(frozen=True)
class Peaks:
    """What the machine does at most, measured.

    Args:
        multiplications: Real float32 multiplications per second, of a large matrix product.
        bytes: Bytes read and written per second, of a sum of two vectors larger than the caches.
    """

    multiplications: float
    bytes: float


def measure_peaks(quick: bool = False) -> Peaks:
    """Measure both peaks: the fastest of several runs.

    Args:
        quick: Small matrices and vectors, which measure the caches: for trying things out.

    Examples:
        >>> peaks = measure_peaks(quick=True)
        >>> peaks.multiplications > 0 and peaks.bytes > 0
        True
    """
    side, points = (256, 2**18) if quick else (2048, 2**26)
    a, b, c = torch.rand(3, side, side).unbind()
    x, y, z = torch.rand(3, points).unbind()
    product, triad = time_rounds(
        [lambda: torch.mm(a, b, out=c), lambda: torch.add(x, y, alpha=2.0, out=z)],
        repeats=3 if quick else 9,
    )
    return Peaks(side**3 / min(product), 3 * x.element_size() * points / min(triad))


def machine_name(device: str | None = None) -> str:
    """GPU, or processor and number of threads, as part of a file's name.

    Args:
        device: "cpu" or "cuda"; None takes a GPU where there is one, as a training does.
    """
    if device == "cuda" or (device is None and torch.cuda.is_available()):
        name = torch.cuda.get_device_name()
    else:
        model = re.search(r"model name\s*:\s*(.+)", _cpu_info())
        name = f"{model[1] if model else platform.machine()} {torch.get_num_threads()} threads"
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


def provenance(device: str | None = None) -> dict[str, str]:
    """Columns that end every row: machine, threads, torch, and this package's commit."""
    return {
        "machine": machine_name(device),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def file_stem(kind: str, device: str | None = None) -> str:
    """Name of a result's file, without its ending: what was measured, machine, torch.

    Examples:
        >>> file_stem("layers").startswith("layers_")
        True
    """
    return f"{kind}_{machine_name(device)}_torch-{torch.__version__.partition('+')[0]}"


def _commit() -> str:
    """The commit of a checkout; elsewhere the package's version."""
    here = Path(__file__).resolve()
    tracked = _git("ls-files", "--error-unmatch", here.name)
    return (tracked and _git("describe", "--always", "--dirty")) or f"version {__version__}"


def _git(*arguments: str) -> str:
    """What git prints about the folder of this file; nothing where it cannot say."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_info() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""
