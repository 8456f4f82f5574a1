"""Two processes that share a batch train as one process does on the whole of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.compat.distributed_steps import network, train
from tests.compat.networks import assert_same

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch is built without gloo",
)

PROCESSES = 2
# Float32 sums over the batch, in two parts; steps of 0.5 with momentum carry on what they differ.
TOLERANCE = 1e-5


# On a CPU, fully_shard raises in torch 2.6, and to 2.8 adds gradients up instead of averaging them,
# those of torch.nn.Conv2d too.
fsdp2_works = pytest.mark.skipif(
    torch.__version__ < (2, 9), reason="this torch has no working FSDP2 on a CPU"
)


@pytest.mark.parametrize(
    "kind", ["ddp", "ddp-exact-memory", pytest.param("fsdp2", marks=fsdp2_works)]
)
def test_two_processes_equal_one(kind: str, tmp_path: Path) -> None:
    run_processes("tests.compat.distributed_steps", kind, folder=tmp_path)
    model = network()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    expected = {"outputs": train(model, 0, 1), **model.state_dict()}
    for rank in range(PROCESSES):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert_same(found, expected, TOLERANCE)
    # the steps have changed every weight by far more than the tolerance
    for name, value in start.items():
        assert (expected[name] - value).norm() > 100 * TOLERANCE * value.norm(), name


def test_synchronised_batch_norm_in_blocks(tmp_path: Path) -> None:
    """As torch's own on the whole batch; what is compared stands in the processes' module."""
    run_processes("tests.compat.synchronised_blocks", folder=tmp_path)


def run_processes(module: str, *words: str, folder: Path) -> None:
    """Two processes with these arguments, their rank, their number and a folder."""
    command = [sys.executable, "-W", "error", "-m", module, *words]
    running = [
        subprocess.Popen(
            [*command, str(rank), str(PROCESSES), str(folder)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * PROCESSES, "\n".join(errors)
