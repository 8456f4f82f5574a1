"""The largest batch of which a training step fits a limit; as a script it is one trial.

    python benchmarks/memory_largest.py NETWORK CONTENDER BATCH LIMIT_MIB    # says whether it fits

It is found by halving, each trial in a process of its own whose private memory is limited
(RLIMIT_DATA) to what the network itself needs and so many MiB more: whatever cannot be allocated
then is an error, which says that the batch does not fit. Files mapped into memory do not count, so
that what is kept on disk does not. Glibc maps every block of more than a megabyte by itself here
(MALLOC_MMAP_THRESHOLD_): from its heap, which blocks of many sizes break up, a step fails that
needs half of the limit.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import provenance
from memory_contenders import Contender, Step, by_name, make_batch, make_contender, make_network

from passband.measure.memory import peak_bytes

FEW = 32  # images that tell how much memory each more needs


def fits(name: str, contender: Contender, batch: int, limit_mib: int) -> bool:
    """Whether a step with a batch runs in a process of limited memory."""
    words = [name, contender.name, str(batch), str(limit_mib)]
    done = subprocess.run(
        [sys.executable, __file__, *words],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)},
        capture_output=True,
        text=True,
        check=False,
    )
    return "fits" in done.stdout


def trial(name: str, contender: Contender, batch: int, limit_mib: int) -> None:
    """Run a step under the limit; says "fits" if it does."""
    import resource

    step = Step(contender, make_contender(contender, make_network(name)), *make_batch(name, 2))
    step()  # what is lazy, loads, and the optimizer has its memory
    step = step.of(*make_batch(name, batch))
    status = Path("/proc/self/status").read_text()
    bound = 1024 * int(status.partition("VmData:")[2].split()[0]) + limit_mib * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    try:
        step()
    except (RuntimeError, MemoryError):
        print("too large")
        return
    print("fits")


def largest(name: str, contender: Contender, limit_mib: int) -> int:
    """The largest batch that fits, found to a sixteenth.

    The search begins where memory per image would have it.
    """
    step = Step(contender, make_contender(contender, make_network(name)), *make_batch(name, 2))
    step()
    peaks = []
    for batch in (FEW, 2 * FEW):
        step.optimizer.zero_grad(set_to_none=True)  # or they would be freed in the step
        peaks.append(peak_bytes(step.of(*make_batch(name, batch)), "cpu"))
    low = high = max(FEW * limit_mib * 2**20 // (peaks[1] - peaks[0]), 1)
    while fits(name, contender, high, limit_mib):
        low, high = high, high + max(high // 4, 1)
    while low == high or (low > 0 and not fits(name, contender, low, limit_mib)):
        low, high = low - max(low // 5, 1), low
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(name, contender, middle, limit_mib) else (low, middle)
    return low


def measure_largest(
    name: str, contenders: tuple[Contender, ...], limit_mib: int
) -> list[dict[str, Any]]:
    """A row for each contender on one network."""
    rows: list[dict[str, Any]] = []
    for contender in contenders:
        batch = largest(name, contender, limit_mib)
        plain = rows[0]["largest_batch"] if rows else batch
        rows.append(
            {
                "network": name,
                "limit_mib": limit_mib,
                "contender": contender.name,
                "largest_batch": batch,
                "times_plain": batch / max(plain, 1),
                **provenance(),
            }
        )
        print(f"{name}: {contender.name}: {batch}", file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    network, way, images, mebibytes = sys.argv[1:]
    trial(network, by_name(way), int(images), int(mebibytes))
