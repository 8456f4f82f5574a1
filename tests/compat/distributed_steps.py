"""One process of a data-parallel training run; `test_distributed.py` starts two of them.

python -m tests.compat.distributed_steps KIND RANK PROCESSES FOLDER
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import passband as pb

STEPS = 3
BATCH = 6


def network() -> nn.Sequential:
    """Every algorithm, grouped and strided, without batch norm: its statistics are per process.

    Filters do not divide evenly among two processes.
    """
    torch.manual_seed(0)
    return nn.Sequential(
        pb.BandLimitedConv2d(3, 5, 3, padding=1, compression=0.5, algorithm="matmul"),
        nn.ReLU(),
        pb.BandLimitedConv2d(5, 8, 3, stride=2, compression=0.5, algorithm="lowpass"),
        nn.ReLU(),
        pb.BandLimitedConv2d(8, 7, 3, padding=1, compression=0.2, algorithm="auto", bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(7, 7),
    )


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(BATCH, 3, 11, 13, generator=generator),
            torch.randint(0, 7, (BATCH,), generator=generator),
        )
        for _ in range(STEPS)
    ]


def train(model: nn.Module, rank: int, processes: int) -> Tensor:
    """The steps on this process's part of each batch, and outputs in evaluation before and after.

    Evaluation keeps transformed filters, which the steps in between make stale.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    outputs = []
    probe = batches()[0][0]
    for images, labels in batches():
        with torch.no_grad():
            outputs.append(model.eval()(probe))
        model.train()
        part = slice(rank, None, processes)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[part]), labels[part])
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        outputs.append(model.eval()(probe))
    return torch.stack(outputs)


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def main(kind: str, rank: int, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=processes,
        timeout=timedelta(seconds=60),
    )
    model = network()
    wrapped: nn.Module = model
    if kind == "ddp-exact-memory":
        config = pb.BandLimit(memory="exact")
        report = pb.convert(model, config, filter_fn=lambda *_: False)
        assert [block.kind for block in report.blocks] == ["conv-relu", "conv-relu"]
    if kind.startswith("ddp"):
        wrapped = nn.parallel.DistributedDataParallel(model)
    else:
        mesh = init_device_mesh("cpu", (processes,))
        for layer in model:
            if isinstance(layer, pb.BandLimitedConv2d):
                fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert all(isinstance(p, DTensor) for p in model.parameters())
    outputs = train(wrapped, rank, processes)
    state = {name: whole(value) for name, value in model.state_dict().items()}
    torch.save({"outputs": outputs, **state}, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
